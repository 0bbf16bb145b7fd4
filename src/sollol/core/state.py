"""Everything that is believed about the cluster, changed only by `ClusterState.apply(event)`.

One loop owns it, so there are no locks. Views are read-only by convention of the types (`Mapping`), never copied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from . import events as ev
from . import node_events, work_events
from .digests import Digests, barred
from .estimates import ANSWER_TOKENS, CHARS_PER_TOKEN, IMAGE_TOKENS, Mean, ModelStats, Recent, scaled_prior
from .learning import crowd
from .mirror import Mirror
from .node import NodeState, Running
from .types import Health, Kind, Task
from .work_events import Settlement

BEHIND = 1.5
"""How far behind its forecast a running request must be for the verdict that its node is slow."""
SILENT = 20.0
"""The most that a request without any token says about its node."""


class ClusterState:
    """Nodes, runners, attempts and learned figures. ``jitter`` gives numbers in [0, 1) for the intervals of the breaker.

    ``nodes`` are all known ones by id, in the order they became known, to read. ``layout`` changes when nodes, or the models
    that they have, change; ``settled`` is emptied by the scheduler.
    """

    def __init__(self, jitter: Callable[[], float] = lambda: 0.5) -> None:
        self.known: dict[str, NodeState] = {}
        self.nodes: Mapping[str, NodeState] = MappingProxyType(self.known)
        self.jitter = jitter
        self.made = 0
        self.digests = Digests.ONE
        self.layout = 0
        self.health_changes: list[ev.HealthChanged] = []
        self.models: Recent[str, ModelStats] = Recent(4096)
        self.answers: Recent[tuple[str, str, str], Mean] = Recent(10_000)
        self.mirror = Mirror()
        self.settled: deque[Settlement] = deque(maxlen=10_000)
        self._best: dict[tuple[bool, str], tuple[float, tuple[float, float] | None]] = {}
        self._apply: dict[type[ev.Event], Callable[[ClusterState, Any], None]] = {
            ev.NodeAdded: node_events.added,
            ev.NodeChanged: node_events.changed,
            ev.NodeRemoved: node_events.removed,
            ev.NodeSurveyed: node_events.surveyed,
            ev.ProbeFailed: node_events.probe_failed,
            ev.ModelLearned: node_events.model_learned,
            ev.NodeSlow: node_events.slow,
            ev.TaskArrived: work_events.arrived,
            ev.AttemptStarted: work_events.started,
            ev.FirstToken: work_events.first_token,
            ev.AttemptEnded: work_events.ended,
            ev.FailureWithdrawn: work_events.withdrawn,
            ev.Unloaded: work_events.unloaded,
            ev.TaskEnded: work_events.task_ended,
        }

    def apply(self, event: ev.Event) -> list[ev.HealthChanged]:
        """Take one event in; events that change nothing here are ignored. Returns the changes of health to publish next."""
        handler = self._apply.get(type(event))
        if handler is not None:
            handler(self, event)
            if self.health_changes:
                changes, self.health_changes = self.health_changes, []
                return changes
        return []

    def note_health(self, node: NodeState, before: Health, at: float, reason: str) -> None:
        """Called by whatever may have changed the health of a node."""
        after = node.health.state
        if after is not before:
            self.health_changes.append(ev.HealthChanged(at, node.id, before, after, reason))

    def take_digests(self, rule: Digests) -> None:
        """What is done from now on where one name stands for different models."""
        self.digests = rule
        self.bar()

    def bar(self) -> None:
        """Look anew which nodes may not be used for which of their models; called when models, or who is down, changed."""
        out = barred(self.nodes, self.digests)
        for node in self.known.values():
            kept = out.get(node.id, {})
            if kept != node.barred:
                node.barred = kept
                node.version += 1

    # --- views

    def holders(self, model: str) -> list[NodeState]:
        """Nodes that list ``model``, whatever their state."""
        return [node for node in self.known.values() if model in node.models]

    def attempt(self, node: str, task: Task) -> Running | None:
        """The attempt of ``task`` that runs on ``node``, with what was foreseen for it."""
        known = self.known.get(node)
        return known.running.get(task.id) if known is not None else None

    def prompt_tokens(self, task: Task) -> float:
        """Tokens of the prompt, from its characters and pictures."""
        prompt = task.prompt
        stats = self.models.get(task.model)
        if stats is None:
            return prompt.chars / CHARS_PER_TOKEN + prompt.images * IMAGE_TOKENS
        return prompt.chars / stats.chars_per_token + prompt.images * stats.image_tokens

    def answer_tokens(self, task: Task) -> float:
        """Tokens planned for the answer: the mean of this client's (else everybody's) answers, at most its limit."""
        if task.load_only or task.kind is Kind.EMBED or task.kind is Kind.OTHER:
            return 0.0
        mean = self.answers.get((task.client, task.app, task.model))
        if mean is None:
            stats = self.models.get(task.model)
            mean = stats.answer if stats is not None else None
        tokens = mean.value if mean is not None and mean.count else ANSWER_TOKENS
        limit = task.max_tokens
        return float(limit) if limit is not None and 0 < limit < tokens else tokens

    def unseen_rates(self, node: NodeState, model: str, now: float) -> tuple[float, float]:
        """Prefill and decode rates for a pair never seen: other models there by size, else the best node of its class."""
        size = node.size(model)
        near: tuple[float, float, float] | None = None
        for known in node.rates.values():
            if known.decode is not None and (near is None or known.decode.at > near[2]):
                decode = known.decode.rate(now)
                prefill = known.prefill.rate(now) if known.prefill is not None else 25.0 * decode
                near = (prefill * known.size / size, decode * known.size / size, known.decode.at)
        if near is not None:
            return near[0], near[1]
        return self._class_best(node.gpu, model, size, now) or scaled_prior(node.gpu, size)

    def _class_best(self, gpu: bool, model: str, size: float, now: float) -> tuple[float, float] | None:
        """Rates of the fastest node of a class: for this model where one has it, else of any model by size. Kept for 1 s."""
        memo = self._best.get((gpu, model))
        if memo is not None and memo[0] > now:
            return memo[1]
        best: tuple[bool, float, float] | None = None
        for node in self.known.values():
            if node.gpu is not gpu:
                continue
            for name, known in node.rates.items():
                if known.decode is None:
                    continue
                decode = known.decode.rate(now)
                prefill = known.prefill.rate(now) if known.prefill is not None else 25.0 * decode
                scale = known.size / size
                found = (name == model, decode * scale, prefill * scale)
                if best is None or found > best:
                    best = found
        answer = None if best is None else (best[2], best[1])
        if len(self._best) >= 4096:
            self._best.clear()
        self._best[gpu, model] = (now + 1.0, answer)
        return answer

    def behind(self, now: float) -> list[ev.NodeSlow]:
        """Verdicts to publish, at most one a node: running requests far behind their forecast, by learned rates only."""
        verdicts = []
        for node in self.known.values():
            worst = BEHIND
            for run in node.running.values():
                worst = max(worst, _lag(node, run, now))
            if worst > BEHIND and worst > node.slow.factor(now) * 1.05:
                verdicts.append(ev.NodeSlow(now, node.id, worst))
        return verdicts

    def stats(self, model: str) -> ModelStats:
        """The record of ``model``, made when missing."""
        return self.models.get(model) or self.models.put(model, ModelStats())


def _lag(node: NodeState, run: Running, now: float) -> float:
    """How many times longer a running request took than learned rates foresee for what it did; 0 if that cannot be said.

    Tokens are timed from the first one. A request without any is judged only if none was there before it (others may wait for
    a slot inside the node, whatever is believed of its slots) and after the time of two loads (its model may not be resident).
    """
    rates = node.rates.get(run.task.model)
    if rates is None or rates.decode is None or run.runner.loading:
        return 0.0
    tokens, streamed = run.progress.tokens, run.first_at is not None
    pace = (1.0 + rates.contention.a * crowd(node, run, now, streamed)) / rates.decode.rate(now)
    if run.first_at is not None:
        return (now - run.first_at) / (tokens * pace) if tokens >= 8 else 0.0
    if run.k > 0 or run.wait > 0.0:
        return 0.0
    # A reply in one piece shows no tokens on the way: it is late when the whole of it is.
    foreseen = run.prefill + pace * (1.0 if run.task.stream else run.out)
    spent = now - run.ready_at
    late = spent > 3.0 * foreseen + 2.0 * node.load_seconds(run.task.model) + 2.0
    return min(SILENT, spent / foreseen) if late else 0.0
