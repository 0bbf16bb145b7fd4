"""Rows of the contract about batches, each test named by its id: the same imports, calls, arguments and keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sollol.emulator import text
from sollol.emulator.specs import ModelSpec, NodeSpec, embedder
from sollol.emulator.threaded import Machines

LARGE = replace(embedder("mxbai-embed-large:latest"), embedding_length=16)
SMALL = replace(embedder(), embedding_length=16)
MODELS = (ModelSpec("llama3.2:latest", 2_000_000_000, capabilities=("completion", "tools")), LARGE, SMALL)
DOCUMENTS = [f"document {number}" for number in range(120)]


@pytest.fixture
def machines() -> Iterator[Machines]:
    specs = [NodeSpec(name, slots=4, fixed_delay=0.01, models=MODELS) for name in ("gpu-1", "gpu-2", "cpu-1")]
    with Machines(specs) as opened:
        yield opened


@pytest.fixture
def found(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """The machines are what a search finds."""
    monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", ",".join(url.rpartition(":")[2] for url in machines.urls))
    monkeypatch.setenv("SOLLOL_DISCOVERY_DOCKER", "false")
    monkeypatch.setenv("SOLLOL_DISCOVERY_MDNS", "false")
    return machines


def right(vectors: list[list[float]], model: ModelSpec = LARGE) -> bool:
    return vectors == [text.embedding(model.digest, one, 16) for one in DOCUMENTS]


def test_a4_documents_are_embedded_by_all_nodes(found):
    from sollol import OllamaPool

    pool = OllamaPool.auto_configure()
    embeddings = pool.embed_batch(model="mxbai-embed-large", inputs=DOCUMENTS)
    assert len(embeddings) == len(DOCUMENTS)
    assert right(embeddings)
    assert sum(node["requests"] > 0 for node in pool.get_stats()["hosts"].values()) == 3
    pool.close()


def test_c1_c16_adaptive_or_with_a_number_of_workers(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        assert right(pool.embed_batch(model="mxbai-embed-large", inputs=DOCUMENTS, use_adaptive=True))
        assert right(pool.embed_batch(model="mxbai-embed-large", inputs=DOCUMENTS, use_adaptive=False, max_workers=2))
        assert right(pool.embed_batch(model="nomic-embed-text", inputs=DOCUMENTS, priority=8, max_workers=6), SMALL)


def test_a16_a20_batches_of_the_pool_that_waits_take_priorities(machines):
    from sollol.priority_helpers import Priority, get_priority_for_role
    from sollol.sync_wrapper import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        assert right(pool.embed_batch(model="mxbai-embed-large", inputs=DOCUMENTS, priority=Priority.BATCH))
        assert right(pool.embed_batch("mxbai-embed-large", DOCUMENTS, priority=get_priority_for_role("researcher")))


async def test_a17_a_batch_can_be_awaited_beside_other_calls(machines):
    from sollol import OllamaPool

    pool = OllamaPool(nodes=machines.urls)
    embeddings, reply = await asyncio.gather(
        pool.embed_batch(model="mxbai-embed-large", inputs=DOCUMENTS),
        pool.chat(model="llama3.2", messages=[{"role": "user", "content": "Hello!"}]),
    )
    assert right(embeddings)
    assert reply["message"]["content"]
    pool.close()


def test_a62_c20_throughput_of_batches_is_measured(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        pool.embed_batch(model="mxbai-embed-large", inputs=DOCUMENTS)
        measured = [node.get("batch_throughput", 0.0) for node in pool.get_stats()["node_performance"].values()]
        assert any(one > 0 for one in measured)


def test_c15_idle_nodes_take_over_what_slow_ones_have():
    from sollol import OllamaPool

    specs = [NodeSpec(name, fixed_delay=delay, models=MODELS) for name, delay in (("fast", 0.01), ("stuck", 20.0))]
    with Machines(specs) as machines, OllamaPool(nodes=machines.urls) as pool:
        pool.embed(model="mxbai-embed-large", input=["a"], node=machines.urls[0].removeprefix("http://"))
        began = time.perf_counter()
        assert right(pool.embed_batch(model="mxbai-embed-large", inputs=DOCUMENTS))
        assert time.perf_counter() - began < 8.0
