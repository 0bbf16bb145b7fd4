"""Identical requests that are under way at the same time share one answer.

The first one's work runs in a task of its own, a `Flight`, which belongs to nobody: whoever gets its answer, the first one
too, is a `Follower` and may leave. When the last one leaves the work ends, and the node is free in the same turn of the loop.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from sollol.core.caching import Counts
from sollol.core.ports import Sink
from sollol.core.types import Task
from sollol.engine.engine import Engine
from sollol.engine.flight import Flight, Follower
from sollol.engine.pipeline import Handler, Outcome
from sollol.errors import DeadlineExceeded, QueueFull


class Keeper(Protocol):
    """Hears of every answer that came to its end while all of it was at hand. ``changes`` counts what makes answers stale."""

    enabled: bool
    changes: int

    def keep(self, flight: Flight, outcome: Outcome) -> None: ...


class Coalesce:
    """The layer. ``join`` false: every request works for itself, and the keeper still hears of the answers.

    Who joins must not fare worse than alone: while the first one still waits for a node, a request with a higher priority, or
    with far more time, starts on its own; so does one that asks for a race until the first word has come, and a hurried one
    never waits for one in mode "async".
    """

    def __init__(self, engine: Engine, counts: Counts, keeper: Keeper, *, join: bool = True) -> None:
        self.join = join
        self._clock = engine.clock
        self._counts = counts
        self._keeper = keeper
        self._flights: dict[bytes, Flight] = {}

    def __call__(self, task: Task, sink: Sink, *, call_next: Handler) -> Awaitable[Outcome]:
        return self._share(task, sink, call_next) if task.key else call_next(task, sink)

    async def _share(self, task: Task, sink: Sink, call_next: Handler) -> Outcome:
        while True:
            flight = self._flights.get(task.key)
            leads = flight is None or not flight.takes(task)
            if flight is None or leads:
                flight = self._begin(task, call_next)
            else:
                self._counts.shared += 1
            follower = Follower(flight, task, sink, self._keeper.enabled if leads else None)
            try:
                outcome = await follower.get()
            except (QueueFull, DeadlineExceeded):
                # That was about the place and the time of the first one; everybody else has his own.
                if leads or sink.started:
                    raise
                continue
            if outcome is not None:
                return outcome

    def _begin(self, task: Task, call_next: Handler) -> Flight:
        flight = Flight(task, self._clock, self._landed, self._keeper.changes)
        if self.join:
            self._flights[task.key] = flight
        flight.start(call_next)
        return flight

    def _landed(self, flight: Flight, outcome: Outcome | None) -> None:
        """The work is over, or nobody wants it any more."""
        if self._flights.get(flight.task.key) is flight:
            del self._flights[flight.task.key]
        if outcome is not None and flight.whole and flight.ended:
            self._keeper.keep(flight, outcome)
