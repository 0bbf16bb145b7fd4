"""Health of a node as one table of transitions: probes, real work and a circuit breaker.

`down` is what a probe closes; `open` (errors behind a good probe) only real work closes. Time and chance are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from .estimates import Success
from .types import Health

FAILURES = 5
"""Failures in a row that open the breaker."""


class Signal(Enum):
    """What can happen to the health of a node."""

    SEEN = "a probe was answered"
    REFUSED = "a probe or an attempt was refused, or found no route"
    SILENT = "a probe was not answered in time and nothing there makes progress"
    WORKED = "real work succeeded"
    FAILED = "real work failed"
    DUE = "the interval of the open breaker is over and a request is let through"


def open_seconds(openings: int, jitter: float) -> float:
    """How long the breaker stays open the ``openings``-th time (from 1): 5 s doubling to 60 s, ±10 % by ``jitter`` (0–1)."""
    return min(60.0, 5.0 * 2.0 ** (min(openings, 5) - 1)) * (0.9 + jitter / 5.0)


class NodeHealth:
    """State of one node. ``since`` is when it last changed; ``retry_at`` when an open breaker lets one request through."""

    __slots__ = (
        "_looked",
        "_state",
        "cut_at",
        "draining",
        "failures",
        "last_error",
        "openings",
        "retry_at",
        "returned_at",
        "silent",
        "since",
        "success",
        "urgent",
    )

    def __init__(self) -> None:
        self._state = Health.UNKNOWN
        self._looked: float | None = None
        self.draining = False
        self.since = 0.0
        self.retry_at = 0.0
        self.returned_at = -1.0
        self.cut_at = float("-inf")
        self.failures = 0
        self.openings = 0
        self.silent = 0
        self.urgent = False
        self.last_error = ""
        self.success = Success()

    @property
    def state(self) -> Health:
        """What people are shown. A node that is being drained and is down is down."""
        return Health.DRAINING if self.draining and self._state is not Health.DOWN else self._state

    def at(self, now: float) -> Health:
        """As `state`, with an open breaker whose interval is over taken as half-open."""
        state = self._state
        if self.draining:
            return self.state
        return Health.HALF_OPEN if state is Health.OPEN and now >= self.retry_at else state

    def on(self, signal: Signal, now: float, jitter: float = 0.5) -> bool:
        """Take ``signal`` in; True when the state changed."""
        before = self._state
        if before is Health.OPEN and now >= self.retry_at:
            before = Health.HALF_OPEN
        self._count(signal)
        step = _TABLE.get((before, signal))
        after = before if step is None else step(self)
        if after is Health.OPEN and before is not Health.OPEN:
            self.openings += 1
            self.retry_at = now + open_seconds(self.openings, jitter)
        if before is Health.DOWN and after is not Health.DOWN:
            self.returned_at = now
        changed = after is not self._state
        if changed:
            self._state = after
            self.since = now
        return changed

    def _count(self, signal: Signal) -> None:
        if signal is Signal.WORKED:
            self.failures = self.openings = self.silent = 0
        elif signal is Signal.FAILED:
            self.failures += 1
        elif signal is Signal.SEEN:
            self.silent = 0
        elif signal is Signal.SILENT:
            self.silent += 1

    def withdraw(self, now: float) -> bool:
        """The last failure was the request's own fault; True when that closes the breaker."""
        self.success.withdraw(now)
        self.failures = max(0, self.failures - 1)
        if self._state is Health.OPEN and self.openings <= 1 and self.failures < FAILURES:
            self.openings = 0
            self._state = Health.UP
            self.since = now
            return True
        return False

    def failure_rate(self, now: float) -> float:
        """Learned share of attempts that fail there, 0–1."""
        return 1.0 - self.success.rate(now)

    @property
    def steady(self) -> bool:
        """Up with nothing counted against it: one more success changes nothing."""
        return self._state is Health.UP and not (self.failures or self.openings or self.silent)

    @property
    def looked_at(self) -> float:
        """When the node was last looked at, on the engine's clock; -inf before."""
        return float("-inf") if self._looked is None else self._looked

    @property
    def looks(self) -> bool:
        """Whether the node was looked at, well or badly."""
        return self._looked is not None

    def looked(self, now: float) -> None:
        """A look at the node ended, well or badly."""
        self._looked = now
        self.urgent = False

    def probe_interval(self, now: float, overdue: bool = False) -> float:
        """Seconds between looks: 60/30/15/5 by failure rate, 5 while a request there is overdue, 1 while it is down."""
        if self._state is Health.DOWN or self.silent or self.urgent:
            return 1.0
        rate = self.failure_rate(now)
        if rate > 0.15 or overdue or self._state is Health.UNKNOWN:
            return 5.0
        return 60.0 if rate < 0.01 else 30.0 if rate < 0.05 else 15.0

    def probe_at(self, now: float, overdue: bool = False) -> float:
        """When the next look is due; at once for a node that was never looked at."""
        return now if self._looked is None else self._looked + self.probe_interval(now, overdue)


def _stays(state: Health) -> Callable[[NodeHealth], Health]:
    return lambda _: state


def _broken(state: Health) -> Callable[[NodeHealth], Health]:
    return lambda health: Health.OPEN if health.failures >= FAILURES else state


def _silent(state: Health) -> Callable[[NodeHealth], Health]:
    return lambda health: Health.DOWN if health.silent >= 2 else state


def _back(health: NodeHealth) -> Health:
    """A node that comes back with its breaker still counting must first do one piece of real work."""
    return Health.HALF_OPEN if health.openings else Health.UP


_DOWN = _stays(Health.DOWN)
_UP = _stays(Health.UP)
_TABLE: dict[tuple[Health, Signal], Callable[[NodeHealth], Health]] = {
    (Health.UNKNOWN, Signal.SEEN): _UP,
    (Health.UNKNOWN, Signal.REFUSED): _DOWN,
    (Health.UNKNOWN, Signal.SILENT): _silent(Health.UNKNOWN),
    (Health.UNKNOWN, Signal.WORKED): _UP,
    (Health.UNKNOWN, Signal.FAILED): _broken(Health.UNKNOWN),
    (Health.UP, Signal.REFUSED): _DOWN,
    (Health.UP, Signal.SILENT): _silent(Health.UP),
    (Health.UP, Signal.FAILED): _broken(Health.UP),
    (Health.DOWN, Signal.SEEN): _back,
    (Health.DOWN, Signal.WORKED): _UP,
    (Health.OPEN, Signal.REFUSED): _DOWN,
    (Health.OPEN, Signal.SILENT): _silent(Health.OPEN),
    (Health.OPEN, Signal.WORKED): _UP,
    (Health.HALF_OPEN, Signal.REFUSED): _DOWN,
    (Health.HALF_OPEN, Signal.SILENT): _silent(Health.HALF_OPEN),
    (Health.HALF_OPEN, Signal.WORKED): _UP,
    (Health.HALF_OPEN, Signal.FAILED): _stays(Health.OPEN),
}
