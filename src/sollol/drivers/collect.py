"""Asks a node one thing and takes the whole reply: for probes and other small exchanges, never for answers to clients."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from sollol.core.ports import Headers, Outgoing, Transport
from sollol.core.types import Node
from sollol.errors import BadReply, NodeSilent

REPLY_LIMIT = 16 << 20


class Reply(Struct, frozen=True):
    """A complete reply. Names of headers are compared without their case; ``seconds`` is how long it took."""

    status: int
    headers: Headers
    body: bytes
    seconds: float

    def header(self, name: bytes) -> bytes:
        """The value of the first header of that name (given in lower case), b"" if there is none."""
        return next((value for key, value in self.headers if key.lower() == name), b"")


class _Collector:
    """Receives one exchange and settles a future with it."""

    def __init__(self, node: Node, limit: int, done: asyncio.Future[tuple[int, Headers, bytes]]) -> None:
        self._node = node
        self._limit = limit
        self._done = done
        self._status = 0
        self._headers: Headers = ()
        self._body = bytearray()

    def on_head(self, status: int, headers: Headers) -> None:
        self._status, self._headers = status, headers

    def on_data(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._limit:
            self.on_error(BadReply(self._node.id, f"a reply of more than {self._limit:,} bytes"))

    def on_end(self) -> None:
        if not self._done.done():
            self._done.set_result((self._status, self._headers, bytes(self._body)))

    def on_error(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def on_writable(self, writable: bool) -> None:
        """Nothing is uploaded here."""


async def ask(transport: Transport, node: Node, request: Outgoing, seconds: float, limit: int = REPLY_LIMIT) -> Reply:
    """Send one request and wait for the whole reply, at most `seconds` and `limit` bytes of body.

    Raises a `NodeError`: what the transport reports, `NodeSilent` after `seconds`, `BadReply` over the limit. A status is never
    an error here. However it ends, the exchange is closed.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    done: asyncio.Future[tuple[int, Headers, bytes]] = loop.create_future()
    exchange = transport.send(node, request, _Collector(node, limit, done))
    try:
        async with asyncio.timeout(seconds):
            status, headers, body = await done
    except TimeoutError:
        raise NodeSilent(node.id, f"no reply to {request.method} {request.target} within {seconds:g} s") from None
    finally:
        exchange.close()
    return Reply(status, headers, body, loop.time() - started)
