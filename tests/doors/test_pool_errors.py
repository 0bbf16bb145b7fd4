"""What a pool raises, and that it says what to do."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from tests.support.wait import until

from sollol.emulator.presets import LLAMA_1B, instant
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec, embedder
from sollol.errors import (
    AllAttemptsFailed,
    BadRequest,
    BrokeMidStream,
    DeadlineExceeded,
    NodeBusy,
    NodeFailed,
    NoNodeForModel,
    NoNodes,
    QueueFull,
    SollolError,
    Unsupported,
)
from sollol.pool.async_pool import AsyncPool
from sollol.pool.refusals import Refused, broken, refusal

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
SPEC = NodeSpec("a", slots=4, fixed_delay=0.002, models=(LLAMA_1B, embedder()))
TWO = [SPEC, replace(SPEC, name="b")]


@pytest.mark.parametrize("stream", [False, True])
async def test_all_nodes_failed_is_one_runtime_error_that_names_each(stream):
    async with EmulatedCluster(TWO) as cluster, AsyncPool(cluster.urls) as pool:
        await pool.ready()
        cluster["a"].faults.set(hang=False, bad_json=True)
        cluster["b"].faults.set(die_after=0)
        with pytest.raises(RuntimeError) as caught:
            if stream:
                await anext(pool.chat(MODEL, HELLO, stream=True))
            else:
                await pool.chat(MODEL, HELLO)
    assert isinstance(caught.value, AllAttemptsFailed)
    tried = {node for node, _ in caught.value.attempts}
    assert tried == {url.removeprefix("http://") for url in cluster.urls}
    assert all(node in str(caught.value) for node in tried)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_time_limit_that_passes_is_a_timeout_error(stream):
    async with (
        EmulatedCluster(instant(30.0)) as cluster,
        AsyncPool(cluster.urls) as pool,
    ):
        await pool.ready()
        began = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            if stream:
                await anext(pool.chat("bench", HELLO, stream=True, timeout=0.2))
            else:
                await pool.chat("bench", HELLO, timeout=0.2)
        assert time.monotonic() - began < 1.0
        assert isinstance(caught.value, DeadlineExceeded)
        await until(lambda: cluster.nodes[0].stats.in_flight == 0)


async def test_the_time_limit_of_the_pool_holds_for_calls_that_name_none():
    async with (
        EmulatedCluster(instant(30.0)) as cluster,
        AsyncPool(cluster.urls, timeout=0.2) as pool,
    ):
        with pytest.raises(TimeoutError):
            await pool.chat("bench", HELLO)


async def test_a_stream_that_breaks_off_gives_what_came_and_then_says_so():
    spec = replace(SPEC, fixed_delay=None, decode=2_000, prefill=1e6)
    async with EmulatedCluster([spec]) as cluster, AsyncPool(cluster.urls) as pool:
        await pool.warm_model(MODEL)
        cluster["a"].faults.set(error_after=5)
        seen = []
        with pytest.raises(BrokeMidStream):
            async for piece in pool.chat(MODEL, [*HELLO], stream=True, format="json", options={"num_predict": 50}):
                seen.append(piece.message.content)
        assert len(seen) == 5


async def test_without_nodes_it_says_what_to_do():
    async with AsyncPool([]) as pool:
        with pytest.raises(NoNodes, match="no node is known"):
            await pool.chat(MODEL, HELLO)
        with pytest.raises(NoNodes):
            await pool.pull(MODEL)
        assert (await pool.list()).models == []


async def test_nodes_that_are_not_there_are_named_in_a_runtime_error(monkeypatch):
    monkeypatch.setenv("SOLLOL_QUEUE_NO_NODE_SECONDS", "0")
    async with EmulatedCluster(TWO) as cluster, AsyncPool(cluster.urls) as pool:
        await pool.ready()
        for node in cluster.nodes:
            await node.stop()
        began = time.monotonic()
        with pytest.raises(RuntimeError) as caught:
            await pool.chat(MODEL, HELLO)
        assert time.monotonic() - began < 4
        for url in cluster.urls:
            assert url.removeprefix("http://") in str(caught.value)
    async with AsyncPool("127.0.0.1:1") as pool:
        with pytest.raises(RuntimeError, match=r"127\.0\.0\.1:1"):
            await pool.chat(MODEL, HELLO)


async def test_a_full_queue_refuses():
    async with (
        EmulatedCluster(instant(2.0, slots=1)) as cluster,
        AsyncPool(cluster.urls, max_queue_size=1) as pool,
    ):
        await pool.ready()
        calls = [asyncio.ensure_future(pool.chat("bench", HELLO)) for _ in range(8)]
        done, rest = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION, timeout=1.5)
        assert any(isinstance(call.exception(), QueueFull) for call in done)
        for call in rest:
            call.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


async def test_what_a_model_cannot_do_is_the_requests_fault():
    async with EmulatedCluster(TWO) as cluster, AsyncPool(cluster.urls) as pool:
        with pytest.raises(SollolError):
            await pool.embed(MODEL, ["text"])
        with pytest.raises(BadRequest):
            await pool.chat("nomic-embed-text", HELLO)
        with pytest.raises(NoNodeForModel):
            await pool.delete("not-there")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":"no"}', BadRequest),
        (404, b'{"error":"model \'m\' not found"}', NoNodeForModel),
        (404, b'{"error":"404 page"}', Refused),
        (418, b'{"error":"teapot"}', Refused),
        (501, b'{"error":"cannot"}', Unsupported),
        (503, b'{"error":"full"}', NodeBusy),
        (504, b'{"error":"too late"}', DeadlineExceeded),
        (500, b'{"error":"broken"}', NodeFailed),
        (500, b"", NodeFailed),
    ],
)
def test_a_status_has_its_error(status, body, kind):
    error = refusal(status, [(b"x-sollol-host", b"gpu:1")], body, "m")
    assert type(error) is kind
    assert error.status in (status, 502)
    assert isinstance(error, TimeoutError) is (status == 504)


def test_a_broken_stream_names_its_node_once():
    words = str(BrokeMidStream("gpu:1", "it died"))
    assert str(broken([], words)) == words
    assert broken([(b"x-sollol-host", b"gpu:1")], "it died").node == "gpu:1"
