"""The one queue: bounded, bound late. A request leaves it when a slot is free on the node that finishes it soonest.

Calling sequence, for whoever owns the loop::

    state.apply(TaskArrived(now, task))
    for refused in scheduler.arrive(task, now): ...        # 503; may be the newcomer itself
    for decision in scheduler.pump(now):                   # also after every event that may free a slot, and once a second
        state.apply(AttemptStarted(now, decision, Progress()))   # each one, in order, before the next pump
        ...                                                # send it; FirstToken, AttemptEnded when they happen
    error = scheduler.hopeless(task, now)                  # for a newcomer that was not sent: no node can ever serve it
    scheduler.again(task, now, failed_nodes)               # a failed attempt moves: the request keeps its place; then pump
    scheduler.leave(task, now)                             # the client left while it waited
    for task, error in scheduler.expired(now): ...         # once a second: deadline over, or nobody usable for too long
    state.apply(TaskEnded(...))                            # forgets the request's place

Ends of attempts reach the fairness tags through `ClusterState.settled`, which `pump` empties.
"""

from __future__ import annotations

from heapq import nsmallest

from msgspec import Struct

from ..errors import DeadlineExceeded, NoNodes, SollolError
from . import prospects
from .estimates import Recent
from .fairness import Tags
from .gates import cannot, too_long
from .routing import Load, Term, best, choose, group_key, itemised, weight
from .state import ClusterState
from .types import Cost, Decision, Health, Mode, Task
from .waiting import LOOKED_AT, Group, Place, Waiting, candidates, last_new

STARVED_SECONDS = 600.0
_GROUPS = 256
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
        self._groups: dict[object, Group] = {}
        self._active: dict[object, Group] = {}
        self._entries: dict[int, Waiting] = {}
        self._places: Recent[int, Place] = Recent(_PLACES)
        self._fresh: Waiting | None = None
        self._moved = 0
        self._bytes = 0
        self._number = 0
        self._cut = False
        self._passed: set[str] = set()
        self._second = False

    # --- what waits

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._entries)

    def first(self, limit: int) -> list[Task]:
        """The first ``limit`` requests that wait, in order."""
        return [entry.task for entry in nsmallest(limit, self._entries.values())]

    def position(self, task: Task) -> int:
        """Place in line from 1; 0 when the request does not wait."""
        entry = self._entries.get(task.id)
        if entry is None:
            return 0
        return 1 + sum(1 for other in self._entries.values() if other < entry)

    def arrive(self, task: Task, now: float) -> list[Task]:
        """Take a new request in. Returns who is refused for it: nobody, or the last in order when the queue is full."""
        self._queue_fresh()
        limits = self.limits
        group = self._group(task)
        group.refresh(self._state, now)
        load = Load(task, self._state)
        work = group.work(load, now)
        tag = self._tags.start(task.client, task.priority, work)
        self._number += 1
        entry = Waiting(task, group, Place(tag, tag - limits.priority_step_seconds * task.priority, self._number, work), now)
        entry.load, entry.load_at = load, now
        self._entries[task.id] = entry
        self._fresh = entry
        self._bytes += len(task.body)
        refused: list[Task] = []
        while len(self._entries) - self._moved > limits.waiting or self._bytes > limits.body_bytes:
            refused.append(self._drop_last())
        return refused

    def again(self, task: Task, now: float, exclude: frozenset[str]) -> None:
        """A request whose attempt failed waits once more, at its old place, for a node outside ``exclude``."""
        self._queue_fresh()
        place = self._places.pop(task.id, None)
        if place is None:
            self._number += 1
            tag = self._tags.start(task.client, task.priority, 0.0)
            place = Place(tag, tag - self.limits.priority_step_seconds * task.priority, self._number, 0.0)
        place.attempt += 1
        entry = Waiting(task, self._group(task), place, now)
        entry.exclude = exclude
        entry.excluded_at = now
        self._entries[task.id] = entry
        self._moved += 1
        self._fresh = entry

    def leave(self, task: Task, now: float) -> None:
        """The request waits no more, or is over; harmless for one that is not known."""
        self._places.pop(task.id, None)
        entry = self._entries.get(task.id)
        if entry is not None:
            self._remove(entry)
            self._tags.settle(task.client, task.priority, -entry.place.work)

    def next_wake(self, now: float) -> float | None:
        """When to pump though nothing happens; None while nobody waits."""
        if not self._entries:
            return None
        if self._cut:
            return now
        retries = [node.health.retry_at for node in self._state.known.values() if node.health.state is Health.OPEN]
        return min([now + 1.0, *(at for at in retries if at > now)])

    # --- decisions

    def pump(self, now: float) -> list[Decision]:
        """What to send now, in order. Slots handed out here are accounted for until the attempts are published."""
        if self._state.settled:
            self._settle()
        self._cut = False
        self._passed.clear()
        fresh = self._fresh
        if fresh is not None:
            self._fresh = None
            if not self._active:
                return self._alone(fresh, now)
            self._enqueue(fresh)
        # Once only: a second look would forget what is handed out here and not published yet.
        for group in self._active.values():
            group.refresh(self._state, now)
        decisions: list[Decision] = []
        while self._active:
            more = self._round(now)
            if not more:
                break
            decisions += more
        return decisions

    def _alone(self, entry: Waiting, now: float) -> list[Decision]:
        """The usual case: nobody else waits."""
        (group := entry.group).refresh(self._state, now)
        group.restore()
        decision = self._try(entry, now)
        if decision is not None:
            self._sent(entry, float("inf"))
            return [decision]
        self._enqueue(entry)
        decision = None if group.open else self._through_open(group, now)
        return [] if decision is None else [decision]

    def _round(self, now: float) -> list[Decision]:
        """One look at the first candidates; every decision makes the next candidate see less."""
        ready = []
        decisions = []
        for group in list(self._active.values()):
            group.restore()
            if not group.open:
                decision = self._through_open(group, now)
                if decision is not None:
                    decisions.append(decision)
            elif group.count_free():
                ready.append(group)
        for group in ready:
            group.shorten(self._state, now)
        if ready:
            decisions += self._serve(self._starved(candidates(ready), now), ready, now)
        return decisions

    def _serve(self, line: list[Waiting], ready: list[Group], now: float) -> list[Decision]:
        """Go through the candidates in order, as long as there is a free slot anywhere."""
        decisions = []
        for entry in line:
            group = entry.group
            if not entry.queued or group.free <= 0:
                continue
            if group.shortlist is not None and entry.typical(self._state, now) and group.shortlist.waits():
                continue
            decision = self._try(entry, now)
            if decision is not None:
                self._hand_out(entry, group.by_node[decision.node], now)
                self._sent(entry, self._least_tag())
                decisions.append(decision)
                if not any(group.free > 0 for group in ready):
                    break
        return decisions

    def _starved(self, line: list[Waiting], now: float) -> list[Waiting]:
        """Who has waited longest, if that is too long, comes first at every second slot, however many new clients come."""
        oldest = next(iter(self._entries.values()))
        if self._second and now - oldest.since > STARVED_SECONDS and oldest.group.free > 0:
            return [oldest, *line]
        return line

    def _try(self, entry: Waiting, now: float) -> Decision | None:
        """The decision if the best node has a free slot; else that slot is reserved virtually for this round."""
        group, task = entry.group, entry.task
        load = entry.size(self._state, now)
        exact = group.ranked or task.mode is Mode.ASYNC
        terms = group.open if exact or group.shortlist is None else group.shortlist.near(load)
        if entry.exclude or task.pin is not None or group.limited:
            terms = [term for term in group.open if not entry.avoids(term.node) and not too_long(term.node, task, load.prompt)]
        if not terms:
            return None
        wait_weight, reliable = weight(task.mode), task.mode is Mode.RELIABLE
        costs, first, second = best(load, terms, now, wait_weight, reliable)
        if exact:
            chosen = choose(task, terms, costs, first, now)
            if chosen != first:
                first, second = chosen, first
        term = terms[first]
        if term.free <= 0:
            term.reserve(load.run(term), now)
            group.moved(term)
            return None
        cost = itemised(load, term, now, costs[first])
        if second < 0:
            ranked: tuple[Cost, ...] = (cost,)
        else:
            ranked = (cost, itemised(load, terms[second], now, costs[second]))
        return Decision(task, term.node_id, ranked, now - task.arrived, entry.place.attempt)

    def _through_open(self, group: Group, now: float) -> Decision | None:
        """Every node that could serve the group has an open breaker: the one due first passes one request at a time."""
        if any(term.node.health.at(now) is not Health.OPEN or cannot(term.node, group.key) for term in group.terms):
            return None
        idle = [term for term in group.terms if not term.node.running and term.node_id not in self._passed]
        term = min(idle, key=lambda term: (term.node.health.retry_at, term.node.index), default=None)
        if term is None:
            return None
        for entry in group.waiting[:LOOKED_AT]:
            if not entry.avoids(term.node):
                self._passed.add(term.node_id)
                self._sent(entry, self._least_tag())
                cost = Cost(term.node_id, eta=entry.size(self._state, now).run(term), free=True, name=term.node.node.name)
                return Decision(entry.task, term.node_id, (cost,), now - entry.task.arrived, entry.place.attempt)
        return None

    def _hand_out(self, entry: Waiting, given: Term, now: float) -> None:
        """Make every group see that the slot is taken, before the attempt is published."""
        node, group = given.node, entry.group
        run = entry.size(self._state, now).run(given)
        begins_load = not given.warm and group.key[0] not in node.runners
        alone = node.health.state in (Health.OPEN, Health.HALF_OPEN)
        for other in self._active.values():
            term = other.by_node.get(given.node_id)
            if term is None or term.blocked:
                continue
            same = other.key[0] == group.key[0]
            term.give(same or node.shares_slots(), run, now)
            if alone or (begins_load and not same):
                term.free = 0
                self._cut = True
            elif begins_load:
                term.ready, term.evict = term.load, 0.0
            other.moved(term)
            other.count_free()

    def _sent(self, entry: Waiting, least_waiting: float) -> None:
        self._remove(entry)
        self._second = not self._second
        self._tags.sent(entry.place.tag, least_waiting)
        self._places.put(entry.task.id, entry.place)

    def _least_tag(self) -> float:
        """The least tag that waits and that a usable node can serve."""
        return min((group.least_tag for group in self._active.values() if group.open), default=float("inf"))

    # --- what can be said

    def explain(self, task: Task, now: float) -> tuple[Cost, ...]:
        """Every known node, best first, blocked ones last with their reason. Changes nothing; the task need not wait."""
        return prospects.explain(self._state, task, self._entries.get(task.id), now)

    def usable(self, task: Task, now: float, exclude: frozenset[str] = frozenset()) -> int:
        """How many nodes outside ``exclude`` could take the request now, if they had a slot."""
        return sum(1 for cost in self.explain(task, now) if not cost.blocked and cost.node not in exclude)

    def hopeless(self, task: Task, now: float) -> SollolError | None:
        """The error for a request that no known node can ever serve, nodes that are down counted; else None."""
        return prospects.hopeless(self._state, task)

    def expired(self, now: float) -> list[tuple[Task, SollolError]]:
        """Requests to refuse now, taken out of the queue: deadline over, or nobody usable for `no_node_seconds`."""
        self._queue_fresh()
        over: list[tuple[Waiting, SollolError]] = []
        for group in self._active.values():
            group.refresh(self._state, now)
            for entry in group.waiting:
                error = self._over(entry, now)
                if error is not None:
                    over.append((entry, error))
        for entry, _ in over:
            self._remove(entry)
            self._tags.settle(entry.task.client, entry.task.priority, -entry.place.work)
        return [(entry.task, error) for entry, error in over]

    def _over(self, entry: Waiting, now: float) -> SollolError | None:
        deadline = entry.task.deadline
        if deadline is not None and now >= deadline:
            return DeadlineExceeded("the request waited in the queue until its deadline", retry_after=1.0)
        group = entry.group
        special = entry.exclude or entry.task.pin is not None
        if (group.usable and not special) or any(not term.unusable and not entry.avoids(term.node) for term in group.terms):
            entry.stuck_since = None
        elif entry.stuck_since is None:
            entry.stuck_since = now
        elif now - entry.stuck_since >= self.limits.no_node_seconds:
            return NoNodes(f"no node that has '{entry.task.model}' is reachable", retry_after=self.limits.no_node_seconds)
        return None

    # --- inside

    def _group(self, task: Task) -> Group:
        key = group_key(task)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _GROUPS:
                self._groups = dict(self._active)
            group = self._groups[key] = Group(key)
        return group

    def _queue_fresh(self) -> None:
        fresh = self._fresh
        if fresh is not None:
            self._fresh = None
            self._enqueue(fresh)

    def _enqueue(self, entry: Waiting) -> None:
        group = entry.group
        if not group.waiting:
            self._active[group.key] = group
        group.add(entry)
        if not group.usable:
            entry.stuck_since = entry.since

    def _remove(self, entry: Waiting) -> None:
        del self._entries[entry.task.id]
        if entry.place.attempt > 1:
            self._moved -= 1
        else:
            self._bytes -= len(entry.task.body)
        if entry is self._fresh:
            self._fresh = None
        elif entry.queued:
            group = entry.group
            group.remove(entry)
            entry.queued = False
            if not group.waiting:
                del self._active[group.key]

    def _drop_last(self) -> Task:
        """Refuse the last in order among new requests."""
        self._queue_fresh()
        last = last_new(self._active.values())
        self._remove(last)
        self._tags.settle(last.task.client, last.task.priority, -last.place.work)
        return last.task

    def _settle(self) -> None:
        """Put on each client's account what its ended attempts took beyond, or short of, what was foreseen."""
        settled = self._state.settled
        while settled:
            end = settled.popleft()
            place = self._places.get(end.task.id)
            if end.foreseen or end.used:
                group = self._groups.get(group_key(end.task))
                slots = group.slots if group is not None else 1
                self._tags.settle(end.task.client, end.task.priority, (end.used - end.foreseen) / (0.6 * slots))
            if end.over and place is not None:
                del self._places[end.task.id]
