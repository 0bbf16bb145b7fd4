"""Which groups of waiting requests an event can affect, so that the work of an event does not grow with what waits.

Nodes are compared with what they were when they were last compared: one look costs a step a node, and a few more for each node
that an event touched. A group is woken when one of its nodes may have more room for it than before.
"""

from __future__ import annotations

from collections.abc import Iterable

from .line import Line
from .node import NodeState
from .state import ClusterState
from .types import Health
from .waiting import Group

_SOUND = frozenset({Health.UP, Health.UNKNOWN})


class _Seen:
    """What a node was like when it was last compared. ``runners``: requests there and the model to leave for, by model."""

    __slots__ = ("busy", "health", "loading", "node", "runners", "slow", "version", "window")

    def __init__(self, node: NodeState) -> None:
        self.node = node
        self.version = -1
        self.take()

    def take(self) -> None:
        """Remember the node as it is now."""
        node = self.node
        self.version = node.version
        self.health = node.health.state
        self.slow = node.slow.value
        self.window = node.slots.window
        self.busy = len(node.running)
        self.runners = {model: (runner.running, runner.leaving_for) for model, runner in node.runners.items()}
        self.loading = sum([runner.loading for runner in node.runners.values()])


class Rooms:
    """Watches all nodes for the groups of one `Line`."""

    __slots__ = ("_layout", "_open", "_seen", "_state")

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._layout = -1
        self._seen: dict[str, _Seen] = {}
        self._open: dict[NodeState, float] = {}

    def look(self, line: Line, now: float) -> None:
        """Wake the groups that have more room than at the last look, and mark the terms that must be worked out anew."""
        state = self._state
        if self._layout != state.layout:
            self._layout = state.layout
            self._seen = {node.id: _Seen(node) for node in state.known.values()}
            self._open.clear()
            for seen in self._seen.values():
                self._note_breaker(seen)
            for group in line.active.values():
                group.awake = True
        else:
            for seen in self._seen.values():
                if seen.version != seen.node.version:
                    self._changed(seen, line)
        if self._open:
            self._due(line, now)

    def given(self, node: str, model: str) -> None:
        """A slot was handed out: when the request in it ends before the next look, there is more room all the same."""
        seen = self._seen[node]
        seen.busy += 1
        running, leaving_for = seen.runners.get(model, (0, ""))
        seen.runners[model] = (running + 1, leaving_for)

    def _changed(self, seen: _Seen, line: Line) -> None:
        node = seen.node
        health, slow, window, busy, loading = seen.health, seen.slow, seen.window, seen.busy, seen.loading
        before = seen.runners
        seen.take()
        if health is not seen.health:
            self._note_breaker(seen)
        roomier = seen.busy < busy
        if (
            health is not seen.health
            or seen.health not in _SOUND
            or slow != seen.slow
            or window != seen.window
            or loading > seen.loading
            or len(before) > len(seen.runners)
            or (seen.busy != busy and node.shares_slots())
        ):
            _mark(node, line.active.values())
            return
        if roomier:
            _mark(node, line.models.get("", ()))
        now = seen.runners
        for model in before.keys() | now.keys():
            was, runs = before.get(model, (0, "")), now.get(model, (0, ""))
            if was != runs or (model in before) is not (model in now):
                _mark(node, line.models.get(model, ()))

    def _note_breaker(self, seen: _Seen) -> None:
        if seen.health is Health.OPEN:
            self._open[seen.node] = seen.node.health.retry_at
        else:
            self._open.pop(seen.node, None)

    def _due(self, line: Line, now: float) -> None:
        """An interval of a breaker that is over is news that no event tells."""
        for node in [node for node, due in self._open.items() if due <= now]:
            del self._open[node]
            _mark(node, line.active.values())


def _mark(node: NodeState, groups: Iterable[Group]) -> None:
    for group in groups:
        term = group.by_node.get(node.id)
        if term is not None:
            term.version = -1
            group.awake = True
