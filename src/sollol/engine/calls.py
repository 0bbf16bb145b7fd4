"""Small exchanges with a node that are awaited as a whole, or read piece by piece, off the request path."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sollol.core.ports import Exchange, Headers, Outgoing, Transport
from sollol.core.types import Node
from sollol.errors import BadReply, NodeSilent

_HIGH, _LOW = 262_144, 65_536


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply of a node."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes, default: bytes = b"") -> bytes:
        """The first header of that name; `name` is lower case."""
        return next((value for key, value in self.headers if key.lower() == name), default)


class _Collector:
    """Gathers a reply up to `limit` bytes."""

    def __init__(self, node: Node, limit: int) -> None:
        self.done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._node = node
        self._room = limit
        self._status = 0
        self._headers: Headers = ()
        self._pieces: list[bytes] = []

    def on_head(self, status: int, headers: Headers) -> None:
        self._status, self._headers = status, headers

    def on_data(self, data: bytes) -> None:
        self._room -= len(data)
        if self._room >= 0:
            self._pieces.append(data)
            return
        self._pieces.clear()
        self.on_error(BadReply(self._node.id, "the reply is longer than expected here"))

    def on_end(self) -> None:
        if not self.done.done():
            self.done.set_result(Reply(self._status, self._headers, b"".join(self._pieces)))

    def on_error(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def on_writable(self, writable: bool) -> None:
        pass  # no uploads here


async def call(
    transport: Transport,
    node: Node,
    request: Outgoing,
    *,
    limit: int = 8_388_608,
    timeout: float | None = None,  # noqa: ASYNC109 - it ends in an error of ours that names the node
) -> Reply:
    """The whole reply, whatever its status.

    ``limit`` is bytes of body, ``timeout`` seconds for everything. Raises `NodeError`: `NodeSilent` when time is up,
    `BadReply` over the limit. A cancelled caller closes the exchange.
    """
    collector = _Collector(node, limit)
    exchange = transport.send(node, request, collector)
    try:
        async with asyncio.timeout(timeout):
            return await collector.done
    except TimeoutError:
        raise NodeSilent(node.id, f"no complete reply within {timeout:g} s") from None
    finally:
        exchange.close()


class Stream:
    """A reply that is still coming. Iterating gives its body in pieces; a slow reader slows the node, not our memory."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.exchange: Exchange | None = None
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._full = False
        self._over = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    async def started(self) -> None:
        """Wait for status and headers. Raises `NodeError`."""
        while not self.status and not self._over:
            await self._wait()
        if not self.status and self._error is not None:
            raise self._error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, never empty. Raises `NodeError` when the node failed, after what it had sent was read."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            await self._wait()
        piece = self._pieces.popleft()
        self._buffered -= len(piece)
        if self._full and self._buffered <= _LOW and self.exchange is not None:
            self._full = False
            self.exchange.resume()
        return piece

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def on_head(self, status: int, headers: Headers) -> None:
        """From the transport."""
        self.status, self.headers = status, headers
        self._news.set()

    def on_data(self, data: bytes) -> None:
        """From the transport."""
        self._pieces.append(data)
        self._buffered += len(data)
        if not self._full and self._buffered >= _HIGH and self.exchange is not None:
            self._full = True
            self.exchange.pause()
        self._news.set()

    def on_end(self) -> None:
        """From the transport."""
        self._over = True
        self._news.set()

    def on_error(self, error: Exception) -> None:
        """From the transport."""
        self._error = error
        self._over = True
        self._news.set()

    def on_writable(self, writable: bool) -> None:
        """From the transport; there are no uploads here."""


@asynccontextmanager
async def stream(transport: Transport, node: Node, request: Outgoing) -> AsyncIterator[Stream]:
    """Send, wait for the head, give the `Stream`. Leaving the block closes the exchange. Raises `NodeError`."""
    reply = Stream()
    reply.exchange = exchange = transport.send(node, request, reply)
    try:
        await reply.started()
        yield reply
    finally:
        exchange.close()
