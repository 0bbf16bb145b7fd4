"""One attempt at an answer that is plain text: what breaks off here can go on at another node.

What the client is shown is whole lines (or events) only, and all of it is kept in the request's `Story`. An error in the middle
is not shown: `Dispatch` decides whether there is a node that goes on, and otherwise has the last word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sollol.core.events import FirstToken
from sollol.core.ports import Header, Headers, Sink
from sollol.engine.admission import Placement
from sollol.engine.attempt import TRANSLATED_BYTES, Attempt, Plan, Refusal, Result
from sollol.engine.engine import Engine
from sollol.errors import BadReply, NodeError
from sollol.wire import errors as wire_errors
from sollol.wire.continuation import Said, counts, wants_counts
from sollol.wire.replies import Ending, Watch
from sollol.wire.said import error_in
from sollol.wire.said_events import SaidEvents

# The first token of a document is an event only when the rest takes longer: that of a short one says nothing that its end
# does not say at once.
SHORT_SECONDS: Final = 0.1

_JSON: Final[Header] = (b"content-type", b"application/json; charset=utf-8")


Parts = tuple[Engine, Placement, Plan, Sink, Callable[[], Headers]]
"""What every attempt is made of."""


class PlainAttempt(Attempt):
    """An `Attempt` that adds to ``said`` what the client is shown, or will be shown as one document."""

    __slots__ = ("_begun", "_cuts", "_gap", "_gathers", "_rest", "_said", "_state")

    def __init__(self, parts: Parts, said: Said) -> None:
        Attempt.__init__(self, *parts)
        plan = parts[2]
        self._said = said
        self._state = parts[0].state
        # A translation lets only whole lines through, and no errors.
        self._cuts = not plan.translated
        self._gap = said.gap if self._cuts else b""
        self._rest = b""
        self._begun = self._gathers = False

    def on_head(self, status: int, headers: Headers) -> None:
        super().on_head(status, headers)
        # A node may answer with a document nevertheless; that is looked at as any other.
        if self.plan.gathered and status < 300 and b"ndjson" in _content_type(headers):
            self._gathers = True
            self._take = self._collect

    # --- a stream for a stream

    def _begin(self, data: bytes) -> None:
        if not self._sink.started:
            self._show_head(None)
        self._begun = True
        self._pass(data)

    def _relay(self, data: bytes) -> None:
        watch = self._noted(data)
        sign = self._said.sign
        if self._rest or watch.error is not None or not data.endswith(self._gap) or (sign and sign in data):
            self._pass(data)
        elif self.plan.filters:
            self._show(data)
        else:  # most of what passes comes this way
            self._shown_last = data
            self._said.add(data)
            self._sink.data(data)

    def _pass(self, data: bytes) -> None:
        """Show what is whole and no error; the rest is kept back."""
        if self._cuts:
            data, self._rest = self._said.cut(self._rest + data)
        if data:
            self._show(data)

    def _show(self, data: bytes) -> None:
        data = self._filtered(data)
        if data:
            self._shown_last = data
            self._said.add(data)
            self._sink.data(data)

    def _filtered(self, data: bytes) -> bytes:
        if self.plan.filters:
            now = self._clock.now()
            for change in self.plan.filters:
                data = change.feed(data, now)
        return data

    def _end_stream(self, watch: Watch) -> None:
        if not self._begun and not self._sink.started:
            super()._end_stream(watch)
            return
        ending = watch.finish()
        rest, self._rest = self._rest, b""
        if not self._begun:
            rest = b"".join(self._pieces)
        if ending.error is not None and self._cuts:
            refusal = Refusal(500, (_JSON,), wire_errors.as_document(rest))
            self._finish(Result(refusal=refusal, status=self._status, sent=True, ending=ending, broken=True))
        elif not ending.complete or ending.error is not None:
            self._fail(BadReply(self._node, ending.error or watch.problem or "the answer ended early"))
        else:
            if rest:
                self._show(rest)
            self._show_tail(ending)

    # --- a stream for a document

    def _collect(self, data: bytes) -> None:
        progress = self._progress
        self._pieces.append(data)
        self._size += len(data)
        progress.tokens += data.count(b"\n")
        progress.last_at = now = self._clock.now()
        if not self._begun and progress.first_at is not None and now - progress.first_at > SHORT_SECONDS:
            self._begun = True
            self._publish(FirstToken(now, self._task, self._node))
        if self._size > TRANSLATED_BYTES:
            self._fail(BadReply(self._node, f"a reply of over {TRANSLATED_BYTES >> 20} MB cannot be kept"))

    def _end_document(self) -> None:
        if not self._gathers:
            super()._end_document()
            return
        lines = b"".join(self._pieces)
        self._pieces.clear()
        if not lines.endswith(b"\n"):
            lines += b"\n"
        rest = self._keep(lines)
        error = error_in(rest)
        if error is not None:
            refusal = Refusal(500, (_JSON,), wire_errors.as_document(rest))
            self._finish(Result(refusal=refusal, status=self._status, broken=True))
            return
        ending = self.plan.document(_last_line(lines))
        if not ending.complete or not self._complete(ending):
            self._fail(BadReply(self._node, ending.error or "the answer ended early"))

    def _keep(self, lines: bytes) -> bytes:
        """Take in the whole lines; returns what is left of them: an error, or part of a line."""
        whole, rest = self._said.cut(lines)
        kept = self._filtered(whole)
        if kept:
            self._said.add(kept)
        return rest

    def _complete(self, ending: Ending) -> bool:
        """Show the document, if all of it was said."""
        self._said.read()
        if not self._said.done or isinstance(self._said, SaidEvents):
            return False
        body = self._said.document()
        self._show_head(len(body))
        self._sink.data(body)
        self._sink.end()
        self._finish(Result(status=self._status, sent=True, ending=ending))
        return True

    # --- how it breaks off

    def _fail(self, error: NodeError) -> None:
        """What was said stays; if that is all there is to say, nothing is missing."""
        sink = self._sink
        if self._gathers and self._pieces:
            lines = b"".join(self._pieces)
            self._pieces.clear()
            self._keep(lines)
        said = self._said
        said.read()
        # Filters have changed the counters of the last line: they are not the node's own any more.
        ending = said.ending() if said.done and not self.plan.filters else Ending(said.done)
        if self._gathers and self._complete(ending):
            return
        if said.done and sink.started:
            rest = said.rest(self._counts() if wants_counts(self._task) else None)
            if rest:
                sink.data(rest)
            sink.end()
            self._finish(Result(status=self._status, sent=True, ending=ending))
        else:
            self._finish(Result(error=error, status=self._status, sent=sink.started, broken=True))

    def _counts(self) -> dict[str, int]:
        """The counts of an answer whose node did not come to tell them; that of the prompt is an estimate."""
        return counts(self._state.prompt_tokens(self._task), self._said.tokens)


def _content_type(headers: Headers) -> bytes:
    return next((value for name, value in headers if name.lower() == b"content-type"), b"")


def _last_line(lines: bytes) -> bytes:
    lines = lines.rstrip()
    return lines[lines.rfind(b"\n") + 1 :]
