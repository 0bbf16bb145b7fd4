"""The door against raw clients: what is served, what is refused, and in which order."""

from __future__ import annotations

import asyncio
import re

import pytest
from tests.support.door_app import TestApp, doors, reply
from tests.support.wait import stalled, until

from sollol.core.ports import Sink
from sollol.errors import BadRequest, Forbidden
from sollol.gateway.http import Request

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"

SERVED = {
    "GET": (GET, b"GET /ok? "),
    "query": (b"GET /a?b=c&d HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /a?b=c&d "),
    "not decoded": (b"GET /a%20b?c HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /a%20b?c "),
    "fragment": (b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /a?b "),
    "absolute": (b"GET http://b:80/a?b HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /a?b "),
    "absolute without a path": (b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /? "),
    "absolute with a query only": (b"GET HTTP://b?x/y HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /?x/y "),
    "options": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"OPTIONS *? "),
    "length": (HEAD + b"Content-Length: 5\r\n\r\nhello", b"POST /x? hello"),
    "length with space after it": (HEAD + b"Content-Length: 5 \r\n\r\nhello", b"POST /x? hello"),
    "no length": (HEAD + b"\r\n", b"POST /x? "),
    "chunked": (HEAD + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: u\r\n\r\n", b"POST /x? hello"),
    "HTTP/1.0": (b"GET /old HTTP/1.0\r\n\r\n", b"GET /old? "),
    "empty lines before": (b"\r\n\r\n" + GET, b"GET /ok? "),
    "other upgrade": (
        b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ok? ",
    ),
    "upgrade with a body": (
        HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /x? hello",
    ),
    "upgrade with chunks": (
        HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"POST /x? hello",
    ),
}


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_what_is_served(name: str, bytewise: bool) -> None:
    sent, body = SERVED[name]
    async with doors() as door:
        client = await door.client()
        await client.send(*([sent[at : at + 1] for at in range(len(sent))] if bytewise else [sent]))
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers[b"x-powered-by"] == b"SOLLOL"
        if b"HTTP/1.0" in sent:
            assert answer.headers[b"connection"] == b"close"
            assert await client.closed() == b""
        else:  # and nothing of it is taken for the next request
            assert (await client.ask(GET)).body == b"GET /ok? "
            assert len(door.app.seen) == 2


REFUSED = {
    "length and chunked": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "a list of lengths": (HEAD + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "signed length": (HEAD + b"Content-Length: +5\r\n\r\nhello", 400),
    "negative length": (HEAD + b"Content-Length: -5\r\n\r\nhello", 400),
    "hexadecimal length": (HEAD + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "empty length": (HEAD + b"Content-Length: \r\n\r\nhello", 400),
    "endless length": (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\nhello", 400),
    "space in the length": (HEAD + b"Content-Length: 1 5\r\n\r\nhello", 400),
    "space before the colon": (HEAD + b"Content-Length : 5\r\n\r\nhello", 400),
    "space before the name": (HEAD + b" X: y\r\n\r\n", 400),
    "folded": (HEAD + b"X: y\r\n z\r\n\r\n", 400),
    "folded coding": (HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "bare LF after a header": (HEAD + b"X: y\nZ: a\r\n\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare CR": (HEAD + b"X: y\rZ: a\r\n\r\n", 400),
    "NUL in a value": (HEAD + b"X: y\0z\r\n\r\n", 400),
    "NUL in a name": (HEAD + b"X\0: y\r\n\r\n", 400),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "control in a value": (HEAD + b"X: y\x01\r\n\r\n", 400),
    "no name": (HEAD + b": y\r\n\r\n", 400),
    "no colon": (HEAD + b"X\r\n\r\n", 400),
    "other coding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\nhello", 501),
    "coding before chunked": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked before coding": (HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "nearly chunked": (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "identity": (HEAD + b"Transfer-Encoding: identity\r\n\r\nhello", 501),
    "tab in the coding": (HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
    "negative chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size with space": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 400),
    "endless chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", 400),
    "bare LF after a chunk size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
    "bare LF in an extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=\nb\r\nhello\r\n0\r\n\r\n", 400),
    "bare LF after a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", 400),
    "longer chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n", 400),
    "length in the trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "unknown method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "method that nobody serves": (b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n", 501),
    "preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/2": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space after the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "target without a slash": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "star": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "other scheme": (b"GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bytes over 127": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_what_is_refused_is_refused_once_and_then_closed(name: str, bytewise: bool) -> None:
    sent, status = REFUSED[name]
    handled: list[str] = []

    async def handler(request: Request, sink: Sink) -> None:
        handled.append(request.path)
        reply(sink, 200, b"")

    app = TestApp()
    app.on("/x", handler)
    app.on("/", handler)
    async with doors(app) as door:
        client = await door.client()
        sent += GET  # what follows must never be taken for a request
        await client.send(*([sent[at : at + 1] for at in range(len(sent))] if bytewise else [sent]))
        answer = await client.answer()
        assert (answer.status, answer.headers[b"connection"]) == (status, b"close")
        client.writer.write_eof()
        assert await client.closed() == b""
        assert handled == []
        assert len(app.refused) == 1
        assert (await door.ask(GET)).status == 200  # others are not harmed


async def test_head_gets_the_headers_of_get_and_no_body() -> None:
    async with doors() as door:
        client = await door.client()
        await client.send(b"HEAD /ok HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.answer(head_only=True)
        assert (answer.status, answer.headers[b"content-length"]) == (200, b"10")
        assert (await client.ask(GET)).body == b"GET /ok? "


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(status: int) -> None:
    async def handler(request: Request, sink: Sink) -> None:
        reply(sink, status, b"not to be sent", length=False)

    app = TestApp()
    app.on("/none", handler)
    async with doors(app) as door:
        client = await door.client()
        assert (await client.ask(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")).status == status
        assert (await client.ask(GET)).body == b"GET /ok? "


async def test_chunked_replies_are_one_chunk_per_piece() -> None:
    async def handler(request: Request, sink: Sink) -> None:
        sink.head(200, [(b"Content-Type", b"x")])
        for piece in (b"one", b"", b"three"):
            sink.data(piece)
        sink.end()

    app = TestApp()
    app.on("/stream", handler)
    async with doors(app) as door:
        client = await door.client()
        await client.send(b"GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, body = (await client.closed()).partition(b"\r\n\r\n")
        assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
        assert re.fullmatch(
            rb"HTTP/1.1 200 OK\r\nDate: \w\w\w, \d\d \w\w\w \d{4} \d\d:\d\d:\d\d GMT\r\nContent-Type: x\r\n"
            rb"X-Powered-By: SOLLOL\r\nTransfer-Encoding: chunked\r\nConnection: close",
            head,
        )


async def test_an_old_client_gets_a_stream_until_close() -> None:
    async def handler(request: Request, sink: Sink) -> None:
        reply(sink, 200, b"streamed", length=False)

    app = TestApp()
    app.on("/stream", handler)
    async with doors(app) as door:
        client = await door.client()
        await client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, body = (await client.closed()).partition(b"\r\n\r\n")
        assert body == b"streamed"
        assert b"ransfer-" not in head


async def test_an_old_client_that_asks_for_it_is_kept() -> None:
    async with doors() as door:
        client = await door.client()
        for _ in range(2):
            answer = await client.ask(b"GET /ok HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (answer.body, answer.headers[b"connection"]) == (b"GET /ok? ", b"keep-alive")


async def test_what_follows_connection_close_is_not_served() -> None:
    async with doors() as door:
        client = await door.client()
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        assert (await client.answer()).headers[b"connection"] == b"close"
        assert await client.closed() == b""
        assert len(door.app.seen) == 1


async def test_the_head_goes_out_when_the_body_is_late() -> None:
    gate = asyncio.Event()

    async def handler(request: Request, sink: Sink) -> None:
        sink.head(200, (), 4)
        await gate.wait()
        sink.data(b"late")
        sink.end()

    app = TestApp()
    app.on("/late", handler)
    async with doors(app) as door:
        client = await door.client()
        await client.send(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        gate.set()
        assert await client.reader.readexactly(4) == b"late"


async def test_a_line_break_cannot_get_into_a_reply() -> None:
    async def handler(request: Request, sink: Sink) -> None:
        reply(sink, 200, b"ok", headers=[(b"X-SOLLOL-Reason", b"model 'a\r\nSet-Cookie: b\nc' is here"), (b"Date", b"mine")])

    app = TestApp()
    app.on("/odd", handler)
    async with doors(app) as door:
        answer = await door.ask(b"GET /odd HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.headers[b"x-sollol-reason"] == b"model 'a  Set-Cookie: b c' is here"
        assert b"set-cookie" not in answer.headers
        assert answer.headers[b"date"] != b"mine"


async def test_absolute_targets_replace_the_host() -> None:
    async with doors() as door:
        await door.ask(b"GET http://b:80/a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n")
        assert door.app.seen[0].headers == [(b"host", b"b:80"), (b"x", b"y")]


async def test_what_a_handler_sees() -> None:
    async with doors() as door:
        await door.ask(b"POST /a?b HTTP/1.1\r\nHost: a\r\nX-Odd:  y \t\r\ncontent-LENGTH: 2\r\n\r\nhi")
        request = door.app.seen[0]
        assert (request.method, request.path, request.query) == ("POST", "/a", "b")
        assert request.headers == [(b"host", b"a"), (b"x-odd", b"y"), (b"content-length", b"2")]
        assert (request.body, request.length, request.client, request.http10) == (b"hi", 2, "127.0.0.1", False)
        assert (request.header(b"x-odd"), request.header(b"none", b"-")) == (b"y", b"-")


# pipelining


async def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    running = most = 0

    async def slow(request: Request, sink: Sink) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        reply(sink, 200, request.body)

    app = TestApp()
    app.on("/n", slow)
    async with doors(app) as door:
        client = await door.client()
        count = 2_000
        everything = b"".join(
            b"POST /n HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%d" % (len(str(n)), n) for n in range(count)
        )
        client.writer.write(everything)
        for number in range(count):
            assert (await client.answer()).body == b"%d" % number
        assert most == 1


async def test_held_requests_are_bounded() -> None:
    gate = asyncio.Event()

    async def stuck(request: Request, sink: Sink) -> None:
        await gate.wait()
        reply(sink, 200, b"")

    app = TestApp()
    app.on("/stuck", stuck)
    async with doors(app) as door:
        client = await door.client()
        ask = b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n"
        client.writer.write(ask * 300_000)  # 10 MB
        await stalled(client.writer.transport.get_write_buffer_size)
        assert client.writer.transport.get_write_buffer_size() > 1_000_000  # most of it is still with the client
        assert len(app.seen) < 300
        client.leave(reset=True)
        gate.set()


async def test_a_refusal_waits_for_its_turn() -> None:
    gate = asyncio.Event()

    async def slow(request: Request, sink: Sink) -> None:
        await gate.wait()
        reply(sink, 200, b"first")

    app = TestApp(refusals={"/no": Forbidden("no")})
    app.on("/slow", slow)
    async with doors(app) as door:
        client = await door.client()
        await client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /no HTTP/1.1\r\nHost: a\r\n\r\n", GET, b"broken\r\n\r\n")
        await until(lambda: app.seen)
        gate.set()
        got = [(answer.status, answer.body[:5]) for answer in [await client.answer() for _ in range(4)]]
        assert got == [(200, b"first"), (403, b"no"), (200, b"GET /"), (400, b"malfo")]


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
async def test_a_refusal_of_a_short_body_keeps_the_connection_a_long_one_closes_it(framing: bytes) -> None:
    app = TestApp(refusals={"/no": BadRequest("no")})
    async with doors(app) as door:
        client = await door.client()
        answer = await client.ask(b"POST /no HTTP/1.1\r\nHost: a\r\n" + framing)
        assert answer.status == 400
        if b"Length" in framing:
            assert (await client.ask(GET)).status == 200
        else:
            assert answer.headers[b"connection"] == b"close"
