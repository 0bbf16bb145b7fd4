"""Running one request on two nodes and taking the first answer: which requests may, and how much of that is affordable."""

from __future__ import annotations

from collections import deque
from typing import Final

from .node import NodeState
from .types import Health, Kind, Priority, Task

SMALL_CHARS: Final = 8_000
SMALL_INPUTS: Final = 16
SHARE: Final = 0.05
"""The part of all work that second runs may take."""
WINDOW: Final = 60.0
LEAST: Final = 4
"""Second runs that are allowed in each window however little else is done: where nodes are idle, nobody pays for them."""
LATE_FACTOR, LATE_SECONDS = 3.0, 2.0


def may_race(task: Task) -> bool:
    """Whether a request is small, and nothing but an answer is wanted of it: plain text or vectors."""
    if task.pin is not None or task.load_only or task.prompt.chars > SMALL_CHARS:
        return False
    return task.plain or (task.kind is Kind.EMBED and task.inputs <= SMALL_INPUTS)


def patience(task: Task, prefill: float, decode: float) -> float:
    """Seconds after which a second run begins: at once where it was asked for or is urgent, else when the first is late.

    ``prefill`` and ``decode`` are the seconds foreseen for the first run; a document comes when all of it is there.
    """
    if task.hedge is not None or task.priority >= Priority.URGENT:
        return 0.0
    return max(LATE_SECONDS, LATE_FACTOR * (prefill if task.stream else prefill + decode))


def idle_for(node: NodeState, task: Task, now: float) -> bool:
    """Whether a slot stands idle there with the model loaded, by what is believed and not by what is tried out."""
    if node.state is not Health.UP:
        return False
    runner = node.runner(task.model, now)
    if runner is None or runner.loading or runner.leaving_for or not node.suits(runner, task.num_ctx):
        return False
    return node.at_runner(task.model) < (1 if node.serial(task.kind, task.model) else node.slots.count)


class RaceBudget:
    """Keeps second runs under 5 % of the work of the last minute; four in a minute are always allowed.

    Work is in seconds of requests on nodes, counted from any beginning.
    """

    def __init__(self, now: float = 0.0, work: float = 0.0) -> None:
        self._work = deque([(now, work)])
        self._races: deque[tuple[float, float]] = deque()

    def take(self, now: float, work: float, seconds: float) -> bool:
        """Whether a second run of about ``seconds`` may begin, with ``work`` done by all nodes until now; counts it if so."""
        while self._races and self._races[0][0] <= now - WINDOW:
            self._races.popleft()
        while len(self._work) > 1 and self._work[1][0] <= now - WINDOW:
            self._work.popleft()
        at, before = self._work[0]
        done = max(0.0, work - before) * min(1.0, WINDOW / (now - at) if now > at else 1.0)
        self._work.append((now, work))
        spent = sum([taken for _, taken in self._races], 0.0)
        if len(self._races) >= LEAST and spent + seconds > SHARE * done:
            return False
        self._races.append((now, seconds))
        return True
