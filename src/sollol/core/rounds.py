"""One pump of the queue: whom to look at, in which order, and what each decision leaves for the next candidate."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, takewhile

from . import breakers
from .gates import too_long
from .line import Line
from .rooms import Rooms
from .routing import Term, best, choose, itemised, weight
from .state import ClusterState
from .types import Cost, Decision, Health, Mode
from .waiting import Group, Waiting, candidates

STARVED_SECONDS = 600.0
SMALL_LINE = 400
"""Groups × nodes up to which every event looks at everybody; beyond, at whom it can affect."""
GROUPS_LOOKED_AT = 16
"""Groups that one pump looks at in a long line; where there are more, the first in order, the others next time."""
_STALE_GROUPS = 4
_STALE_SECONDS = 1.0


class Rounds:
    """Decides for the requests of a `Line`. ``sent`` is told of each that leaves it, with the least tag that still waits.

    ``cut``: somebody was left out and should be looked at soon. ``second``: the next slot is for who waited too long.
    """

    def __init__(self, state: ClusterState, line: Line, sent: Callable[[Waiting, float], None]) -> None:
        self._state = state
        self._line = line
        self._sent = sent
        self._passed: set[str] = set()
        self.rooms = Rooms(state)
        self.cut = False
        self.second = False
        self.small_line = SMALL_LINE

    def begin(self, now: float) -> list[Group]:
        """Begin a pump: the groups to look at, brought up to date; those that something happened to, a few left out for long.

        Brought up to date once only: a second time would forget what is handed out here and not published yet.
        """
        self.cut = False
        self._passed.clear()
        active = self._line.active
        if not active:
            return []
        self.rooms.look(self._line, now)
        small = len(active) * len(self._state.known) <= self.small_line
        found = list(active.values()) if small else self._woken(now)
        for group in found:
            group.awake = False
            group.looked_at = now
            if not small:
                active[group.key] = active.pop(group.key)
            group.refresh(self._state, now, roughly=not small)
        return found

    def _woken(self, now: float) -> list[Group]:
        active = self._line.active
        found = [group for group in active.values() if group.awake]
        if len(found) > GROUPS_LOOKED_AT:
            self.cut = True
            found.sort(key=_first_key)
            return found[:GROUPS_LOOKED_AT]
        due = takewhile(lambda group: group.looked_at <= now - _STALE_SECONDS, active.values())
        found += islice((group for group in due if not group.awake), _STALE_GROUPS)
        return found

    def round(self, groups: list[Group], now: float) -> list[Decision]:
        """One look at the first candidates; every decision makes the next candidate see less."""
        ready = []
        decisions = []
        for group in groups:
            group.restore()
            if group.breakers:
                decision = self._through_open(group, now)
                if decision is not None:
                    decisions.append(decision)
            if group.waiting and group.count_free():
                ready.append(group)
        for group in ready:
            group.shorten(self._state, now)
        if ready:
            sharing = sum([group.free > 0 for group in self._line.active.values()])
            decisions += self._serve(self._starved(candidates(ready, sharing), ready, now), ready, now)
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
            decision = self.attempt(entry, now)
            if decision is not None:
                self._hand_out(entry, group.by_node[decision.node], ready, now)
                self.rooms.given(decision.node, group.key[0])
                self._sent(entry, self.least_tag())
                decisions.append(decision)
                if not any(group.free > 0 for group in ready):
                    break
        return decisions

    def _starved(self, line: list[Waiting], ready: list[Group], now: float) -> list[Waiting]:
        """Who has waited longest, if that is too long, comes first at every second slot, however many new clients come."""
        if not self.second:
            return line
        oldest = min((next(iter(group.ages)) for group in ready), key=lambda entry: entry.since)
        return [oldest, *line] if now - oldest.since > STARVED_SECONDS else line

    def attempt(self, entry: Waiting, now: float) -> Decision | None:
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
        return _decision(entry, term, ranked, now)

    def _through_open(self, group: Group, now: float) -> Decision | None:
        """Send one request of the group to a node whose breaker is open, if only such nodes are left for it."""
        found = breakers.who_goes(self._line, group, self._passed, now)
        if found is None:
            return None
        entry, term = found
        self._passed.add(term.node_id)
        self.rooms.given(term.node_id, group.key[0])
        self._sent(entry, self.least_tag())
        cost = Cost(term.node_id, eta=entry.size(self._state, now).run(term), free=True, name=term.node.node.name)
        return _decision(entry, term, (cost,), now)

    def _hand_out(self, entry: Waiting, given: Term, ready: list[Group], now: float) -> None:
        """Make every group of this round see that the slot is taken, before the attempt is published."""
        node, group = given.node, entry.group
        run = entry.size(self._state, now).run(given)
        begins_load = not given.warm and group.key[0] not in node.runners
        alone = node.health.state in (Health.OPEN, Health.HALF_OPEN)
        for other in ready:
            term = other.by_node.get(given.node_id)
            if term is None or term.blocked:
                continue
            same = other.key[0] == group.key[0]
            term.give(same or node.shares_slots(), run, now)
            if alone or (begins_load and not same):
                term.free = 0
                other.awake = self.cut = True
            elif begins_load:
                term.ready, term.evict = term.load, 0.0
            other.moved(term)
            other.count_free()

    def least_tag(self) -> float:
        """The least tag that waits and that a usable node can serve."""
        return min([group.least_tag for group in self._line.active.values() if group.open], default=float("inf"))


def _first_key(group: Group) -> tuple[float, int]:
    return group.waiting[0].key


def _decision(entry: Waiting, term: Term, ranked: tuple[Cost, ...], now: float) -> Decision:
    place = entry.place
    return Decision(
        entry.task, term.node_id, ranked, now - entry.task.arrived, place.attempt, position=place.position, why=place.why
    )
