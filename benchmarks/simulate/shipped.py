"""Our policy: the shipped `ClusterState` and `Scheduler`, told what the engine would tell them, at the times it would."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf
from typing import cast

from benchmarks.simulate.moving import Moves
from benchmarks.simulate.traffic import Request
from benchmarks.simulate.world import Failure, SimNode, World

from sollol.core.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    FirstToken,
    NodeAdded,
    NodeSurveyed,
    ProbeFailed,
    TaskArrived,
    TaskEnded,
)
from sollol.core.scheduler import Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import (
    Counters,
    Dialect,
    Endpoint,
    Health,
    Kind,
    Mode,
    Model,
    Node,
    NodeKind,
    Progress,
    Prompt,
    Resident,
    Survey,
    Task,
)
from sollol.emulator.specs import NodeSpec

TICK_SECONDS = 1.0
RECKON_SECONDS = 5.0
PROBE_SECONDS = 3.0
"""How long a look waits for its answer."""


@dataclass(frozen=True)
class Options:
    """What is told to the shipped code, or kept from it, to see what a part of it is worth.

    ``slots`` configures each node's number of slots, as a careful person would. Without ``prefixes`` it does not see where
    messages end, without ``fair`` all clients are one, without ``modes`` every request is balanced.
    """

    slots: bool = False
    prefixes: bool = True
    fair: bool = True
    modes: bool = True


class LiveProgress:
    """What the relay would have counted by now: asks the node's model, so that nothing has to happen for each token."""

    def __init__(self, world: World, node: SimNode, output: int) -> None:
        self._world = world
        self._node = node
        self._output = output
        self.handle = 0
        self.first_at: float | None = None

    @property
    def tokens(self) -> int:
        return self._node.model.tokens(self.handle, self._world.now)

    @property
    def last_at(self) -> float | None:
        """When the last token came, had the node's speed not changed since."""
        if self.first_at is None:
            return None
        now = min(self._world.now, self._node.stood_at)
        model, tokens = self._node.model, self.tokens
        following = model.time_of_token(self.handle, tokens + 1)
        after = model.time_of_token(self.handle, tokens + 2)
        if following is None or after is None:
            return max(self.first_at, now)
        return max(self.first_at, min(now, following - (after - following)))

    def left(self) -> float | None:
        """Seconds until the answer ends if the node goes on at its present speed; None while it does not run."""
        model, tokens = self._node.model, self._output
        last, before = model.time_of_token(self.handle, tokens), model.time_of_token(self.handle, max(1, tokens - 1))
        return None if last is None or before is None else last + (last - before) - self._world.now


def survey(node: SimNode, now: float) -> Survey:
    """What `/api/tags` and `/api/ps` of the node would say."""
    loaded = tuple(
        Resident(one.model.name, one.size, one.size_vram, one.num_ctx, None if isinf(one.expires_at) else one.expires_at - now)
        for one in node.model.resident(now)
    )
    models = tuple(Model(model.name, model.name, model.size) for model in node.model.models.values())
    return Survey(NodeKind.OLLAMA, node.spec.version, 0.001, models, loaded)


class Shipped:
    """Drives the shipped code."""

    def __init__(self, options: Options | None = None) -> None:
        self._options = options or Options()
        self.tasks: dict[int, Task] = {}
        self._progress: dict[int, LiveProgress] = {}
        self._ticking = False
        self.moves: Moves
        self.world: World
        self.state: ClusterState
        self.scheduler: Scheduler

    def begin(self, world: World) -> None:
        self.world = world
        self.state = self.make_state()
        self.scheduler = Scheduler(self.state)
        self.moves = Moves(self)
        for number, (name, node) in enumerate(world.nodes.items()):
            self.tell(NodeAdded(0.0, self.configured(name, number, node.spec)))
            self._watch(name)

    def make_state(self) -> ClusterState:
        return ClusterState()

    def configured(self, name: str, number: int, spec: NodeSpec) -> Node:
        """What a person wrote down about the node."""
        slots = spec.slots if self._options.slots else None
        return Node(name, Endpoint("127.0.0.1", 20_000 + number), slots=slots)

    # --- what the world tells

    def arrived(self, request: Request) -> None:
        now = self.world.now
        task = self.tasks[request.id] = task_of(request, self._options)
        self.state.apply(TaskArrived(now, task))
        for refused in self.scheduler.arrive(task, now):
            self.refuse(refused, "the queue is full")
        self.waits(task)

    def first_token(self, request: Request, node: str) -> None:
        now = self.world.now
        self._progress[request.id].first_at = now
        self.tell(FirstToken(now, self.tasks[request.id], node))

    def answered(self, request: Request, node: str, counters: Counters) -> None:
        now, task = self.world.now, self.tasks[request.id]
        # Ollama does not say how much of the prompt it had already.
        said = Counters(
            counters.prompt_tokens,
            counters.output_tokens,
            None,
            counters.total,
            counters.load,
            counters.prefill,
            counters.decode,
            counters.done_reason,
        )
        self.moves.worked(node, now)
        part = self.world.records[task.id].written > 0
        self.tell(AttemptEnded(now, task, node, "ok", status=200, counters=said, native=True, sent=True, part=part))
        self._over(task, 200, "ok")

    def broke(self, request: Request, node: str, failure: Failure) -> None:
        self.moves.broke(self.tasks[request.id], node, failure)

    def residency_changed(self, node: str) -> None:
        """Not seen until somebody looks."""

    def trouble_changed(self, node: str) -> None:
        """Not seen until it shows."""

    # --- what the engine does

    def waits(self, task: Task) -> None:
        """The request is in the queue: send what can be sent, and turn it away if no node can ever take it."""
        self._pump()
        error = self.scheduler.hopeless(task, self.world.now) if self.scheduler.position(task) else None
        if error is not None:
            self.scheduler.leave(task, self.world.now)
            self.refuse(task, str(error))
        self._keep_ticking()

    def tell(self, event: Event) -> None:
        """Publish: the state first, then whoever listens."""
        changes = self.state.apply(event)
        for change in changes:
            if change.new == Health.DOWN:
                self.moves.all_from(change.node)
        if self.scheduler.waiting:
            self._pump()

    def refuse(self, task: Task, reason: str) -> None:
        """The client gets an error."""
        self._over(task, 503, "failed")
        self.world.refuse(self.world.records[task.id].request, reason)

    def _over(self, task: Task, status: int, outcome: str) -> None:
        record, now = self.world.records[task.id], self.world.now
        del self.tasks[task.id]
        self._progress.pop(task.id, None)
        self.moves.over(task)
        self.state.apply(TaskEnded(now, task, status, outcome, record.nodes, 0.0, now - task.arrived, record.first))

    def look(self, name: str) -> None:
        """Ask the node what it has and what is loaded there; one that does not answer is left to `_watch`."""
        now = self.world.now
        if self.world.nodes[name].silent or self.world.nodes[name].refuses:
            return
        self.tell(NodeSurveyed(now, name, survey(self.world.nodes[name], now)))

    def _watch(self, name: str) -> None:
        """Look when the code says that a look is due; it is asked again every few seconds, as the engine's monitor does."""
        now, node = self.world.now, self.state.known[name]
        if node.health.probe_at(now, node.overdue(now)) <= now:
            real = self.world.nodes[name]
            if real.silent:
                self.world.at(now + PROBE_SECONDS, lambda: self._unanswered(name))
                return
            if real.refuses:
                self.tell(ProbeFailed(now, name, refused=True, text="connection refused"))
            else:
                self.look(name)
        self._watch_later(name)

    def _unanswered(self, name: str) -> None:
        self.tell(ProbeFailed(self.world.now, name, refused=False, text="no answer in time"))
        self._watch_later(name)

    def _watch_later(self, name: str) -> None:
        now, node = self.world.now, self.state.known[name]
        left = node.health.probe_at(now, node.overdue(now)) - now
        self.world.at(now + max(0.001, min(left, RECKON_SECONDS)), lambda: self._watch(name))

    def _pump(self) -> None:
        world = self.world
        while decisions := self.scheduler.pump(world.now):
            for decision in decisions:
                record = world.records[decision.task.id]
                output = record.request.output_tokens - record.written
                live = self._progress[decision.task.id] = LiveProgress(world, world.nodes[decision.node], output)
                self.state.apply(AttemptStarted(world.now, decision, cast(Progress, live)))
                self.moves.budget.attempted(world.now)
                live.handle = world.send(record.request, decision.node)
            if not self.scheduler.waiting:
                break
        self._keep_ticking()

    def _keep_ticking(self) -> None:
        if not self._ticking and self.tasks:
            self._ticking = True
            self.world.at(self.world.now + TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        """Once a second while anybody waits or runs."""
        self._ticking = False
        now = self.world.now
        for verdict in self.state.behind(now):
            self.state.apply(verdict)
        self.moves.give_up_stalled()
        if self.scheduler.waiting:
            self._pump()
            for task, error in self.scheduler.expired(now):
                self.refuse(task, str(error))
        self._keep_ticking()


def task_of(request: Request, options: Options) -> Task:
    """What the door would make of the request: characters, not tokens, and no idea of the answer."""
    return Task(
        request.id,
        Kind.CHAT,
        Dialect.OLLAMA,
        "/api/chat",
        request.model,
        b"",
        request.at,
        priority=request.priority,
        mode=request.mode if options.modes else Mode.BALANCED,
        client=request.client if options.fair else "everybody",
        app=request.client,
        num_ctx=request.num_ctx,
        prompt=Prompt(request.chars, 0, request.char_boundaries if options.prefixes else ()),
        plain=True,
    )
