"""More rows of the contract that the library keeps: what is counted, what is learned, and races between nodes."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.gateway import gateway, get_json
from tests.support.need import require
from tests.support.wait import wait_until

from sollol.emulator.specs import ModelSpec, NodeSpec, embedder
from sollol.emulator.threaded import Machines

MODELS = (
    ModelSpec("llama3.2:latest", 2_000_000_000, capabilities=("completion", "tools")),
    embedder("mxbai-embed-large:latest"),
)
HELLO = [{"role": "user", "content": "Hello!"}]


def machine(name: str, **changes: Any) -> NodeSpec:
    return NodeSpec(name, **{"slots": 4, "fixed_delay": 0.01, "models": MODELS, **changes})


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([machine("gpu-1"), machine("gpu-2")]) as opened:
        yield opened


def test_a10_a63_a_gateway_counts_by_itself(machines):
    from sollol import OllamaPool

    with gateway(*machines.urls) as url, OllamaPool(gateway=url) as pool:
        pool.chat(model="llama3.2", messages=HELLO)
        pool.chat(model="llama3.2", messages=HELLO)
        stats = get_json(f"{url}/api/stats")
        assert stats["total_requests"] == stats["successful_requests"] == 2
        assert stats["active_nodes"] == 2
        named = {"total_requests", "successful_requests", "failed_requests", "avg_latency_ms", "success_rate", "active_nodes"}
        assert stats.keys() >= named | {"hosts", "node_performance", "http2_enabled", "cache"}
        used = [node for node in stats["node_performance"].values() if node["latency_ms"] is not None]
        assert used
        assert all(node["success_rate"] == 1.0 for node in used)
        assert stats["hosts"].keys() == {node.removeprefix("http://") for node in machines.urls}


@pytest.mark.parametrize("priority", [*range(1, 11), "high", "CRITICAL"])
def test_a19_every_priority_of_the_scale_is_accepted_everywhere(machines, priority):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls, priority=priority) as pool:
        assert pool.chat(model="llama3.2", messages=HELLO, priority=priority).done
        assert pool.generate(model="llama3.2", prompt="x", priority=priority).done
        assert pool.embed(model="mxbai-embed-large", input="x", priority=priority)["embeddings"]


@pytest.mark.parametrize("priority", [0, 11, -1, 5.5, "soon", True, [5]])
def test_a19_anything_else_is_a_value_error(machines, priority):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool, pytest.raises(ValueError, match="priority"):
        pool.chat(model="llama3.2", messages=HELLO, priority=priority)
    with pytest.raises(ValueError, match="priority"):
        OllamaPool(nodes=machines.urls, priority=priority)


def test_a56_questions_find_their_documents_in_a_vector_store(machines):
    from sollol import OllamaPool

    require(importlib.util.find_spec("usearch") and importlib.util.find_spec("numpy"), "usearch and numpy: run `make test`")
    import numpy
    from usearch.index import Index

    documents = ["Entanglement links two particles.", "Rivers flow to the sea.", "Bread is baked at 220 degrees."]
    with OllamaPool(nodes=machines.urls) as pool:
        vectors = numpy.asarray(pool.embed(model="mxbai-embed-large", input=documents), dtype="float32")
        index = Index(ndim=vectors.shape[1])
        index.add(numpy.arange(len(documents)), vectors)
        question = pool.embed(model="mxbai-embed-large", input=documents[1])
        found = index.search(numpy.asarray(question, dtype="float32"), 1)
    assert documents[int(found[0].key)] == documents[1]


@pytest.mark.parametrize(("operation", "kind"), [("generate", "generation"), ("embed", "embedding"), ("chat", "chat")])
def test_c13_the_kind_of_call_is_known_too(machines, operation, kind):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        reply: Any
        if operation == "generate":
            reply = pool.generate(model="llama3.2", prompt="Once upon a time")
        elif operation == "embed":
            reply = pool.embed(model="mxbai-embed-large", input=["Once"])
        else:
            reply = pool.chat(model="llama3.2", messages=HELLO)
        assert reply["_sollol_routing"]["task_type"] == kind
        assert json.loads(json.dumps(reply))["_sollol_routing"]["task_type"] == kind


def test_c13_what_a_request_takes_is_learned_from_answers():
    from sollol import OllamaPool
    from sollol.intelligence import IntelligentRouter

    talkative = ModelSpec("llama3.2:latest", 2_000_000_000, capabilities=("completion",), answer_tokens=40)
    slow = machine("slow", slots=1, fixed_delay=None, prefill=1e6, decode=100, load_gbps=1e6, models=(talkative,))
    with Machines([slow]) as machines, OllamaPool(nodes=machines.urls) as pool:
        router = IntelligentRouter(pool)
        pool.warm_model("llama3.2")
        for _ in range(6):
            began = time.perf_counter()
            pool.chat(model="llama3.2", messages=HELLO)
            took = time.perf_counter() - began
        expected = router.analyze_request("llama3.2", HELLO).expected_seconds
        assert expected == pytest.approx(took, rel=0.35)


def test_c17_the_loser_of_a_race_is_cancelled():
    from sollol import OllamaPool
    from sollol.hedging import AdaptiveHedging

    with Machines([machine("a"), machine("b")]) as machines, OllamaPool(nodes=machines.urls) as pool:
        for url in machines.urls:
            for _ in range(30):  # races are small beside the other work
                pool.chat(model="llama3.2", messages=HELLO, node=url.removeprefix("http://"))
        hedging = AdaptiveHedging(num_hedges=2)
        machines.see(lambda cluster: cluster["a"].faults.set(slow=200.0))
        machines.see(lambda cluster: cluster["b"].faults.set(slow=20.0))
        began = time.perf_counter()
        response = hedging.request_with_hedging(pool=pool, model="llama3.2", messages=HELLO, options={"num_predict": 3})
        took = time.perf_counter() - began
        assert response["_sollol_routing"]["host"] == machines.urls[1].removeprefix("http://")
        assert took < 1.5
        wait_until(lambda: machines.see(lambda cluster: cluster["a"].stats.in_flight) == 0, 0.5)
        assert machines.see(lambda cluster: (cluster["a"].stats.cancelled, cluster["a"].stats.finished)) == (1, 30)
