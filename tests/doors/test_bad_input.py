"""What no client should send, sent to a whole gateway: refused with Ollama's or OpenAI's status and shape, and it goes on."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.front import Front, Reply, front
from tests.support.wait import until

from sollol.config import Limits
from sollol.emulator.presets import LLAMA_1B, embedder
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
QUICK = NodeSpec("quick", prefill=1e6, decode=1e5, slots=8, fixed_delay=0.001, models=(LLAMA_1B, embedder()))
SMALL = Limits(json_body_bytes=20_000, header_bytes=4_096, header_seconds=0.5, body_seconds=0.5, idle_seconds=1.0)
DEEP = b"[" * 10_000 + b"]" * 10_000


@asynccontextmanager
async def gateway(limits: Limits | None = None) -> AsyncIterator[Front]:
    """A gateway; at its end a good request is still answered, with nothing logged as an error and nothing left under way."""
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    errors = Errors()
    logging.getLogger("sollol").addHandler(errors)
    try:
        async with EmulatedCluster([QUICK]) as cluster, front(*cluster.urls, limits=limits) as gate:
            yield gate
            await still_good(gate)
            await until(lambda: not cluster["quick"].stats.in_flight)
            assert all(not node.in_flight for node in gate.context.engine.state.nodes.values())
            assert all(not node.failed for node in gate.context.engine.state.nodes.values())
    finally:
        logging.getLogger("sollol").removeHandler(errors)
    assert problems == []
    assert errors.records == []


class Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


async def still_good(gate: Front) -> None:
    reply = await gate.ask("POST", "/api/chat", {"model": MODEL, "messages": HELLO, "stream": False})
    assert (reply.status, reply.json["done"]) == (200, True)


def said(reply: Reply) -> tuple[int, str]:
    """The status and the words of an error, in the shape of its dialect."""
    error = reply.json["error"]
    if isinstance(error, dict):
        assert set(error) == {"message", "type", "param", "code"}
        return reply.status, error["message"]
    assert set(reply.json) == {"error"}
    return reply.status, error


NATIVE = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show", "/api/pull", "/api/copy", "/api/create")
OPENAI = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
OWN = ("/api/nodes",)

BROKEN = {
    "cut off": b'{"model": "llama3.2:1b", "messages": [',
    "no JSON": b"hello",
    "a list": b"[]",
    "a number": b"3",
    "deep": b'{"model": "llama3.2:1b", "messages": ' + DEEP + b"}",
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "two documents": b'{"model": "llama3.2:1b"} {"model": "x"}',
    "invalid UTF-8": b'{"model": "\xff\xfe", "messages": []}',
    "half a surrogate": b'{"model": "\\ud800", "messages": []}',
    "a zero byte": b'{"model": "\\u0000", "messages": []}',
    "NaN": b'{"model": "llama3.2:1b", "keep_alive": NaN}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"model": "llama3.2:1b"}',
    "the model is a number": b'{"model": 5}',
    "the model is a list": b'{"model": ["llama3.2:1b"]}',
    "no model": b'{"messages": [{"role": "user", "content": "x"}]}',
    "an endless name": b'{"model": "' + b"x" * 10_000 + b'"}',
    "a name with a line break": b'{"model": "a\\r\\nX-Evil: 1"}',
    "nothing": b"",
    "blanks": b"   ",
    "null": b"null",
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_body(kind: str) -> None:
    async with gateway() as gate:
        for path in (*NATIVE, *OPENAI, *OWN):
            reply = await gate.ask("POST", path, BROKEN[kind], {"Content-Type": "application/json"})
            status, words = said(reply)
            assert status in {400, 404}, (path, reply.body)
            assert words
            assert "x-evil" not in {name for name, _ in reply.headers}
            assert len(reply.body) < 30_000


WRONG: dict[str, dict[str, Any]] = {
    "messages is a text": {"messages": "hello"},
    "messages is an object": {"messages": {}},
    "a message is a number": {"messages": [1]},
    "the content is a number": {"messages": [{"role": "user", "content": 5}]},
    "stream is a text": {"messages": HELLO, "stream": "yes"},
    "options is a list": {"messages": HELLO, "options": []},
    "priority is absurd": {"messages": HELLO, "priority": 10**30},
}


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (kind, path)
        for kind in WRONG
        for path in ("/api/chat", "/v1/chat/completions")
        # what is in a message is the node's to judge on OpenAI's paths, and `options` is no field of theirs
        if path.startswith("/api") or kind not in {"the content is a number", "options is a list"}
    ],
)
async def test_a_field_of_the_wrong_type(kind: str, path: str) -> None:
    async with gateway() as gate:
        status, words = said(await gate.ask("POST", path, {"model": MODEL, **WRONG[kind]}))
        assert status == 400
        assert words


ABSURD: dict[str, dict[str, Any]] = {
    "num_ctx": {"options": {"num_ctx": 10**15}},
    "a negative num_ctx": {"options": {"num_ctx": -5}},
    "num_predict": {"options": {"num_predict": 10**18}},
    "a far too big number": {"options": {"num_predict": 10**400}},
    "temperature": {"options": {"temperature": 1e308}},
    "keep_alive": {"keep_alive": 10**40},
    "a keep_alive of words": {"keep_alive": "for ever and ever"},
    "a negative keep_alive": {"keep_alive": "-999999h"},
    "seed": {"options": {"seed": -(2**63)}},
}


@pytest.mark.parametrize("kind", ABSURD)
async def test_absurd_numbers_are_answered_or_refused(kind: str) -> None:
    async with gateway() as gate:
        reply = await gate.ask("POST", "/api/chat", {"model": MODEL, "messages": HELLO, "stream": False, **ABSURD[kind]})
        assert reply.status in {200, 400, 500, 501}, reply.body
        if reply.status != 200:
            assert said(reply)[1]


@pytest.mark.parametrize("value", ["0", "-1", "abc", "nan", "inf", "1e400", "99999999999"])
async def test_control_headers_out_of_range(value: str) -> None:
    async with gateway() as gate:
        for name in ("X-SOLLOL-Timeout", "X-SOLLOL-Priority", "X-SOLLOL-Mode", "X-SOLLOL-Details"):
            reply = await gate.ask("POST", "/api/chat", {"model": MODEL, "messages": HELLO, "stream": False}, {name: value})
            if (name, value) != ("X-SOLLOL-Details", "0"):
                assert said(reply)[0] == 400, (name, value, reply.body)


@pytest.mark.parametrize("path", [*NATIVE, *OPENAI])
async def test_a_body_over_the_limit(path: str) -> None:
    async with gateway(SMALL) as gate:
        reply = await gate.ask("POST", path, {"model": MODEL, "prompt": "x" * 30_000})
        status, words = said(reply)
        assert (status, "20000" in words) == (413, True)
        # and one that does not say beforehand how long it is
        chunk = b"1000\r\n" + b"x" * 4_096 + b"\r\n"
        chunked = await gate.ask("POST", path, chunk * 8 + b"0\r\n\r\n", {"Transfer-Encoding": "chunked"})
        assert said(chunked)[0] == 413


async def test_header_bombs() -> None:
    async with gateway(SMALL) as gate:
        bombs = [{"X-Long": "x" * 10_000}, {f"X-{number}": "y" for number in range(2_000)}]
        for bomb in bombs:
            reply = await gate.ask("GET", "/api/tags", headers=bomb)
            assert said(reply)[0] == 431
        reply = await gate.ask("GET", "/api/tags?" + "x" * 10_000)
        assert reply.status in {414, 431}


async def raw(gate: Front, data: bytes) -> bytes:
    """Everything that the gateway says to these bytes until it closes, or says nothing for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    writer.write(data)
    got = b""
    try:
        async with asyncio.timeout(5):
            while piece := await reader.read(65_536):
                got += piece
    except ConnectionResetError:
        pass
    finally:
        writer.transport.abort()
    return got


async def test_slow_clients_are_let_go() -> None:
    async with gateway(SMALL) as gate:
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n"
        silent, half_a_head, half_a_body = await asyncio.gather(
            raw(gate, b""), raw(gate, b"POST /api/chat HTTP/1.1\r\nHost: loc"), raw(gate, head + b'{"model": ')
        )
        assert silent == b""
        assert half_a_head.startswith(b"HTTP/1.1 408 ")
        assert half_a_body.startswith(b"HTTP/1.1 408 ")
        assert b'{"error":' in half_a_body


BODY = json.dumps({"model": MODEL, "messages": HELLO, "stream": False}).encode()
SECRET = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
POST = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n"
SMUGGLED = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + SECRET,
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECRET,
    "chunks in other words": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECRET,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SECRET,
    "a blank before the colon": POST + b"Content-Length : 5\r\n\r\nhello" + SECRET,
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello" + SECRET,
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nhello" + SECRET,
    "a length beyond all": POST + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "a chunk size with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n" + SECRET,
    "a folded header": GET + b"X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n" + SECRET,
    "a bare carriage return": GET + b"X-A: b\rContent-Length: 5\r\n\r\nhello" + SECRET,
    "a zero byte": GET + b"X-A: \0\r\n\r\n" + SECRET,
}


@pytest.mark.parametrize("kind", SMUGGLED)
async def test_nothing_is_smuggled_in(kind: str) -> None:
    """A request with two possible ends is refused, and what follows it is not taken for another request."""
    async with gateway(SMALL) as gate:
        got = await raw(gate, SMUGGLED[kind])
        assert got.startswith(b"HTTP/1.1 4") or got.startswith(b"HTTP/1.1 501")
        assert got.count(b"HTTP/1.1 ") == 1
        assert b'"version"' not in got


async def test_a_client_that_sends_on_after_its_request_harms_nobody() -> None:
    async with gateway(SMALL) as gate:
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        got = await raw(gate, head + BODY + b"\x16\x03\x01 this is no HTTP")
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.count(b"HTTP/1.1 400 ") == 1


def inside_out(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(MODEL), inside_out, max_leaves=12
)
NAMES = [
    "model",
    "messages",
    "prompt",
    "input",
    "stream",
    "options",
    "keep_alive",
    "format",
    "tools",
    "images",
    "priority",
    "suffix",
    "system",
    "template",
    "raw",
    "think",
    "name",
    "source",
    "destination",
    "from",
    "files",
    "nodes",
    "max_tokens",
]
fields = st.dictionaries(st.sampled_from(NAMES), anything, max_size=8)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([*NATIVE, *OPENAI]), fields, st.booleans()), min_size=1, max_size=10))
def test_any_document_is_answered(asked: list[tuple[str, dict[str, Any], bool]]) -> None:
    async def check() -> None:
        async with gateway() as gate, asyncio.timeout(30):
            for path, body, named in asked:
                given_body = {**body, "model": MODEL} if named else body
                reply = await gate.ask("POST", path, json.dumps(given_body).encode())
                assert reply.status in {200, 400, 404, 500, 501}, (path, given_body, reply.body)
                assert reply.body or reply.status == 200

    asyncio.run(check())


@settings(max_examples=40)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=8), st.sampled_from([*NATIVE, *OPENAI]))
def test_random_bytes_harm_nobody(sent: list[bytes], path: str) -> None:
    async def check() -> None:
        async with gateway(SMALL) as gate, asyncio.timeout(30):
            for data in sent:
                reply = await gate.ask("POST", path, data)
                assert reply.status in {400, 404}
                _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
                writer.write(data)
                writer.transport.abort()

    asyncio.run(check())
