"""How many requests a node runs at once. Ollama does not say it: it is learned from what replies waited inside the node.

`window` is how many may be there at a time: the believed number S, and one more while the ceiling is unknown or once per
`probe` finishes without a wait, to notice that there is room for more. Replies that do not tell their wait are judged in
phases: what the node gets done in a second with S there, and with one more.
"""

from __future__ import annotations

from .types import NodeKind

_STARTS = {NodeKind.OLLAMA: 2, NodeKind.VLLM: 64}
_MOST = 1024
_LAST_PROBE = 1024
_WORTH = 0.4
"""Share of an equal part of the throughput that one slot more must bring."""


class Slots:
    """Slots of one node. ``fixed`` (configured, or said by the node) wins over what is learned."""

    __slots__ = ("_phase", "_since", "_strikes", "fixed", "known", "probe", "size")

    def __init__(self, kind: NodeKind, configured: int | None = None) -> None:
        self.size = _STARTS.get(kind, 4)
        self.fixed = configured
        self.known = False
        self.probe = 16
        self._since = 0
        self._strikes = 0
        self._phase: _Phase | None = None

    @property
    def count(self) -> int:
        """The number believed, >= 1."""
        return self.fixed or self.size

    @property
    def told(self) -> bool:
        """Whether the number is configured, said by the node, or learned."""
        return self.fixed is not None or self.known

    @property
    def window(self) -> int:
        """How many requests may be at the runner now."""
        if self.fixed is not None:
            return self.fixed
        if self._phase is not None:
            return self.size + self._phase.extra
        if not self.known or self._since >= self.probe:
            return self.size + 1
        return self.size

    def sent(self, k: int) -> None:
        """A request was sent while ``k`` others were there."""
        if self.known and k + 1 > self.size:
            self._since = 0

    def waited(self, k: int, wait: float, run: float) -> None:
        """A native reply without a load: it had ``k`` others before it, waited ``wait`` s for a slot and ran ``run`` s."""
        self._phase = None
        level = k + 1
        if wait < 0.020 + 0.02 * run:
            self._since += 1
            if level >= self.size:
                self._strikes = 0
            if level > self.size:
                self._grow(level)
        elif wait > 0.050 + 0.05 * run:
            if level > self.size:
                self._ceiling()
            else:
                self._strikes += 1
                if self._strikes >= 2:
                    self.size = max(1, k)
                    self.known = True
                    self._strikes = 0

    def streaming(self, together: int) -> bool:
        """So many answers were under way at one time: there are at least as many slots. True when that is news."""
        if together <= self.size:
            return False
        self._strikes = 0
        self._grow(together)
        return True

    def flowed(self, work: float, here: int, now: float) -> None:
        """A reply without such counters ended at ``now``: ``work`` tokens (or requests), ``here`` requests until then.

        Only while as many are there as the window allows do two phases compare.
        """
        phase = self._phase
        if phase is None:
            phase = self._phase = _Phase(now)
        self._since += 1
        if here < self.window:
            phase.begin(now)
            return
        throughput = phase.add(work, now, least=max(8, 2 * self.window))
        if throughput is None:
            return
        if not phase.extra:
            phase.base = throughput
            phase.extra = 1 if not self.known or self._since >= self.probe else 0
        elif throughput >= phase.base * (1.0 + _WORTH / self.size):
            phase.wins += 1
            phase.extra = 0
            if phase.wins >= (2 if self.known else 1):
                self._grow(self.size + 1)
                phase.base = throughput
                phase.wins = 0
                phase.extra = 0 if self.known else 1
        else:
            phase.wins = phase.extra = 0
            self._ceiling()
        phase.begin(now)

    def _grow(self, level: int) -> None:
        self.size = min(level, _MOST)
        self.probe = 16

    def _ceiling(self) -> None:
        if self.known:
            self.probe = min(2 * self.probe, _LAST_PROBE)
        self.known = True
        self._since = 0


class _Phase:
    """A stretch of time in which a node was as full as its window allows."""

    __slots__ = ("_count", "_since", "_work", "base", "extra", "wins")

    def __init__(self, now: float) -> None:
        self.extra = 0
        self.base = 0.0
        self.wins = 0
        self.begin(now)

    def begin(self, now: float) -> None:
        self._since = now
        self._work = 0.0
        self._count = 0

    def add(self, work: float, now: float, least: int) -> float | None:
        """Count one reply; the throughput once there are ``least`` of them."""
        self._count += 1
        self._work += work
        if self._count < least or now <= self._since:
            return None
        return self._work / (now - self._since)
