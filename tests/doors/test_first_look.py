"""Nobody is told that a model is missing before every node was asked for it, nor on account of what was known long ago."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.front import Front, front, nothing_left_running
from tests.support.scripted import ScriptedNode, Seen, scripted
from tests.support.wait import until

from sollol.config import Config, Discovery, Gateway, NodeSettings
from sollol.errors import NoNodeForModel
from sollol.gateway.running import open_gateway
from sollol.pool.async_pool import AsyncPool

HELLO = [{"role": "user", "content": "Hello!"}]


class Shy:
    """An Ollama that says nothing before ``speak`` is set."""

    def __init__(self, node: ScriptedNode) -> None:
        self.node = node
        self.url = node.url
        self.speak = asyncio.Event()
        self.asked = asyncio.Event()
        node.answers["GET", "/api/version"] = self._version
        node.answers["POST", "/api/chat"] = self._chat

    async def _version(self, seen: Seen) -> None:
        self.asked.set()
        await self.speak.wait()
        seen.reply(body={"version": "0.33.0"})

    async def _chat(self, seen: Seen) -> None:
        message = {"role": "assistant", "content": "Hi!"}
        seen.reply(body={"model": json.loads(seen.body)["model"], "message": message, "done": True, "done_reason": "stop"})


@asynccontextmanager
async def just_started(*nodes: Shy) -> AsyncIterator[Front]:
    """A gateway that has not looked at its nodes yet."""
    settings = tuple(NodeSettings(node.url) for node in nodes)
    config = Config(Gateway(port=0, shutdown_seconds=0.0), settings, Discovery(enabled=False), data_dir=Path("/nonexistent"))
    async with nothing_left_running():
        running = await open_gateway(config)
        try:
            yield Front(running.gateway)
        finally:
            await running.close(0.0)


@asynccontextmanager
async def shy(*models: str, speaks: bool = False) -> AsyncIterator[Shy]:
    async with scripted(*models) as node:
        made = Shy(node)
        if speaks:
            made.speak.set()
        yield made


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models", "/v1/models/m", "/api/show"])
async def test_a_listing_waits_for_the_first_look_at_a_node(path):
    async with shy("m:latest") as node, just_started(node) as gateway:
        body = {"model": "m"} if path == "/api/show" else b""
        node.node.answers["POST", "/api/show"] = _shown
        asked = asyncio.create_task(gateway.ask("POST" if body else "GET", path, body))
        await node.asked.wait()
        assert not asked.done()
        node.speak.set()
        reply = await asked
        assert (reply.status, b"m" in reply.body) == (200, True)


async def _shown(seen: Seen) -> None:
    seen.reply(body={"modelfile": "FROM m", "capabilities": ["completion"]})


async def test_a_listing_does_not_wait_long_for_a_node_that_says_nothing():
    async with shy("m:latest") as node, shy("n:latest") as silent, just_started(node, silent) as gateway:
        node.speak.set()
        async with asyncio.timeout(2.5):
            names = [model["name"] for model in (await gateway.ask("GET", "/api/tags")).json["models"]]
        assert names == ["m:latest"]


async def test_a_request_waits_for_the_first_look_and_is_then_answered_or_refused():
    async with shy("m:latest") as node, just_started(node) as gateway:
        body = {"messages": HELLO, "stream": False}
        there = asyncio.create_task(gateway.ask("POST", "/api/chat", {"model": "m", **body}))
        missing = asyncio.create_task(gateway.ask("POST", "/api/chat", {"model": "nope", **body}))
        await until(lambda: gateway.context.admission.waiting == 2)
        node.speak.set()
        assert (await there).status == 200
        async with asyncio.timeout(5):  # not the ten seconds of a cluster that is down
            assert (await missing).status == 404


async def test_a_pool_over_a_gateway_that_has_just_started():
    async with shy("m:latest") as node, just_started(node) as gateway, AsyncPool(gateway=gateway.context.address) as pool:
        asked = asyncio.create_task(pool.chat("m", HELLO))
        await node.asked.wait()
        node.speak.set()
        assert (await asked).message.content == "Hi!"


async def test_what_somebody_pulled_by_other_hands_is_found():
    async with shy("m:latest", speaks=True) as node, front(node.url) as gateway:
        ask = {"model": "new", "messages": HELLO, "stream": False}
        await _long_ago(gateway)
        node.node.models["new:latest"] = "f" * 64
        assert (await gateway.ask("POST", "/api/chat", ask)).status == 200
        looks = len(node.node.asked("GET", "/api/tags"))
        for _ in range(5):  # a name that is wrong does not have the nodes looked at again and again
            assert (await gateway.ask("POST", "/api/chat", {**ask, "model": "nope"})).status == 404
        assert len(node.node.asked("GET", "/api/tags")) <= looks + 1


async def test_a_pool_finds_what_its_gateway_has_learned_since():
    async with (
        shy("m:latest", speaks=True) as node,
        front(node.url) as gateway,
        AsyncPool(gateway=gateway.context.address) as pool,
    ):
        with pytest.raises(NoNodeForModel):
            await pool.chat("new", HELLO)
        await _long_ago(gateway)
        for known in pool.inside.house.engine.state.nodes.values():
            known.health.looked(-10.0)
        node.node.models["new:latest"] = "f" * 64
        gateway.context.monitor.look(node.node.id)
        await gateway.looked()
        assert (await pool.chat("new", HELLO)).message.content == "Hi!"


async def _long_ago(gateway: Front) -> None:
    """As if the last look at the nodes were some time ago."""
    for known in gateway.context.engine.state.nodes.values():
        known.health.looked(gateway.context.engine.clock.now() - 10.0)
