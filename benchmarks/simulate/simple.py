"""Policies that choose a node at once and let the node's own queue do the rest.

What a node will not take, or breaks off before the first token, they offer to the others, each once. They look at nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from benchmarks.simulate.traffic import Request
from benchmarks.simulate.world import Failure, World

from sollol.core.types import Counters


class Early:
    """Sends each request on arrival to one of the nodes that have its model; `pick` says to which."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"policy {seed}")
        self.in_flight: dict[str, int] = {}
        self.world: World

    def begin(self, world: World) -> None:
        self.world = world
        self.in_flight = dict.fromkeys(world.nodes, 0)

    def arrived(self, request: Request) -> None:
        nodes = self.world.nodes
        self._send(request, [name for name, node in nodes.items() if request.model in node.model.models])

    def _send(self, request: Request, holders: Sequence[str]) -> None:
        name = self.pick(request, holders)
        self.in_flight[name] += 1
        self.world.send(request, name)

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        """One of the nodes that have the model: the first, where a policy does not know better."""
        return holders[0]

    def first_token(self, request: Request, node: str) -> None:
        """Nothing is learned from it."""

    def answered(self, request: Request, node: str, counters: Counters) -> None:
        self.in_flight[node] -= 1

    def broke(self, request: Request, node: str, failure: Failure) -> None:
        self.in_flight[node] -= 1
        record = self.world.records[request.id]
        nodes = self.world.nodes
        left = [name for name in nodes if request.model in nodes[name].model.models and name not in record.nodes]
        if left and record.first is None:
            self._send(request, left)
        else:
            self.world.refuse(request, f"{failure.value} from {node}")

    def residency_changed(self, node: str) -> None:
        """Not seen."""

    def trouble_changed(self, node: str) -> None:
        """Not seen."""


class RandomNode(Early):
    """Any node."""

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        return self.random.choice(holders)


class RoundRobin(Early):
    """One after the other."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._turn = -1

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        self._turn += 1
        return holders[self._turn % len(holders)]


class LeastConnections(RoundRobin):
    """The node with the fewest requests on it; among equals one after the other."""

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        least = min(self.in_flight[name] for name in holders)
        return super().pick(request, [name for name in holders if self.in_flight[name] == least])


class TwoChoices(Early):
    """Of two nodes drawn at random the one with fewer requests on it."""

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        two = self.random.sample(holders, min(2, len(holders)))
        return min(two, key=lambda name: self.in_flight[name])


class ResidentFirst(LeastConnections):
    """Least connections among the nodes that have the model loaded, or load it now; where none does, among all.

    It is told the truth about what is loaded, as if it asked each node before each request.
    """

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        warm = [name for name in holders if self._warm(name, request.model)]
        return super().pick(request, warm or holders)

    def _warm(self, name: str, model: str) -> bool:
        node = self.world.nodes[name].model
        loading = node.loading
        return (loading is not None and loading.name == model) or any(
            one.model.name == model for one in node.resident(self.world.now)
        )


class Formula(Early):
    """The score of points that SOLLOL was first described with; the highest wins.

    ``100 x success / (1 + latency penalty) x 1.5 if it has a GPU / (1 + load penalty) x priority x specialization``. Nothing
    more is said of the penalties, so: the mean of past answers in seconds (a tenth for each new one), and requests on the node
    as a share of four. Priority and specialization are alike for nodes that nobody configured.
    """

    GPU_BONUS = 1.5
    PLACES = 4.0

    def begin(self, world: World) -> None:
        super().begin(world)
        self._success = dict.fromkeys(world.nodes, 1.0)
        self._latency = dict.fromkeys(world.nodes, 0.0)

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        return max(holders, key=self.score)

    def score(self, name: str) -> float:
        """Points of the node now."""
        bonus = self.GPU_BONUS if self.world.nodes[name].spec.gpu else 1.0
        load = self.in_flight[name] / self.PLACES
        return 100.0 * self._success[name] / (1.0 + self._latency[name]) * bonus / (1.0 + load)

    def answered(self, request: Request, node: str, counters: Counters) -> None:
        super().answered(request, node, counters)
        seconds = self.world.now - self.world.records[request.id].sent[-1][0]
        self._latency[node] += (0.1 if self._latency[node] else 1.0) * (seconds - self._latency[node])
        self._success[node] += 0.1 * (1.0 - self._success[node])

    def broke(self, request: Request, node: str, failure: Failure) -> None:
        self._success[node] *= 0.9
        super().broke(request, node, failure)
