"""The waiting room: turns the scheduler's decisions into placements that requests can wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, TypeVar

from msgspec import Struct

from sollol.core.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    FirstToken,
    HealthChanged,
    NodeAdded,
    NodeChanged,
    NodeRemoved,
    NodeSurveyed,
    TaskQueued,
    Unloaded,
)
from sollol.core.types import Decision, Progress, Queued, Task
from sollol.engine.engine import Engine
from sollol.engine.pipeline import RESTART_SECONDS
from sollol.errors import CannotServe, DeadlineExceeded, QueueFull, ShuttingDown, SollolError

TICK_SECONDS = 1.0
LONGEST_RETRY = 60.0

# What can free a slot, make a node usable or change a forecast. An attempt that starts only takes.
_WORTH_A_LOOK: Final[frozenset[type[Event]]] = frozenset(
    {AttemptEnded, FirstToken, HealthChanged, NodeAdded, NodeChanged, NodeRemoved, NodeSurveyed, Unloaded},
)


class Placement(Struct, frozen=True):
    """A request has a slot: it counts as running on ``decision.node`` from now on, until `AttemptEnded` is published."""

    decision: Decision
    progress: Progress


class Admission:
    """The one queue of the gateway. A request leaves it when the scheduler binds it to a node and a slot there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._scheduler = engine.scheduler
        self._clock = engine.clock
        self._waiting: dict[Task, asyncio.Future[Placement]] = {}
        self._queued: dict[Task, Queued] = {}  # where those stood when they came
        self._ticking: asyncio.TimerHandle | None = None
        self._ticks_at = self._judged = 0.0
        self._pumping = self._asked = self._stopping = False
        self._moved: set[Task] = set()  # of those that wait: they were on a node already
        engine.listen(self._heard, *_WORTH_A_LOOK)

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return len(self._waiting)

    async def place(self, task: Task, exclude: frozenset[str] | None = None) -> Placement:
        """Wait for a slot. ``exclude`` is None for a new request; a moved one keeps its place and names the nodes to avoid.

        Raises `QueueFull`, `NoNodeForModel`, `NoNodes` or another `SollolError` when there is nothing to wait for. Cancelling
        the wait takes the request out of the queue.
        """
        now = self._clock.now()
        if self._stopping and exclude is None:
            raise _stopping()
        scheduler = self._scheduler
        if exclude is None:
            if task.deadline is not None and (late := scheduler.too_late(task, now)) is not None:
                raise late
            refused = scheduler.arrive(task, now)
            if refused:
                self._refuse_last(refused, now, newcomer=task)
        else:
            scheduler.again(task, now, exclude)
        placed = self._pump(now, task)
        if placed is not None:
            return placed
        error = scheduler.hopeless(task, now) or scheduler.too_late(task, now)
        if error is not None:
            scheduler.leave(task, now)
            raise error
        refused = scheduler.overflow()
        if refused:
            self._refuse_last(refused, now, newcomer=task)
        queued = self._queued[task] = scheduler.queued(task, now)
        self._engine.publish(TaskQueued(now, task, queued.position, queued.start, queued.why))
        self._tick_by(scheduler.next_wake(now), now)
        if exclude is None:
            return await self._wait(task)
        self._moved.add(task)
        try:
            return await self._wait(task)
        finally:
            self._moved.discard(task)

    def stop(self) -> None:
        """Take nothing new: who waits for a first node is refused, as is who comes. What was on a node may still move."""
        self._stopping = True
        now = self._clock.now()
        for task in [task for task in self._waiting if task not in self._moved]:
            self._scheduler.leave(task, now)
            self._fail(task, _stopping())

    def close(self) -> None:
        """Stop the clock of the queue."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    async def _wait(self, task: Task) -> Placement:
        future: asyncio.Future[Placement] = asyncio.get_running_loop().create_future()
        self._waiting[task] = future
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # Bound and cancelled in the same turn: the slot was taken, so it has to be given back.
                placement = future.result()
                self._engine.publish(AttemptEnded(self._clock.now(), task, placement.decision.node, "cancelled"))
                raise
            now = self._clock.now()
            self._scheduler.leave(task, now)
            if task.deadline is not None and now >= task.deadline - 0.001:
                # The deadline cancels whatever goes on; only here it is known where the request stood.
                raise _told(self._in_vain(task, now), task, self._queued[task], now) from None
            raise
        finally:
            self._waiting.pop(task, None)
            del self._queued[task]

    def _pump(self, now: float, newcomer: Task | None = None) -> Placement | None:
        """Carry out what the scheduler decides now; the newcomer's own placement, if any, is returned instead of signalled.

        Every decision of a round is published before the next round: events in between (a breaker that lets one request
        through) only ask for another one.
        """
        if self._pumping:
            self._asked = True
            return None
        self._pumping = True
        own: Placement | None = None
        try:
            while True:
                self._asked = False
                placements = [self._start(decision, now) for decision in self._scheduler.pump(now)]
                for placement in placements:
                    if placement.decision.task is newcomer:
                        own = placement
                    else:
                        self._signal(placement, now)
                if not (self._scheduler.waiting and (placements or self._asked)):
                    return own
        finally:
            self._pumping = False

    def _start(self, decision: Decision, now: float) -> Placement:
        placement = Placement(decision, Progress())
        self._engine.publish(AttemptStarted(now, decision, placement.progress))
        if self._ticking is None:
            self._tick_by(None, now)
        return placement

    def _signal(self, placement: Placement, now: float) -> None:
        """Wake the request that was bound; one whose client has just left gives its slot back without being sent."""
        decision = placement.decision
        future = self._waiting.pop(decision.task)
        if future.done():
            self._engine.publish(AttemptEnded(now, decision.task, decision.node, "cancelled"))
        else:
            future.set_result(placement)

    def _heard(self, event: Event) -> None:
        if self._waiting:
            self._pump(event.at)

    def _tick_by(self, wake: float | None, now: float) -> None:
        """See to it that the queue is looked at in a second, or at ``wake`` if that is sooner."""
        at = now + TICK_SECONDS if wake is None else min(wake, now + TICK_SECONDS)
        if self._ticking is not None:
            if self._ticks_at <= at:
                return
            self._ticking.cancel()
        self._ticks_at = at
        self._ticking = asyncio.get_running_loop().call_later(max(0.0, at - now), self._tick)

    def _tick(self) -> None:
        """Once a second while anybody waits or runs: forecasts move with time alone, and some waits have an end."""
        self._ticking = None
        now = self._clock.now()
        scheduler = self._scheduler
        if now >= self._judged + TICK_SECONDS / 2:  # else somebody only asked to be looked at soon
            self._judged = now
            for verdict in self._engine.state.behind(now):
                self._engine.publish(verdict)
            self._pump(now)
            for task, error in scheduler.expired(now):
                self._fail(task, error)
        else:
            self._pump(now)
        if self._waiting or any(node.in_flight for node in self._engine.state.nodes.values()):
            self._tick_by(scheduler.next_wake(now), now)

    def _refuse_last(self, refused: Sequence[Task], now: float, newcomer: Task) -> None:
        own: QueueFull | None = None
        for task in refused:
            outlook = self._scheduler.outlook(task, now)
            error = QueueFull("the queue is full; try again later", retry_after=_after(outlook))
            if task is newcomer:
                own = _told(error, task, outlook, now)
            else:
                self._fail(task, error)
        if own is not None:
            raise own

    def _fail(self, task: Task, error: SollolError) -> None:
        future = self._waiting.pop(task, None)
        if future is not None and not future.done():
            future.set_exception(_told(error, task, self._queued[task], self._clock.now()))

    def _in_vain(self, task: Task, now: float) -> DeadlineExceeded:
        assert task.deadline is not None
        text = f"not answered within {task.deadline - task.arrived:g} s: it waited in the queue until its deadline"
        return DeadlineExceeded(text, retry_after=_after(self._scheduler.outlook(task, now)))


E = TypeVar("E", bound=SollolError)


def _after(outlook: Queued) -> float:
    """Seconds after which it makes sense to come again: when the request would have started, within a second and a minute."""
    return LONGEST_RETRY if outlook.start is None else min(max(outlook.start, 1.0), LONGEST_RETRY)


def _told(error: E, task: Task, queued: Queued, now: float) -> E:
    """Let the reply to who is refused say where it stood in the queue."""
    if isinstance(error, CannotServe):
        error.queued, error.position, error.why = now - task.arrived, queued.position, queued.why
    return error


def _stopping() -> ShuttingDown:
    return ShuttingDown("the gateway is stopping; try again in a moment", retry_after=RESTART_SECONDS)
