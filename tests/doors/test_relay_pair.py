"""Both halves of the relay together: a client, the door, the transport, a node; with asyncio's loop and with uvloop."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.door_app import TestApp, doors, reply
from tests.support.raw_peer import Peer, Script, answers, raw_node
from tests.support.wait import stalled, until

from sollol.core.ports import Headers, Outgoing, Sink
from sollol.core.types import Node
from sollol.drivers.http import HttpTransport
from sollol.errors import SollolError
from sollol.gateway.http import Request, Route

GET = b"GET /any?thing HTTP/1.1\r\nHost: a\r\n\r\n"


class Passing:
    """Receiver that passes everything to a sink in the same call."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.exchange: Any = None
        self.over = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        self.sink.head(status, headers, self.exchange.length)

    def on_data(self, data: bytes) -> None:
        self.sink.data(data)

    def on_end(self) -> None:
        self.sink.end()
        self.over.set_result(None)

    def on_error(self, error: Exception) -> None:
        self.over.set_exception(error)

    def on_writable(self, writable: bool) -> None: ...


class Relay(TestApp):
    def __init__(self, node: Node, transport: HttpTransport) -> None:
        super().__init__()
        self.node = node
        self.transport = transport
        self.received = 0

    def route(self, request: Request) -> Route:
        super().route(request)
        return Route(self.handle, 10_000_000)

    async def handle(self, request: Request, sink: Sink) -> None:
        passing = Passing(sink)
        target = f"{request.path}?{request.query}" if request.query else request.path
        outgoing = Outgoing(request.method, target, request.headers, request.body)
        passing.exchange = self.transport.send(self.node, outgoing, passing)
        sink.attach(passing.exchange)
        await passing.over


Check = Callable[[Any, Any, Relay], Awaitable[None]]


def run(loop: str, script: Script, check: Check) -> None:
    """`check(door, raw node, app)` in a fresh loop of that kind; nothing may be left afterwards."""

    async def main() -> None:
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with raw_node(script) as raw:
            transport = HttpTransport()
            async with doors(Relay(raw.node, transport)) as door:
                await check(door, raw, door.app)
            await transport.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert problems == []

    if loop == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


LOOPS = [
    "asyncio",
    pytest.param("uvloop", marks=pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="needs uvloop")),
]
over_both = pytest.mark.parametrize("loop", LOOPS)


@over_both
def test_requests_and_replies_pass_unchanged(loop: str) -> None:
    heard: list[bytes] = []

    async def script(peer: Peer) -> None:
        while request := await peer.request():
            heard.append(request)
            await peer.send(b"HTTP/1.1 201 Made\r\nX-Node: 1\r\nContent-Length: 5\r\n\r\n", b"hel", b"lo")

    async def check(door: Any, raw: Any, app: Relay) -> None:
        client = await door.client()
        for _ in range(3):
            answer = await client.ask(b"POST /api/chat?x HTTP/1.1\r\nHost: a\r\nX-Mine: z\r\nContent-Length: 2\r\n\r\n{}")
            assert (answer.status, answer.body, answer.headers[b"x-node"]) == (201, b"hello", b"1")
        expected = b"POST /api/chat?x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nx-mine: z\r\nContent-Length: 2\r\n\r\n{}" % raw.port
        assert heard == [expected] * 3
        assert raw.connections == 1

    run(loop, script, check)


@over_both
def test_a_piece_passes_in_one_go(loop: str) -> None:
    """The first token is with the client while the node has not sent the second."""
    second = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await second.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async def check(door: Any, raw: Any, app: Relay) -> None:
        client = await door.client()
        await client.send(GET)
        await client.reader.readuntil(b"3\r\none\r\n")
        second.set()
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"

    run(loop, script, check)


@over_both
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], ids=["before", "after"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_leaves_is_seen_by_the_node(loop: str, begun: bytes, reset: bool) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(begun)
        asked.set()
        await peer.closed()
        closed.set()

    async def check(door: Any, raw: Any, app: Relay) -> None:
        client = await door.client()
        await client.send(GET)
        await asked.wait()
        if begun:
            await client.reader.readuntil(b"half")
        client.leave(reset=reset)
        await asyncio.wait_for(closed.wait(), 5)
        await until(lambda: door.serving.connections == 0)

    run(loop, script, check)


@over_both
def test_a_node_that_fails_is_answered_in_words_before_the_first_byte_and_by_a_break_after_it(loop: str) -> None:
    async def script(peer: Peer) -> None:
        if peer.number % 2:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")

    async def check(door: Any, raw: Any, app: Relay) -> None:
        answer = await door.ask(GET)
        assert answer.status == 502
        client = await door.client()
        await client.send(GET)
        assert b"0\r\n\r\n" not in await client.closed()
        assert isinstance(app.refused[0], SollolError)

    run(loop, script, check)


@over_both
def test_a_slow_client_slows_a_fast_node_and_gets_every_byte(loop: str) -> None:
    total, piece = 64 * 1024 * 1024, bytes(range(256)) * 1024
    written = 0

    async def script(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while written < total:
            peer.writer.write(piece)
            await peer.writer.drain()
            written += len(piece)

    async def check(door: Any, raw: Any, app: Relay) -> None:
        client = await door.client()
        client.writer.transport.pause_reading()
        await client.send(GET)
        await until(lambda: written)
        await stalled(lambda: written)
        assert written < total / 2
        [protocol] = door.serving._doors
        assert protocol.transport.get_write_buffer_size() < 2_000_000
        client.writer.transport.resume_reading()
        await client.reader.readuntil(b"\r\n\r\n")
        got = 0
        while got < total:
            data = await client.reader.read(1_000_000)
            assert data[0] == got % 256
            got += len(data)
        assert got == total

    run(loop, script, check)


@over_both
def test_many_clients_at_once_keep_their_own_replies(loop: str) -> None:
    async def script(peer: Peer) -> None:
        while request := await peer.request():
            body = request.partition(b"\r\n\r\n")[2]
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    async def check(door: Any, raw: Any, app: Relay) -> None:
        async def session(number: int) -> None:
            client = await door.client()
            for turn in range(10):
                body = b"%d-%d" % (number, turn)
                answer = await client.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                assert answer.body == body

        await asyncio.gather(*(session(number) for number in range(30)))
        assert raw.connections <= 30

    run(loop, script, check)


@over_both
def test_the_door_alone_with_this_loop(loop: str) -> None:
    """Pipelining, refusal of a long body, upgrade: what leans on how a loop pauses, half-closes and resumes."""

    async def check(door: Any, raw: Any, app: Relay) -> None:
        async def own(request: Request, sink: Sink) -> None:
            await asyncio.sleep(0)
            reply(sink, 200, request.path.encode())

        app.route = lambda request: Route(own, 100)  # type: ignore[method-assign]  # the node is not needed here
        client = await door.client()
        client.writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(1_000)))
        for number in range(1_000):
            assert (await client.answer()).body == b"/%d" % number
        greedy = await door.client()
        await greedy.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n")
        greedy.writer.write(bytes(5_000_000))
        assert (await greedy.answer()).status == 413
        other = await door.client()
        upgrade = b"POST /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
        assert (await other.ask(upgrade)).body == b"/u"
        assert (await other.ask(upgrade)).body == b"/u"

    run(loop, answers(), check)
