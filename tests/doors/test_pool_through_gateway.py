"""Pools that use a gateway: one queue for all of them, and what the gateway says is what callers see."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from tests.support.gateway import gateway, get_json
from tests.support.wait import wait_until

from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.specs import NodeSpec, embedder
from sollol.emulator.threaded import Machines
from sollol.errors import AllAttemptsFailed, NoNodeForModel, SollolError
from sollol.pool.ollama_pool import OllamaPool
from sollol.pool.sync_pool import SyncPool

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
SPEC = NodeSpec("a", slots=4, fixed_delay=0.002, models=(LLAMA_1B, embedder()))


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([SPEC, replace(SPEC, name="b")]) as opened:
        yield opened


@pytest.fixture
def url(machines: Machines) -> Iterator[str]:
    with gateway(*machines.urls) as address:
        yield address


def test_the_gateway_routes_and_says_how(machines, url):
    with SyncPool(gateway=url, app_name="mine") as pool:
        reply = pool.chat(MODEL, HELLO, routing_mode="fast")
        assert reply.routing.host in {node.removeprefix("http://") for node in machines.urls}
        assert reply.routing.mode == "fast"
        assert reply.routing.backend == "ollama"
        last = list(pool.generate(MODEL, "Tell me", stream=True))[-1]
        assert last.routing.host in {node.removeprefix("http://") for node in machines.urls}
        assert len(pool.embed("nomic-embed-text", ["a", "b"])) == 2
        assert [node.kind for node in pool.nodes] == ["sollol"]
    assert get_json(f"{url}/api/stats")["total_requests"] == 3


def test_a_node_of_the_gateway_can_be_asked_for(machines, url):
    with SyncPool(gateway=url) as pool:
        for node in machines.urls:
            name = node.removeprefix("http://")
            assert pool.chat(MODEL, HELLO, node=name).routing.host == name


def test_models_are_those_of_the_gateway(url):
    with SyncPool(gateway=url) as pool:
        assert {model.model for model in pool.list().models} == {MODEL, "nomic-embed-text:latest"}
        assert pool.pull("mistral").status == "success"
        assert [piece.status for piece in pool.pull("mistral", stream=True)][-1] == "success"
        assert pool.show("mistral").details.family
        assert pool.ps().models == []
        assert pool.copy("mistral", "mine").status == "success"
        assert pool.delete("mine").status == "success"
        with pytest.raises(SollolError):
            pool.delete("mine")
        with pytest.raises(NoNodeForModel):
            pool.chat("not-there", HELLO)


def test_a_node_that_turns_out_to_be_a_gateway_is_used_as_one(machines, url):
    with SyncPool(url) as pool:
        pool.ready()
        assert pool.chat(MODEL, HELLO).routing.host in {node.removeprefix("http://") for node in machines.urls}
    with SyncPool([url, machines.urls[0]]) as mixed:
        mixed.ready()
        assert {node.kind for node in mixed.nodes} == {"sollol", "ollama"}
        assert mixed.chat(MODEL, HELLO, node=url.removeprefix("http://")).routing.backend == "sollol"


def test_pools_share_the_gateways_queue():
    """What waits of one pool gives way to what is more urgent of another."""
    one = replace(SPEC, slots=1, fixed_delay=None, prefill=1e6, decode=60)
    with (
        Machines([one]) as machines,
        gateway(*machines.urls) as url,
        OllamaPool(gateway=url) as first,
        OllamaPool(gateway=url) as second,
        ThreadPoolExecutor(8) as threads,
    ):
        first.warm_model(MODEL)
        order: list[str] = []

        def ask(pool: OllamaPool, name: str, priority: int, tokens: int) -> None:
            pool.chat(MODEL, HELLO, priority=priority, options={"num_predict": tokens})
            order.append(name)

        def waiting() -> int:
            return int(get_json(f"{url}/api/stats")["queue_depth"])

        busy = [threads.submit(ask, first, "busy", 5, 120) for _ in range(3)]
        wait_until(lambda: machines.see(lambda cluster: cluster["a"].stats.in_flight) >= 2)
        calls = []
        for pool, name, priority in ((first, "low", 1), (first, "normal", 5), (second, "urgent", 9)):
            before = waiting()
            calls.append(threads.submit(ask, pool, name, priority, 3))
            wait_until(lambda before=before: waiting() > before)
        for call in [*busy, *calls]:
            call.result(30)
    assert [name for name in order if name != "busy"] == ["urgent", "normal", "low"]


def test_what_fails_behind_the_gateway_is_named(machines, url):
    with SyncPool(gateway=url) as pool:
        pool.chat(MODEL, HELLO)
        for name in ("a", "b"):
            machines.see(lambda cluster, n=name: cluster[n].faults.set(die_after=0))
        for stream in (False, True):
            with pytest.raises(RuntimeError) as caught:
                list(pool.chat(MODEL, [{"role": "user", "content": "Are you there?"}], stream=stream))
            assert isinstance(caught.value, AllAttemptsFailed)
            assert all(node.removeprefix("http://") in str(caught.value) for node in machines.urls)


@pytest.mark.parametrize("stream", [False, True])
def test_a_time_limit_holds_through_the_gateway(stream):
    with (
        Machines([replace(SPEC, fixed_delay=30.0)]) as machines,
        gateway(*machines.urls) as url,
        SyncPool(gateway=url) as pool,
    ):
        pool.ready()
        began = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            list(pool.chat(MODEL, HELLO, stream=stream, timeout=0.3))
        assert time.monotonic() - began < 1.5
        assert isinstance(caught.value, SollolError)
