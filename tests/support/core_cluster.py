"""Short ways to make what the tests of the decision need: nodes, tasks, a cluster driven by hand."""

from __future__ import annotations

from sollol.core.events import AttemptEnded, AttemptStarted, FirstToken, NodeAdded, NodeSurveyed, TaskArrived
from sollol.core.scheduler import Limits, Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import (
    Counters,
    Decision,
    Dialect,
    Endpoint,
    Kind,
    Model,
    Node,
    NodeKind,
    Progress,
    Prompt,
    Resident,
    Survey,
    Task,
)

GB = 1_000_000_000
SIZE = 5 * GB


def a_node(name_: str, **fields) -> Node:
    return Node(name_, Endpoint(name_, 11434), **fields)


def a_model(name: str, size: int = SIZE, **fields) -> Model:
    return Model(name, name, size, **fields)


def a_survey(models=("m",), loaded=(), kind=NodeKind.OLLAMA, vram: bool = True, **fields) -> Survey:
    listed = tuple(model if isinstance(model, Model) else a_model(model) for model in models)
    resident = tuple(
        one if isinstance(one, Resident) else Resident(one, SIZE, SIZE if vram else 0, expires_in=300.0) for one in loaded
    )
    return Survey(kind, "1.0", 0.002, listed, resident, **fields)


def a_task(number: int, model: str = "m", at: float = 0.0, chars: int = 370, **fields) -> Task:
    fields.setdefault("prompt", Prompt(chars))
    fields.setdefault("client", "someone")
    kind = fields.pop("kind", Kind.CHAT)
    return Task(number, kind, Dialect.OLLAMA, "/api/chat", model, fields.pop("body", b""), at, **fields)


class Cluster:
    """State and queue driven by hand; checks after every step that no window is overrun."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.state = ClusterState()
        self.queue = Scheduler(self.state, limits)
        self.now = 0.0
        self.number = 0
        self.running: dict[int, Decision] = {}
        self.sent: list[Decision] = []
        self.refused: list[Task] = []

    def add(self, node: str, survey: Survey | None = None, **fields) -> None:
        self.state.apply(NodeAdded(self.now, a_node(node, **fields)))
        if survey is not None:
            self.state.apply(NodeSurveyed(self.now, node, survey))

    def rates(self, name: str, model: str = "m", prefill: float = 1000.0, decode: float = 40.0, a: float | None = None) -> None:
        rates = self.state.known[name].rates_of(model)
        rates.learn_prefill(prefill, self.now)
        rates.learn_decode(decode, self.now)
        if a is not None:
            rates.contention.a = a
        self.state.known[name].version += 1

    def arrive(self, model: str = "m", **fields) -> Task:
        self.number += 1
        task = a_task(self.number, model, self.now, **fields)
        self.state.apply(TaskArrived(self.now, task))
        self.refused += self.queue.arrive(task, self.now)
        self.pump()
        self.refused += self.queue.overflow()
        return task

    def pump(self) -> list[Decision]:
        decisions = self.queue.pump(self.now)
        for decision in decisions:
            assert decision.task.id not in self.running, "sent twice"
            self.state.apply(AttemptStarted(self.now, decision, Progress()))
            self.running[decision.task.id] = decision
            self.sent.append(decision)
        self.check()
        return decisions

    def end(self, task: Task, outcome: str = "ok", counters: Counters | None = None, **fields) -> None:
        decision = self.running.pop(task.id)
        if outcome == "ok":
            self.state.apply(FirstToken(self.now, task, decision.node))
        native = fields.pop("native", counters is not None)
        self.state.apply(AttemptEnded(self.now, task, decision.node, outcome, counters=counters, native=native, **fields))
        self.pump()

    def where(self, task: Task) -> str | None:
        """The node that the task runs on, or None while it waits."""
        decision = self.running.get(task.id)
        return decision.node if decision is not None else None

    def check(self) -> None:
        for node in self.state.nodes.values():
            assert node.in_flight == sum(1 for decision in self.running.values() if decision.node == node.id)
            for runner in node.runners.values():
                assert runner.running >= 0


def counters(run: float = 2.0, wait: float = 0.0, load: float = 0.01, prompt: int = 100, output: int = 80) -> Counters:
    """What a native reply says: a tenth of the run is prefill."""
    return Counters(prompt, output, None, load + run + wait, load, 0.1 * run, 0.9 * run, "stop")
