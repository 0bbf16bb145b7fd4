"""One attempt at a plain answer that is told in another dialect than the node's, by a translation that outlives the attempt.

What is kept in the `Story` is what the nodes said, in their own dialect. The translation has the state of the reply to
the client (names, numbers, what stands open), so the next node's words go on in it where those of the last one broke off. A
document is asked of the node as a stream too; the translation gives all of it at the end.
"""

from __future__ import annotations

from typing import Final

from sollol.core.ports import Header
from sollol.engine.attempt import Refusal, Result
from sollol.engine.plain import Parts, PlainAttempt
from sollol.errors import BadReply, BrokeMidStream, NodeError
from sollol.wire import errors as wire_errors
from sollol.wire.continuation import Said
from sollol.wire.replies import Ending, Watch

_JSON: Final[Header] = (b"content-type", b"application/json; charset=utf-8")


class RetoldAttempt(PlainAttempt):
    """A `PlainAttempt` that adds to ``said`` what the node says. Its plan has a translation, and a watch for the node's stream.

    The head is shown with the first words: until then another node may begin anew.
    """

    __slots__ = ("_made", "_shapes")

    def __init__(self, parts: Parts, said: Said) -> None:
        super().__init__(parts, said)
        plan = parts[2]
        assert plan.made is not None
        self._made = plan.made
        # What brings the words of a node that goes on into the shape of those that broke off.
        self._shapes = tuple(one for one in plan.filters if one is not plan.made)
        self._cuts, self._gap = True, said.gap

    def _begin(self, data: bytes) -> None:
        self._begun = True
        self._pass(data)

    def _show(self, data: bytes) -> None:
        now = self._clock.now()
        for change in self._shapes:
            data = change.feed(data, now)
        self._tell(data, now)

    def _tell(self, data: bytes, now: float) -> None:
        """Keep what the node said, and show it in the client's dialect."""
        if not data:
            return
        self._said.add(data)
        told = self._made.feed(data, now)
        if told:
            if not self._sink.started:
                self._show_head(None)
            self._shown_last = told
            self._sink.data(told)
        elif self._made.problem is not None and not self._sink.started:
            self._finish(Result(BadReply(self._node, self._made.problem), status=self._status))

    def _end_stream(self, watch: Watch) -> None:
        ending = watch.finish()
        rest, self._rest = self._rest, b""
        if not self._begun:
            rest = b"".join(self._pieces)
        if ending.error is not None:
            refusal = Refusal(500, (_JSON,), wire_errors.as_document(rest))
            self._finish(Result(refusal=refusal, status=self._status, sent=self._sink.started, ending=ending, broken=True))
        elif watch.problem is not None or not ending.complete:
            self._fail(BadReply(self._node, watch.problem or "the answer ended early"))
        else:
            if rest:
                self._show(rest)
            now = self._clock.now()
            for number, change in enumerate(self._shapes):
                tail = change.finish(now)
                for later in self._shapes[number + 1 :]:
                    tail = later.feed(tail, now)
                self._tell(tail, now)
            self._close(ending)

    def _close(self, ending: Ending) -> None:
        """The node has said all of it."""
        made, sink = self._made, self._sink
        told_so = made.problem is not None and sink.started
        tail = made.finish(self._clock.now())
        if made.problem is not None and not (told_so or tail):
            # It cannot be told, and nobody has said so to the client yet.
            self._finish(Result(BadReply(self._node, made.problem), status=self._status, sent=sink.started, broken=True))
            return
        if not sink.started:
            self._show_head(None if self._task.stream else len(tail))
        if tail:
            sink.data(tail)
        sink.end()
        error = None if made.problem is None else BrokeMidStream(self._node, made.problem)
        self._finish(Result(error, status=self._status, sent=True, ending=ending))

    def _fail(self, error: NodeError) -> None:
        """If what was said is all there is to say, nothing is missing but its end."""
        said, made = self._said, self._made
        said.read()
        if made.problem is not None and self._sink.started:
            self._close(Ending(False))  # its last words were sent already
        elif not said.done:
            self._finish(Result(error=error, status=self._status, sent=self._sink.started, broken=True))
        else:
            self._tell(said.rest(self._counts()), self._clock.now())
            # What brings it into shape has changed the counters of the last line: they are not the node's own any more.
            self._close(Ending(True) if self._shapes else said.ending())
