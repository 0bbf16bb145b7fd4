"""The reference called "ideal": the shipped decisions, given true values in place of everything that has to be learned.

- slots and memory of every node are configured; so is what each model takes while loaded, and the load speed;
- the rates of every node and model, and how much requests slow each other, are the emulator's own and never change;
- tokens of each prompt and of each answer are known on arrival, and what is left of a running answer is exact;
- a model that was loaded or has left is seen at once;
- so is trouble: a node that can answer nothing is down at once, how slow a slow one is and what share fails is known.

It does not know who will come next. That makes it a strong reference, not a bound: what is right for one request can be
wrong for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapreplace
from math import inf
from typing import cast

from benchmarks.simulate.shipped import LiveProgress, Shipped
from benchmarks.simulate.simple import Early
from benchmarks.simulate.traffic import Request
from benchmarks.simulate.world import SimNode, World

from sollol.core.estimates import Contention, Rates, Speed, Success
from sollol.core.events import AttemptEnded, AttemptStarted, Event, HealthChanged, NodeSurveyed, ProbeFailed
from sollol.core.node import NodeState, Running
from sollol.core.state import ClusterState
from sollol.core.types import Endpoint, Node, Task
from sollol.emulator.specs import ModelSpec, NodeSpec


class KnownContention(Contention):
    """Given, not learned."""

    __slots__ = ()

    def learn(self, b: float, seconds_per_token: float) -> None:
        """Known already."""


class KnownSuccess(Success):
    """Given, not learned."""

    __slots__ = ()

    def __init__(self, share: float) -> None:
        super().__init__()
        self.value = share

    def rate(self, now: float) -> float:
        return self.value

    def learn(self, good: bool, now: float) -> None:
        """Known already."""


class KnownRates(Rates):
    """Given, not learned."""

    __slots__ = ()

    def __init__(self, node: SimNode, model: ModelSpec) -> None:
        spec = node.spec
        super().__init__(float(model.size), spec.contention)
        self.prefill = Speed(spec.prefill_rate(model) / node.slow, 0.0)
        self.decode = Speed(spec.decode_rate(model) / node.slow, 0.0)
        self.contention = KnownContention(spec.contention)
        self.success = KnownSuccess(1.0 - node.fails)

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
        record = self._world.records[task.id]
        return float(record.request.prompt_tokens + record.written)

    def answer_tokens(self, task: Task) -> float:
        record = self._world.records[task.id]
        return float(max(1, record.request.output_tokens - record.written))

    def trouble_changed(self, name: str) -> None:
        """Its rates are others now."""
        self.known[name].rates.clear()
        self._correct(self.known[name])

    def _correct(self, node: NodeState) -> None:
        real = self._world.nodes[node.id]
        if real.useless:
            return
        spec = real.spec
        node.load_rate = spec.load_gbps
        node.gpu = spec.gpu
        for model in spec.models:
            node.sizes.put(model.name, float(model.size + model.kv_bytes(spec.context * spec.slots)))
            if not isinstance(node.rates.get(model.name), KnownRates):
                node.rates.put(model.name, KnownRates(real, model))
                node.version += 1


class Ideal(Shipped):
    """The shipped code over the true state."""

    def make_state(self) -> ClusterState:
        return TrueState(self.world)

    def configured(self, name: str, number: int, spec: NodeSpec) -> Node:
        return Node(name, Endpoint("127.0.0.1", 20_000 + number), slots=spec.slots, memory=spec.memory)

    def residency_changed(self, node: str) -> None:
        self.look(node)

    def look(self, name: str) -> None:
        if self.world.nodes[name].useless:
            self.tell(ProbeFailed(self.world.now, name, refused=True, text="can answer nothing"))
        else:
            super().look(name)

    def trouble_changed(self, node: str) -> None:
        cast(TrueState, self.state).trouble_changed(node)
        self.look(node)


class AtOnce(Early):
    """Knows as much, and sends each request on arrival to the node that will be done with it soonest, as things stand.

    Another reference beside "ideal": it gives earlier first tokens where nobody has to wait long.
    """

    def pick(self, request: Request, holders: Sequence[str]) -> str:
        return min(holders, key=lambda name: self._seconds(request, self.world.nodes[name]))

    def _seconds(self, request: Request, node: SimNode) -> float:
        """Until the node would have answered: what is before it in the slots, a load if the model is not there, its work."""
        if node.useless:
            return inf
        spec, now = node.spec, self.world.now
        work = [self._left(node, handle, one) for handle, one in node.requests.items()]
        beside = min(len(work), spec.slots - 1)
        factor = (1.0 + spec.contention * beside) * node.slow
        slots = [0.0] * spec.slots
        for seconds in work:
            heapreplace(slots, slots[0] + seconds * factor)
        model = node.model.models[request.model]
        load = 0.0 if any(one.model.name == request.model for one in node.model.resident(now)) else spec.load_seconds(model)
        own = request.prompt_tokens / spec.prefill_rate(model) + request.output_tokens / spec.decode_rate(model)
        return max(slots[0], load) + own * factor

    def _left(self, node: SimNode, handle: int, request: Request) -> float:
        """Seconds of work alone that are left of a request there."""
        model = node.model.models[request.model]
        tokens = node.model.tokens(handle, self.world.now)
        prompt = 0 if tokens else request.prompt_tokens
        return prompt / node.spec.prefill_rate(model) + (request.output_tokens - tokens) / node.spec.decode_rate(model)
