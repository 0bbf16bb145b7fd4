"""One client's connection: reads requests one after another, starts their handlers, notices when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol, cast

import httptools

from sollol.core.ports import Header
from sollol.errors import BadRequest, BodyTooLarge, HeadersTooLarge, QueueFull, RequestTimeout, SollolError, Unsupported

from .framing import METHODS, Head, body_length, next_head, origin_form
from .http import App, Request
from .turn import Turn
from .upload import Upload

log = logging.getLogger("sollol.door")

NEVER = 1 << 62
"""A tick that does not come: no time limit runs."""

_SLICE = 4096  # of input outside a body: how many pipelined requests are taken in before the first is answered
_DISCARD = 65_536  # the body of a refused request is read up to this length, so that the connection can go on
_TURNED_AWAY = 256  # connections over the limit that are told so; those beyond are closed without a word
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class House(Protocol):
    """What all connections share. Times are counted in ticks of one timer; the ``*_ticks`` are the limits."""

    app: App
    tick: int
    date: bytes
    closing: bool
    header_limit: int
    header_ticks: int
    body_ticks: int
    idle_ticks: int
    linger_ticks: int

    def enter(self, door: Door) -> int:
        """Count a new connection in; how many there are over the limit, 0 or less if it is welcome."""

    def leave(self, door: Door) -> None: ...


class Door(asyncio.Protocol):
    """The server's side of one connection. ``expires`` is the tick at which `expire` is due."""

    __slots__ = (
        *("_client", "_deaf", "_head", "_headers", "_held", "_house", "_lingering", "_parser", "_queue"),
        *("_reading", "_seen", "_url", "app", "clogged", "current", "expires", "loop", "transport"),
    )

    transport: asyncio.Transport

    def __init__(self, house: House, loop: asyncio.AbstractEventLoop) -> None:
        self.app = house.app
        self.current: Turn | None = None
        self.expires = NEVER
        self.clogged = False
        self._house = house
        self.loop = loop
        self._client = ""
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Turn] = deque()
        self._reading: Turn | None = None
        self._held = b""
        self._deaf = self._lingering = False
        self._url = b""
        self._headers: list[Header] = []
        self._head: Head | None = None  # of the request before
        self._seen = 0  # bytes since the last piece of body: a head or trailers that never end

    @property
    def date(self) -> bytes:
        return self._house.date

    @property
    def closing(self) -> bool:
        return self._house.closing

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._client = (transport.get_extra_info("peername") or ("",))[0]
        self.expires = self._house.tick + self._house.header_ticks
        if (excess := self._house.enter(self)) > _TURNED_AWAY:
            self._deaf = True
            self.transport.abort()
        elif excess > 0:
            self._refuse_rest(QueueFull("too many connections", retry_after=1.0))

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._held or self._queue:  # enough is waiting; what comes on top stays with the client
            self._hold_back(data)
            return
        if self._reading is not None:
            self.expires = self._house.tick + self._house.body_ticks
        elif self.current is None and not self._seen:
            self.expires = self._house.tick + self._house.header_ticks
        if len(data) > _SLICE:
            self._feed_slices(data)
        else:
            self._feed(data)

    def eof_received(self) -> None:
        if self.current is not None or self._reading is not None:
            self._leave()
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._deaf = True
        self.expires = NEVER
        self._house.leave(self)
        del self._parser  # it holds bound methods of ours: without this only the cycle collector frees the two

    def pause_writing(self) -> None:
        self.clogged = True
        if self.current is not None:
            self.current.clog(True)

    def resume_writing(self) -> None:
        self.clogged = False
        if self.current is not None:
            self.current.clog(False)

    def expire(self) -> None:
        """A time limit has passed."""
        reading = self._reading
        if self.current is None and self._seen and not self._lingering:
            self._refuse_rest(RequestTimeout("the headers did not come in time"))
        elif reading is not None and not self._deaf:
            self._refuse_rest(RequestTimeout("the body did not come in time"))
        elif self._lingering or self.transport.is_closing():
            self.transport.abort()
        else:
            self.transport.close()
            self.expires = self._house.tick + self._house.idle_ticks  # if its buffer does not empty

    def close_when_idle(self) -> None:
        """The gateway is stopping: close now if nothing is being served."""
        if self.current is None and self._reading is None:
            self.transport.close()

    # reading

    def _feed_slices(self, data: bytes) -> None:
        """Outside a body, feed little at a time: a read may hold thousands of pipelined requests."""
        start = 0
        while start < len(data) and not self._deaf:
            if self._queue:
                self._hold_back(data[start:])
                return
            reading = self._reading
            step = max(_SLICE, reading.left_to_read if reading is not None else 0)
            self._feed(data[start : start + step])
            start += step

    def _hold_back(self, data: bytes) -> None:
        self._held += data
        self.expires = NEVER  # the client waits for us
        self.transport.pause_reading()

    def _feed(self, data: bytes) -> None:
        self._seen += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            log.error("a request could not be taken in", exc_info=error.__context__)
            if self._deaf or self.current is not None:
                self.transport.abort()
            else:
                self._refuse_rest(SollolError("internal server error"))
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse_rest(BadRequest(f"malformed HTTP: {error}"))
        if self._seen > self._house.header_limit and not self._deaf:
            self._refuse_rest(HeadersTooLarge(f"the headers are over {self._house.header_limit} bytes"))

    def _feed_after_upgrade(self, rest: bytes) -> None:
        """A request asked for another protocol. None is spoken here (the place to hand a WebSocket over is here), so it is
        served as it is. llhttp stops at its head and would take its body for the next request: a new parser reads that.
        """
        turn = self._reading
        if turn is None or self._deaf:
            return
        chunked = turn.request is not None and turn.request.length is None
        if chunked or turn.left_to_read:
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % turn.left_to_read
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
            self._url, self._headers = b"", []
        else:
            self._message_read(turn)
        if rest:
            self._feed(rest)

    # httptools' side

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._deaf or self._reading is not None:  # the latter: the head made for a body after an upgrade
            return
        parser = self._parser
        head = next_head(self._headers, self._head)
        self._head = head if self._seen <= _SLICE else None  # an idle connection holds no long one
        version = parser.get_http_version()
        method = METHODS.get(parser.get_method())
        request = Request(method or "", "", "", head.headers, self._client, http10=version != "1.1", notes=head.notes)
        self._reading = turn = Turn(self, request, parser.should_keep_alive())
        self._seen = 0
        self._headers = []  # of trailers, which nobody reads
        url, self._url = self._url, b""
        try:
            request.length = length = body_length(head.headers, head.index, version)
            if method is None:
                raise Unsupported("this method is not served")
            if url[:1] != b"/" or b"#" in url:
                url, request.headers = origin_form(url, head.headers, method)
                request.notes = {}  # another Host
        except SollolError as error:  # the framing cannot be trusted: nothing after this head is read
            self._refuse_rest(error)
            return
        request.path, _, request.query = url.decode("ascii", "replace").partition("?")
        turn.left_to_read = length or 0
        turn.upgrade = b"upgrade" in head.index
        if length != 0:
            self.expires = self._house.tick + self._house.body_ticks
            turn.expects = head.index.get(b"expect", b"").lower() == b"100-continue" and not request.http10
        self._ask_route(turn, request)

    def on_body(self, body: bytes) -> None:
        turn = self._reading
        if turn is None or self._deaf:
            return
        self._seen = 0
        turn.left_to_read -= len(body)
        turn.received += len(body)
        if turn.route is None:  # refused, and short enough to be read before the answer
            return
        if turn.received > turn.route.body_limit:
            self._refuse_rest(BodyTooLarge(f"the body is over {turn.route.body_limit} bytes"))
        elif turn.upload is not None:
            turn.upload.push(body)
        else:
            turn.pieces.append(body)

    def on_message_complete(self) -> None:
        turn = self._reading
        if turn is not None and not self._deaf and not (turn.upgrade and self._parser.should_upgrade()):
            self._message_read(turn)

    # what was read

    def _ask_route(self, turn: Turn, request: Request) -> None:
        """Refuse what can be refused by its head; start a handler that reads the body itself."""
        try:
            turn.route = route = self.app.route(request)
        except SollolError as refusal:
            turn.refusal = refusal
            if turn.expects or request.length is None or request.length > _DISCARD:
                self._refuse_rest(refusal)
            return
        if turn.left_to_read > route.body_limit:
            self._refuse_rest(BodyTooLarge(f"the body is over {route.body_limit} bytes"))
        elif route.streams:
            turn.upload = Upload(self._hold, lambda: self._invite(turn))
            request.chunks = turn.upload
            self._take(turn, None)
        elif self.current is None and turn.expects:
            self._invite(turn)

    def _message_read(self, turn: Turn) -> None:
        """A request is complete."""
        self._reading = None
        self._headers = []
        self._seen = 0
        self.expires = NEVER
        turn.complete = True
        if not turn.keep:
            self._deaf = True  # whatever follows is not a request
        if turn.upload is not None:
            turn.upload.finish()
            return
        if turn.pieces and turn.request is not None:
            turn.request.body = turn.pieces[0] if len(turn.pieces) == 1 else b"".join(turn.pieces)
            turn.pieces = []
        self._take(turn, turn.refusal)

    def _take(self, turn: Turn, refusal: SollolError | None) -> None:
        """Answer `turn` now, or after those before it."""
        turn.refusal = refusal
        if self.current is None:
            self._begin(turn)
        else:
            self._queue.append(turn)

    def _begin(self, turn: Turn) -> None:
        self.current = turn
        if turn.refusal is not None:
            turn.answer_refusal(turn.refusal)
        elif turn.route is not None and turn.request is not None:
            turn.task = self.loop.create_task(turn.run(turn.route, turn.request))

    def _invite(self, turn: Turn) -> None:
        """Say that the body may come, to a client that waits for that."""
        if turn.expects and not turn.received and not turn.complete and not turn.started and not turn.gone:
            turn.expects = False
            self.transport.write(_CONTINUE)

    def _hold(self, full: bool) -> None:
        """A handler reads its body slowly, or has room again."""
        if self._held or self.transport.is_closing():
            return
        waits = full or self._reading is None
        self.expires = NEVER if waits else self._house.tick + self._house.body_ticks
        if full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # refusing

    def _refuse_rest(self, error: SollolError) -> None:
        """Answer `error` after what is being served, read nothing more, close."""
        self._deaf = True
        turn, self._reading = self._reading, None
        if turn is None:
            turn = Turn(self, None, keep=False)
        turn.keep = False
        turn.pieces = []
        if turn.upload is not None:
            turn.upload.fail(error)
        else:
            self._take(turn, error)

    # the end of a turn

    def ended(self, turn: Turn) -> None:
        """A reply is complete: go on with the next request, or close."""
        self.current = None
        house = self._house
        if not turn.keep:
            self._finish(turn)
        elif self._queue:
            self._begin(self._queue.popleft())
        elif self._reading is not None:
            self._invite(self._reading)
            self.expires = house.tick + house.body_ticks
        else:
            self.expires = house.tick + (house.header_ticks if self._seen else house.idle_ticks)
        if self._held and not self._queue:
            self.loop.call_soon(self._feed_held)  # not now: this may run inside the parser

    def _feed_held(self) -> None:
        held, self._held = self._held, b""
        if held and not self.transport.is_closing():
            self.transport.resume_reading()
            self.data_received(held)

    def _finish(self, turn: Turn) -> None:
        """Close. Input that nobody will read would make the system send a reset, which can overtake the reply at the
        client; so with an unread body half of the connection is closed first and the rest is thrown away for a while.
        """
        self._deaf = True
        self._queue.clear()
        self._reading = None
        house = self._house
        if turn.complete or not self.transport.can_write_eof():
            self.transport.close()
            self.expires = house.tick + house.idle_ticks  # a client that does not read holds a closing socket open
            return
        self._lingering = True
        self.expires = house.tick + house.linger_ticks
        self.transport.write_eof()
        self.transport.resume_reading()

    def _leave(self) -> None:
        """The client is gone."""
        for turn in (self.current, self._reading, *self._queue):
            if turn is not None:
                turn.leave()
        self._queue.clear()
        self.current = self._reading = None
        self._held = b""
