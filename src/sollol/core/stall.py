"""Which running requests are stuck: a slow machine is not, and one that loads its model is not either."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from msgspec import Struct

from .node import ALWAYS_RESIDENT, NodeState, Running
from .state import ClusterState
from .types import Kind, Task

QUIET: Final = 8.0
"""Seconds without a token that are always allowed."""
GAPS: Final = 20.0
FIRST: Final = 16.0
PREFILL_TOKENS: Final = 512.0
MOST_TOKENS: Final = 8192
UNLEARNED: Final = 4.0
WHOLE: Final = 4.0
"""So many times the time foreseen is given to a reply in one piece, of which nobody can see whether it is being made."""
CONFIRM_SECONDS: Final = 2.0
LATE_SECONDS: Final = 3.0
_THINKING: Final = frozenset({"thinking"})


class Watched(Struct, frozen=True):
    """How an attempt is carried: ``streamed`` from the node or in one piece; ``paused`` because its client reads slowly."""

    streamed: bool
    paused: bool


class Stalled(Struct, frozen=True):
    """An attempt that makes no progress."""

    node: str
    task: Task
    text: str


class StallWatch:
    """Looks at all attempts about once a second; time is an argument. Remembers only what excuses those that run.

    ``ask`` is called with the id of a node that should be looked at: nothing is counted before a first token until the node
    itself has said, after the request was sent, that the model is loaded.
    """

    def __init__(self, ask: Callable[[str], None]) -> None:
        self._ask = ask
        self._since: dict[int, float] = {}
        self._worked: dict[str, float] = {}
        # When a stream was found stuck there.
        self._stuck: dict[str, float] = {}
        self._looked: float | None = None

    def worked(self, node: str, now: float) -> None:
        """A request was answered there."""
        self._worked[node] = now

    def look(self, state: ClusterState, now: float, carried: Callable[[str, int], Watched | None]) -> list[Stalled]:
        """The attempts that are stuck at ``now``; ``carried`` tells of one by node and task id, None for one to pass over."""
        late = self._looked is not None and now - self._looked > LATE_SECONDS
        self._looked = now
        kept: dict[int, float] = {}
        stalled: list[Stalled] = []
        for node in state.known.values():
            for run in node.running.values():
                how = carried(node.id, run.task.id)
                if how is None or run.task.load_only:
                    continue
                # Our own loop stood still, or the client does not read: what came from the node has not been looked at.
                excused = late or how.paused
                since = now if excused else self._counted_from(node, run, how.streamed, now)
                if since is not None:
                    kept[run.task.id] = since
                    if now - since > QUIET:
                        what, allowed = self._limit(state, node, run, how.streamed, now)
                        if now - since > allowed:
                            stalled.append(Stalled(node.id, run.task, f"{what} for {now - since:.0f} s"))
                            if how.streamed:
                                self._stuck[node.id] = now
        self._since = kept
        return stalled

    def _limit(self, state: ClusterState, node: NodeState, run: Running, streamed: bool, now: float) -> tuple[str, float]:
        """What is missing, and how many seconds without it are allowed."""
        if not streamed or not (run.task.plain or run.task.needs == _THINKING):
            # A node that stands still for streams, and has done nothing since, does no better where nobody can see it.
            stuck = node.id in self._stuck and self._stuck[node.id] > self._worked.get(node.id, -inf)
            return "no answer", whole_allowed(state, node, run, now, 1.0 if stuck else WHOLE)
        if run.progress.first_at is not None:
            return "no token", quiet_allowed(state, node, run, now)
        prefill, _, _ = _rates(state, node, run.task.model, now)  # what was foreseen may have been a guess, and far too little
        read = max(run.prefill, (run.prompt - run.cached) / prefill)
        return "no first token", run.wait + 4.0 * read * _slowed(node, run) + FIRST

    def _counted_from(self, node: NodeState, run: Running, streamed: bool, now: float) -> float | None:
        """Since when silence counts, None while it does not: the last token, or when the node was seen to have the model."""
        since = self._since.get(run.task.id)
        if since is not None and since < run.started:
            since = None  # that was another attempt of the request, on the node before
        progress = run.progress
        if progress.first_at is not None:
            last = progress.last_at or progress.first_at
            return last if since is None or since < last else since
        if run.runner.loading or node.loading:
            return None
        if since is None:
            since = _confirmed(node, run, now)
            if since is None:
                if now - max(node.health.looked_at, run.started) > CONFIRM_SECONDS:
                    self._ask(node.id)
                return None
        if streamed:
            return now if _served_before(node, run, now) else since
        return max(since, self._worked.get(node.id, since))


def _confirmed(node: NodeState, run: Running, now: float) -> float | None:
    """Since when the node is known to have the model loaded for ``run``."""
    if node.kind in ALWAYS_RESIDENT:
        return run.started
    if node.health.looked_at < run.started:
        return None
    known = node.models.get(run.task.model)
    digest = known.digest if known is not None else ""
    there = any(one.name == run.task.model or (digest and one.digest == digest) for one in node.resident)
    return now if there else None


def _served_before(node: NodeState, run: Running, now: float) -> bool:
    """Whether requests that were there before make progress: it may wait for their slots inside the node."""
    return run.k > 0 and any(
        other.started <= run.started and other.progress.last_at is not None and now - other.progress.last_at < QUIET
        for other in node.running.values()
        if other is not run
    )


def _slowed(node: NodeState, run: Running) -> float:
    """How much the others there slow ``run`` down."""
    return 1.0 + node.contention(run.task.model) * max(0, node.at_work() - 1)


def quiet_allowed(state: ClusterState, node: NodeState, run: Running, now: float) -> float:
    """Seconds without a token that are allowed while ``run`` is being answered."""
    progress, model = run.progress, run.task.model
    _, decode, _ = _rates(state, node, model, now)
    gap = _slowed(node, run) / decode
    if progress.tokens > 1 and progress.first_at is not None and progress.last_at is not None:
        gap = max(gap, (progress.last_at - progress.first_at) / (progress.tokens - 1))
    allowed = max(QUIET, GAPS * gap)
    for other in node.running.values():
        if other is not run and other.progress.first_at is None:
            prefill, _, _ = _rates(state, node, other.task.model, now)
            allowed = max(allowed, 2.0 * PREFILL_TOKENS / prefill)
    return allowed


def whole_allowed(state: ClusterState, node: NodeState, run: Running, now: float, times: float = WHOLE) -> float:
    """Seconds that are allowed for a reply in one piece, ``times`` what is foreseen; endless while anything else there makes
    progress.
    """
    for other in node.running.values():
        at = other.progress.last_at or other.progress.first_at
        if other is not run and at is not None and now - at < QUIET:
            return inf
    task = run.task
    prefill, decode, learned = _rates(state, node, task.model, now)
    most = 0.0 if task.kind is Kind.EMBED else _most_tokens(node, run)
    work = _slowed(node, run) * (run.prompt / prefill + most / decode)
    return run.wait + FIRST + times * work * (1.0 if learned else UNLEARNED)


def _most_tokens(node: NodeState, run: Running) -> float:
    """The most tokens that the request may make."""
    limit = run.task.max_tokens
    if limit is not None:
        return float(min(limit, MOST_TOKENS))
    known = node.models.get(run.task.model)
    context = run.runner.context or (known.context_length if known is not None else None)
    return float(min(MOST_TOKENS, max(1, context - run.prompt))) if context else float(MOST_TOKENS)


def _rates(state: ClusterState, node: NodeState, model: str, now: float) -> tuple[float, float, bool]:
    """Tokens per second of prefill and decoding there, and whether they were learned."""
    rates = node.rates.get(model)
    if rates is not None and rates.decode is not None:
        decode = rates.decode.rate(now)
        return ((rates.prefill.rate(now) if rates.prefill is not None else 25.0 * decode), decode, True)
    prefill, decode = state.unseen_rates(node, model, now)
    return prefill, decode, False
