"""Emulated nodes on real sockets: streams, clients that leave, restarts, and what they count."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from tests.support.emulated import ask, encode, read_reply
from tests.support.wait import until

from sollol.emulator import ModelSpec, NodeSpec, embedder, presets
from sollol.emulator.node import EmulatedNode
from sollol.emulator.server import EmulatedCluster

CHAT = ModelSpec("chat:latest", 1_000_000, prefill=1e5, decode=400, answer_tokens=20)
FAST = NodeSpec("fast", models=(CHAT, embedder("embed:latest", dimension=8)), load_gbps=1000)
SLOW = NodeSpec("slow", models=(replace(CHAT, decode=5),), load_gbps=1000, fixed_delay=None)
HELLO = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}


def chat(**fields: Any) -> dict[str, Any]:
    return HELLO | fields


async def warmed(node: EmulatedNode) -> EmulatedNode:
    await ask(node, "POST", "/api/chat", {"model": "chat"})
    return node


async def test_a_stream_and_a_document_say_the_same():
    async with EmulatedCluster([FAST]) as cluster:
        node = cluster.nodes[0]
        stream = await ask(node, "POST", "/api/chat", chat())
        document = await ask(node, "POST", "/api/chat", chat(stream=False))
        openai = await ask(node, "POST", "/v1/chat/completions", chat())
        events = await ask(node, "POST", "/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}))
    text = document.json["message"]["content"]
    assert "".join(line["message"]["content"] for line in stream.lines) == text
    assert openai.json["choices"][0]["message"]["content"] == text
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events.events[:-2]) == text
    assert events.events[-2]["usage"] == openai.json["usage"]
    assert events.events[-1] == "[DONE]"
    assert stream.lines[-1]["eval_count"] == len(stream.lines) - 1 == openai.json["usage"]["completion_tokens"]
    assert len(stream.chunks) == len(stream.lines)


async def test_nothing_is_sent_before_the_first_token():
    async with EmulatedCluster([replace(SLOW, load_gbps=0.001)]) as cluster:  # a load of two seconds
        node = cluster.nodes[0]
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(encode("POST", "/api/chat", chat()))
        await until(lambda: node.stats.in_flight == 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await reader.read(1)
        writer.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_the_node(stream):
    async with EmulatedCluster([SLOW]) as cluster:
        node = await warmed(cluster.nodes[0])
        _, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(encode("POST", "/api/chat", chat(stream=stream)))
        await until(lambda: node.model.running == 1)
        _, queued = await asyncio.open_connection(node.host, node.port)
        queued.write(encode("POST", "/api/chat", chat(stream=stream)))
        await until(lambda: node.stats.in_flight == 2)
        queued.close()
        await until(lambda: node.stats.in_flight == 1)
        writer.close()
        await until(lambda: node.model.in_flight == 0)
        assert node.stats.cancelled == 2
        assert node.stats.in_flight == 0


async def test_requests_wait_in_the_node_for_a_slot():
    async with EmulatedCluster([FAST]) as cluster:
        node = await warmed(cluster.nodes[0])
        replies = await asyncio.gather(*(ask(node, "POST", "/api/chat", chat(stream=False)) for _ in range(4)))
        assert node.stats.max_in_flight == 4
        assert {r.status for r in replies} == {200}
        totals = sorted(r.json["total_duration"] for r in replies)
        alone = replies[0].json["prompt_eval_duration"] + replies[0].json["eval_duration"]
        assert totals[-1] > 3 * alone


async def test_a_full_queue_for_loads_is_a_503():
    spec = replace(FAST, models=(*FAST.models, replace(CHAT, name="other:latest", digest="b" * 64)), max_loaded=1, max_queue=0)
    async with EmulatedCluster([replace(spec, load_gbps=0.001)]) as cluster:
        node = cluster.nodes[0]
        _, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(encode("POST", "/api/chat", chat()))
        await until(lambda: node.stats.in_flight == 1)
        got = await ask(node, "POST", "/api/chat", chat(model="other"))
        assert got.status == 503
        assert got.json == {"error": "server busy, please try again.  maximum pending requests exceeded"}
        openai = await ask(node, "POST", "/v1/chat/completions", chat(model="other"))
        assert openai.status == 503
        assert openai.json["error"]["type"] == "api_error"
        assert node.stats.refused == 2
        writer.close()


async def test_a_broken_chat_goes_on_at_another_node():
    async with EmulatedCluster([FAST, replace(FAST, name="other")]) as cluster:
        first, other = cluster.nodes
        whole = (await ask(first, "POST", "/api/chat", chat(stream=False))).json["message"]["content"]
        first.faults.set(die_after=5)
        broken = await ask(first, "POST", "/api/chat", chat())
        part = "".join(line["message"]["content"] for line in broken.lines)
        assert not broken.complete
        assert len(broken.lines) == 5
        rendered = (await ask(other, "POST", "/api/chat", chat(_debug_render_only=True))).json["_debug_info"][
            "rendered_template"
        ]
        body = {"model": "chat", "raw": True, "prompt": rendered + part}
        rest = await ask(other, "POST", "/api/generate", body)
        assert part + "".join(line["response"] for line in rest.lines) == whole


async def test_a_node_restarts_on_its_port_and_forgets_what_was_loaded():
    async with EmulatedCluster([FAST]) as cluster:
        node = await warmed(cluster.nodes[0])
        port = node.port
        assert len((await ask(node, "GET", "/api/ps")).json["models"]) == 1
        await node.stop()
        with pytest.raises(ConnectionRefusedError):
            await ask(node, "GET", "/api/version")
        await node.start()
        assert node.port == port
        assert (await ask(node, "GET", "/api/ps")).json == {"models": []}


async def test_stopping_cuts_what_runs():
    async with EmulatedCluster([SLOW]) as cluster:
        node = await warmed(cluster.nodes[0])
        running = asyncio.create_task(ask(node, "POST", "/api/chat", chat()))
        await until(lambda: node.model.running == 1)
        await node.stop()
        assert not (await running).complete
        assert node.stats.in_flight == 0
        await node.start()
        assert (await ask(node, "GET", "/api/version")).status == 200


async def test_pull_copy_create_and_delete_change_what_is_listed():
    async with EmulatedCluster([replace(FAST, pull_gbps=50)]) as cluster:
        node = cluster.nodes[0]
        pulled = await ask(node, "POST", "/api/pull", {"model": "llama3.2:1b"})
        progress = [line for line in pulled.lines if "total" in line]
        assert pulled.lines[-1] == {"status": "success"}
        assert all(0 < line["completed"] <= line["total"] for line in progress)
        await ask(node, "POST", "/api/copy", {"source": "chat", "destination": "mine"})
        await ask(node, "POST", "/api/create", {"model": "system", "from": "chat", "system": "be brief"})
        assert (await ask(node, "DELETE", "/api/delete", {"model": "chat"})).status == 200
        models = {m["name"]: m["digest"] for m in (await ask(node, "GET", "/api/tags")).json["models"]}
        assert set(models) == {"llama3.2:1b", "mine:latest", "system:latest", "embed:latest"}
        assert models["mine:latest"] == CHAT.digest != models["system:latest"]
        assert (await ask(node, "POST", "/api/show", {"model": "SYSTEM"})).json["system"] == "be brief"
        assert (await ask(node, "POST", "/api/chat", chat())).status == 404
        again = await ask(node, "POST", "/api/pull", {"model": "llama3.2:1b"})
        assert again.lines[1]["completed"] == again.lines[1]["total"]


async def test_a_model_from_a_blob():
    async with EmulatedCluster([FAST]) as cluster:
        node = cluster.nodes[0]
        content = b"GGUF" + bytes(100_000)
        digest = "sha256:" + sha256(content).hexdigest()
        assert (await ask(node, "HEAD", f"/api/blobs/{digest}")).status == 404
        assert (await ask(node, "POST", f"/api/blobs/{digest}", content)).status == 201
        assert (await ask(node, "HEAD", f"/api/blobs/{digest}")).status == 200
        made = await ask(node, "POST", "/api/create", {"model": "made", "files": {"m.gguf": digest}})
        assert made.lines[-1] == {"status": "success"}
        assert (await ask(node, "POST", "/api/generate", {"model": "made", "prompt": "x", "stream": False})).status == 200
        for body in ({"model": "x", "files": {"a": "sha256:" + "1" * 64}}, {"model": "x", "from": "nope"}):
            assert "error" in (await ask(node, "POST", "/api/create", body)).lines[-1]


async def test_a_pull_ends_with_its_client():
    async with EmulatedCluster([replace(FAST, pull_gbps=0.01)]) as cluster:
        node = cluster.nodes[0]
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(encode("POST", "/api/pull", {"model": "llama3.2:1b"}))
        await reader.readuntil(b"completed")
        writer.close()
        await until(lambda: not node.open_connections)
        assert "llama3.2:1b" not in node.model.models


async def test_pushes():
    async with EmulatedCluster([replace(FAST, pull_gbps=1000)]) as cluster:
        node = cluster.nodes[0]
        assert (await ask(node, "POST", "/api/push", {"model": "chat"})).lines[-1] == {"status": "success"}
        assert (await ask(node, "POST", "/api/push", {"model": "chat", "stream": False})).json == {"status": "success"}
        assert (await ask(node, "POST", "/api/push", {"model": "me/none", "stream": False})).status == 500


async def test_connections_are_kept_and_requests_on_them_answered_in_order():
    async with EmulatedCluster([FAST]) as cluster:
        node = await warmed(cluster.nodes[0])
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(
            encode("POST", "/api/chat", chat(stream=False))
            + encode("GET", "/api/version")
            + encode("POST", "/api/chat", chat())
        )
        first, second, third = [await read_reply(reader) for _ in range(3)]
        writer.close()
        assert first.json["done"]
        assert second.json == {"version": "0.33.0"}
        assert third.lines[-1]["done"]
        assert node.stats.connections == 2


async def test_http_1_0_and_close():
    async with EmulatedCluster([FAST]) as cluster:
        node = cluster.nodes[0]
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(encode("POST", "/api/chat", chat()).replace(b"HTTP/1.1", b"HTTP/1.0"))
        raw = await reader.read()
        writer.close()
        assert b"Transfer-Encoding" not in raw
        assert raw.rstrip().endswith(b"}")
        assert (await ask(node, "GET", "/", headers={"Connection": "close"})).header("Connection") == "close"


async def test_what_is_no_http_is_a_400():
    async with EmulatedCluster([FAST]) as cluster:
        node = cluster.nodes[0]
        reader, writer = await asyncio.open_connection(node.host, node.port)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_expect_100_continue():
    async with EmulatedCluster([FAST]) as cluster:
        node = cluster.nodes[0]
        reader, writer = await asyncio.open_connection(node.host, node.port)
        head, _, body = encode("POST", "/api/show", {"model": "chat"}, {"Expect": "100-continue"}).partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await read_reply(reader)).status == 200
        writer.close()


async def test_emulated_nodes_say_so_where_they_are_recognised_and_nowhere_else():
    async with EmulatedCluster([FAST]) as cluster:
        node = cluster.nodes[0]
        for path, marked in (("/", True), ("/api/version", True), ("/api/tags", False), ("/v1/models", False)):
            assert ((await ask(node, "GET", path)).header("X-SOLLOL-Emulated") is not None) == marked


async def test_prefixes_are_read_only_once():
    spec = replace(FAST, models=(replace(CHAT, prefill=20_000),))
    async with EmulatedCluster([spec]) as cluster:
        node = cluster.nodes[0]
        messages = [{"role": "user", "content": "word " * 2000}]
        first = (await ask(node, "POST", "/api/chat", chat(messages=messages, stream=False))).json
        messages += [first["message"], {"role": "user", "content": "and?"}]
        second = (await ask(node, "POST", "/api/chat", chat(messages=messages, stream=False))).json
        assert second["prompt_eval_count"] > first["prompt_eval_count"] > 2000
        assert second["prompt_eval_duration"] < first["prompt_eval_duration"] / 5


async def test_unloading():
    async with EmulatedCluster([FAST]) as cluster:
        node = await warmed(cluster.nodes[0])
        assert (await ask(node, "POST", "/api/generate", {"model": "chat", "keep_alive": 0})).json["done_reason"] == "unload"
        assert (await ask(node, "GET", "/api/ps")).json == {"models": []}
        await ask(node, "POST", "/api/generate", {"model": "chat", "keep_alive": -1})
        assert (await ask(node, "GET", "/api/ps")).json["models"][0]["expires_at"] > "2300"


async def test_instant_nodes_take_the_same_time_for_any_number():
    async with EmulatedCluster(presets.instant(0.2)) as cluster:
        node = cluster.nodes[0]
        body = {"model": "bench", "messages": HELLO["messages"], "stream": False}
        replies = await asyncio.gather(*(ask(node, "POST", "/api/chat", body) for _ in range(50)))
        totals = [r.json["total_duration"] / 1e9 for r in replies]
        assert 0.19 < min(totals) <= max(totals) < 0.25


async def test_a_cluster_finds_nodes_by_name_and_gives_ports_back():
    async with EmulatedCluster(presets.demo()) as cluster:
        assert [n.name for n in cluster.nodes] == ["fast-gpu", "slow-gpu", "cpu"]
        assert cluster["cpu"].url == cluster.urls[2]
        with pytest.raises(KeyError):
            cluster["none"]
        port = cluster.nodes[0].port
        with pytest.raises(OSError, match="in use"):
            await EmulatedCluster([FAST], port=port).__aenter__()
    async with EmulatedCluster([FAST], port=port) as cluster:
        assert cluster.nodes[0].port == port


async def test_small_pieces_are_sent_at_once():
    """As Ollama has it. Else each waits until the client's system has acknowledged the one before: 40 ms."""
    async with EmulatedCluster(presets.instant(0.001, tokens=5)) as cluster:
        url = cluster.urls[0].removeprefix("http://")
        host, _, port = url.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        times = []
        for _ in range(10):
            began = asyncio.get_running_loop().time()
            writer.write(encode("POST", "/api/generate", {"model": "bench", "prompt": "x", "stream": True}))
            await read_reply(reader)
            times.append(asyncio.get_running_loop().time() - began)
        writer.close()
    assert sorted(times)[2] < 0.035  # a first one is quick in any case
