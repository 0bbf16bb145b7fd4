"""What it takes to have a model resident on a node: loads ahead, the load, draining, and the price of what must leave."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from .estimates import RATE_WINDOW
from .gates import USABLE
from .node import NodeState, Runner

if TYPE_CHECKING:
    from .state import ClusterState

_PLACES = 3
"""Models that Ollama keeps loaded at most where its memory is unknown."""


@dataclass(slots=True)
class Plan:
    """Seconds until the model would be resident, and what has to leave for it.

    ``ahead`` is the rest of loads under way, ``drain`` the longest remaining run among ``victims``, ``evict`` the price of
    loading the victims again.
    """

    load: float
    ahead: float
    drain: float
    evict: float
    victims: list[Runner]

    @property
    def seconds(self) -> float:
        """Until resident: a lower bound of the first token."""
        return self.ahead + self.load + self.drain


def plan(state: ClusterState, node: NodeState, model: str, now: float) -> Plan:
    """What loading ``model`` on ``node`` takes at ``now``; a runner of the same model (another context) is a victim."""
    ahead = 0.0
    for runner in node.runners.values():
        if runner.loading and runner.ready_at > now + ahead:
            ahead = runner.ready_at - now
    leaving = victims(node, model, now)
    drain = evict = 0.0
    for runner in leaving:
        busy = runner.running > 0
        if busy:
            drain = max(drain, longest_run(node, runner, now))
        if runner.model != model:
            again = 1.0 if busy else _missed(state, node, runner.model, now)
            evict += 2.0 * node.load_seconds(runner.model) * again
    return Plan(node.load_seconds(model), ahead, drain, evict, leaving)


def _missed(state: ClusterState, node: NodeState, model: str, now: float) -> float:
    """The chance that ``model`` has to be loaded again after it left ``node`` idle: none while a node as fast has it too."""
    known = state.models.get(model)
    if known is None:
        return 0.0
    rates = node.rates.get(model)
    if rates is not None and rates.decode is not None:
        speed = rates.decode.rate(now)
        for other in state.known.values():
            runner = other.runners.get(model)
            if runner is None or other is node or runner.loading or runner.leaving_for or not runner.lives(now):
                continue
            theirs = other.rates.get(model)
            as_fast = theirs is not None and theirs.decode is not None and theirs.decode.rate(now) >= speed
            if as_fast and other.health.state in USABLE:
                return 0.0
    return 1.0 - exp(-known.rate(now) * RATE_WINDOW)


def longest_run(node: NodeState, runner: Runner, now: float) -> float:
    """Seconds until the last request on ``runner`` is over."""
    longest = 0.0
    for run in node.running.values():
        if run.runner is runner:
            longest = max(longest, run.remaining(now))
    return longest


def victims(node: NodeState, model: str, now: float) -> list[Runner]:
    """Who must leave for ``model``: idle runners with the least keep_alive left first, then busy ones."""
    same = node.runners.get(model)
    others = [runner for runner in node.runners.values() if runner is not same and not runner.leaving_for and runner.lives(now)]
    out = [same] if same is not None and same.lives(now) and not same.leaving_for else []
    memory = node.node.memory or node.memory_seen
    over = sum(node.footprint(runner.model) for runner in others) + node.footprint(model) - memory
    places = len(others) + 1 - _PLACES
    if over <= 0.0 if memory else places <= 0:
        return out
    far = now + 1e9
    others.sort(key=lambda runner: (runner.running > 0 or runner.loading, far if runner.expires is None else runner.expires))
    for runner in others:
        out.append(runner)
        over -= node.footprint(runner.model)
        places -= 1
        if over <= 0.0 if memory else places <= 0:
            break
    return out
