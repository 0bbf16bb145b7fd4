"""One node as a batch sees it: what it was given, and how fast it works."""

from __future__ import annotations

from msgspec import Struct

GAIN = 0.4
"""Weight of a new measurement of speed."""
SLACK, SLACK_SECONDS = 1.5, 0.05
"""A node is behind when a request takes so many times as long as foreseen, and so much longer."""
PAUSE_SECONDS, LONGEST_PAUSE = 0.05, 5.0


class Offer(Struct, frozen=True):
    """What a node offers: ``width`` requests at work and ``limit`` there in all, ``ready_in`` seconds until its model is
    loaded. ``speed`` is what was learned earlier (items/s), None where nothing was.
    """

    limit: int = 2
    width: int = 1
    ready_in: float = 0.0
    speed: float | None = None


class Past(Struct, frozen=True):
    """What items have been through: ``avoid`` are nodes where they failed, ``errors`` what those said of an item alone,
    ``unsent`` how often they could not even be handed over.
    """

    avoid: frozenset[str] = frozenset()
    errors: tuple[Exception, ...] = ()
    unsent: int = 0

    def after(self, node: str, error: Exception, unsent: bool) -> Past:
        """With one more failure."""
        return Past(self.avoid | {node}, (*self.errors, error)[-8:], self.unsent + unsent)

    def together(self) -> Past:
        """For the parts of a request that failed: what was said of all of them says nothing about one."""
        return Past(self.avoid, (), self.unsent)


NOTHING = Past()


class Flight:
    """One request with some items. ``cold``: its node had to load the model first. ``beside`` is the run that this one is a
    second run of, where the node is not known here.
    """

    __slots__ = ("beside", "cold", "copy", "items", "node", "past", "sent")

    def __init__(self, items: list[int], node: str, sent: float, past: Past, cold: bool) -> None:
        self.items = items
        self.node = node
        self.sent = sent
        self.past = past
        self.cold = cold
        self.copy = False
        self.beside: Flight | None = None


class Lane:
    """What one node has of the batch, oldest first. ``speed`` is None until it has answered."""

    __slots__ = (
        *("_done", "_since", "flights", "largest", "limit", "node", "paused_until", "ready_in", "speed", "strikes", "width"),
    )

    def __init__(self, node: str, speed: float | None = None) -> None:
        self.node = node
        self.speed = speed
        self.largest = max(1, int(speed / 4.0)) if speed is not None else 0
        self.limit = self.width = 1
        self.ready_in = 0.0
        self.flights: list[Flight] = []
        self.paused_until = 0.0
        self.strikes = 0
        self._since = 0.0
        self._done = 0

    @property
    def backlog(self) -> int:
        """Items that the node has."""
        return sum([len(flight.items) for flight in self.flights])

    def take(self, offer: Offer) -> None:
        """What the node offers now."""
        self.limit, self.width, self.ready_in = offer.limit, offer.width, offer.ready_in

    def flight(self, items: list[int], past: Past | None, now: float) -> Flight:
        """A request with these items, to be sent now."""
        self.idle_since(now)
        return Flight(items, self.node, now, past or NOTHING, self.ready_in > 0.0)

    def idle_since(self, now: float) -> None:
        """Time in which the node had nothing to do says nothing about its speed."""
        if not self.flights:
            self._since = now
            self._done = 0

    def ended(self, flight: Flight, now: float) -> None:
        """A request was answered; the speed is learned from what was done since the last measurement."""
        self.flights.remove(flight)
        self.strikes = 0
        self._done += len(flight.items)
        if flight.cold:
            self.ready_in = 0.0
        seconds = now - self._since
        if seconds < 0.3 * (now - flight.sent):
            return  # it ran beside another one: both are measured with the next
        if not flight.cold:
            sample = self._done / max(seconds, 1e-6)
            self.speed = sample if self.speed is None else (1.0 - GAIN) * self.speed + GAIN * sample
        self._since = now
        self._done = 0

    def pause(self, now: float) -> None:
        """Nothing for a while: twice as long each time in a row."""
        self.strikes += 1
        self.paused_until = now + min(PAUSE_SECONDS * 2.0 ** min(self.strikes, 10), LONGEST_PAUSE)

    def believed(self, now: float) -> float | None:
        """The speed, or less while a request is behind what it foresees."""
        speed = self.speed
        if speed is None or not self.flights:
            return speed
        elapsed, count = self._at_work(now)
        return count / elapsed if self.behind(now) else speed

    def behind(self, now: float) -> bool:
        """Whether what it does now takes clearly longer than foreseen."""
        if self.speed is None:
            return True
        elapsed, count = self._at_work(now)
        return elapsed > SLACK * count / self.speed + SLACK_SECONDS

    def rest(self, place: int, now: float) -> float:
        """Seconds until the request at ``place`` is answered, as far as one can tell; for one that is late, as long again."""
        speed, flight = self.speed, self.flights[place]
        if speed is None:
            return now - flight.sent
        elapsed, count = self._at_work(now)
        ahead = sum([len(other.items) for other in self.flights[: max(place + 1, self.width)]])
        if self.behind(now):
            return elapsed * max(1.0, ahead / count)
        return max(ahead / speed - elapsed, 0.0)

    def _at_work(self, now: float) -> tuple[float, int]:
        """How long the node has been at what it does now, and how many items that are."""
        count = sum([len(flight.items) for flight in self.flights[: self.width]])
        return now - max(self._since, self.flights[0].sent), count
