"""The one queue: bounded, bound late. A request leaves it when a slot is free on the node that finishes it soonest.

Calling sequence, for whoever owns the loop::

    state.apply(TaskArrived(now, task))
    error = scheduler.too_late(task, now)                  # with a deadline: not even the best node can meet it
    for refused in scheduler.arrive(task, now): ...        # 503; may be the newcomer itself
    for decision in scheduler.pump(now):                   # also after every event that may free a slot, and at `next_wake`
        state.apply(AttemptStarted(now, decision, Progress()))   # each one, in order, before the next pump
        ...                                                # send it; FirstToken, AttemptEnded when they happen
    for refused in scheduler.overflow(): ...               # 503: whom `arrive` spared because it could perhaps go at once
    error = scheduler.hopeless(task, now)                  # for a newcomer that was not sent: no node can ever serve it
    scheduler.queued(task, now)                            # where it stands, and why it waits
    scheduler.again(task, now, failed_nodes)               # a failed attempt moves: the request keeps its place; then pump
    scheduler.leave(task, now)                             # the client left while it waited
    for task, error in scheduler.expired(now): ...         # once a second: deadline over, or nobody usable for too long
    state.apply(TaskEnded(...))                            # forgets the request's place

Ends of attempts reach the fairness tags through `ClusterState.settled`, which `pump` empties.
"""

from __future__ import annotations

from msgspec import Struct

from ..errors import DeadlineExceeded, SollolError
from . import deadlines, prospects
from .estimates import Recent
from .fairness import Tags
from .line import Line
from .rounds import Rounds
from .routing import Load
from .state import ClusterState
from .types import Cost, Decision, Health, Queued, Task
from .waiting import Place, Waiting

_SOON = 0.02
_PLACES = 65_536


class Limits(Struct, frozen=True):
    """What may wait: ``waiting`` new requests with ``body_bytes`` of bodies together (moved ones are not counted).

    One level of priority is worth ``priority_step_seconds`` of work. A request waits ``no_node_seconds`` while no node that
    could serve it is usable.
    """

    waiting: int = 1_000
    priority_step_seconds: float = 30.0
    no_node_seconds: float = 10.0
    body_bytes: int = 1 << 30


class Scheduler:
    """Requests that wait and the decisions about them. ``limits`` may be replaced at any time."""

    def __init__(self, state: ClusterState, limits: Limits | None = None) -> None:
        self._state = state
        self.limits = limits or Limits()
        self._tags = Tags()
        self._line = Line()
        self._rounds = Rounds(state, self._line, self._sent)
        self._late = deadlines.Late(state)
        self._places: Recent[int, Place] = Recent(_PLACES)
        self._fresh: Waiting | None = None
        self._number = 0

    # --- what waits

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._line.entries)

    def first(self, limit: int) -> list[Task]:
        """The first ``limit`` requests that wait, in order."""
        self._queue_fresh()
        return [entry.task for entry in self._line.order[:limit]]

    def position(self, task: Task) -> int:
        """Place in line from 1; 0 when the request does not wait."""
        entry = self._line.entries.get(task.id)
        return 0 if entry is None else 1 + self._line.ahead(entry)

    def queued(self, task: Task, now: float) -> Queued:
        """Where a request stands that waits: position, expected start, why; and remember that for its reply."""
        self._queue_fresh()
        entry = self._line.entries.get(task.id)
        if entry is None:
            return Queued()
        entry.group.refresh(self._state, now)
        found = prospects.queued(self._line, entry, now)
        if not entry.place.position:
            entry.place.position, entry.place.why = found.position, found.why
        return found

    def outlook(self, task: Task, now: float) -> Queued:
        """What a request that is refused would have had to expect as the last in line."""
        group = self._line.group(task)
        group.refresh(self._state, now)
        return prospects.outlook(self._line, group, now)

    def arrive(self, task: Task, now: float) -> list[Task]:
        """Take a new request in. Returns who is refused for it: nobody, or the last in order when the queue is full."""
        self._queue_fresh()
        line = self._line
        group = line.group(task)
        if not group.waiting:
            group.refresh(self._state, now)
        load = Load(task, self._state)
        work = group.work(load, now)
        tag = self._tags.start(task.client, task.priority, work)
        self._number += 1
        entry = Waiting(
            task, group, Place(tag, tag - self.limits.priority_step_seconds * task.priority, self._number, work), now
        )
        entry.load, entry.load_at = load, now
        line.take(entry)
        self._fresh = entry
        if self._full():
            if len(task.body) > self.limits.body_bytes and line.entries.keys() != {task.id}:
                return [self._drop(entry)]  # whoever else is refused, this one can never wait
            if not group.count_free():
                return self.overflow()
        return []

    def overflow(self) -> list[Task]:
        """Who is refused because more wait than may: the last in order."""
        refused: list[Task] = []
        while self._full():
            self._queue_fresh()
            refused.append(self._drop(self._line.last_new()))
        return refused

    def _full(self) -> bool:
        line, limits = self._line, self.limits
        return len(line.entries) - line.moved > limits.waiting or line.body_bytes > limits.body_bytes

    def again(self, task: Task, now: float, exclude: frozenset[str]) -> None:
        """A request whose attempt failed waits once more, at its old place, for a node outside ``exclude``."""
        self._queue_fresh()
        place = self._places.pop(task.id, None)
        if place is None:
            self._number += 1
            tag = self._tags.start(task.client, task.priority, 0.0)
            place = Place(tag, tag - self.limits.priority_step_seconds * task.priority, self._number, 0.0)
        place.attempt += 1
        entry = Waiting(task, self._line.group(task), place, now)
        entry.exclude = exclude
        entry.excluded_at = now
        self._line.take(entry)
        self._fresh = entry

    def leave(self, task: Task, now: float) -> None:
        """The request waits no more, or is over; harmless for one that is not known."""
        self._places.pop(task.id, None)
        entry = self._line.entries.get(task.id)
        if entry is not None:
            self._drop(entry)

    def next_wake(self, now: float) -> float | None:
        """When to pump though nothing happens; None while nobody waits."""
        if not self._line.entries:
            return None
        if self._rounds.cut:
            return now + _SOON
        retries = [node.health.retry_at for node in self._state.known.values() if node.health.state is Health.OPEN]
        return min([now + 1.0, *(at for at in retries if at > now)])

    # --- decisions

    def pump(self, now: float) -> list[Decision]:
        """What to send now, in order. Slots handed out here are accounted for until the attempts are published."""
        if self._state.settled:
            self._settle()
        fresh = self._fresh
        if fresh is not None:
            self._fresh = None
            if not self._line.active:
                return self._alone(fresh, now)
            self._enqueue(fresh)
        rounds = self._rounds
        looked_at = rounds.begin(now)
        decisions: list[Decision] = []
        while looked_at:
            more = rounds.round(looked_at, now)
            if not more:
                break
            decisions += more
            looked_at = [group for group in looked_at if group.waiting]
        return decisions

    def _alone(self, entry: Waiting, now: float) -> list[Decision]:
        """The usual case: nobody else waits."""
        (group := entry.group).refresh(self._state, now)
        group.restore()
        decision = self._rounds.attempt(entry, now)
        if decision is not None:
            self._sent(entry, float("inf"))
            return [decision]
        self._enqueue(entry)
        if not group.breakers:
            return []
        self._rounds.begin(now)
        return self._rounds.round([group], now)

    def _sent(self, entry: Waiting, least_waiting: float) -> None:
        self._remove(entry)
        self._rounds.second = not self._rounds.second
        self._tags.sent(entry.place.tag, least_waiting)
        self._places.put(entry.task.id, entry.place)

    # --- what can be said

    def explain(self, task: Task, now: float) -> tuple[Cost, ...]:
        """Every known node, best first, blocked ones last with their reason. Changes nothing; the task need not wait."""
        return prospects.explain(self._state, task, self._line.entries.get(task.id), now)

    def usable(self, task: Task, now: float, exclude: frozenset[str] = frozenset()) -> int:
        """How many nodes outside ``exclude`` could take the request now, if they had a slot."""
        return sum(1 for cost in self.explain(task, now) if not cost.blocked and cost.node not in exclude)

    def hopeless(self, task: Task, now: float) -> SollolError | None:
        """The error for a request that no known node can ever serve, nodes that are down counted; else None."""
        return prospects.hopeless(self._state, task)

    def too_late(self, task: Task, now: float) -> DeadlineExceeded | None:
        """The error for a request that cannot meet its deadline by anything that was learned; None where that is a guess."""
        if task.deadline is None:
            return None
        self._queue_fresh()
        group = self._line.group(task)
        group.refresh(self._state, now)
        entry = self._line.entries.get(task.id)
        return self._late.newcomer(task, group, group.ahead(entry)[1] if entry is not None else 0.0, now)

    def expired(self, now: float) -> list[tuple[Task, SollolError]]:
        """Requests to refuse now, taken out of the queue: deadline over or out of reach, or nobody usable for too long."""
        self._queue_fresh()
        self._rounds.rooms.look(self._line, now)
        for group in self._line.active.values():
            if group.awake:
                group.refresh(self._state, now)
        over = [(self._drop(entry), error) for entry, error in self._late.waiters(self._line, now)]
        over += [(self._drop(entry), error) for entry, error in self._in_vain()]
        over += [
            (self._drop(entry), error) for entry, error in deadlines.stranded(self._line, self.limits.no_node_seconds, now)
        ]
        return over

    # --- inside

    def _in_vain(self) -> list[tuple[Waiting, SollolError]]:
        """Who came before a node was asked what it has, and now nobody has the model."""
        waiting = [entry for group in self._line.active.values() if not group.terms for entry in group.waiting]
        judged = [(entry, prospects.hopeless(self._state, entry.task)) for entry in waiting]
        return [(entry, error) for entry, error in judged if error is not None]

    def _queue_fresh(self) -> None:
        fresh = self._fresh
        if fresh is not None:
            self._fresh = None
            self._enqueue(fresh)

    def _enqueue(self, entry: Waiting) -> None:
        if not self._line.active:
            self._rounds.rooms.look(self._line, entry.since)  # nobody looked while nobody waited
        self._line.enqueue(entry)
        group = entry.group
        if group.free > 0 or group.breakers:
            group.awake = True

    def _remove(self, entry: Waiting) -> None:
        if entry is self._fresh:
            self._fresh = None
        self._line.remove(entry)

    def _drop(self, entry: Waiting) -> Task:
        """The request waits no more and was not sent: its client is not charged for it."""
        self._remove(entry)
        self._tags.settle(entry.task.client, entry.task.priority, -entry.place.work)
        return entry.task

    def _settle(self) -> None:
        """Put on each client's account what its ended attempts took beyond, or short of, what was foreseen."""
        settled = self._state.settled
        while settled:
            end = settled.popleft()
            place = self._places.get(end.task.id)
            if end.foreseen or end.used:
                group = self._line.known(end.task)
                slots = group.slots if group is not None else 1
                self._tags.settle(end.task.client, end.task.priority, (end.used - end.foreseen) / (0.6 * slots))
            if end.over and place is not None:
                del self._places[end.task.id]
