"""The transport against a peer that decides about every byte: framing, ends, reuse."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from tests.support.raw_peer import Peer, Told, answers, raw_node

from sollol.core.ports import Outgoing
from sollol.core.types import Endpoint, Node
from sollol.drivers.http import HttpTransport
from sollol.errors import BadReply, NodeClosed, NodeUnreachable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
GET = Outgoing("GET", "/")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HUGE = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    made = HttpTransport()
    yield made
    await made.close()


async def ask(transport: HttpTransport, node: Node, request: Outgoing = GET) -> Told:
    told = Told()
    transport.send(node, request, told)
    assert not told.over  # nothing is told before send has returned
    return await told.finished()


GOOD = {
    "length": (OK, 200, b"hi", True),
    "no reason phrase": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", True),
    "chunked": (CHUNKED + b"2\r\nhi\r\n3\r\n you\r\n0\r\n\r\n".replace(b"3\r\n you", b"4\r\n you"), 200, b"hi you", True),
    "chunk extensions": (CHUNKED + b'2;a="b";c\r\nhi\r\n0;z\r\n\r\n', 200, b"hi", True),
    "trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 7\r\nY: z\r\n\r\n", 200, b"hi", True),
    "interim replies": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, 200, b"hi", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nall of it", 200, b"all of it", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nold", 200, b"old", False),
    "HTTP/1.0 kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold", 200, b"old", True),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
    "an upgrade is offered": (
        b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True,
    ),
    "error status": (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", 503, b"busy", True),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_legal_replies(transport: HttpTransport, name: str, bytewise: bool) -> None:
    reply, status, body, kept = GOOD[name]

    async def script(peer: Peer) -> None:
        while await peer.request():
            pieces = [reply[at : at + 1] for at in range(len(reply))] if bytewise else [reply]
            await peer.send(*pieces)
            if not kept:
                return

    async with raw_node(script) as raw:
        for _ in range(2):
            told = await ask(transport, raw.node)
            assert (told.status, told.body, told.ended) == (status, body, 1)
        assert raw.connections == (1 if kept else 2)


BROKEN = {
    "no HTTP": b"<html>hello</html>\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc",
    "length and chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nhi",
    "other coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
    "coding before chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunk size": CHUNKED + b"zz\r\nhi\r\n",
    "chunk longer than said": CHUNKED + b"2\r\nhithere\r\n0\r\n\r\n",
    "bare line feed": b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nhi",
    "folded header": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
    "a head that is too long": HUGE + b"\r\nContent-Length: 2\r\n\r\nhi",
    "a head that never ends": HUGE,
    "many interim replies": b"HTTP/1.1 103 Hints\r\nLink: aaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n" * 2_000,
    "trailers that never end": CHUNKED + b"2\r\nhi\r\n0\r\nX: " + b"a" * 200_000,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_replies(transport: HttpTransport, name: str) -> None:
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number:
            await peer.send(OK)
            return
        peer.writer.write(BROKEN[name])
        await peer.closed()
        seen.set()

    async with raw_node(script) as raw:
        told = await ask(transport, raw.node)
        assert [type(error) for error in told.errors] == [BadReply]
        assert str(told.errors[0]).startswith(raw.node.id)
        await asyncio.wait_for(seen.wait(), 5)  # the connection was closed at once
        assert (await ask(transport, raw.node)).body == b"hi"  # and nothing of it reaches the next reply


EARLY = {
    "before anything": b"",
    "in the status line": b"HTTP/1.1 2",
    "in the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "in a body with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
    "in a chunk": CHUNKED + b"9\r\nhalf",
    "before the last chunk": CHUNKED + b"4\r\nhalf\r\n",
    "in the trailers": CHUNKED + b"4\r\nhalf\r\n0\r\nX: ",
    "after an interim reply": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("name", EARLY)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_early_ends(transport: HttpTransport, name: str, reset: bool) -> None:
    heard = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(EARLY[name])
        if reset:
            await asyncio.wait_for(heard.wait(), 5)  # a reset may overtake what was sent before it
            peer.reset()

    async with raw_node(script) as raw:
        told = Told()
        transport.send(raw.node, GET, told)
        if reset and b"half" in EARLY[name]:
            await told.until(lambda told: told.pieces or told.over)
        heard.set()
        await told.finished()
        assert [type(error) for error in told.errors] == [NodeClosed]
        assert not told.ended


async def test_a_reset_while_the_body_lasts_until_close_is_not_its_end(transport: HttpTransport) -> None:
    heard = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await heard.wait()
        peer.writer.transport.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER 0: close resets
        peer.reset()

    async with raw_node(script) as raw:
        told = Told()
        transport.send(raw.node, GET, told)
        await told.until(lambda told: told.pieces)
        heard.set()
        await told.finished()
        assert [type(error) for error in told.errors] == [NodeClosed]


async def test_head_has_no_body_and_the_connection_goes_on(transport: HttpTransport) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nX: y\r\n\r\n"
    async with raw_node(answers(head, head, OK)) as raw:
        told = Told()
        exchange = transport.send(raw.node, Outgoing("HEAD", "/"), told)
        await told.finished()
        assert (told.status, told.body, list(told.headers), exchange.length) == (200, b"", [(b"X", b"y")], 99)
        assert (await ask(transport, raw.node, Outgoing("HEAD", "/"))).ended
        assert (await ask(transport, raw.node)).body == b"hi"
        assert raw.connections == 1


@pytest.mark.parametrize("garbage", [b"XX", b"H", OK, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"])
async def test_what_comes_along_after_a_reply_is_never_the_next_reply(transport: HttpTransport, garbage: bytes) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send((OK + garbage) if not peer.number else OK.replace(b"hi", b"ok"))

    async with raw_node(script) as raw:
        assert (await ask(transport, raw.node)).body == b"hi"
        assert (await ask(transport, raw.node)).body == b"ok"
        assert raw.connections == 2


async def test_data_on_an_idle_connection_closes_it(transport: HttpTransport) -> None:
    closed = asyncio.Event()
    speak = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if not peer.number:
            await speak.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
            await peer.closed()
            closed.set()

    async with raw_node(script) as raw:
        await ask(transport, raw.node)
        speak.set()
        await asyncio.wait_for(closed.wait(), 5)
        assert (await ask(transport, raw.node)).body == b"hi"
        assert raw.connections == 2


async def test_a_kept_connection_that_closes_under_the_request_is_replaced_once(transport: HttpTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if not peer.number:
            await peer.request()  # and close without a word

    async with raw_node(script) as raw:
        await ask(transport, raw.node)
        told = await ask(transport, raw.node, Outgoing("POST", "/", body=b"x"))
        assert (told.body, raw.connections) == (b"hi", 2)


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_no_second_try_once_anything_came_back(transport: HttpTransport, said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(said)

    async with raw_node(script) as raw:
        await ask(transport, raw.node)
        told = await ask(transport, raw.node)
        assert [type(error) for error in told.errors] == [NodeClosed]
        assert raw.connections == 1


async def test_no_second_try_on_a_fresh_connection_and_only_one(transport: HttpTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if not peer.number:
            await peer.send(OK)
            await peer.request()

    async with raw_node(script) as raw:
        await ask(transport, raw.node)
        told = await ask(transport, raw.node)
        assert [type(error) for error in told.errors] == [NodeClosed]
        assert raw.connections == 2


async def test_hop_by_hop_headers_stay_here(transport: HttpTransport) -> None:
    reply = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-private, keep-alive\r\nX-Private: 1\r\n"
        b"Keep-Alive: timeout=5\r\nX-Public: 2\r\n\r\nhi"
    )
    heard: list[bytes] = []

    async def script(peer: Peer) -> None:
        heard.append(await peer.request())
        await peer.send(reply)

    sent = [
        (b"host", b"evil:80"),
        (b"x-secret", b"1"),
        (b"connection", b"keep-alive, X-Secret"),
        (b"te", b"trailers"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"999"),
        (b"expect", b"100-continue"),
        (b"upgrade", b"h2c"),
        (b"proxy-authorization", b"Basic x"),
        (b"authorization", b"Bearer client"),
        (b"accept", b"*/*"),
    ]
    async with raw_node(script) as raw:
        node = Node("n", Endpoint("127.0.0.1", raw.port, base="/base"), api_key="node-key")
        told = await ask(transport, node, Outgoing("POST", "/a?b=c", sent, b"body"))
        assert list(told.headers) == [(b"X-Public", b"2")]
        head, body = heard[0].split(b"\r\n\r\n")
        assert head.split(b"\r\n") == [
            b"POST /base/a?b=c HTTP/1.1",
            b"Host: 127.0.0.1:%d" % raw.port,
            b"accept: */*",
            b"Authorization: Bearer node-key",
            b"Content-Length: 4",
        ]
        assert body == b"body"


@pytest.mark.parametrize(
    "request_",
    [
        Outgoing("GET", "/a b"),
        Outgoing("GET", "/a\r\nX: y"),
        Outgoing("GET", "/\u00e4"),
        Outgoing("GET", "/", [(b"x", b"a\r\ny: b")]),
        Outgoing("GET", "/", [(b"x", b"a\nb")]),
    ],
)
async def test_a_request_that_would_break_its_framing_is_a_bug_of_the_caller(
    transport: HttpTransport, request_: Outgoing
) -> None:
    with pytest.raises(ValueError, match=r"line break|ascii"):
        transport.send(Node("n", Endpoint("127.0.0.1", 9)), request_, Told())


async def test_refused(transport: HttpTransport) -> None:
    async with raw_node(answers()) as raw:
        node = raw.node
    told = await ask(transport, node)
    assert [type(error) for error in told.errors] == [NodeUnreachable]
    assert "refused" in str(told.errors[0]).lower() or "connect" in str(told.errors[0]).lower()


async def test_a_name_that_cannot_be_one(transport: HttpTransport) -> None:
    told = await ask(transport, Node("n", Endpoint("x" * 70 + ".invalid", 80)))
    assert [type(error) for error in told.errors] == [NodeUnreachable]


async def test_no_answer_to_the_connection_fails_in_time() -> None:
    transport = HttpTransport(connect_timeout=0.2)
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    fillers = []
    loop = asyncio.get_running_loop()
    for _ in range(3):  # the queue of the listener is full after these; the next one gets no answer
        filler = socket.socket()
        filler.setblocking(False)
        fillers.append(filler)
        filler.connect_ex(("127.0.0.1", port))
    started = loop.time()
    told = await ask(transport, Node("n", Endpoint("127.0.0.1", port)))
    assert [type(error) for error in told.errors] == [NodeUnreachable]
    assert "0.2 s" in str(told.errors[0])
    assert loop.time() - started < 5
    for each in (listener, *fillers):
        each.close()
    await transport.close()
