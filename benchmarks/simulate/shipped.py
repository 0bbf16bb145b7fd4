"""Our policy: the shipped `ClusterState` and `Scheduler`, told what the engine would tell them, at the times it would."""

from __future__ import annotations

from math import isinf
from typing import cast

from benchmarks.simulate.traffic import Request
from benchmarks.simulate.world import SimNode, World

from sollol.core.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    FirstToken,
    NodeAdded,
    NodeSurveyed,
    TaskArrived,
    TaskEnded,
)
from sollol.core.scheduler import Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import (
    Counters,
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
from sollol.emulator.specs import NodeSpec

TICK_SECONDS = 1.0
RECKON_SECONDS = 5.0


class LiveProgress:
    """What the relay would have counted by now: asks the node's model, so that nothing has to happen for each token."""

    def __init__(self, world: World, node: SimNode) -> None:
        self._world = world
        self._node = node
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
        model, tokens = self._node.model, self.tokens
        following = model.time_of_token(self.handle, tokens + 1)
        after = model.time_of_token(self.handle, tokens + 2)
        if following is None or after is None:
            return self._world.now
        return max(self.first_at, min(self._world.now, following - (after - following)))

    def left(self) -> float | None:
        """Seconds until the answer ends if the node goes on at its present speed; None while it does not run."""
        model, tokens = self._node.model, self._node.requests[self.handle].output_tokens
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
    """Drives the shipped code. ``slots_known`` configures each node's number of slots, as a careful person would."""

    def __init__(self, *, slots_known: bool = False) -> None:
        self._slots_known = slots_known
        self._tasks: dict[int, Task] = {}
        self._progress: dict[int, LiveProgress] = {}
        self._ticking = False
        self._world: World
        self.state: ClusterState
        self.scheduler: Scheduler

    def begin(self, world: World) -> None:
        self._world = world
        self.state = self.make_state()
        self.scheduler = Scheduler(self.state)
        for number, (name, node) in enumerate(world.nodes.items()):
            self.state.apply(NodeAdded(0.0, self.configured(name, number, node.spec)))
            self._watch(name)

    def make_state(self) -> ClusterState:
        return ClusterState()

    def configured(self, name: str, number: int, spec: NodeSpec) -> Node:
        """What a person wrote down about the node."""
        slots = spec.slots if self._slots_known else None
        return Node(name, Endpoint("127.0.0.1", 20_000 + number), slots=slots)

    # --- what the world tells

    def arrived(self, request: Request) -> None:
        now = self._world.now
        task = self._tasks[request.id] = task_of(request)
        self.state.apply(TaskArrived(now, task))
        for refused in self.scheduler.arrive(task, now):
            self._refuse(refused, "the queue is full")
        self._pump()
        error = self.scheduler.hopeless(task, now) if self.scheduler.position(task) else None
        if error is not None:
            self.scheduler.leave(task, now)
            self._refuse(task, str(error))
        self._keep_ticking()

    def first_token(self, request: Request, node: str) -> None:
        now = self._world.now
        self._progress[request.id].first_at = now
        self._tell(FirstToken(now, self._tasks[request.id], node))

    def answered(self, request: Request, node: str, counters: Counters) -> None:
        now, task = self._world.now, self._tasks.pop(request.id)
        record = self._world.records[request.id]
        del self._progress[request.id]
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
        self._tell(AttemptEnded(now, task, node, "ok", status=200, counters=said, native=True, sent=True))
        self.state.apply(TaskEnded(now, task, 200, "ok", record.nodes, 0.0, record.seconds, record.first_seconds))

    def turned_away(self, request: Request, node: str) -> None:
        now, task = self._world.now, self._tasks[request.id]
        self.state.apply(AttemptEnded(now, task, node, "busy", "server busy", 503))
        self.scheduler.again(task, now, frozenset(self._world.records[request.id].nodes))
        self._pump()
        self._keep_ticking()

    def residency_changed(self, node: str) -> None:
        """Not seen until somebody looks."""

    # --- what the engine does

    def look(self, name: str) -> None:
        """Ask the node what it has and what is loaded there."""
        now = self._world.now
        self._tell(NodeSurveyed(now, name, survey(self._world.nodes[name], now)))

    def _watch(self, name: str) -> None:
        """Look when the code says that a look is due; it is asked again every few seconds, as the engine's monitor does."""
        now, node = self._world.now, self.state.known[name]
        left = node.health.probe_at(now, node.overdue(now)) - now
        if left <= 0.0:
            self.look(name)
            left = node.health.probe_at(now, node.overdue(now)) - now
        self._world.at(now + min(left, RECKON_SECONDS), lambda: self._watch(name))

    def _tell(self, event: Event) -> None:
        self.state.apply(event)
        if self.scheduler.waiting:
            self._pump()

    def _pump(self) -> None:
        world = self._world
        while decisions := self.scheduler.pump(world.now):
            for decision in decisions:
                request = world.records[decision.task.id].request
                live = self._progress[request.id] = LiveProgress(world, world.nodes[decision.node])
                self.state.apply(AttemptStarted(world.now, decision, cast(Progress, live)))
                live.handle = world.send(request, decision.node)
            if not self.scheduler.waiting:
                break

    def _keep_ticking(self) -> None:
        if not self._ticking and self.scheduler.waiting:
            self._ticking = True
            self._world.at(self._world.now + TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        """Once a second while anybody waits."""
        self._ticking = False
        if not self.scheduler.waiting:
            return
        now = self._world.now
        for verdict in self.state.behind(now):
            self.state.apply(verdict)
        self._pump()
        for task, error in self.scheduler.expired(now):
            self._refuse(task, str(error))
        self._keep_ticking()

    def _refuse(self, task: Task, reason: str) -> None:
        del self._tasks[task.id]
        self._world.refuse(self._world.records[task.id].request, reason)


def task_of(request: Request) -> Task:
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
        mode=request.mode,
        client=request.client,
        num_ctx=request.num_ctx,
        prompt=Prompt(request.chars, 0, request.char_boundaries),
        plain=True,
    )
