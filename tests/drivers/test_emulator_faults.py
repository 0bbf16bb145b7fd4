"""Faults of emulated nodes, on real sockets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.support.emulated import Got, ask, encode
from tests.support.wait import until

from sollol.core.types import NodeKind
from sollol.emulator import ModelSpec, NodeSpec
from sollol.emulator.faults import Faults, FaultSwitch
from sollol.emulator.node import EmulatedNode
from sollol.emulator.server import EmulatedCluster

CHAT = ModelSpec("chat:latest", 1_000_000, prefill=1e5, decode=1000, answer_tokens=40)
NODE = NodeSpec("one", models=(CHAT,), load_gbps=1000, slots=4)
DIED = "an error was encountered while running the model: unexpected EOF"


async def chat(node: EmulatedNode, path: str = "/api/chat", **fields: Any) -> Got:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100} | fields
    return await ask(node, "POST", path, body)


async def test_refuse_and_heal():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        running = asyncio.create_task(chat(node))
        await until(lambda: node.stats.in_flight)
        node.faults.set(refuse=True)
        assert not (await running).complete
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await ask(node, "GET", "/api/version")
        node.faults.clear()
        assert (await ask(node, "GET", "/api/version")).status == 200
        assert node.model.in_flight == 0


async def test_flapping():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(flap=0.05)
        seen: set[bool] = set()
        while len(seen) < 2:
            try:
                seen.add((await ask(node, "GET", "/api/version")).complete)
            except ConnectionError:
                seen.add(False)
        node.faults.clear()
        assert (await ask(node, "GET", "/api/version")).complete


async def test_every_connection_is_reset():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(reset=True)
        with pytest.raises(ConnectionResetError):
            reader, writer = await asyncio.open_connection(node.host, node.port)
            await reader.read(1)
            writer.close()


@pytest.mark.parametrize("scope", ["inference", "all"])
async def test_a_node_that_hangs_may_still_answer_probes(scope):
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(hang=True, scope=scope)
        with pytest.raises(TimeoutError):
            await ask(node, "POST", "/api/chat", {"model": "chat", "messages": [{"role": "user", "content": "x"}]}, limit=0.2)
        if scope == "all":
            with pytest.raises(TimeoutError):
                await ask(node, "GET", "/api/tags", limit=0.2)
        else:
            assert (await ask(node, "GET", "/api/tags")).status == 200
        assert (await ask(node, "GET", "/_emulator")).status == 200


@pytest.mark.parametrize(
    ("status", "words"), [(500, DIED), (503, "server busy, please try again.  maximum pending requests exceeded"), (429, "")]
)
async def test_a_status_at_once_in_the_dialect_of_the_path(status, words):
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(status=status)
        native, openai, anthropic = await chat(node), await chat(node, "/v1/chat/completions"), await chat(node, "/v1/messages")
        assert native.status == openai.status == anthropic.status == status
        assert words in native.json["error"]
        assert openai.json["error"]["message"] == anthropic.json["error"]["message"] == native.json["error"]
        assert (await ask(node, "GET", "/api/tags")).status == 200
        assert node.model.loads == 0


async def test_an_error_after_some_tokens_is_the_last_line():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(error_after=5)
        stream = await chat(node)
        assert stream.status == 200
        assert stream.complete
        assert [("message" in line) for line in stream.lines] == [True] * 5 + [False]
        assert stream.lines[-1] == {"error": DIED}
        document = await chat(node, stream=False)
        assert (document.status, document.json) == (500, {"error": DIED})
        assert node.stats.in_flight == node.model.in_flight == 0


async def test_a_dead_engine_hides_in_an_openai_stream():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(error_after=3)
        events = (await chat(node, "/v1/chat/completions", stream=True)).events
        assert [e["model"] for e in events] == ["chat"] * 3 + [""]
        assert {e["choices"][0]["finish_reason"] for e in events} == {None}
        anthropic = await chat(node, "/v1/messages", stream=True)
        assert anthropic.complete
        assert b"message_stop" not in anthropic.body


async def test_an_error_before_the_first_token_has_its_true_status():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(error_after=0)
        assert (await chat(node)).status == 500


@pytest.mark.parametrize("after", [0, 4])
async def test_an_end_without_done(after):
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(end_after=after)
        stream = await chat(node)
        assert stream.complete
        assert [line["done"] for line in stream.lines] == [False] * after
        assert not (await chat(node, stream=False)).complete


@pytest.mark.parametrize("after", [0, 4, 10_000])
async def test_a_connection_that_dies(after):
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(die_after=after)
        stream = await chat(node)
        assert not stream.complete
        assert stream.status == (200 if after else 0)
        assert not (await chat(node, stream=False)).complete
        await until(lambda: node.model.in_flight == 0)
        node.faults.clear()
        assert (await chat(node)).complete


async def test_a_stall_keeps_the_connection_until_the_client_leaves():
    async with EmulatedCluster([replace(NODE, kind=NodeKind.LLAMACPP)]) as cluster:  # it has its model loaded
        node = cluster.nodes[0]
        node.faults.set(stall_after=3)
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(encode("POST", "/v1/completions", {"model": "chat", "prompt": "x", "stream": True}))
        for _ in range(3):
            assert b'"finish_reason":null' in await reader.readuntil(b"}\n\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1_000), 0.1)
        assert node.open_connections == 1
        writer.close()
        await until(lambda: node.stats.cancelled == 1)
        assert node.stats.in_flight == 0


async def test_bad_json_and_bad_framing():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(bad_json=True)
        for got in (await chat(node, stream=False), await chat(node)):
            assert got.complete
            with pytest.raises(json.JSONDecodeError):
                _ = got.lines
        node.faults.set(bad_framing=True)
        with pytest.raises(ValueError, match="zz"):
            await chat(node)


async def test_a_slow_node():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        before = (await chat(node, stream=False)).json
        node.faults.set(slow=5)
        after = (await chat(node, stream=False)).json
        assert after["eval_count"] == before["eval_count"]
        assert after["eval_duration"] > 4 * before["eval_duration"]


async def test_some_requests_only():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(status=503, times=2)
        assert [(await chat(node)).status for _ in range(4)] == [503, 503, 200, 200]
        node.faults.set(status=500, every=2)
        assert [(await chat(node)).status for _ in range(4)] == [200, 500, 200, 500]


async def test_faults_over_http_of_this_node_and_of_others():
    two = [NODE, NodeSpec("two", models=(CHAT,))]
    async with EmulatedCluster(two) as cluster:
        one, other = cluster.nodes
        assert (await ask(one, "POST", "/_emulator/faults", {"status": 503})).json["status"] == 503
        assert (await chat(one)).status == 503
        assert (await ask(one, "POST", "/_emulator/faults?node=two", {"refuse": True})).status == 200
        with pytest.raises(ConnectionRefusedError):
            await ask(other, "GET", "/api/version")
        await ask(one, "POST", "/_emulator/faults?node=two", {})
        assert (await ask(other, "GET", "/api/version")).status == 200
        seen = (await ask(one, "GET", "/_emulator")).json
        assert seen["faults"]["status"] == 503
        assert seen["stats"]["requests"] == 1
        assert seen["stats"]["paths"] == {"POST /api/chat": 1}
        assert (await ask(one, "POST", "/_emulator/reset")).status == 200
        assert (await ask(one, "GET", "/_emulator")).json["stats"]["requests"] == 0
        assert (await chat(one)).status == 200


@pytest.mark.parametrize("body", [b"{", {"no_such": 1}, {"status": 200}, {"slow": 0}, {"every": 0}, {"scope": "x"}, [1]])
async def test_wrong_faults_are_refused(body):
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        assert (await ask(node, "POST", "/_emulator/faults", body)).status == 400
        assert node.faults.current == Faults()


async def test_unknown_control_paths():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        assert (await ask(node, "GET", "/_emulator?node=none")).status == 404
        assert (await ask(node, "GET", "/_emulator/none")).status == 404


async def test_other_kinds_break_in_their_own_words():
    async with EmulatedCluster([NodeSpec("l", kind=NodeKind.LLAMACPP, models=(CHAT,))]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(error_after=2)
        assert (await chat(node, "/v1/chat/completions", stream=True)).events[-1]["error"]["code"] == 500
        assert (await ask(node, "POST", "/completion", {"prompt": "x", "stream": True})).events[-1]["error"]["code"] == 500


def test_a_switch_tells_of_every_change():
    told: list[Faults] = []
    switch = FaultSwitch(told.append)
    switch.set(slow=2)
    switch.clear()
    assert [f.slow for f in told] == [2, 1]
    with pytest.raises(msgspec.ValidationError):
        switch.set(status=1)
    assert switch.current == Faults()
