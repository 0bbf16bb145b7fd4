"""Streams through a whole gateway: what a node sends is what the client reads, at the client's pace."""

from __future__ import annotations

import asyncio
import json
import tracemalloc

import pytest
from tests.support.front import Front, front
from tests.support.scripted import Seen, scripted
from tests.support.wait import stalled, until

from sollol.emulator import specs
from sollol.emulator.presets import LLAMA_8B, same
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

MODEL = "m:latest"
LINE = b'{"model":"m","message":{"role":"assistant","content":"w\\u00f6rd %d"},"done":false}\n'
LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done_reason":"stop","done":true}\n'
EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w%d"},"finish_reason":null}]}\n\n'
DONE = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.fixture(autouse=True)
def loads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about the second that a load takes at least."""
    monkeypatch.setattr(specs, "LOAD_BASE_SECONDS", 0.01)


def chat(**fields: object) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_every_piece_passes_as_it_came(path: str) -> None:
    """In the node's own pieces, each before the next one is sent; of a line that came in part only when it is whole."""
    native = path == "/api/chat"
    whole = [LINE % number if native else EVENT % number for number in range(5)]
    pieces = [*whole[:3], whole[3] + whole[4][:20], whole[4][20:], LAST if native else DONE]
    go_on = asyncio.Event()

    async def answer(seen: Seen) -> None:
        seen.begin("application/x-ndjson" if native else "text/event-stream")
        for piece in pieces:
            seen.transport.write(chunk(piece))
            await go_on.wait()
            go_on.clear()
        seen.end()

    async with scripted(MODEL) as node, front(node.url) as gate:
        node.answers["POST", path] = answer
        request = await gate.open("POST", path, chat(stream=True))
        await request.head()
        for piece in (*whole, pieces[-1]):
            assert await request.chunk() == piece
            go_on.set()
        assert await request.chunk() == b""
        request.leave()


async def test_a_slow_reader_holds_its_node_back_and_not_in_our_memory() -> None:
    total, written = 60_000_000, 0
    line = LINE.replace(b"w\\u00f6rd %d", b"x" * 50_000)

    async def answer(seen: Seen) -> None:
        nonlocal written
        seen.begin()
        while written < total:
            await until(lambda: seen.transport.get_write_buffer_size() < 100_000)
            seen.transport.write(chunk(line))
            written += len(line)
        seen.transport.write(chunk(LAST))
        seen.end()

    async with scripted(MODEL) as node, front(node.url) as gate:
        node.answers["POST", "/api/chat"] = answer
        request = await gate.open("POST", "/api/chat", chat())
        request.reader._transport.pause_reading()  # type: ignore[attr-defined] - a client that does not read
        tracemalloc.start()
        try:
            await stalled(lambda: written)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert written < total / 2
        assert held < 4_000_000
        request.reader._transport.resume_reading()  # type: ignore[attr-defined] - as above
        await request.head()
        size, last = 0, b""
        while piece := await request.chunk():
            size, last = size + len(piece), piece
        assert size == written + len(LAST)
        assert last.endswith(LAST)
        request.leave()


async def test_two_hundred_streams_at_once_lose_and_mix_nothing() -> None:
    quick = NodeSpec(prefill=100_000, decode=400, slots=50, load_gbps=1e6, models=(LLAMA_8B,))
    async with EmulatedCluster(same(4, quick)) as cluster, front(*cluster.urls) as gate:

        async def ask(number: int, native: bool, **headers: str) -> str:
            asked = {"model": "llama3.1:8b", "messages": [{"role": "user", "content": f"question {number}"}], "stream": True}
            limit = {"options": {"num_predict": 25}} if native else {"max_tokens": 25}
            path = "/api/chat" if native else "/v1/chat/completions"
            reply = await gate.ask("POST", path, {**asked, **limit}, headers)
            assert reply.status == 200
            return text(reply.body, native)

        truth = await asyncio.gather(*(ask(number, True) for number in range(20)))
        assert len(set(truth)) == 20
        texts = await asyncio.gather(*(ask(number % 20, number % 3 > 0) for number in range(200)))
        assert texts == [truth[number % 20] for number in range(200)]
        assert sum(node.stats.finished for node in cluster.nodes) == 220
        assert all(node.in_flight == 0 for node in gate.context.engine.state.nodes.values())


def text(body: bytes, native: bool) -> str:
    """The text of a stream, whose every line must be whole."""
    if native:
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[-1]["done"] is True
        return "".join(line["message"]["content"] for line in lines)
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert events[-1] == b"[DONE]"
    deltas = [json.loads(event)["choices"] for event in events[:-1]]
    return "".join(choices[0]["delta"].get("content") or "" for choices in deltas if choices)


async def loaded_and_unloaded(gate: Front, cluster: EmulatedCluster) -> None:
    body = {"model": "llama3.1:8b"}
    for url in cluster.urls:
        reply = await gate.ask("POST", "/api/generate", body, {"X-SOLLOL-Node": url[7:]})
        assert (reply.status, reply.lines[-1]["done_reason"]) == (200, "load")
    listed = await gate.ask("GET", "/api/ps")
    assert len(listed.json["models"]) == len(cluster.urls)
    reply = await gate.ask("POST", "/api/generate", {**body, "keep_alive": 0})
    assert (reply.status, reply.lines[-1]["done_reason"]) == (200, "unload")
    listed = await gate.ask("GET", "/api/ps")
    assert listed.json["models"] == []


async def test_an_empty_prompt_loads_and_keep_alive_0_unloads_everywhere() -> None:
    quick = NodeSpec(load_gbps=1e6, models=(LLAMA_8B,))
    async with EmulatedCluster(same(3, quick)) as cluster, front(*cluster.urls) as gate:
        await loaded_and_unloaded(gate, cluster)
        for node in cluster.nodes:
            assert node.stats.paths["POST /api/generate"] == 2


async def test_the_methods_that_ask_about_a_path() -> None:
    async with scripted(MODEL) as node, front(node.url) as gate:
        for path in ("/", "/api/tags", "/api/version"):
            got, head = await gate.ask("GET", path), await gate.ask("HEAD", path)
            assert (head.status, head.body) == (200, b"")
            assert head.header("content-length") == got.header("content-length") == str(len(got.body))
        preflight = await gate.ask(
            "OPTIONS",
            "/api/chat",
            headers={"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status == 204
        assert preflight.header("access-control-allow-origin") == "http://localhost:3000"
        assert "POST" in preflight.header("access-control-allow-methods")
        assert node.asked("POST", "/api/chat") == []


@pytest.mark.parametrize(
    ("status", "body", "stream"),
    [
        (200, b'{"done_reason":"\xff","done":true}', False),
        (200, b'{"done_reason":"\xff"}\n', True),
        (500, b'{"error":"\xff\xfe"}', True),
        (404, b"\xff\xfe", False),
    ],
)
async def test_a_node_that_does_not_speak_utf_8_harms_nobody(status: int, body: bytes, stream: bool) -> None:
    async def answer(seen: Seen) -> None:
        seen.reply(status, body)

    async with scripted(MODEL) as node, front(node.url) as gate:
        node.answers["POST", "/api/chat"] = answer
        reply = await gate.ask("POST", "/api/chat", chat(stream=stream))
        assert reply.status == (502 if status != 404 else 404)
        reply.body.decode("utf-8", "strict" if status != 404 else "replace")
        assert (await gate.ask("GET", "/api/tags")).status == 200


@pytest.mark.parametrize("path", ["/api/chat", "/api/show", "/api/pull", "/v1/chat/completions", "/api/nodes"])
async def test_a_client_that_does_not_speak_utf_8_is_told_so(path: str) -> None:
    async with scripted(MODEL) as node, front(node.url) as gate:
        reply = await gate.ask("POST", path, b'{"model":"m","url":"x","\xff":"\xff"}')
        assert reply.status == 400
        assert reply.json["error"]


async def test_a_look_that_is_no_utf_8_is_a_failed_look() -> None:
    async def answer(seen: Seen) -> None:
        seen.reply(200, b'{"models":[{"name":"\xff"}]}')

    async with scripted(MODEL) as node, front(node.url) as gate:
        state = gate.context.engine.state.nodes[node.id]
        node.answers["GET", "/api/tags"] = answer
        for _ in range(2):
            looks = len(node.asked("GET", "/api/tags"))
            gate.context.monitor.look(node.id)
            await until(lambda looks=looks: len(node.asked("GET", "/api/tags")) > looks)
        await until(lambda: "UTF-8" in state.last_error or "utf-8" in state.last_error)
        del node.answers["GET", "/api/tags"]
        gate.context.monitor.look(node.id)
        await until(lambda: state.state == "up")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_deadline_in_mid_answer_ends_it_in_the_words_of_the_dialect(path: str) -> None:
    whole = LINE % 1 if path == "/api/chat" else EVENT % 1

    async def answer(seen: Seen) -> None:
        seen.begin()
        seen.transport.write(chunk(whole) + chunk(whole[:9]))
        await seen.gone.wait()

    async with scripted(MODEL) as node, front(node.url) as gate:
        node.answers["POST", path] = answer
        reply = await gate.ask("POST", path, chat(stream=True), {"X-SOLLOL-Timeout": "0.3"})
        assert reply.status == 200
        assert reply.body.startswith(whole + (b'{"error"' if path == "/api/chat" else b'data: {"error"'))
        last = reply.body.strip().split(b"\n")[-1].removeprefix(b"data: ")
        assert "0.3 s" in str(json.loads(last)["error"])
        await until(node.asked("POST", path)[0].gone.is_set)


async def test_a_deadline_in_a_long_document_breaks_the_connection() -> None:
    async def answer(seen: Seen) -> None:
        seen.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + bytes(6_000_000))
        await seen.gone.wait()

    async with scripted(MODEL) as node, front(node.url) as gate:
        node.answers["POST", "/api/chat"] = answer
        request = await gate.open("POST", "/api/chat", chat(stream=False), {"X-SOLLOL-Timeout": "0.5"})
        await request.head()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError, ValueError)):
            while await request.chunk():
                pass
        request.leave()
