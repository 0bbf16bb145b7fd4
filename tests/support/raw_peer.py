"""A node made of a bare socket: each connection runs a script, so that a test decides about every byte and every close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sollol.core.ports import Headers
from sollol.core.types import Endpoint, Node


@dataclass
class Peer:
    """One connection as the script sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def request(self) -> bytes:
        """Head and body of one request that has a Content-Length, or chunks; b"" when the client closed instead."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        low = head.lower()
        if b"transfer-encoding: chunked" in low:
            return head + await self.reader.readuntil(b"0\r\n\r\n")
        if b"content-length: " in low:
            length = int(low.split(b"content-length: ")[1].split(b"\r\n")[0])
            return head + await self.reader.readexactly(length)
        return head

    async def send(self, *pieces: bytes) -> None:
        """Write each piece by itself, so that it arrives by itself as far as a test can arrange that."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def closed(self) -> bytes:
        """Wait until the other side has closed; what it sent until then."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def reset(self) -> None:
        self.writer.transport.abort()


@dataclass
class RawNode:
    port: int
    connections: int = 0
    peers: list[Peer] = field(default_factory=list)

    @property
    def node(self) -> Node:
        return Node(f"127.0.0.1:{self.port}", Endpoint("127.0.0.1", self.port))


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def raw_node(script: Script, *, ssl: object = None, host: str = "127.0.0.1") -> AsyncIterator[RawNode]:
    """A listening socket; `script` runs once per connection, which is closed when the script returns."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(reader, writer, found.connections)
        found.connections += 1
        found.peers.append(peer)
        try:
            await script(peer)
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, host, 0, ssl=ssl, limit=1 << 24)
    found = RawNode(server.sockets[0].getsockname()[1])
    try:
        yield found
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)


def answers(*replies: bytes) -> Script:
    """A script that gives these replies to one request after another, then closes."""

    async def script(peer: Peer) -> None:
        for reply in replies:
            if not await peer.request():
                return
            await peer.send(reply)

    return script


class Told:
    """A receiver that writes down what it was told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.pieces: list[bytes] = []
        self.ended = 0
        self.errors: list[Exception] = []
        self.writable: list[bool] = []
        self.news = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def over(self) -> bool:
        return bool(self.ended or self.errors)

    def on_head(self, status: int, headers: Headers) -> None:
        assert not self.status and not self.over
        self.status, self.headers = status, headers
        self.news.set()

    def on_data(self, data: bytes) -> None:
        assert data and self.status and not self.over
        self.pieces.append(data)
        self.news.set()

    def on_end(self) -> None:
        assert not self.over
        self.ended += 1
        self.news.set()

    def on_error(self, error: Exception) -> None:
        assert not self.over
        self.errors.append(error)
        self.news.set()

    def on_writable(self, writable: bool) -> None:
        self.writable.append(writable)
        self.news.set()

    async def until(self, condition: Callable[[Told], object]) -> None:
        while not condition(self):
            self.news.clear()
            await self.news.wait()

    async def finished(self) -> Told:
        async with asyncio.timeout(10):
            await self.until(lambda told: told.over)
        return self
