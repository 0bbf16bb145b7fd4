"""Policies that choose a node at once and let the node's own queue do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from benchmarks.simulate.traffic import Request
from benchmarks.simulate.world import World

from sollol.core.types import Counters


class Early:
    """Sends each request on arrival to one of the nodes that have its model; `pick` says to which."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"policy {seed}")
        self.in_flight: dict[str, int] = {}
        self._world: World

    def begin(self, world: World) -> None:
        self._world = world
        self.in_flight = dict.fromkeys(world.nodes, 0)

    def arrived(self, request: Request) -> None:
        nodes = self._world.nodes
        name = self.pick([name for name, node in nodes.items() if request.model in node.model.models])
        self.in_flight[name] += 1
        self._world.send(request, name)

    def pick(self, holders: Sequence[str]) -> str:
        """One of the nodes that have the model."""
        raise NotImplementedError

    def first_token(self, request: Request, node: str) -> None:
        """Nothing is learned from it."""

    def answered(self, request: Request, node: str, counters: Counters) -> None:
        self.in_flight[node] -= 1

    def turned_away(self, request: Request, node: str) -> None:
        self.in_flight[node] -= 1
        self._world.refuse(request, f"503 from {node}")

    def residency_changed(self, node: str) -> None:
        """Not seen."""


class RandomNode(Early):
    """Any node."""

    def pick(self, holders: Sequence[str]) -> str:
        return self.random.choice(holders)


class RoundRobin(Early):
    """One after the other."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._turn = -1

    def pick(self, holders: Sequence[str]) -> str:
        self._turn += 1
        return holders[self._turn % len(holders)]


class LeastConnections(RoundRobin):
    """The node with the fewest requests on it; among equals one after the other."""

    def pick(self, holders: Sequence[str]) -> str:
        least = min(self.in_flight[name] for name in holders)
        return super().pick([name for name in holders if self.in_flight[name] == least])
