"""One request on one node: takes the reply in, decides when the client may see it, and passes it on in the same turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from sollol.core.events import FirstToken
from sollol.core.ports import Header, Headers, Outgoing, Sent, Sink
from sollol.core.stall import Watched
from sollol.core.types import Dialect
from sollol.engine.admission import Placement
from sollol.engine.engine import Engine
from sollol.errors import BadReply, BrokeMidStream, NodeError
from sollol.wire import errors as wire_errors
from sollol.wire.replies import Document, Ending, Watch
from sollol.wire.routing import Annotate
from sollol.wire.translate import Translation

# A document up to this size is kept back until it is complete, so that a node that dies in the middle of it costs nothing.
DOCUMENT_BYTES = 4 * 1024 * 1024
TRANSLATED_BYTES = 64 * 1024 * 1024
ERROR_BYTES = 64 * 1024

_JSON: Final[Header] = (b"content-type", b"application/json; charset=utf-8")
_GAP: Final = {Dialect.OLLAMA: b"\n"}  # what ends a line; elsewhere an empty line ends an event
_NOT_PASSED_ON = frozenset({b"date", b"server", b"vary", b"x-powered-by", b"content-length", b"alt-svc", b"set-cookie"})


class Filter(Protocol):
    """Turns a node's reply into what the client asked for: a translation between dialects, or added details."""

    def feed(self, data: bytes, now: float) -> bytes: ...
    def finish(self, now: float) -> bytes: ...
    def document(self, body: bytes, now: float) -> bytes: ...


class Plan(Struct, frozen=True):
    """How one attempt speaks to its node. ``watch`` is None when the client gets one document, ``gathered``: that one is
    put together from a stream of the node.

    ``refusal`` turns the status and body of an error reply into the client's dialect. ``made`` is the translation, one of the
    filters, where the client speaks another dialect than the node.
    """

    outgoing: Outgoing
    watch: Watch | None
    document: Document
    filters: tuple[Filter, ...] = ()
    content_type: bytes = b""
    refusal: Callable[[int, bytes], tuple[int, bytes]] | None = None
    gathered: bool = False
    made: Translation | None = None

    @property
    def translated(self) -> bool:
        """Whether the client speaks another dialect than the node: what the node says goes on only through the filters."""
        return self.made is not None

    @property
    def unsayable(self) -> str | None:
        """What the node said that cannot be told to the client, which has been told so; its stream is over."""
        return None if self.made is None else self.made.problem


class Refusal(Struct, frozen=True):
    """A reply that is an error."""

    status: int
    headers: Headers
    body: bytes


class Result(Struct, frozen=True):
    """How an attempt ended. ``error`` None and ``refusal`` None: delivered. ``sent``: the client has seen part of it.

    ``broken``: though it has, another node may be able to go on.
    """

    error: NodeError | BrokeMidStream | None = None
    refusal: Refusal | None = None
    status: int = 0
    sent: bool = False
    ending: Ending | None = None
    broken: bool = False


class Attempt:
    """The receiver of one exchange. `finished` gets the `Result` exactly once."""

    __slots__ = (
        *("_clock", "_headers", "_node", "_pieces", "_progress", "_publish", "_shown", "_shown_last", "_sink", "_size"),
        *("_status", "_take", "_task", "_watch", "exchange", "finished", "plan"),
    )

    def __init__(self, engine: Engine, placement: Placement, plan: Plan, sink: Sink, shown: Callable[[], Headers]) -> None:
        self.finished: asyncio.Future[Result] = engine.loop.create_future()
        self.exchange: Sent | None = None
        self.plan = plan
        self._clock, self._publish = engine.clock, engine.publish
        self._task, self._node, self._progress = placement.decision.task, placement.decision.node, placement.progress
        self._sink, self._shown = sink, shown
        self._watch = plan.watch
        self._status = 0
        self._headers: Headers = ()
        self._pieces: list[bytes] = []
        self._size = 0
        self._take: Callable[[bytes], None] = self._gather
        self._shown_last = b"\n"

    def think_ahead(self) -> None:
        """Work out what is told of the routing now, while the node is at work: it need not be done when the answer comes."""
        told = self._shown()
        self._shown = lambda: told
        for one in self.plan.filters:
            if isinstance(one, Annotate):
                one.prepare()

    # --- what the transport tells

    def on_head(self, status: int, headers: Headers) -> None:
        """Nothing is shown yet: failing over is free until the first byte of a good body."""
        if self.finished.done():
            return
        self._status, self._headers = status, headers
        if status >= 300:
            self._take = self._gather_error
        elif self._watch is not None:
            self._take = self._hold

    def on_data(self, data: bytes) -> None:
        """A piece of the body; one that comes in the very turn in which the attempt was ended is too late."""
        if self._progress.first_at is None and self._status < 300 and not self.finished.done():
            self._progress.first_at = now = self._clock.now()
            if self._watch is not None:
                self._publish(FirstToken(now, self._task, self._node))
        self._take(data)

    def on_end(self) -> None:
        """The reply is complete as HTTP; whether it is complete as an answer is looked at here."""
        if self.finished.done():
            return
        if self._status >= 300:
            body = b"".join(self._pieces)
            self._finish(Result(refusal=Refusal(self._status, self._headers, body), status=self._status))
        elif self._watch is None:
            self._end_document()
        else:
            self._end_stream(self._watch)

    def on_error(self, error: Exception) -> None:
        """The connection failed."""
        if self.finished.done():
            return
        if not isinstance(error, NodeError):
            error = BadReply(self._node, str(error))
        self._fail(error)

    def on_writable(self, writable: bool) -> None:
        """Requests here are sent whole; nothing waits for room."""

    def fail(self, error: NodeError) -> None:
        """End the attempt from outside: the node is known to be gone, or it makes no progress."""
        if not self.finished.done():
            self._fail(error)

    @property
    def watched(self) -> Watched:
        """What the stall watch has to know of it."""
        exchange = self.exchange
        return Watched(self._watch is not None or self.plan.gathered, exchange is not None and exchange.paused)

    def end_line(self) -> None:
        """Whoever tells the client now that the answer ends here needs a line, or an event, of its own for that."""
        gap = _GAP.get(self._task.dialect, b"\n\n")
        if self._watch is not None and self._sink.started and not self._shown_last.endswith(gap):
            self._sink.data(gap)

    # --- the pieces of a body

    def _hold(self, data: bytes) -> None:
        """Keep the beginning of a stream back until its first line is known to be good."""
        watch = self._watch
        assert watch is not None
        watch.feed(data)
        self._pieces.append(data)
        self._size += len(data)
        if watch.problem is None and (watch.first_ok or self._size > ERROR_BYTES):
            self._take = self._relay
            self._progress.tokens = watch.tokens
            self._begin(b"".join(self._pieces))
            self._pieces.clear()
        elif self._size > ERROR_BYTES:
            self._fail(BadReply(self._node, watch.problem or "the reply is no answer"))

    def _begin(self, data: bytes) -> None:
        """The first piece that is known to be good."""
        self._show_head(None)
        self._show(data)

    def _relay(self, data: bytes) -> None:
        self._noted(data)
        self._show(data)

    def _noted(self, data: bytes) -> Watch:
        """How far the stream is after this piece."""
        watch, progress = self._watch, self._progress
        assert watch is not None
        watch.feed(data)
        progress.tokens = watch.tokens
        progress.last_at = self._clock.now()
        return watch

    def _gather(self, data: bytes) -> None:
        """Keep a document until it is complete, or too large to keep."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > TRANSLATED_BYTES:
            self._pieces.clear()
            self._fail(BadReply(self._node, f"a reply of over {TRANSLATED_BYTES >> 20} MB cannot be translated"))
        elif self._size > DOCUMENT_BYTES and not self.plan.filters:
            self._take = self._sink.data
            self._show_head(None)
            self._sink.data(b"".join(self._pieces))
            self._pieces.clear()

    def _gather_error(self, data: bytes) -> None:
        if self._size < ERROR_BYTES:
            self._pieces.append(data)
            self._size += len(data)

    # --- the end

    def _end_document(self) -> None:
        if self._sink.started:
            self._sink.end()
            self._finish(Result(status=self._status, sent=True))
            return
        body = b"".join(self._pieces)
        ending = self.plan.document(body)
        if not ending.complete:
            self._fail(BadReply(self._node, ending.error or "the reply is not valid JSON"))
            return
        now = self._clock.now()
        try:
            for change in self.plan.filters:
                body = change.document(body, now)
        except (ValueError, RecursionError) as error:
            self._fail(BadReply(self._node, str(error)))
            return
        self._progress.tokens = (ending.counters.output_tokens or 0) if ending.counters else 0
        self._show_head(len(body))
        self._sink.data(body)
        self._sink.end()
        self._finish(Result(status=self._status, sent=True, ending=ending))

    def _end_stream(self, watch: Watch) -> None:
        ending = watch.finish()
        if not self._sink.started:
            self._end_unshown_stream(ending, watch.problem)
        elif ending.error is not None and not self.plan.translated:
            # The node's own error line has gone on to the client already, in the client's dialect.
            self._sink.end()
            self._finish(Result(BrokeMidStream(self._node, ending.error), status=self._status, sent=True, ending=ending))
        elif not ending.complete:
            self._break_off(BrokeMidStream(self._node, ending.error or "the answer ended early"), ending)
        else:
            self._show_tail(ending)

    def _end_unshown_stream(self, ending: Ending, problem: str | None) -> None:
        body = b"".join(self._pieces)
        if ending.error is not None:
            refusal = Refusal(500, (_JSON,), wire_errors.as_document(body))
            self._finish(Result(refusal=refusal, status=self._status, ending=ending))
        elif problem is not None or not body or not ending.complete:
            self._fail(
                BadReply(self._node, problem or ("the reply is not a complete answer" if body else "the reply is empty"))
            )
        else:
            self._show_head(None)
            self._show(body)
            self._show_tail(ending)

    def _fail(self, error: NodeError) -> None:
        if self._sink.started:
            self._break_off(BrokeMidStream(error.node, error.text), None)
        else:
            self._finish(Result(error=error, status=self._status))

    def _break_off(self, error: BrokeMidStream, ending: Ending | None) -> None:
        """The answer cannot be completed: say so in the words of the client's dialect, or break the connection."""
        plan = self.plan
        if self._watch is None:
            self._sink.abort()
        elif plan.unsayable is not None:
            self._sink.end()  # it was told already
        else:
            made, text = plan.made, str(error)
            number = self._watch.tokens  # of the events that were passed on, where they are numbered
            words = wire_errors.stream_ending(self._task.dialect, text, number=number) if made is None else made.failure(text)
            self.end_line()
            self._sink.data(words)
            self._sink.end()
        self._finish(Result(error=error, status=self._status, sent=True, ending=ending))

    def _finish(self, result: Result) -> None:
        self._take = _too_late
        if not self.finished.done():
            self.finished.set_result(result)

    # --- what the client sees

    def _show_head(self, length: int | None) -> None:
        content_type = self.plan.content_type
        kept = passed_on(self._headers)
        if content_type:
            kept = [header for header in kept if header[0].lower() != b"content-type"]
            kept.append((b"content-type", content_type))
        kept += self._shown()
        self._sink.head(self._status, kept, length)

    def _show(self, data: bytes) -> None:
        filters = self.plan.filters
        if filters:
            now = self._clock.now()
            for change in filters:
                data = change.feed(data, now)
            if not data:
                return
        self._shown_last = data
        self._sink.data(data)

    def _show_tail(self, ending: Ending) -> None:
        """The end of a stream that is complete."""
        now = self._clock.now()
        tail = b""
        for change in self.plan.filters:
            tail = (change.feed(tail, now) if tail else b"") + change.finish(now)
        if tail:
            self._sink.data(tail)
        self._sink.end()
        why = self.plan.unsayable
        error = None if why is None else BrokeMidStream(self._node, why)
        self._finish(Result(error, status=self._status, sent=True, ending=ending))


def _too_late(data: bytes) -> None:
    """The attempt is over; the connection is closed as soon as whoever waits for its end is awake."""


def passed_on(headers: Headers) -> list[Header]:
    """The headers of a node's reply that concern its body; those about the node itself and its own guards stay behind."""
    return [
        header
        for header in headers
        if (name := header[0].lower()) not in _NOT_PASSED_ON and not name.startswith((b"access-control-", b"x-sollol-"))
    ]
