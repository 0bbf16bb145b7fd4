"""In a large cluster: the few nodes worth a closer look for one of many alike requests, kept in order through one round.

Every node is ranked exactly for the first request of a group. The others of about its size then wait for the best busy node
as long as that beats the best free one, at the price of one step in a heap; who is to be sent looks at the best free nodes,
the best busy ones and all that hold a prefix of it.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace, nsmallest

from .routing import Load, Term, best, seconds

NEAR = 8
SMALL = 2 * NEAR
"""With so many nodes everything is ranked for everyone."""

_Ranked = list[tuple[float, int, Term]]


class Shortlist:
    """Open nodes of one group, ranked for ``load`` (of a typical request). Entries of the heaps that are outdated stay in."""

    __slots__ = ("_busy", "_current", "_free", "_load", "_now", "_places", "_weight")

    def __init__(self, load: Load, terms: list[Term], now: float, wait_weight: float) -> None:
        costs, _, _ = best(load, terms, now, wait_weight, reliable=False)
        self._load = load
        self._now = now
        self._weight = wait_weight
        self._places = {term.node_id: place for place, term in enumerate(terms)}
        self._current = costs
        self._free: _Ranked = [(costs[place], place, term) for place, term in enumerate(terms) if term.free > 0]
        self._busy: _Ranked = [(costs[place], place, term) for place, term in enumerate(terms) if term.free <= 0]
        heapify(self._free)
        heapify(self._busy)

    def waits(self) -> bool:
        """True when one more typical request waits for a busy node rather than take the best free one; reserves its slot."""
        self._clean(self._free)
        self._clean(self._busy)
        if not self._busy or (self._free and self._free[0] <= self._busy[0]):
            return False
        _, place, term = self._busy[0]
        term.reserve(self._load.run(term), self._now)
        cost = self._current[place] = seconds(self._load, term, self._now, self._weight, reliable=False)
        heapreplace(self._busy, (cost, place, term))
        return True

    def near(self, load: Load) -> list[Term]:
        """Terms worth looking at for ``load``, in the order of nodes."""
        chosen: dict[int, Term] = {}
        for ranked in (self._free, self._busy):
            for entry in nsmallest(NEAR, ranked) if len(ranked) > NEAR else ranked:
                chosen[entry[1]] = entry[2]
        if load.prefixes is not None:
            for entry in (*self._free, *self._busy):
                if entry[2].node_id in load.prefixes:
                    chosen[entry[1]] = entry[2]
        return [chosen[place] for place in sorted(chosen)]

    def moved(self, term: Term) -> None:
        """Slots or reservations of ``term`` changed."""
        place = self._places[term.node_id]
        cost = self._current[place] = seconds(self._load, term, self._now, self._weight, reliable=False)
        heappush(self._free if term.free > 0 else self._busy, (cost, place, term))

    def _clean(self, ranked: _Ranked) -> None:
        free = ranked is self._free
        while ranked and (ranked[0][0] != self._current[ranked[0][1]] or (ranked[0][2].free > 0) is not free):
            heappop(ranked)
