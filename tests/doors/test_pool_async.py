"""`AsyncPool`: every call, against emulated nodes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.wait import until

from sollol.core.types import Endpoint, Node
from sollol.emulator.presets import LLAMA_1B, LLAMA_8B, QWEN_THINKING, instant
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec, embedder
from sollol.emulator.threaded import Machines
from sollol.errors import (
    BadRequest,
    BadValue,
    ConfigError,
    NoNodeForModel,
    ShuttingDown,
    SollolError,
)
from sollol.pool.async_pool import AsyncPool
from sollol.pool.replies import ChatReply, EmbedReply, GenerateReply

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
SPEC = NodeSpec(
    "a",
    slots=4,
    fixed_delay=0.002,
    models=(LLAMA_1B, LLAMA_8B, QWEN_THINKING, embedder()),
)


@pytest.fixture
async def cluster() -> AsyncIterator[EmulatedCluster]:
    async with EmulatedCluster([SPEC, replace(SPEC, name="b")]) as opened:
        yield opened


@pytest.fixture
async def pool(cluster: EmulatedCluster) -> AsyncIterator[AsyncPool]:
    async with AsyncPool(cluster.urls) as opened:
        yield opened


async def test_a_chat_is_a_dict_with_attributes_and_says_where_it_was_answered(cluster, pool):
    reply = await pool.chat(MODEL, HELLO)
    assert isinstance(reply, ChatReply)
    assert reply["message"]["content"] == reply.message.content != ""
    assert reply.message.role == "assistant"
    assert reply.done is True
    assert reply.message.tool_calls is None
    assert json.loads(json.dumps(reply)) == reply
    assert reply["_sollol_routing"]["host"] in {url.removeprefix("http://") for url in cluster.urls}
    assert reply.routing.task_type == "chat"
    assert reply.routing.attempts == 1


async def test_a_generation_and_its_options(pool):
    reply = await pool.generate(MODEL, "Tell me", options={"num_predict": 3}, keep_alive="5m")
    assert isinstance(reply, GenerateReply)
    assert reply.eval_count == 3
    assert reply.done_reason == "length"


async def test_a_stream_comes_in_pieces_and_the_last_one_says_where(pool):
    pieces = [piece async for piece in pool.chat(MODEL, HELLO, stream=True, options={"num_predict": 8})]
    assert len(pieces) == 9
    assert [piece.done for piece in pieces] == [False] * 8 + [True]
    assert pieces[-1].routing.host
    assert all(piece.routing is None for piece in pieces[:-1])


async def test_a_stream_may_be_awaited_first_as_in_other_clients(pool):
    text = ""
    async for piece in await pool.generate(MODEL, "Tell me", stream=True):
        text += piece.response
    assert text


async def test_a_stream_that_is_left_ends_at_the_node(cluster):
    slow = replace(SPEC, name="slow", decode=20, fixed_delay=None)
    async with EmulatedCluster([slow]) as one, AsyncPool(one.urls) as pool:
        async for _ in pool.generate(MODEL, "Tell me", stream=True, options={"num_predict": 5_000}):
            break
        await until(lambda: one["slow"].stats.in_flight == 0)
        async with pool.generate(MODEL, "Tell me", stream=True, options={"num_predict": 5_000}) as stream:
            await anext(stream)
            assert one["slow"].stats.in_flight == 1
        await until(lambda: one["slow"].stats.in_flight == 0)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_call_that_is_cancelled_ends_at_the_node():
    async with (
        EmulatedCluster([replace(SPEC, decode=20, fixed_delay=None)]) as one,
        AsyncPool(one.urls) as pool,
    ):
        call = asyncio.ensure_future(pool.generate(MODEL, "Tell me", options={"num_predict": 5_000}))
        await until(lambda: one["a"].stats.in_flight == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: one["a"].stats.in_flight == 0)


async def test_embeddings_read_like_vectors_and_like_the_document(pool):
    several = await pool.embed("nomic-embed-text", ["one", "two", "three"])
    assert isinstance(several, EmbedReply)
    assert len(several) == len(several["embeddings"]) == 3
    assert [len(vector) for vector in several] == [768] * 3
    assert several[1] == several["embeddings"][1]
    single = await pool.embed("nomic-embed-text", "one")
    assert len(single) == 768
    assert list(single) == single.embeddings[0]
    assert single[:2] == single.embeddings[0][:2]
    assert set(json.loads(json.dumps(single))) >= {
        "model",
        "embeddings",
        "_sollol_routing",
    }
    old = await pool.embeddings("nomic-embed-text", "one")
    assert len(old.embedding) == 768


async def test_models_of_all_nodes(cluster, pool):
    listed = await pool.list()
    assert {model.model for model in listed.models} >= {MODEL, LLAMA_8B.name}
    assert listed.models[0].modified_at.year == 2025
    assert len(listed.models[0].nodes) == 2
    await pool.warm_model(MODEL)
    await pool.ready()
    loaded = await pool.ps()
    assert loaded.models[0].model == MODEL
    assert loaded.models[0].expires_at.year > 2025
    shown = await pool.show(MODEL)
    assert shown.details.family == "llama"
    assert shown.modelinfo == shown["model_info"]
    assert "completion" in shown.capabilities
    with pytest.raises(NoNodeForModel):
        await pool.show("not-there")


async def test_models_are_changed_everywhere(cluster, pool, tmp_path: Path):
    stages = [piece.status async for piece in pool.pull("mistral", nodes="all", stream=True)]
    assert stages[-1] == "success"
    assert all("mistral:latest" in node.models for node in pool.nodes)
    assert (await pool.pull("mistral")).status == "success"
    assert (await pool.copy("mistral", "mine")).status == "success"
    assert {model.model for model in (await pool.list()).models} >= {
        "mistral:latest",
        "mine:latest",
    }
    assert (await pool.create("yours", from_="mine", system="Be brief.")).status == "success"
    assert [piece.status async for piece in pool.create("theirs", from_="mine", stream=True)][-1] == "success"
    assert (await pool.delete("mine")).status == "success"
    assert "mine:latest" not in {model.model for model in (await pool.list()).models}
    file = tmp_path / "adapter.bin"
    file.write_bytes(b"x" * 3_000_000)
    digest = await pool.create_blob(file)
    assert digest.startswith("sha256:")


async def test_tools_images_and_messages_of_other_packages(cluster, pool):
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: the first
            b: the second
        """
        return a + b

    class Foreign:
        def model_dump(self, exclude_none: bool) -> dict[str, str]:
            return {"role": "user", "content": "What is 1 + 2?"}

    reply = await pool.chat(MODEL, [Foreign()], tools=[add])
    assert reply.done
    with pytest.raises(BadRequest, match="vision"):
        await pool.chat(MODEL, [{"role": "user", "content": "What is it?", "images": [b"picture"]}])


@pytest.mark.parametrize(
    "wishes",
    [
        {"priority": 0},
        {"priority": 11},
        {"priority": 5.5},
        {"priority": "soon"},
        {"priority": True},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "long"},
        {"routing_mode": "clever"},
        {"app_name": "a\nb"},
        {"node": "n" * 300},
    ],
)
async def test_a_wrong_wish_is_a_value_error_and_nothing_is_sent(cluster, pool, wishes):
    with pytest.raises(BadValue) as caught:
        pool.chat(MODEL, HELLO, **wishes)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, SollolError)
    with pytest.raises(ValueError, match=next(iter(wishes))):
        AsyncPool(cluster.urls, **wishes) if "node" not in wishes else pool.generate(MODEL, "x", **wishes)


@pytest.mark.parametrize("messages", ["Hello", {"role": "user"}, ["Hello"], [object()]])
async def test_messages_that_are_none_are_refused_with_words(pool, messages):
    with pytest.raises(BadValue):
        pool.chat(MODEL, messages)


async def test_a_call_can_be_kept_on_one_node(cluster, pool):
    for url in cluster.urls:
        node = url.removeprefix("http://")
        reply = await pool.chat(MODEL, HELLO, node=node)
        assert reply.routing.host == node


async def test_the_mode_of_a_call_and_of_the_pool(pool):
    assert (await pool.chat(MODEL, HELLO, routing_mode="fast")).routing.mode == "fast"
    pool.set_routing_mode(None)
    assert (await pool.chat(MODEL, HELLO)).routing.mode == "balanced"


async def test_a_plain_dict_of_the_reply_can_be_had(pool):
    reply = await pool.chat(MODEL, HELLO)
    assert type(reply.model_dump()["message"]) is dict
    assert json.loads(reply.model_dump_json()) == reply
    with pytest.raises(AttributeError, match="content"):
        _ = reply.content


async def test_nodes_in_every_form(cluster):
    first = cluster.urls[0]
    host, _, port = first.removeprefix("http://").rpartition(":")

    class Thing:
        def __init__(self) -> None:
            self.host, self.port = host, int(port)

    class Where:
        url = first

    forms = [
        first,
        f"{host}:{port}",
        {"host": host, "port": int(port), "priority": 3},
        {"url": first, "name": "gpu"},
    ]
    forms += [
        Endpoint(host, int(port)),
        Node("n", Endpoint(host, int(port))),
        Thing(),
        Where(),
    ]
    for form in forms:
        for given in (form, [form]):
            (node,) = AsyncPool(given).nodes
            assert (node["host"], node.port, node.url) == (host, int(port), first)
            (again,) = AsyncPool([node]).nodes
            assert again == node
    assert [node.priority for node in AsyncPool(forms[2]).nodes] == [3]
    with pytest.raises(ConfigError):
        AsyncPool(5)
    with pytest.raises(ConfigError):
        AsyncPool([first], gateway=first)


async def test_nodes_come_and_go(cluster):
    first, second = cluster.urls
    async with AsyncPool([first]) as pool:
        assert (await pool.chat(MODEL, HELLO)).routing.host in first
        host, _, port = second.removeprefix("http://").rpartition(":")
        added = pool.add_node(host, int(port), priority=7, name="second")
        assert (added.port, added.priority, added.name) == (int(port), 7, "second")
        assert (await pool.chat(MODEL, HELLO, node="second")).routing.host in second
        assert pool.remove_node(first) is True
        assert pool.remove_node(first) is False
        assert [node.name for node in pool.nodes] == ["second"]
        assert (await pool.chat(MODEL, HELLO)).routing.node == "second"
        assert pool.nodes[0].is_healthy
        assert MODEL in pool.nodes[0].models


async def test_nodes_can_be_named_before_the_first_call(cluster):
    pool = AsyncPool([])
    pool.add_node(cluster.urls[0])
    pool.add_node(cluster.urls[1])
    assert pool.remove_node(cluster.urls[0])
    async with pool:
        assert (await pool.chat(MODEL, HELLO)).routing.host in cluster.urls[1]


async def test_statistics_are_measured_or_nothing(pool):
    empty = await pool.get_stats()
    assert (
        empty["total_requests"],
        empty["avg_latency_ms"],
        empty["success_rate"],
    ) == (0, None, None)
    await pool.chat(MODEL, HELLO)
    full = await pool.get_stats()
    assert (
        full["total_requests"],
        full["successful_requests"],
        full["success_rate"],
    ) == (1, 1, 1.0)
    assert full["avg_latency_ms"] > 0


async def test_a_model_that_nobody_has_is_told_at_once(cluster):
    began = time.monotonic()
    async with AsyncPool(cluster.urls) as pool:
        with pytest.raises(NoNodeForModel, match="nothing-like-it"):
            await pool.chat("nothing-like-it", HELLO)
    assert time.monotonic() - began < 3


async def test_a_silent_node_does_not_hold_up_the_first_call(cluster):
    cluster["b"].faults.set(hang=True, scope="all")
    began = time.monotonic()
    async with AsyncPool(cluster.urls) as pool:
        await pool.chat(MODEL, HELLO)
    assert time.monotonic() - began < 2


async def test_warming(pool):
    assert await pool.warm_model(MODEL) is True
    assert await pool.warm_models([MODEL, "nomic-embed-text", "not-there"]) == {
        MODEL: True,
        "nomic-embed-text": True,
        "not-there": False,
    }
    assert await pool.warm_models([LLAMA_8B.name], parallel=False) == {LLAMA_8B.name: True}


async def test_closing_ends_what_runs_and_says_so():
    async with EmulatedCluster(instant(30.0)) as cluster:
        pool = AsyncPool(cluster.urls)
        call = asyncio.ensure_future(pool.chat("bench", HELLO))
        stream = pool.chat("bench", HELLO, stream=True)
        reading = asyncio.ensure_future(anext(stream))
        await until(lambda: cluster.nodes[0].stats.in_flight == 2)
        began = time.monotonic()
        await pool.aclose()
        assert time.monotonic() - began < 0.5
        for waiting in (call, reading):
            with pytest.raises(ShuttingDown):
                await waiting
        with pytest.raises(ShuttingDown, match="closed"):
            await pool.chat("bench", HELLO)
        await pool.aclose()


@pytest.mark.leaves_tasks  # a loop that ends is how many a program ends its pool
def test_one_loop_after_another():
    with Machines([SPEC]) as machines:
        pool = AsyncPool(machines.urls)

        async def twice() -> list[str]:
            return [reply.routing.host for reply in await asyncio.gather(pool.chat(MODEL, HELLO), pool.chat(MODEL, HELLO))]

        for _ in range(3):
            assert asyncio.run(twice()) == [machines.urls[0].removeprefix("http://")] * 2
        assert asyncio.run(pool.get_stats())["total_requests"] == 6


async def test_two_loops_at_once_are_refused(pool):
    await pool.chat(MODEL, HELLO)

    def elsewhere() -> None:
        asyncio.run(pool.ready())

    with pytest.raises(SollolError, match="another event loop"):
        await asyncio.to_thread(elsewhere)
