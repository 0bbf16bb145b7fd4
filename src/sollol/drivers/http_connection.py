"""One connection to a node: writes a request, parses the reply, tells the receiver what came."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import cast

import httptools

from sollol.core.ports import Header
from sollol.core.types import Endpoint
from sollol.errors import BadReply, NodeClosed, NodeError

from .http_call import Call, Owner
from .http_message import passed_on

HEAD_LIMIT = 65_536
"""Bytes that the head of a reply, or its trailers, may have."""

_NO_BODY = frozenset((204, 304))
_KEEPALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))  # a machine without power is noticed in 40 s


class Connection(asyncio.BufferedProtocol):
    """A socket to a node, busy with one call or idle. ``kept_at`` is the loop time at which it became idle.

    It reads into the one buffer of its transport: whatever a node has sent, a pause comes after one buffer, and not after the
    quarter of a megabyte that loops read by themselves.
    """

    __slots__ = (
        "_buffer",
        "_call",
        "_clean",
        "_done",
        "_headers",
        "_in_head",
        "_keep",
        "_owner",
        "_parser",
        "_status",
        "_transport",
        "_unproductive",
        "_until_close",
        "answered",
        "endpoint",
        "kept_at",
        "reused",
        "writable",
    )

    def __init__(self, owner: Owner, endpoint: Endpoint) -> None:
        self._owner = owner
        self._buffer = owner.buffer
        self.endpoint = endpoint
        self.kept_at = 0.0
        self.reused = False
        self.answered = False
        self.writable = True
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Header] = []
        self._status = 0
        self._unproductive = 0  # bytes since the last piece of body: a head or trailers that never end
        self._in_head = True
        self._until_close = self._done = self._keep = False
        self._clean = True

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):  # a platform without the option goes without it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, seconds in _KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        self._owner.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        call = self._call
        if call is None:
            self.abort()  # nobody asked: whatever this is, it must not become the next reply
            return
        self.answered = True
        self._unproductive += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # a bug in a receiver, not in the reply
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._clean = False
            if not self._done:
                self._fail(BadReply(call.node.id, f"broken reply: {error}"))
                return
        if self._call is not call:
            return
        if self._done:
            self._complete(call)
        elif self._unproductive > HEAD_LIMIT:
            self._fail(BadReply(call.node.id, f"the reply's headers are over {HEAD_LIMIT} bytes"))

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._owner.lost(self)
        self._transport = None
        del self._parser  # it holds bound methods of ours: without this only the cycle collector frees the two

    def pause_writing(self) -> None:
        self.writable = False
        if self._call is not None and self._call.request.upload:
            self._call.receiver.on_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        if self._call is not None and self._call.request.upload:
            self._call.receiver.on_writable(True)

    # httptools' side; `_call` is None once the call was closed in the middle of a read

    def on_message_begin(self) -> None:
        if self._done:
            self._clean = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        call = self._call
        if call is None or self._done:
            return
        self._status = status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if 100 <= status < 200 and status != 101:
            return  # an interim reply; the real one follows
        parser = self._parser
        index = {name.lower(): value for name, value in headers}
        coding = index.get(b"transfer-encoding", b"").strip().lower()
        version = parser.get_http_version()
        if status < 200 or coding not in (b"", b"chunked") or version not in ("1.1", "1.0"):
            self._fail(BadReply(call.node.id, "a status, version or transfer coding that was not asked for"))
            return
        if self._unproductive > HEAD_LIMIT and _size(headers) > HEAD_LIMIT:  # else it is a body that came along
            self._fail(BadReply(call.node.id, f"the reply's headers are over {HEAD_LIMIT} bytes"))
            return
        self._in_head = False
        self._unproductive = 0
        if b"content-length" in index:
            call.length = int(index[b"content-length"])
        bodyless = call.request.method == "HEAD"
        self._until_close = not (coding or bodyless or call.length is not None or status in _NO_BODY)
        self._keep = parser.should_keep_alive()
        call.receiver.on_head(status, passed_on(headers, index))
        if bodyless:
            # llhttp cannot be told that no body follows, so what it would read as one is thrown away with it.
            self._done = True
            self._keep = version == "1.1" and b"close" not in index.get(b"connection", b"").lower()
            self._parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        if self._done:
            self._clean = False
        elif self._call is not None:
            self._unproductive = 0
            self._call.receiver.on_data(body)

    def on_message_complete(self) -> None:
        if not self._in_head and not self._done:
            self._done = True
            self._headers = []

    # the call's and the pool's side

    @property
    def usable(self) -> bool:
        """Idle and open, as far as this side knows."""
        return self._call is None and self._transport is not None and not self._transport.is_closing()

    def begin(self, call: Call) -> None:
        """The next reply belongs to `call`."""
        self._call = call
        self._headers = []
        self._in_head = True
        self._until_close = self._done = self.answered = False
        self._unproductive = 0

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abandon(self) -> None:
        """The call was closed: drop everything."""
        self._call = None
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def fail(self, text: str) -> None:
        """The transport is closing: a running call ends as if the node had closed."""
        if self._call is not None:
            self._fail(NodeClosed(self._call.node.id, text))
        self.abort()

    def _complete(self, call: Call) -> None:
        self._call = call.connection = None
        receiver = call.finish_receiving()
        if call.paused:
            self.resume()  # an idle connection must see that it was closed
        if self._keep and self._clean and call.sent:
            self.reused = True
            self._owner.keep(self)
        else:
            self.abort()
        receiver.on_end()

    def _fail(self, error: NodeError) -> None:
        call, self._call = self._call, None
        self.abort()
        if call is not None:
            call.connection = None
            call.fail(error)

    def _ended(self, exc: Exception | None) -> None:
        """The node closed (`exc` None) or the connection broke; a second call finds nothing to do."""
        call = self._call
        if call is None:
            return
        if self._until_close and exc is None:
            self._keep = False
            self._complete(call)
            return
        self._call = None
        self.abort()
        reason = f": {exc}" if exc else ""
        call.disconnected(self, f"connection closed before the reply was complete{reason}")


def _size(headers: list[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)
