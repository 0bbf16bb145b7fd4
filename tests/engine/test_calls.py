"""Awaited exchanges with a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.raw_peer import Peer, answers, raw_node
from tests.support.wait import stalled

from sollol.core.ports import Outgoing
from sollol.drivers.http import HttpTransport
from sollol.engine.calls import call, stream
from sollol.errors import BadReply, NodeClosed, NodeSilent, NodeUnreachable

GET = Outgoing("GET", "/")


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    made = HttpTransport()
    yield made
    await made.close()


async def test_a_whole_reply(transport: HttpTransport) -> None:
    async with raw_node(answers(b"HTTP/1.1 404 No\r\nX-A: b\r\nContent-Length: 2\r\n\r\nno")) as raw:
        reply = await call(transport, raw.node, GET, timeout=5)
        assert (reply.status, reply.body) == (404, b"no")
        assert (reply.header(b"x-a"), reply.header(b"x-b", b"-")) == (b"b", b"-")


async def test_over_the_limit(transport: HttpTransport) -> None:
    async with raw_node(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nninebytes")) as raw:
        with pytest.raises(BadReply):
            await call(transport, raw.node, GET, limit=8)
    async with raw_node(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nninebytes")) as raw:
        assert (await call(transport, raw.node, GET, limit=9)).body == b"ninebytes"


async def test_errors(transport: HttpTransport) -> None:
    async with raw_node(answers(b"")) as raw:
        with pytest.raises(NodeClosed):
            await call(transport, raw.node, GET)
        with pytest.raises(NodeClosed):
            async with stream(transport, raw.node, GET):
                raise AssertionError("nothing to read")
        node = raw.node
    with pytest.raises(NodeUnreachable):
        await call(transport, node, GET)


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
async def test_giving_up_closes_the_connection(transport: HttpTransport, how: str) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.closed()
        closed.set()

    async with raw_node(script) as raw:
        if how == "timeout":
            with pytest.raises(NodeSilent, match=r"0\.1 s"):
                await call(transport, raw.node, GET, timeout=0.1)
        else:
            task = asyncio.create_task(call(transport, raw.node, GET))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_stream(transport: HttpTransport) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await gate.wait()
        await peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with raw_node(script) as raw, stream(transport, raw.node, GET) as reply:
        assert (reply.status, list(reply.headers)) == (200, [(b"X", b"y")])
        assert await anext(reply) == b"one"
        gate.set()
        assert [piece async for piece in reply] == [b"two"]


async def test_a_stream_that_breaks_gives_first_what_came(transport: HttpTransport) -> None:
    async with raw_node(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")) as raw:
        got = []
        with pytest.raises(NodeClosed):
            async with stream(transport, raw.node, GET) as reply:
                async for piece in reply:
                    got.append(piece)
        assert b"".join(got) == b"half"


async def test_leaving_a_stream_closes_the_connection(transport: HttpTransport) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await peer.closed()
        closed.set()

    async with raw_node(script) as raw:
        async with stream(transport, raw.node, GET) as reply:
            assert await anext(reply) == b"half"
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_slow_reader_of_a_stream_slows_the_node(transport: HttpTransport) -> None:
    total, written = 40_000_000, 0

    async def script(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while written < total:
            peer.writer.write(bytes(100_000))
            await peer.writer.drain()
            written += 100_000

    async with raw_node(script) as raw, stream(transport, raw.node, GET) as reply:
        await stalled(lambda: written)
        assert written < total / 2
        assert sum([len(piece) async for piece in reply]) == total
