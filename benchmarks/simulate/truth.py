"""The reference called "ideal": the shipped decisions, given true values in place of everything that has to be learned.

- slots and memory of every node are configured; so is what each model takes while loaded, and the load speed;
- the rates of every node and model, and how much requests slow each other, are the emulator's own and never change;
- tokens of each prompt and of each answer are known on arrival, and what is left of a running answer is exact;
- a model that was loaded or has left is seen at once.

It does not know who will come next. That makes it a strong reference, not a bound: what is right for one request can be
wrong for the next.
"""

from __future__ import annotations

from typing import cast

from benchmarks.simulate.shipped import LiveProgress, Shipped
from benchmarks.simulate.traffic import Request
from benchmarks.simulate.world import World

from sollol.core.estimates import Contention, Rates, Speed
from sollol.core.events import AttemptEnded, AttemptStarted, Event, HealthChanged, NodeSurveyed
from sollol.core.node import NodeState, Running
from sollol.core.state import ClusterState
from sollol.core.types import Endpoint, Node, Task
from sollol.emulator.specs import ModelSpec, NodeSpec


class KnownContention(Contention):
    """Given, not learned."""

    __slots__ = ()

    def learn(self, b: float, seconds_per_token: float) -> None:
        """Known already."""


class KnownRates(Rates):
    """Given, not learned."""

    __slots__ = ()

    def __init__(self, spec: NodeSpec, model: ModelSpec) -> None:
        super().__init__(float(model.size), spec.contention)
        self.prefill = Speed(spec.prefill_rate(model), 0.0)
        self.decode = Speed(spec.decode_rate(model), 0.0)
        self.contention = KnownContention(spec.contention)

    def learn_prefill(self, sample: float, at: float) -> None:
        """Known already."""

    def learn_decode(self, sample: float, at: float) -> None:
        """Known already."""


class KnownRunning(Running):
    """An attempt whose end is known as long as nothing else happens on the node."""

    __slots__ = ()

    def remaining(self, now: float) -> float:
        left = cast(LiveProgress, self.progress).left()
        return left if left is not None else super().remaining(now)


class TrueState(ClusterState):
    """Told the truth after each event that would have taught something."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def apply(self, event: Event) -> list[HealthChanged]:
        changes = super().apply(event)
        match event:
            case NodeSurveyed(node=name) | AttemptEnded(node=name):
                self._correct(self.known[name])
            case AttemptStarted(decision=decision):
                self.known[decision.node].running[decision.task.id].__class__ = KnownRunning
        return changes

    def prompt_tokens(self, task: Task) -> float:
        return float(self._request(task).prompt_tokens)

    def answer_tokens(self, task: Task) -> float:
        return float(self._request(task).output_tokens)

    def _request(self, task: Task) -> Request:
        return self._world.records[task.id].request

    def _correct(self, node: NodeState) -> None:
        spec = self._world.nodes[node.id].spec
        node.load_rate = spec.load_gbps
        node.gpu = spec.gpu
        for model in spec.models:
            node.sizes.put(model.name, float(model.size + model.kv_bytes(spec.context * spec.slots)))
            if not isinstance(node.rates.get(model.name), KnownRates):
                node.rates.put(model.name, KnownRates(spec, model))
                node.version += 1


class Ideal(Shipped):
    """The shipped code over the true state."""

    def make_state(self) -> ClusterState:
        return TrueState(self._world)

    def configured(self, name: str, number: int, spec: NodeSpec) -> Node:
        return Node(name, Endpoint("127.0.0.1", 20_000 + number), slots=spec.slots, memory=spec.memory)

    def residency_changed(self, node: str) -> None:
        self.look(node)
