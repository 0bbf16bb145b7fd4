"""How many requests a node runs at once. Ollama does not say it: it is learned from what replies waited inside the node.

`window` is how many may be there at a time: the believed number S, and one more while the ceiling is unknown or once per
`probe` finishes without a wait, to notice that there is room for more.
"""

from __future__ import annotations

from .types import NodeKind

_STARTS = {NodeKind.OLLAMA: 2, NodeKind.VLLM: 64}
_MOST = 1024


class Slots:
    """Slots of one node. ``fixed`` (configured, or said by the node) wins over what is learned."""

    __slots__ = ("_levels", "_since", "_strikes", "fixed", "known", "most", "probe", "size")

    def __init__(self, kind: NodeKind, configured: int | None = None) -> None:
        self.size = _STARTS.get(kind, 4)
        self.fixed = configured
        self.known = False
        self.most = _MOST
        self.probe = 16
        self._since = 0
        self._strikes = 0
        self._levels: dict[int, tuple[float, int]] = {}

    @property
    def count(self) -> int:
        """The number believed, >= 1."""
        return self.fixed or self.size

    @property
    def window(self) -> int:
        """How many requests may be at the runner now."""
        if self.fixed is not None:
            return self.fixed
        if not self.known or self._since >= self.probe:
            return self.size + 1
        return self.size

    def sent(self, k: int) -> None:
        """A request was sent while ``k`` others were there."""
        if self.known and k + 1 > self.size:
            self._since = 0

    def waited(self, k: int, wait: float, run: float) -> None:
        """A native reply without a load: it had ``k`` others before it, waited ``wait`` s for a slot and ran ``run`` s."""
        level = k + 1
        if wait < 0.020 + 0.02 * run:
            self._since += 1
            if level >= self.size:
                self._strikes = 0
            if level > self.size:
                self.size = min(level, self.most)
                self.probe = 16
        elif wait > 0.050 + 0.05 * run:
            if level > self.size:
                self._ceiling()
            else:
                self._strikes += 1
                if self._strikes >= 2:
                    self.size = max(1, k)
                    self.known = True
                    self._strikes = 0

    def flowed(self, level: int, rate: float) -> None:
        """A reply without such counters: ``level`` requests ran side by side, each getting ``rate`` (tokens or requests per s).

        One more slot is worth having while it brings at least 0.3 of what an equal share would.
        """
        old, count = self._levels.get(level, (rate, 0))
        self._levels[level] = (old + (rate - old) * max(0.2, 1.0 / (count + 1)), count + 1)
        if len(self._levels) > 8:
            del self._levels[min(self._levels, key=lambda known: (-abs(known - self.size), known))]
        self._since += 1
        size = self.size
        if level <= size or self._levels[level][1] < 3:
            return
        below = [known for known in self._levels if known <= size]
        if not below:
            self.size = min(level, self.most)  # nothing to compare with: the node was never less busy
            return
        base = max(below)
        gained = level * self._levels[level][0] / (base * self._levels[base][0]) - 1.0
        if gained >= 0.3 * (level - base) / base:
            self.size = min(level, self.most)
            self.probe = 16
        else:
            del self._levels[level]  # measured anew at the next probe
            self._ceiling()

    def _ceiling(self) -> None:
        if self.known:
            self.probe = min(2 * self.probe, 1024)
        self.known = True
        self._since = 0
