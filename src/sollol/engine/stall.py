"""One timer for all attempts: those that make no progress are ended, so that another node gets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from sollol.core.events import NodeSlow
from sollol.core.stall import Stalled, StallWatch, Watched
from sollol.core.state import SILENT
from sollol.engine.engine import Engine
from sollol.errors import NodeError, NodeSilent

TICK_SECONDS: Final = 1.0


class Carried(Protocol):
    """An attempt, as far as the watch has to know it."""

    @property
    def watched(self) -> Watched: ...
    def fail(self, error: NodeError) -> None: ...


class Stalls:
    """``running`` holds the attempts by node and task id. ``idle`` is true while nothing is looked at: call `begin` then."""

    def __init__(self, engine: Engine, running: Mapping[str, Mapping[int, Carried]], look: Callable[[str], None]) -> None:
        self._engine = engine
        self._running = running
        self._watch = StallWatch(look)
        self.worked = self._watch.worked
        self.idle = True

    def begin(self) -> None:
        """Look at what runs once a second, until nothing does."""
        self.idle = False
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self.idle = True
        now = self._engine.clock.now()
        for stalled in self._watch.look(self._engine.state, now, self._carried):
            self._end(stalled, now)
        if any(self._running.values()):
            self.begin()

    def _carried(self, node: str, task: int) -> Watched | None:
        attempt = self._running[node].get(task) if node in self._running else None
        return None if attempt is None else attempt.watched

    def _end(self, stalled: Stalled, now: float) -> None:
        """Give the attempt up, unless no other node could take the request."""
        engine, node, task = self._engine, stalled.node, stalled.task
        attempt = self._running[node].get(task.id)
        if attempt is None or not engine.scheduler.usable(task, now, frozenset({node})):
            return
        engine.publish(NodeSlow(now, node, SILENT))
        attempt.fail(NodeSilent(node, stalled.text))
