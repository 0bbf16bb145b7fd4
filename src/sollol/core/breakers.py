"""When every node that could serve a request is behind an open breaker, one is tried rather than none."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from .gates import USABLE, cannot
from .line import Line
from .node import NodeState
from .routing import Term
from .types import Health
from .waiting import LOOKED_AT, Group, Waiting

_THERE = USABLE | {Health.OPEN}


def who_goes(line: Line, group: Group, passed: AbstractSet[str], now: float) -> tuple[Waiting, Term] | None:
    """The first request of ``group`` for which only nodes with an open breaker are left, and the idle one of them due first.

    Nodes that are down, or drained, are not there: no breaker may keep a request waiting for one of them. ``passed`` are the
    ids of nodes that got their one request in this round.
    """
    able = [term for term in group.terms if term.node.health.at(now) in _THERE and not cannot(term.node, group.key)]
    sound = [term for term in able if not _behind_breaker(term.node, now)]
    idle = [term for term in able if _behind_breaker(term.node, now) and not term.node.running and term.node_id not in passed]
    if not idle:
        return None
    entries = [entry for entry in line.picky if entry.group is group] if sound else group.waiting[:LOOKED_AT]
    for term in sorted(idle, key=lambda term: (term.node.health.retry_at, term.node.index)):
        for entry in entries:
            if not entry.avoids(term.node) and all(entry.avoids(other.node) for other in sound):
                return entry, term
    return None


def _behind_breaker(node: NodeState, now: float) -> bool:
    """Whether only its breaker keeps a node out: open, or half-open with its one request under way."""
    health = node.health.at(now)
    return health is Health.OPEN or (health is Health.HALF_OPEN and bool(node.running))
