"""Rows of the contract that the library keeps, each test named by its id: the same imports, calls, arguments and keys."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.support.wait import wait_until

from sollol.emulator.specs import ModelSpec, NodeSpec, embedder
from sollol.emulator.threaded import Machines
from sollol.errors import AllAttemptsFailed

ANSWERS = ("completion", "tools")
MODELS = (
    ModelSpec("llama3.2:latest", 2_000_000_000, capabilities=ANSWERS),
    ModelSpec("qwen2.5-coder:7b", capabilities=ANSWERS),
    ModelSpec("codellama:13b", capabilities=ANSWERS),
    embedder("mxbai-embed-large:latest"),
    embedder(),
)
HELLO = [{"role": "user", "content": "Hello!"}]


def machine(name: str, **changes: Any) -> NodeSpec:
    return NodeSpec(name, **{"slots": 4, "fixed_delay": 0.01, "models": MODELS, **changes})


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([machine("gpu-1"), machine("gpu-2"), machine("cpu-1")]) as opened:
        yield opened


@pytest.fixture
def found(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """The machines are what a search finds."""
    look_at(machines, monkeypatch)
    return machines


def look_at(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", ",".join(url.rpartition(":")[2] for url in machines.urls))
    monkeypatch.setenv("SOLLOL_DISCOVERY_DOCKER", "false")
    monkeypatch.setenv("SOLLOL_DISCOVERY_MDNS", "false")


def hosts(machines: Machines) -> set[str]:
    return {url.removeprefix("http://") for url in machines.urls}


# --- finding and asking


def test_a3_a5_three_lines_ask_the_cluster(found):
    from sollol import OllamaPool

    pool = OllamaPool.auto_configure()
    response = pool.chat(model="llama3.2", messages=[{"role": "user", "content": "Hello!"}])
    assert response["message"]["content"]
    assert len(pool.nodes) == 3
    pool.close()


def test_a3_a_terminal_is_told_what_was_found_and_chosen(found):
    script = (
        "from sollol import OllamaPool; pool = OllamaPool.auto_configure(); "
        "print(pool.chat(model='llama3.2', messages=[{'role': 'user', 'content': 'Hello!'}])['message']['content'])"
    )
    ours, theirs = pty.openpty()
    try:
        ran = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, timeout=30, check=False)
        shown = os.read(ours, 4_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == 0, shown
    assert ran.stdout.strip()
    assert "Discovering Ollama nodes" in shown
    assert "Found 3 nodes" in shown
    assert "Selected node: " in shown
    quiet = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert (quiet.returncode, quiet.stderr) == (0, b"")


def test_a7_gather_runs_in_parallel():
    from sollol import OllamaPool

    with Machines([machine(name, fixed_delay=0.3, slots=2) for name in "abcde"]) as machines:

        async def main() -> float:
            pool = OllamaPool(nodes=machines.urls)
            await pool
            await asyncio.gather(*[pool.chat(model="llama3.2", messages=HELLO) for _ in range(10)])
            began = time.perf_counter()
            responses = await asyncio.gather(*[pool.chat(model="llama3.2", messages=HELLO) for _ in range(10)])
            seconds = time.perf_counter() - began
            assert all(response["message"]["content"] for response in responses)
            assert len({response["_sollol_routing"]["host"] for response in responses}) == 5
            pool.close()
            return seconds

        assert asyncio.run(main()) < 10 * 0.3 / 2


def test_a8_a42_c18_priorities_reorder_what_waits_and_nothing_starves():
    from sollol import OllamaPool

    one = machine("one", slots=1, fixed_delay=None, prefill=1e6, decode=60, load_gbps=1e6)
    with Machines([one]) as machines, OllamaPool(nodes=machines.urls, max_queue_size=100) as pool:
        pool.warm_model("llama3.2")
        order: list[tuple[int, int]] = []

        def ask(priority: int, number: int, tokens: int) -> None:
            pool.chat(model="llama3.2", messages=HELLO, priority=priority, options={"num_predict": tokens})
            order.append((priority, number))

        with ThreadPoolExecutor(8) as threads:
            busy = [threads.submit(ask, 5, number, 120) for number in range(3)]
            wait_until(lambda: machines.see(lambda cluster: cluster["one"].stats.in_flight) >= 2)
            calls = []
            for number, priority in enumerate((1, 5, 10), start=10):
                waiting = pool.get_stats()["queue_depth"]
                calls.append(threads.submit(ask, priority, number, 3))
                wait_until(lambda before=waiting: pool.get_stats()["queue_depth"] > before)
            for call in [*busy, *calls]:
                call.result(30)
    assert [entry for entry in order if entry[1] >= 10] == [(10, 12), (5, 11), (1, 10)]


def test_a10_connections_are_kept(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls[:1]) as pool:
        for _ in range(20):
            pool.chat(model="llama3.2", messages=HELLO)
    assert machines.see(lambda cluster: cluster["gpu-1"].stats.connections) < 10


def test_a16_a_program_that_waits(found):
    from sollol.priority_helpers import Priority
    from sollol.sync_wrapper import OllamaPool

    pool = OllamaPool.auto_configure()
    response = pool.chat(model="llama3.2", messages=[{"role": "user", "content": "Hello!"}], priority=Priority.HIGH, timeout=60)
    assert response["message"]["content"]
    assert response.get("_sollol_routing", {}).get("host", "unknown") in hosts(found)
    pool.close()


async def test_a16_it_waits_also_where_a_loop_runs(machines):
    from sollol.sync_wrapper import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        response = pool.chat(model="llama3.2", messages=HELLO)
        assert type(response).__name__ == "ChatReply"
        assert pool.warm_model("llama3.2") is True


async def test_a17_a_program_that_awaits(found):
    from sollol import OllamaPool

    pool = await OllamaPool.auto_configure()
    response = await pool.chat(model="llama3.2", messages=[{"role": "user", "content": "Hello!"}])
    assert response["message"]["content"]
    assert response["_sollol_routing"]["host"] in hosts(found)
    assert response["_sollol_routing"]["task_type"] == "chat"
    pool.close()


async def test_a17_what_is_not_awaited_waits_and_warns_once(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        with pytest.warns(RuntimeWarning, match="await") as caught:
            assert pool.chat(model="llama3.2", messages=HELLO)["message"]["content"]
            assert json.dumps(pool.chat(model="llama3.2", messages=HELLO))
            assert len(pool.embed(model="mxbai-embed-large", input=["a", "b"])) == 2
        assert len(caught) == 1


def test_a18_a20_roles_give_priorities(machines):
    from sollol.priority_helpers import Priority, get_priority_for_role
    from sollol.sync_wrapper import OllamaPool

    agents = [("Researcher", "researcher", 8), ("Editor", "editor", 6), ("Summarizer", "summarizer", 5)]
    with OllamaPool(nodes=machines.urls) as pool:
        for name, role, expected in agents:
            priority = get_priority_for_role(role)
            assert priority == expected
            assert pool.chat(model="llama3.2", messages=[{"role": "user", "content": f"Task for {name}"}], priority=priority)
    assert get_priority_for_role("somebody else") == Priority.NORMAL


def test_a19_the_values_of_priorities():
    from sollol.priority_helpers import Priority
    from sollol.routing_modes import TaskPriority

    values = {"CRITICAL": 10, "URGENT": 9, "HIGH": 7, "NORMAL": 5, "LOW": 3, "BATCH": 1}
    assert {priority.name: priority.value for priority in Priority} == values
    assert {priority.name: priority.value for priority in TaskPriority} == values


# --- embeddings, settings


def test_a36_each_task_goes_to_a_node_that_can_do_it(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        chat = pool.chat(model="llama3.2", messages=HELLO)
        embeddings = pool.embed(model="nomic-embed-text", input=["one", "two"])
    assert chat["message"]["content"]
    assert [len(vector) for vector in embeddings["embeddings"]] == [768, 768]
    assert [len(vector) for vector in embeddings] == [768, 768]


@pytest.mark.parametrize("priorities", [(10, 5, 1), (1, 5, 10), (5, 10, 1)])
def test_a41_nodes_with_priorities(machines, priorities):
    from sollol import OllamaPool

    ports = [int(url.rpartition(":")[2]) for url in machines.urls]
    pool = OllamaPool(
        nodes=[
            {"host": "127.0.0.1", "port": ports[0], "priority": priorities[0]},
            {"host": "127.0.0.1", "port": ports[1], "priority": priorities[1]},
            {"host": "127.0.0.1", "port": ports[2], "priority": priorities[2]},
        ],
        enable_intelligent_routing=True,
        enable_hedging=True,
        max_queue_size=100,
    )
    with pool:
        assert [node["priority"] for node in pool.nodes] == [*priorities]
        pool.ready()  # else whichever node was looked at first may have the first request
        used = [pool.chat(model="llama3.2", messages=HELLO)["_sollol_routing"]["port"] for _ in range(6)]
        assert used[0] == ports[priorities.index(10)]
        assert ports[priorities.index(1)] not in used


# --- statistics


def test_a53_a62_c20_statistics_have_every_key_that_is_named(found):
    from sollol import OllamaPool

    pool = OllamaPool.auto_configure()
    stats = pool.get_stats()
    assert f"Discovered {stats['active_nodes']} nodes" == "Discovered 3 nodes"
    pool.chat(model="llama3.2", messages=HELLO)
    pool.embed(model="mxbai-embed-large", input=["a", "b", "c"])
    stats = pool.get_stats()
    assert stats["total_requests"] == 2
    assert f"{stats['avg_latency_ms']}ms" != "Nonems"
    assert f"{stats['success_rate']:.2%}" == "100.00%"
    assert f"{stats['successful_requests'] / stats['total_requests']:.2%}" == "100.00%"
    assert stats["failed_requests"] == 0
    assert set(stats["hosts"]) == hosts(found)
    lines = [f"{host}: {metrics['latency_ms']}ms, {metrics['success_rate']:.2%}" for host, metrics in stats["hosts"].items()]
    assert sum("100.00%" in line for line in lines) in (1, 2)
    for perf in stats["node_performance"].values():
        shown = f"{perf['latency_ms']:.0f}ms {perf['success_rate']:.2%} {perf.get('batch_throughput', 0):.2f} chunks/s"
        assert "None" not in shown
    assert stats["cache"]["enabled"] is True
    pool.close()


def test_a56_vectors_for_a_store(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        embedding = pool.embed(model="mxbai-embed-large", input="What does research say?")
        assert len(list(embedding)) == len(embedding["embeddings"][0]) == 768
        assert all(isinstance(number, float) for number in embedding)


def test_a57_a_pool_that_looks_elsewhere_only(found):
    from sollol import OllamaPool

    pool = OllamaPool(
        nodes=None,
        enable_intelligent_routing=True,
        exclude_localhost=True,
        discover_all_nodes=True,
        app_name="FlockParser",
        enable_ray=True,
    )
    assert pool.nodes == []  # all machines of this test are on this machine
    pool.close()
    with OllamaPool(nodes=None, discover_all_nodes=True, app_name="FlockParser", enable_ray=True, enable_dask=True) as pool:
        assert pool.embed(model="mxbai-embed-large", input="document text")["embeddings"]
        assert pool.chat(model="llama3.2", messages=[{"role": "user", "content": "query"}])["message"]["content"]
        assert not [thread for thread in threading.enumerate() if "ray" in thread.name.lower()]


def test_a58_applications_beside_a_running_gateway(machines):
    from sollol import SOLLOL, OllamaPool, SOLLOLConfig

    sollol = SOLLOL(SOLLOLConfig(hosts=machines.urls, gateway_port=0))
    sollol.start(blocking=False)
    try:
        with OllamaPool(gateway=sollol.address) as pool:
            response = pool.chat(model="llama3.2", messages=HELLO)
            assert response["_sollol_routing"]["host"] in hosts(machines)
    finally:
        sollol.stop()


# --- cache, streams, warming, coroutines


def test_a64_the_cache(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls, enable_cache=True, cache_max_size=1000, cache_ttl=3600) as pool:
        first = pool.embed(model="mxbai-embed-large", input="Hello world")
        second = pool.embed(model="mxbai-embed-large", input="Hello world")
        assert first["embeddings"] == second["embeddings"]
        stats = pool.get_cache_stats()
        assert f"{stats['hit_rate']:.1%}" == "50.0%"
        assert stats["size"] == 1
        pool.chat(model="llama3.2", messages=HELLO)
        assert pool.get_cache_stats()["size"] == 1  # its words may differ from time to time
        pool.chat(model="llama3.2", messages=HELLO, options={"temperature": 0})
        assert pool.get_cache_stats()["size"] == 2
        cache_data = json.loads(json.dumps(pool.export_cache()))
        pool.invalidate_cache_by_model("llama3.2")
        assert pool.get_cache_stats()["size"] == 1
        pool.clear_cache()
        assert pool.get_cache_stats()["size"] == 0
        pool.import_cache(cache_data)
        assert pool.get_cache_stats()["size"] == 2
        third = pool.embed(model="mxbai-embed-large", input="Hello world")
        assert third["embeddings"] == first["embeddings"]
        assert pool.get_cache_stats()["hits"] == 2
        with pytest.raises(ValueError, match="export_cache"):
            pool.import_cache({"answers": "none"})
    with OllamaPool(nodes=machines.urls, enable_cache=False) as pool:
        for _ in range(2):
            pool.embed(model="mxbai-embed-large", input="Hello world")
        assert pool.get_cache_stats()["size"] == 0


def test_a65_answers_come_token_by_token(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        text = ""
        for chunk in pool.chat(model="llama3.2", messages=[{"role": "user", "content": "Tell me a story"}], stream=True):
            text += chunk.get("message", {}).get("content", "")
        assert text
        pieces = list(pool.generate(model="llama3.2", prompt="Explain quantum computing", stream=True))
        assert len(pieces) > 2
        assert "".join(chunk.get("response", "") for chunk in pieces)
        assert pieces[-1]["_sollol_routing"]["host"] in hosts(machines)


async def test_a65_streams_where_a_loop_runs(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        pieces = [chunk async for chunk in pool.chat(model="llama3.2", messages=HELLO, stream=True)]
        again = [chunk async for chunk in await pool.chat_async("llama3.2", messages=HELLO, stream=True)]
        assert pieces[-1].done
        assert again[-1].done


def test_a66_models_are_warmed(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        assert pool.warm_model("llama3.2") is True
        results = pool.warm_models(models=["llama3.2", "codellama:13b", "mistral"], parallel=True)
        assert f"Warmed {sum(results.values())} models" == "Warmed 2 models"
        assert pool.warm_models(models=["qwen2.5-coder:7b"], parallel=False) == {"qwen2.5-coder:7b": True}
        loaded = {model.model for model in pool.ps().models}
        assert loaded >= {"llama3.2:latest", "codellama:13b", "qwen2.5-coder:7b"}


def test_a67_coroutines_in_one_loop_after_another(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:

        async def process_batch() -> list[Any]:
            return await asyncio.gather(
                pool.chat_async("llama3.2", messages=HELLO),
                pool.generate_async("llama3.2", prompt="Hello"),
                pool.embed_async("mxbai-embed-large", input="Hello"),
            )

        for _ in range(3):
            chat, text, vector = asyncio.run(process_batch())
            assert chat["message"]["content"]
            assert text["response"]
            assert len(vector) == 768


def test_a68_http2_is_told_truthfully(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        pool.chat(model="llama3.2", messages=HELLO)
        assert pool.get_stats()["http2_enabled"] is False  # Ollama speaks HTTP/1.1 alone


def test_a69_health_is_looked_at_more_often_where_things_fail(machines):
    from sollol import OllamaPool

    def hello(number: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Hello number {number}!"}]

    with OllamaPool(nodes=machines.urls[:1]) as pool:

        def interval() -> float:
            async def asked() -> float:
                inside = await pool.opened()
                (node,) = inside.house.engine.state.nodes.values()
                return node.health.probe_interval(inside.house.engine.clock.now())

            wait_until(lambda: pool.blocking(asked()) > 1.0)  # a second while it loads, or did not answer a look
            return pool.blocking(asked())

        intervals = []
        for failures in range(6):
            machines.see(
                lambda cluster, times=failures: cluster["gpu-1"].faults.set(status=500, times=times) if times else None
            )
            for number in range(failures):
                with pytest.raises(RuntimeError):
                    pool.chat(model="llama3.2", messages=hello(number))
            for number in range(30 if failures == 0 else 3):
                pool.chat(model="llama3.2", messages=hello(number))
            intervals.append(interval())
        assert intervals[-1] == 5.0
        assert set(intervals) <= {60.0, 30.0, 15.0, 5.0}
        assert intervals == sorted(intervals, reverse=True)
        assert intervals[0] > intervals[-1]
        for number in range(200):
            pool.chat(model="llama3.2", messages=hello(number))
        assert interval() > 5.0  # and less often again where things went well since


def test_a69_a_first_failure_asks_for_a_look_at_once(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls[:1]) as pool:
        pool.chat(model="llama3.2", messages=HELLO)

        def looked() -> float:
            async def asked() -> float:
                (node,) = (await pool.opened()).house.engine.state.nodes.values()
                return node.health.looked_at

            return pool.blocking(asked())

        before = looked()
        machines.see(lambda cluster: cluster["gpu-1"].faults.set(status=500, times=1))
        with pytest.raises(RuntimeError):
            pool.chat(model="llama3.2", messages=HELLO)
        wait_until(lambda: looked() > before, 2.0)


# --- the router of two ways


def test_b5_b6_b7_the_hybrid_router_serves_from_the_pool(found, caplog):
    from sollol import HybridRouter, RPCBackend

    caplog.set_level(logging.WARNING, "sollol.pool")
    router = HybridRouter(
        rpc_backends=[RPCBackend(host="10.9.66.154", port=50052), RPCBackend(host="10.9.66.157", port=50052)],
        enable_distributed=True,
    )
    assert "not split over RPC backends" in caplog.text

    async def main() -> Any:
        return await router.generate(model="codellama:13b", messages=[{"role": "user", "content": "Explain neural networks"}])

    with router:
        assert asyncio.run(main())["message"]["content"]
        assert router.get_stats()["rpc_backends"] == ["10.9.66.154:50052", "10.9.66.157:50052"]


def test_b6_the_hybrid_router_that_waits(found):
    from sollol.sync_wrapper import HybridRouter, OllamaPool

    pool = OllamaPool.auto_configure()
    router = HybridRouter(ollama_pool=pool, enable_distributed=True, auto_setup_rpc=True, num_rpc_backends=3)
    response = router.route_request(model="codellama:13b", messages=[{"role": "user", "content": "Explain it"}])
    assert response["message"]["content"]
    with pytest.raises(LookupError, match=r"llama3\.1:70b"):
        router.route_request(model="llama3.1:70b", messages=HELLO)
    router.close()
    assert pool.chat(model="llama3.2", messages=HELLO)  # the pool was given, so it is not the router's to close
    pool.close()


@pytest.mark.parametrize(
    "given",
    ["10.0.0.5:50060", "grpc://10.0.0.5:50060", {"host": "10.0.0.5", "port": 50060}, {"host": "10.0.0.5", "port": "50060"}],
)
def test_b5_rpc_backends_in_every_form(given):
    from sollol import HybridRouter, RPCBackend

    router = HybridRouter(ollama_pool=None, rpc_backends=[given])
    assert router.rpc_backends == [RPCBackend(host="10.0.0.5", port=50060)]
    router.close()


# --- context, modes, hedging


def test_c2_c3_c4_c5_a_router_with_a_context(machines):
    from sollol import OllamaPool
    from sollol.gpu_controller import SOLLOLGPUController, integrate_with_router
    from sollol.hedging import AdaptiveHedging
    from sollol.intelligence import IntelligentRouter, TaskContext

    pool = OllamaPool(nodes=machines.urls)
    router = IntelligentRouter()
    gpu_controller = SOLLOLGPUController(pool=pool, priority_models=["llama3.2", "qwen2.5-coder:7b"])
    integrate_with_router(router, gpu_controller)
    AdaptiveHedging(num_hedges=2)
    task = TaskContext(operation="code_generation", complexity=7, priority=8, requires_gpu=True)
    assert task.task_type == "code"
    assert task.level == "high"
    response = router.route_request(
        model="qwen2.5-coder:7b", messages=[{"role": "user", "content": "Write a FastAPI endpoint"}], task_context=task
    )
    assert response["message"]["content"]
    assert response["_sollol_routing"]["mode"] == "fast"
    report = {kept.model: kept for kept in gpu_controller.ensure()}
    assert all(kept.on_gpu for kept in report.values()), report
    loaded = {model.model: model for model in pool.ps().models}
    assert loaded["llama3.2:latest"].size_vram == loaded["llama3.2:latest"].size
    assert loaded["llama3.2:latest"].expires_at.year > 2200
    gpu_controller.close()
    pool.close()


def test_c3_the_gpu_controller_says_what_it_could_not_do():
    from sollol import OllamaPool
    from sollol.gpu_controller import SOLLOLGPUController

    with Machines([machine("cpu-1", gpu=False)]) as machines, OllamaPool(nodes=machines.urls) as pool:
        controller = SOLLOLGPUController(pool=pool, priority_models=["llama3.2", "not-there"])
        report = {kept.model: kept for kept in controller.ensure()}
        controller.close()
        assert not report["llama3.2"].on_gpu
        assert "GPU" in report["llama3.2"].note
        assert "pull it" in report["not-there"].note
        assert [kept.model for kept in controller.report()] == ["llama3.2", "not-there"]


@pytest.mark.parametrize(
    ("given", "level", "kind"),
    [
        ({"task_type": "summarization", "complexity": "high"}, "high", "summarization"),
        ({"operation": "embed documents", "complexity": 1}, "low", "embedding"),
        ({"operation": "anything", "complexity": "medium"}, "medium", "chat"),
    ],
)
def test_c4_both_forms_of_a_context(given, level, kind):
    from sollol.intelligence import TaskContext

    task = TaskContext(**given)
    assert (task.level, task.task_type) == (level, kind)


@pytest.mark.parametrize("wrong", [{"complexity": 11}, {"complexity": "very"}, {"priority": 0}])
def test_c4_a_wrong_context_is_a_value_error(wrong):
    from sollol.intelligence import TaskContext

    with pytest.raises(ValueError, match=next(iter(wrong))):
        TaskContext(**wrong)


def test_c6_c17_the_first_answer_wins(machines):
    from sollol import OllamaPool
    from sollol.hedging import AdaptiveHedging

    with OllamaPool(nodes=machines.urls) as pool:
        hedging = AdaptiveHedging(num_hedges=2)
        response = hedging.request_with_hedging(
            pool=pool, model="llama3.2", messages=[{"role": "user", "content": "Quick question"}]
        )
        assert response["message"]["content"]


def test_c7_c8_c9_modes_are_switched_between_phases(machines):
    from sollol import OllamaPool
    from sollol.routing_modes import RoutingMode, TaskPriority

    phases = [
        (RoutingMode.FAST, TaskPriority.HIGH, "fast"),
        (RoutingMode.RELIABLE, TaskPriority.CRITICAL, "reliable"),
        (RoutingMode.ASYNC, TaskPriority.LOW, "async"),
    ]
    with OllamaPool(nodes=machines.urls) as pool:
        plan: Any = "a REST API"
        for mode, priority, name in phases:
            pool.set_routing_mode(mode)
            plan = pool.chat(model="llama3.2", messages=[{"role": "user", "content": f"Continue: {plan}"}], priority=priority)
            assert plan["_sollol_routing"]["mode"] == name
        with pytest.raises(ValueError, match="routing_mode"):
            pool.set_routing_mode("clever")


# --- what was found, how it is used


def test_c11_c12_c26_discovered_nodes_make_a_pool(found):
    from sollol import OllamaPool
    from sollol.discovery import discover_ollama_nodes

    nodes = discover_ollama_nodes(timeout=2.0, discover_all_nodes=True)
    assert {node["port"] for node in nodes} == {int(url.rpartition(":")[2]) for url in found.urls}
    pool = OllamaPool(nodes=nodes)
    assert pool.count_unique_physical_hosts() == 1
    assert pool.should_use_parallel_execution(num_tasks=4) is False
    assert isinstance(pool.nodes[0]["host"], str)
    assert len([node["host"] for node in pool.nodes[1:]]) == 2
    pool.close()
    two = OllamaPool(nodes=[{"host": "192.0.2.10", "port": 11434}, {"host": "192.0.2.11", "port": 11434}])
    assert two.count_unique_physical_hosts() == 2
    assert two.should_use_parallel_execution(num_tasks=4) is True
    assert two.should_use_parallel_execution(num_tasks=1) is False
    two.close()


@pytest.mark.parametrize(
    ("words", "task_type"),
    [
        ("Summarize this article: ...", "summarization"),
        ("Write a Python function that sorts a list", "code"),
        ("Classify the sentiment of this text", "classification"),
        ("Extract all dates from the letter", "extraction"),
        ("Analyze the root cause of this outage", "analysis"),
        ("Hello, how are you?", "chat"),
    ],
)
def test_c13_the_task_is_read_from_the_words(machines, words, task_type):
    from sollol import OllamaPool
    from sollol.intelligence import IntelligentRouter

    messages = [{"role": "user", "content": words}]
    with OllamaPool(nodes=machines.urls) as pool:
        assert pool.chat(model="llama3.2", messages=messages)["_sollol_routing"]["task_type"] == task_type
        router = IntelligentRouter(pool)
        assert router.detect_task_type(messages) == task_type
        context = router.analyze_request("llama3.2", messages)
        assert context.task_type == task_type
        assert context.level in ("low", "medium", "high")
        assert context.expected_seconds is not None
        assert context.expected_seconds >= 0


def test_c14_fallbacks_are_ranked_and_used(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        first = pool.chat(model="llama3.2", messages=HELLO)["_sollol_routing"]["node"]
        ranked = pool.explain("llama3.2")["nodes"]
        assert len(ranked) == 3
        name = next(n for n, url in zip(("gpu-1", "gpu-2", "cpu-1"), machines.urls, strict=True) if first in url)
        machines.see(lambda cluster: cluster[name].faults.set(status=500))
        again = pool.chat(model="llama3.2", messages=HELLO)["_sollol_routing"]
        assert again["node"] != first


def test_c15_fast_nodes_do_more():
    from sollol import OllamaPool

    spec = {"slots": 2, "fixed_delay": None, "prefill": 1e6, "load_gbps": 1e6}
    specs = [machine("fast", decode=400, **spec), machine("slow", decode=40, **spec)]
    with Machines(specs) as machines, OllamaPool(nodes=machines.urls) as pool, ThreadPoolExecutor(6) as threads:
        pool.warm_models(["llama3.2"])
        list(threads.map(lambda _: pool.chat(model="llama3.2", messages=HELLO, options={"num_predict": 20}), range(60)))
        done = {name: machines.see(lambda cluster, n=name: cluster[n].stats.finished) for name in ("fast", "slow")}
    assert done["fast"] > 2 * done["slow"]


def test_c21_one_error_names_every_node_that_was_tried(machines):
    from sollol import OllamaPool

    with OllamaPool(nodes=machines.urls) as pool:
        pool.chat(model="llama3.2", messages=HELLO)
        for name in ("gpu-1", "gpu-2", "cpu-1"):
            machines.see(lambda cluster, n=name: cluster[n].faults.set(die_after=0))
        with pytest.raises(RuntimeError) as caught:
            pool.chat(model="llama3.2", messages=[{"role": "user", "content": "Hello"}])
    assert isinstance(caught.value, AllAttemptsFailed)
    assert all(host in str(caught.value) for host in hosts(machines))


def test_c22_nodes_are_saved_and_loaded(machines, tmp_path: Path):
    from sollol import OllamaPool

    file = tmp_path / "nodes.json"
    with OllamaPool(nodes=machines.urls) as pool:
        file.write_text(json.dumps([f"http://{n['host']}:{n['port']}" for n in pool.nodes]))
    node_urls = json.loads(file.read_text())
    nodes = [{"host": url.split("//")[1].split(":")[0], "port": int(url.split(":")[-1])} for url in node_urls]
    with OllamaPool(nodes=nodes) as pool:
        assert [node.url for node in pool.nodes] == machines.urls
        assert pool.chat(model="llama3.2", messages=HELLO)["message"]["content"]


def test_c23_nodes_are_added_and_removed(machines, monkeypatch):
    from sollol import OllamaPool

    monkeypatch.setenv("SOLLOL_DISCOVERY_ENABLED", "false")
    pool = OllamaPool()
    for url in machines.urls:
        host, _, port = url.removeprefix("http://").rpartition(":")
        pool.add_node(host, int(port))
    assert pool.chat(model="llama3.2", messages=HELLO)["message"]["content"]
    host, _, port = machines.urls[0].removeprefix("http://").rpartition(":")
    assert pool.remove_node(host, int(port)) is True
    assert pool.remove_node(host, int(port)) is False
    used = {pool.chat(model="llama3.2", messages=HELLO)["_sollol_routing"]["port"] for _ in range(8)}
    assert int(port) not in used
    pool.close()
