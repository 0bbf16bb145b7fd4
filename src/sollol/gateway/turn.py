"""One request on a client's connection and the reply to it: the door's `Sink`."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Protocol

from sollol.core.ports import Exchange, Headers
from sollol.errors import ClientGone, ShuttingDown, SollolError

from .http import App, Request, Route
from .upload import Upload

log = logging.getLogger("sollol.door")

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_OWN_HEADERS = frozenset(b"date content-length transfer-encoding connection keep-alive".split())
_NO_BODY = frozenset((204, 304))


class Connection(Protocol):
    """What a turn asks of the connection that it belongs to. ``date`` is the Date header line of this second."""

    app: App
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    clogged: bool

    @property
    def closing(self) -> bool: ...

    @property
    def date(self) -> bytes: ...

    def ended(self, turn: Turn) -> None:
        """The reply is complete."""
        ...


class Turn:
    """From the head of a request to the last byte of its reply.

    ``keep``: the connection may serve another request afterwards. ``complete``: the body of the request has been read.
    ``gone``: the client left, or the connection was broken; everything that is sent then goes nowhere.
    """

    __slots__ = (
        *("_chunked", "_door", "_exchange", "_head", "_left", "_mute", "_write"),
        *("complete", "expects", "finished", "gone", "keep", "left_to_read", "pieces", "received"),
        *("refusal", "request", "route", "started", "task", "upgrade", "upload"),
    )

    def __init__(self, door: Connection, request: Request | None, keep: bool) -> None:
        self.request = request
        self.keep = keep
        self.route: Route | None = None
        self.refusal: SollolError | None = None
        self.task: asyncio.Task[None] | None = None
        # the request's body
        self.pieces: list[bytes] = []
        self.received = 0
        self.left_to_read = 0
        self.complete = False
        self.expects = self.upgrade = False
        self.upload: Upload | None = None
        # the reply
        self.started = self.finished = self.gone = False
        self._door = door
        self._write = door.transport.write
        self._exchange: Exchange | None = None
        self._head = b""
        self._left: int | None = None
        self._chunked = self._mute = False

    # core.ports.Sink

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        """Status and headers; they leave together with the first piece of the body, at the latest at the end of this turn."""
        if self.gone:
            return
        if self.started:
            raise RuntimeError("head was sent already")
        self.started = True
        request = self.request
        self._left = length
        if not self.complete or self._door.closing:
            self.keep = False
        http10 = request is not None and request.http10
        self._mute = status in _NO_BODY or (request is not None and request.method == "HEAD")
        door = self._door
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, door.date]
        lines += [b": ".join(header) for header in headers if header[0].lower() not in _OWN_HEADERS]
        lines += [b": ".join(header) for header in door.app.reply_headers(request)]
        if length is not None and status != 204:
            lines.append(b"Content-Length: %d" % length)
        elif not self._mute and http10:
            self.keep = False
        elif not self._mute:
            self._chunked = True
            lines.append(b"Transfer-Encoding: chunked")
        if not self.keep:
            lines.append(b"Connection: close")
        elif http10:
            lines.append(b"Connection: keep-alive")
        self._head = _joined(lines)
        door.loop.call_soon(self._flush)

    def data(self, data: bytes) -> None:
        """A piece of the body; it is written in this call."""
        if self.gone or self.finished or not data:
            return
        if not self.started:
            raise RuntimeError("data before head")
        if self._mute:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                log.error("a reply is longer than its announced length")
                self._break()
                return
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data = self._head + data
            self._head = b""
        self._write(data)

    def end(self) -> None:
        """The body is complete."""
        if self.gone or self.finished:
            return
        if not self.started:
            raise RuntimeError("end before head")
        if self._left and not self._mute:
            log.error("a reply is shorter than its announced length")
            self._break()
            return
        rest = self._head + b"0\r\n\r\n" if self._chunked else self._head
        self._head = b""
        self.finished = True
        self._exchange = None
        if self._door.closing:  # the reply may have begun before the gateway was told to stop
            self.keep = False
        if rest:
            self._write(rest)
        self._door.ended(self)

    def abort(self) -> None:
        """Break the connection, so that the client sees that the reply is not complete. The handler is not cancelled."""
        if not self.gone and not self.finished:
            self.gone = True
            self._exchange = None
            self._door.transport.abort()

    def attach(self, exchange: Exchange | None) -> None:
        """Whom to pause when the client reads slowly, and to close when it leaves."""
        if exchange is not None and self.gone:
            exchange.close()
            return
        self._exchange = exchange
        if exchange is not None and self._door.clogged:
            exchange.pause()

    # the door's side

    def clog(self, clogged: bool) -> None:
        """The client's socket is full, or has room again."""
        if self._exchange is not None:
            if clogged:
                self._exchange.pause()
            else:
                self._exchange.resume()

    def leave(self) -> None:
        """The client has gone: the node's socket is closed now, the handler is cancelled."""
        if self.gone or self.finished:
            return
        self.gone = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
        if self.upload is not None:
            self.upload.fail(ClientGone("the client left"))
        if self.task is not None:
            self.task.cancel()

    def _break(self) -> None:
        """The handler has sent what cannot be sent."""
        self.leave()
        self._door.transport.abort()

    def answer_refusal(self, error: SollolError) -> None:
        """Answer with the app's words for `error`."""
        if not self.started:
            self._door.app.refuse(self.request, self, error)
        if not self.finished:
            self.abort()

    async def run(self, route: Route, request: Request) -> None:
        """The handler, and what becomes of what it raises; whatever happens, the turn is over when this returns."""
        try:
            await route.handler(request, self)
        except SollolError as error:
            if not self.gone:
                self.answer_refusal(error)
        except Exception:  # the gateway's last handler: a bug must cost one request, not the connection's peers
            log.exception("a handler failed", extra={"path": request.path})
            self.answer_bug()
        else:
            if not self.finished and not self.gone:
                log.error("a handler left a reply unfinished", extra={"path": request.path})
                self.answer_bug()
        finally:
            if not self.finished and not self.gone:  # the task was cancelled, and not because the client left
                self._answer_cancelled()

    def answer_bug(self) -> None:
        """A plain 500 if nothing was sent, else a broken connection."""
        if self.started or self.gone:
            self.abort()
            return
        body = b'{"error":"internal server error"}'
        self.head(500, [(b"Content-Type", b"application/json; charset=utf-8")], len(body))
        self.data(body)
        self.end()

    def _answer_cancelled(self) -> None:
        self.keep = False
        self.answer_refusal(ShuttingDown("the gateway is stopping"))

    def _flush(self) -> None:
        if self._head and not self.gone:
            head, self._head = self._head, b""
            self._write(head)


def _joined(lines: list[bytes]) -> bytes:
    """Lines of a head as one; a line break inside one (a model's name may hold anything) becomes a space."""
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\n") == breaks == head.count(b"\r"):
        return head
    return b"\r\n".join(line.replace(b"\r", b" ").replace(b"\n", b" ") for line in lines)
