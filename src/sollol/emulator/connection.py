"""The sockets of an emulated node: requests parsed, replies framed as Go's HTTP server frames them.

Replies are sent by calls, not by a task per request: the node has to be cheap under thousands of requests a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from operator import itemgetter
from typing import Any, cast

import httptools
import msgspec

JSON = b"application/json; charset=utf-8"
NDJSON = b"application/x-ndjson"
SSE = b"text/event-stream"
PLAIN = b"text/plain"

_BUFFERED = 2048  # a reply up to this size is sent with its length, a longer one chunked, unless its length is set
_REASONS = {s.value: s.phrase.encode() for s in HTTPStatus}

Header = tuple[bytes, bytes]

_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
)


def dumps(value: Any) -> bytes:
    """JSON as Go writes it: no spaces, and `<`, `>` and `&` escaped."""
    raw = msgspec.json.encode(value)
    if b"<" in raw or b">" in raw or b"&" in raw:
        raw = raw.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return raw


@dataclass(slots=True, eq=False)
class Request:
    """One request. Header names are lower case. The body of a blob is hashed, not kept (its first bytes are)."""

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    http10: bool = False
    body: bytes = b""
    size: int = 0
    digest: str = ""
    extra: list[Header] = field(default_factory=list)


@lru_cache(maxsize=2)
def _date_line(second: int) -> bytes:
    return b"Date: %s\r\n" % formatdate(second, usegmt=True).encode()


class Connection(asyncio.Protocol):
    """One client connection; requests are answered one after the other.

    `handle(request, connection)` must call `reply` once, or `start` and then `finish`, at any later time. `gone`, if set by
    the handler, is called once when the client leaves before that.
    """

    def __init__(self, handle: Callable[[Request, Connection], None], connections: set[Connection]) -> None:
        self._handle = handle
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._queue: list[Request] = []
        self._current: Request | None = None
        self._hash: Any = None
        self._head: dict[bytes, bytes] = {}
        self._url = b""
        self._body: list[bytes] = []
        self._size = 0
        self._close = False
        self.transport: asyncio.Transport | None = None
        self.gone: Callable[[], None] | None = None

    # From the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self.transport = None
        self._queue.clear()
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()

    def eof_received(self) -> bool:
        return False  # a half-closed client has left: a Go server cancels its request too

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            if self.transport is not None:
                self.transport.write(_BAD_REQUEST)
                self.transport.close()

    # From the parser

    def on_message_begin(self) -> None:
        self._head = {}
        self._url = b""
        self._body = []
        self._size = 0
        self._hash = None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._head.get(b"expect", b"").lower() == b"100-continue" and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._url.startswith(b"/api/blobs/"):
            self._hash = hashlib.sha256()

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._hash is None:
            self._body.append(body)
        else:
            self._hash.update(body)
            if not self._body:
                self._body.append(body[:64])

    def on_message_complete(self) -> None:
        target, _, query = self._url.partition(b"?")
        request = Request(
            self._parser.get_method().decode(),
            target.decode("latin-1"),
            query.decode("latin-1"),
            self._head,
            self._parser.get_http_version() == "1.0",
            self._body[0] if len(self._body) == 1 else b"".join(self._body),
            self._size,
            self._hash.hexdigest() if self._hash is not None else "",
        )
        if not self._parser.should_keep_alive():
            self._close = True
        if self._current is None:
            self._begin(request)
        else:
            self._queue.append(request)

    def _begin(self, request: Request) -> None:
        self._current = request
        self._handle(request, self)

    # To the socket

    def _headers(self, status: int, headers: Sequence[Header]) -> list[bytes]:
        request = self._current
        parts = [b"HTTP/1.1 %d %s\r\n" % (status, _REASONS.get(status, b""))]
        pairs = [*request.extra, *headers] if request is not None and request.extra else headers
        if self._close:
            pairs = [p for p in pairs if p[0] != b"Connection"]
        parts += [b"%s: %s\r\n" % pair for pair in sorted(pairs, key=itemgetter(0))]
        parts.append(_date_line(int(time.time())))
        return parts

    def _closing(self) -> bytes:
        return b"Connection: close\r\n\r\n" if self._close else b"\r\n"

    def reply(
        self, status: int, body: bytes = b"", ctype: bytes = JSON, headers: Sequence[Header] = (), *, bare: bool = False
    ) -> None:
        """Send a whole reply. An empty `ctype` sends no type; `bare` says nothing about the length (only for HEAD)."""
        transport, request = self.transport, self._current
        if transport is None or request is None:
            return
        parts = self._headers(status, [*headers, (b"Content-Type", ctype)] if ctype else headers)
        sized = not bare and (len(body) <= _BUFFERED or request.http10)
        if status != HTTPStatus.NO_CONTENT and not (request.method == "HEAD" and not sized):
            parts.append(b"Content-Length: %d\r\n" % len(body) if sized else b"Transfer-Encoding: chunked\r\n")
        parts.append(self._closing())
        if request.method != "HEAD":
            parts.append(body if sized else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        transport.write(b"".join(parts))
        self._ended()

    def start(self, ctype: bytes, first: bytes, headers: Sequence[Header] = ()) -> None:
        """Send the headers of a streamed reply and its first part in one write."""
        if self.transport is None or self._current is None:
            return
        parts = self._headers(200, [*headers, (b"Content-Type", ctype)])
        if self._current.http10:
            self._close = True
        else:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        self.transport.write(b"".join([*parts, self._closing(), self._chunk(first)]))

    def send(self, parts: Sequence[bytes]) -> None:
        """Send parts of a streamed reply, each as a chunk of its own."""
        if self.transport is not None:
            self.transport.write(b"".join([self._chunk(p) for p in parts]))

    def _chunk(self, part: bytes) -> bytes:
        if self._current is not None and self._current.http10:
            return part
        return b"%x\r\n%s\r\n" % (len(part), part)

    def finish(self) -> None:
        """End a streamed reply."""
        if self.transport is not None and self._current is not None and not self._current.http10:
            self.transport.write(b"0\r\n\r\n")
        self._ended()

    def raw(self, data: bytes, *, close: bool = False) -> None:
        """Send bytes that no server should send."""
        if self.transport is not None:
            self.transport.write(data)
            if close:
                self.gone = None
                self.transport.close()

    def abort(self) -> None:
        """Cut the connection with a reset."""
        self.gone = None
        if self.transport is not None:
            reset(self.transport)

    def _ended(self) -> None:
        self._current = None
        self.gone = None
        if self.transport is None:
            return
        if self._close:
            self.transport.close()
        elif self._queue:
            self._begin(self._queue.pop(0))


def reset(transport: asyncio.Transport) -> None:
    """Close a connection so that the other side sees a reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        # Linger for no time at all: the kernel then answers with RST.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
