"""Which node takes which items of a batch next, how many of them, and what follows when some fail.

One list; nodes pull from it. A node that is asked for the first time gets one item, then as many as it works on in a second,
at most half of what its share of the rest is: so all are done at the same time. When the list is empty an idle node runs
again what would be done last; the first result of an item counts. Times are seconds, speeds items per second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from math import ceil

from .lanes import Flight, Lane, Offer, Past

MOST = 64
"""Items of a request."""
CHUNK_SECONDS = 1.0
COPY_SHARE = 0.67
"""An item runs a second time where that takes less than this share of what the first run still needs."""
MAX_NODES, MAX_TRIES = 3, 4
"""An item is given up when so many nodes, or all there are, could not do it; or when it failed alone so often."""
MAX_UNSENT = 20
AVOID_SECONDS, AGAIN_SECONDS = 2.0, 0.5
"""After which an item goes again to where it failed; and where there is nobody else."""
HOPELESS_SECONDS = 5.0
"""After which an item is tried again even where it failed before: the node that has it is late, and may never answer."""
STRANGER_SECONDS = 2.0
"""After which a node that nothing is known of may run again what another one has."""
LATE, LATE_SECONDS, TYPICAL = 3.0, 0.5, 5.0
"""A request that routing placed is late after so many times the usual time, and after so long; the usual time to begin with."""
UNREAD = 4 * MOST
MAX_LOOKS = 8
"""Idle nodes that look for what is late, at a time: the fastest ones."""
GONE = -1
"""In the place of an item that is not this request's any more."""


class Fault(Enum):
    """Whose fault a failed request was: its own, the node's or the items', or nobody's (it never got there)."""

    REFUSED = "refused"
    LOST = "lost"
    UNSENT = "unsent"


class Group:
    """Items that come back together. ``since`` is when."""

    __slots__ = ("items", "past", "since")

    def __init__(self, items: list[int], past: Past, since: float) -> None:
        self.items = items
        self.past = past
        self.since = since


class Board:
    """What is left of one batch, and who works on what.

    ``fixed`` is the number of items of every request, where nothing is to be learned; then routing places them, and the only
    lane is the one of the name "". ``most`` limits what is learned, ``workers`` the requests at a time.
    """

    def __init__(self, *, most: int = MOST, fixed: int | None = None, workers: int | None = None) -> None:
        self.lanes: dict[str, Lane] = {}
        self._most = most
        self._fixed = fixed
        self._workers = workers
        self._fresh: deque[int] = deque()
        self._again: list[Group] = []
        self._open: set[int] = set()
        self._newest: dict[int, Flight] = {}  # the last run of each item that runs
        self._doubled: set[int] = set()  # those that run more than once
        self._late_once: set[int] = set()
        self._offered = 0
        self._total: int | None = None
        self._more = True
        self._typical = TYPICAL
        self._timed = 0
        self._begun_at: float | None = None
        self._speed = 0.0
        self._backlog = self._looks = 0

    # --- what there is to do

    @property
    def over(self) -> bool:
        """Whether every item is settled and none will follow."""
        return not self._more and not self._open

    @property
    def waiting(self) -> int:
        """Items that are here and that nobody works on."""
        return len(self._fresh) + sum(len(group.items) for group in self._again)

    @property
    def unsettled(self) -> list[int]:
        """Items without a result, in order."""
        return sorted(self._open)

    def expect(self, total: int) -> None:
        """So many items there will be in all."""
        self._total = total

    def offer(self, items: Iterable[int]) -> None:
        """These items are here."""
        items = list(items)
        self._fresh.extend(items)
        self._open.update(items)
        self._offered += len(items)

    def end(self) -> None:
        """No items follow."""
        self._more = False

    def skip(self, count: int) -> None:
        """So many items were here that need no work."""
        self._offered += count

    def drop_rest(self) -> list[int]:
        """Give up: every item without a result; nothing is left to do."""
        rest = self.unsettled
        self._more = False
        self._open.clear()
        self._fresh.clear()
        self._again.clear()
        return rest

    def _left(self) -> int:
        """Items that nobody works on, with those that are still to come."""
        unread = 0
        if self._more:
            unread = UNREAD if self._total is None else max(0, self._total - self._offered)
        return self.waiting + unread

    # --- who can work

    def survey(self, offers: Mapping[str, Offer]) -> list[Flight]:
        """Take in who can work now; what runs, or waits, at those who cannot any more is returned."""
        for node, offer in offers.items():
            lane = self.lanes.get(node)
            if lane is None:
                lane = self.lanes[node] = Lane(node, offer.speed)
            lane.take(offer)
        stranded: list[Flight] = []
        for node in [node for node in self.lanes if node not in offers]:
            lane = self.lanes[node]
            lane.limit = 0
            stranded += lane.flights
            if not lane.flights:
                del self.lanes[node]
        return stranded

    @property
    def usable(self) -> bool:
        """Whether anybody can work."""
        return any(lane.limit for lane in self.lanes.values())

    @property
    def flights(self) -> list[Flight]:
        """Every request that is under way."""
        return [flight for lane in self.lanes.values() for flight in lane.flights]

    # --- who takes what

    def begin(self, now: float) -> list[Flight]:
        """The requests to send now."""
        if self._begun_at is None:
            self._begun_at = now
        begun: list[Flight] = []
        running = len(self.flights)
        self._sum_up(now)
        took = True
        while took:
            took = False
            for lane in sorted(self.lanes.values(), key=_eagerness):
                if self._workers is not None and running >= self._workers:
                    return begun
                flight = self._take(lane, now)
                if flight is not None:
                    lane.flights.append(flight)
                    begun.append(flight)
                    if lane.speed is not None:
                        self._backlog += len(flight.items)
                    running += 1
                    took = True
        return begun

    def _sum_up(self, now: float) -> None:
        """What all nodes of known speed do in a second, and have; once for every look, so that it costs a step a node."""
        self._speed, self._backlog, self._looks = 0.0, 0, MAX_LOOKS
        for lane in self.lanes.values():
            if lane.limit and (speed := lane.believed(now)) is not None:
                self._speed += speed
                self._backlog += lane.backlog

    def _take(self, lane: Lane, now: float) -> Flight | None:
        if len(lane.flights) >= lane.limit or now < lane.paused_until:
            return None
        if not self._left():
            return self._late(lane, now) if self._fixed is not None else self._copy(lane, now)
        size = self._fixed or self._size(lane, now)
        if not size and self._again and not lane.flights:
            size = 1
        if not size:
            return None
        picked = self._pick(lane, size, now)
        if picked is None:
            return None
        items, past = picked
        lane.largest = max(lane.largest, len(items))
        return self._sent(lane.flight(items, past, now))

    def _size(self, lane: Lane, now: float) -> int:
        """How many items the node may take now; 0 when it would be done with one after all others are done with everything."""
        speed = lane.believed(now)
        left = self._left()
        if speed is None:
            return self._first(lane, self._speed, left + self._backlog, now)
        own = lane.backlog
        total, backlog = max(0.0, self._speed - speed), self._backlog - own
        share = speed * ((left + backlog + own) / (total + speed) - lane.ready_in) - own
        if share < 1.0 and total > 0.0 and lane.ready_in + (own + 1) / speed > (left + backlog) / total:
            return 0
        size = min(speed * CHUNK_SECONDS / lane.width, ceil(share / 2.0), 2 * lane.largest, self._most)
        return max(1, int(size))

    def _first(self, lane: Lane, total: float, work: float, now: float) -> int:
        """For a node of unknown speed: one item, if its model is loaded or there is time enough to load it."""
        if lane.flights:
            return 0
        if lane.ready_in <= 0.0:
            return 1
        if total > 0.0:
            return 1 if lane.ready_in < work / total else 0
        warm = any(other.limit and other.ready_in <= 0.0 for other in self.lanes.values())
        waited = now - (self._begun_at or now)
        return 1 if not warm or waited > lane.ready_in else 0

    def _pick(self, lane: Lane, size: int, now: float) -> tuple[list[int], Past | None] | None:
        """Items that came back go first, elsewhere than where they failed."""
        for group in self._again:
            avoid = group.past.avoid
            patience = AGAIN_SECONDS if avoid >= self.lanes.keys() else AVOID_SECONDS
            if lane.node not in avoid or now >= group.since + patience:
                items, group.items = group.items[:size], group.items[size:]
                if not group.items:
                    self._again.remove(group)
                return items, group.past
        if not self._fresh:
            return None
        fresh = self._fresh
        return [fresh.popleft() for _ in range(min(size, len(fresh)))], None

    # --- the end: what is late runs once more

    def _copy(self, lane: Lane, now: float) -> Flight | None:
        """A second run, on an idle node, of what would be done last."""
        self._looks -= 1
        if lane.flights or self._looks < 0:
            return None
        found: tuple[float, list[int], Past] | None = None
        for other in self.lanes.values():
            for place, flight in enumerate(other.flights):
                rest = other.rest(place, now)
                if lane.node in flight.past.avoid and not (other.behind(now) and now - flight.sent > HOPELESS_SECONDS):
                    continue
                items = [item for item in flight.items if self._newest.get(item) is flight]
                if items and (found is None or rest > found[0]):
                    found = rest, items, flight.past
        if found is None:
            return None
        rest, items, past = found
        if lane.speed is None:
            size = 1 if rest > STRANGER_SECONDS + lane.ready_in else 0
        else:
            size = min(int((COPY_SHARE * rest - lane.ready_in) * lane.speed), self._most)
        return self._again_at(lane, items[:size], past, now) if size > 0 else None

    def _late(self, lane: Lane, now: float) -> Flight | None:
        """A second run of what takes far longer than usual, where routing places requests."""
        for flight in lane.flights:
            items = [item for item in flight.items if item in self._open and item not in self._late_once]
            if items and now - flight.sent > max(LATE * self._typical, LATE_SECONDS):
                self._late_once.update(items)
                copy = self._again_at(lane, items, flight.past, now)
                copy.beside = flight
                return copy
        return None

    def _again_at(self, lane: Lane, items: list[int], past: Past, now: float) -> Flight:
        flight = lane.flight(items, past, now)
        flight.copy = True
        self._doubled.update(items)
        return self._sent(flight)

    def _sent(self, flight: Flight) -> Flight:
        for item in flight.items:
            self._newest[item] = flight
        return flight

    # --- what becomes of it

    def done(self, flight: Flight, now: float) -> list[int]:
        """A request was answered: the places of its items whose result is the first one."""
        lane = self.lanes[flight.node]
        lane.ended(flight, now)
        if self._fixed is not None and not flight.copy:
            self._timed = min(self._timed + 1, 20)
            self._typical += (now - flight.sent - self._typical) / self._timed
        news = [place for place, item in enumerate(flight.items) if item in self._open]
        self._forget(flight.items)
        return news

    def failed(self, flight: Flight, now: float, fault: Fault, error: Exception) -> dict[int, tuple[Exception, ...]]:
        """A request failed. The items that are given up, with what each node said; the others are tried again.

        Several together are halved, so that one bad item costs its neighbours nothing. One alone is given up when the request
        itself is at fault, or when several nodes, or one node twice, could not do it.
        """
        items = self._take_back(flight, now)
        if flight.copy and self._fixed is None:
            items = self._release(flight)
        if fault is Fault.UNSENT:
            self.lanes[flight.node].pause(now)
        if not items:
            return {}
        past = flight.past.after(flight.node, error, fault is Fault.UNSENT)
        if fault is Fault.UNSENT and past.unsent < MAX_UNSENT:
            self._again.append(Group(items, past, now))
            return {}
        if len(items) == 1 and (fault is Fault.REFUSED or self._given_up(past)):
            self._forget(items)
            return {items[0]: past.errors}
        if len(items) == 1:
            self._again.append(Group(items, past, now))
            return {}
        half = (len(items) + 1) // 2
        kept = past.together()
        self._again += [Group(items[:half], kept, now), Group(items[half:], kept, now)]
        return {}

    def back(self, flight: Flight, now: float) -> None:
        """A request was taken back before a node worked on it: its items are as if nobody had taken them."""
        items = self._take_back(flight, now)
        if items:
            self._again.insert(0, Group(items, flight.past, now))
        self._late_once.difference_update(flight.items)

    def spent(self) -> list[Flight]:
        """Requests that nobody needs any more: every item has its result. They are forgotten here."""
        found = [flight for flight in self.flights if not any(item in self._open for item in flight.items)]
        for flight in found:
            self.lanes[flight.node].flights.remove(flight)
        return found

    def _given_up(self, past: Past) -> bool:
        if self._fixed is not None or past.unsent >= MAX_UNSENT:
            return True  # routing has tried everywhere
        tries = len(past.errors)
        return tries >= MAX_TRIES or (tries >= 2 and len(past.avoid) >= min(MAX_NODES, len(self.lanes)))

    def _take_back(self, flight: Flight, now: float) -> list[int]:
        """The items of a request that is over without a result, but for those that run elsewhere too."""
        lane = self.lanes[flight.node]
        lane.flights.remove(flight)
        lane.idle_since(now)
        items = []
        for item in flight.items:
            if item not in self._open:
                continue
            others = [other for other in self.flights if item in other.items] if item in self._doubled else []
            if others:
                self._newest[item] = others[-1]
            else:
                items.append(item)
        return items

    def _release(self, copy: Flight) -> list[int]:
        """The items of a second run that failed. They are taken from the first run, which may never end, and tried again."""
        items = [item for item in copy.items if item in self._open]
        for other in self.flights:
            other.items = [GONE if item in items else item for item in other.items]
        self._doubled.difference_update(items)
        return items

    def _forget(self, items: list[int]) -> None:
        """They are settled."""
        self._open.difference_update(items)
        self._doubled.difference_update(items)
        self._late_once.difference_update(items)
        for item in items:
            self._newest.pop(item, None)


def _eagerness(lane: Lane) -> tuple[int, float]:
    """Idle nodes first, the fastest of them before the others."""
    return len(lane.flights), -(lane.speed or 0.0)
