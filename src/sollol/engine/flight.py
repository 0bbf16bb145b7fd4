"""One answer on its way to several clients: the one buffer of it, and how far each of them has read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from sollol.core.ports import Clock, Exchange, Header, Headers, Sink
from sollol.core.types import Dialect, Mode, Task
from sollol.engine.pipeline import Handler, Outcome

WHOLE_BYTES: Final = 4 << 20
"""As long as an answer is shorter than this, all of it is there for whoever comes later."""
LAG_BYTES: Final = 4 << 20
"""Who reads so much more slowly than others of the same answer is cut loose."""

PATIENCE: Final = 3.0
"""Who has more than so many times the time of the first one does not wait with it."""

# What is said of the way that one request took, and not true of another one.
_OWN: Final = frozenset({b"x-sollol-score", b"x-sollol-attempts", b"x-sollol-queue-ms", b"x-sollol-reason", b"x-sollol-mode"})
_SHARED: Final[Header] = (b"x-sollol-cache", b"shared")
_MISS: Final[Header] = (b"x-sollol-cache", b"miss")
_GAP: Final = {Dialect.OLLAMA: b"\n"}


class Flight:
    """One answer under way: the sink of the work, and the one buffer of all that get it.

    ``began``: what the keeper's ``changes`` were at its beginning.
    """

    def __init__(self, task: Task, clock: Clock, landed: Callable[[Flight, Outcome | None], None], began: int = 0) -> None:
        self.task = task
        self.began = began
        self.clock = clock
        self.status = 0
        self.headers: Sequence[Header] = ()
        self.length: int | None = None
        self.whole = True
        self.ended = self.broken = False
        self.total = 0
        self._landed = landed
        self._work: asyncio.Task[Outcome] | None = None
        self._exchange: Exchange | None = None
        self._sent = self._given_up = self._paused = False
        self._pieces: list[bytes] = []
        self._first = 0
        self._followers: list[Follower] = []
        self._outcome: Outcome | BaseException | None = None

    # --- whom it serves

    def takes(self, task: Task) -> bool:
        """Whether `task` may join: all of the answer is still at hand, and it would not come sooner alone."""
        if self._given_up or not self.whole or task.max_age == 0.0:
            return False
        if self.task.mode is Mode.ASYNC and task.mode is not Mode.ASYNC:
            return False
        if self.started:
            return True
        if (task.hedge or 1) > (self.task.hedge or 1):
            return False
        return self._sent or (task.priority <= self.task.priority and self._waits_for(task))

    def _waits_for(self, task: Task) -> bool:
        """Whether the work, which still waits for a node, would not give up long before `task` has to: that would cost it its
        place in the queue. Times that differ little are those of clients that are alike.
        """
        until = self.task.deadline
        if until is None:
            return True
        now = self.clock.now()
        return task.deadline is not None and task.deadline - now <= PATIENCE * (until - now)

    def start(self, call_next: Handler) -> None:
        """Let the work run."""
        self._work = asyncio.create_task(_called(call_next, self.task, self))
        self._work.add_done_callback(self._over)

    def join(self, follower: Follower) -> None:
        """From now on `follower` gets everything, from the beginning."""
        self._followers.append(follower)
        self.balance()

    def leave(self, follower: Follower) -> None:
        """`follower` gets nothing more; the last one takes the work along. Harmless when it left before."""
        if follower not in self._followers:
            return
        self._followers.remove(follower)
        if self._followers or self._outcome is not None:
            self.balance()
            return
        self._given_up = True
        self._landed(self, None)
        if self._exchange is not None:
            self._exchange.close()
        if self._work is not None:
            self._work.cancel()

    async def over(self) -> None:
        """Wait until work that nobody wants has given back what it held."""
        if self._given_up and self._work is not None:
            await asyncio.wait([self._work])

    def balance(self) -> None:
        """Somebody is clogged, or is not any more: the node is held back only when nobody can take more."""
        pause = bool(self._followers) and all(follower.clogged for follower in self._followers)
        if self._exchange is None or pause is self._paused:
            return
        self._paused = pause
        if pause:
            self._exchange.pause()
        else:
            self._exchange.resume()

    @property
    def count(self) -> int:
        """How many pieces there have been."""
        return self._first + len(self._pieces)

    def piece(self, number: int) -> bytes:
        """One piece, numbered from 0; all that somebody has still to get are there."""
        return self._pieces[number - self._first]

    @property
    def body(self) -> bytes:
        """All of it, while ``whole``."""
        return b"".join(self._pieces)

    # --- core.ports.Sink, for the work

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        self.status, self.headers, self.length = status, tuple(headers), length

    def data(self, data: bytes) -> None:
        self._pieces.append(data)
        self.total += len(data)
        for follower in tuple(self._followers):
            follower.pump()
        if self.total > WHOLE_BYTES:
            self.whole = False
            self._trim()

    def end(self) -> None:
        self.ended = True
        self._pump()

    def abort(self) -> None:
        self.broken = True
        self._pump()

    @property
    def started(self) -> bool:
        return self.status != 0

    def attach(self, exchange: Exchange | None) -> None:
        self._exchange = exchange
        self._sent = exchange is not None
        self._paused = False
        if exchange is not None:
            if self._given_up:
                exchange.close()
            else:
                self.balance()

    # ---

    def _over(self, work: asyncio.Task[Outcome]) -> None:
        """The work has ended."""
        if work.cancelled():
            self._outcome = asyncio.CancelledError()
        else:
            self._outcome = work.exception() or work.result()
        self._landed(self, self._outcome if isinstance(self._outcome, Outcome) else None)
        for follower in tuple(self._followers):
            follower.settle()

    @property
    def outcome(self) -> Outcome | BaseException | None:
        """How the work ended; None while it goes on."""
        return self._outcome

    def _pump(self) -> None:
        for follower in tuple(self._followers):
            follower.pump()

    def _trim(self) -> None:
        """Let go of what everybody has; who is too far behind is cut loose, so that the buffer stays bounded."""
        for follower in tuple(self._followers):
            if self.total - follower.given > LAG_BYTES and follower.clogged and len(self._followers) > 1:
                follower.cut()
        least = min((follower.at for follower in self._followers), default=self.count)
        del self._pieces[: least - self._first]
        self._first = least


async def _called(call_next: Handler, task: Task, sink: Sink) -> Outcome:
    return await call_next(task, sink)


class Follower:
    """One client of a flight; towards its door it is the exchange to pause and to close.

    ``leads`` None: it joined; else it began the flight, and the value says whether answers are kept at all.
    """

    def __init__(self, flight: Flight, task: Task, sink: Sink, leads: bool | None) -> None:
        self.at = 0
        self.given = 0
        self.clogged = False
        self._flight = flight
        self._task = task
        self._sink = sink
        self._leads = leads
        self._first_at: float | None = None
        self._last = b"\n"
        self._done = False
        self._finished: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()

    async def get(self) -> Outcome | None:
        """Pass the answer on until its end. None: nothing came of it, and nothing was shown; the request is on its own."""
        flight, sink = self._flight, self._sink
        flight.join(self)
        sink.attach(self)
        try:
            self.pump()
            return await self._finished
        except asyncio.CancelledError:
            self._end_line()
            raise
        finally:
            self._done = True
            sink.attach(None)
            flight.leave(self)
            if self._finished.done() and not self._finished.cancelled():
                self._finished.exception()  # whoever was cancelled in the same turn does not ask for it
            await flight.over()

    # --- what the flight tells

    def pump(self) -> None:
        """Give the client what there is, as long as it takes it."""
        flight, sink = self._flight, self._sink
        if self._done or not flight.started or self._finished.done():
            return
        if not sink.started:
            if self.clogged or (flight.count == 0 and not flight.ended and not flight.broken):
                return  # the head leaves with the first piece
            self._head()
        while self.at < flight.count and not self.clogged:
            data = flight.piece(self.at)
            self.at += 1
            self.given += len(data)
            self._last = data
            sink.data(data)
        if self.at == flight.count and (flight.ended or flight.broken):
            self._done = True
            if flight.ended:
                sink.end()
            else:
                sink.abort()
            self.settle()

    def settle(self) -> None:
        """The work is over: so is this, once its client has everything."""
        outcome = self._flight.outcome
        if outcome is None or self._finished.done():
            return
        if isinstance(outcome, Outcome):
            if self._done or not (self._flight.ended or self._flight.broken):
                self._finished.set_result(self._told(outcome))
        elif isinstance(outcome, asyncio.CancelledError):
            self._finished.cancel()
        else:
            self._finished.set_exception(outcome)

    def cut(self) -> None:
        """The client is too far behind the others: what it got cannot be completed."""
        if not self._sink.started:
            self._finish(None)
            return
        self._sink.abort()
        text = f"the client read more than {LAG_BYTES >> 20} MB behind others of the same answer"
        self._finish(Outcome(self._flight.status, "failed", first_byte=self._first_at, text=text, cache="shared"))

    # --- core.ports.Exchange, for the door

    def pause(self) -> None:
        self.clogged = True
        self._flight.balance()

    def resume(self) -> None:
        self.clogged = False
        self.pump()
        self._flight.balance()

    def write(self, data: bytes) -> None:
        """Requests here are whole; nothing is written afterwards."""

    def finish(self) -> None:
        """There is no upload."""

    def close(self) -> None:
        """The client has gone."""
        self._done = True
        self._flight.leave(self)

    # ---

    def _head(self) -> None:
        flight = self._flight
        headers = list(flight.headers)
        if self._leads is None:
            headers = [header for header in headers if header[0] not in _OWN]
            headers.append(_SHARED)
        elif self._leads:
            headers.append(_MISS)
        self._first_at = flight.clock.now()
        self._sink.head(flight.status, headers, flight.length)

    def _told(self, outcome: Outcome) -> Outcome:
        """How it ended for this client: only the one who began it asked a node."""
        if self._leads is not None:
            return outcome
        return replace(outcome, nodes=(), queued=0.0, first_byte=self._first_at, counters=None, decision=None, cache="shared")

    def _end_line(self) -> None:
        """Whoever tells the client now that the answer ends here needs a line, or an event, of its own for that."""
        gap = _GAP.get(self._task.dialect, b"\n\n")
        if self._task.stream and self._sink.started and not self._done and not self._last.endswith(gap):
            self._sink.data(gap)

    def _finish(self, outcome: Outcome | None) -> None:
        self._done = True
        if not self._finished.done():
            self._finished.set_result(outcome)
