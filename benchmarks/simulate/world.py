"""Virtual time, the nodes, and what became of each request. Knows nothing of how a node is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Protocol

from benchmarks.simulate.traffic import Request

from sollol.core.types import Counters
from sollol.emulator.model import NodeModel
from sollol.emulator.specs import Finished, FirstToken, Happening, Loaded, NodeSpec, Refused, Unloaded, Work

Action = Callable[[], None]

_WIRE_SECONDS = 0.001
"""Until a failure that comes at once is known to whoever sent the request."""


class Failure(Enum):
    """What the sender of a request sees of a node that cannot answer it."""

    REFUSED = "connection refused"
    CLOSED = "connection closed"
    BUSY = "status 503"
    ERROR = "status 500"


@dataclass(slots=True)
class Record:
    """One request's way: times in virtual seconds. ``ended`` None: not answered; ``refused`` says why, if anybody said so.

    ``sent`` is when it went to which node; ``written`` are tokens that the client has from attempts that broke.
    """

    request: Request
    first: float | None = None
    ended: float | None = None
    refused: str = ""
    sent: tuple[tuple[float, str], ...] = ()
    written: int = 0

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where it was sent, in order."""
        return tuple(name for _, name in self.sent)

    @property
    def seconds(self) -> float:
        return (self.ended if self.ended is not None else inf) - self.request.at

    @property
    def first_seconds(self) -> float:
        return (self.first if self.first is not None else inf) - self.request.at


class Policy(Protocol):
    """Who is told what happens, and sends requests with `World.send` or turns them away with `World.refuse`."""

    def begin(self, world: World) -> None:
        """Before the first request."""
        ...

    def arrived(self, request: Request) -> None: ...
    def first_token(self, request: Request, node: str) -> None: ...
    def answered(self, request: Request, node: str, counters: Counters) -> None: ...
    def broke(self, request: Request, node: str, failure: Failure) -> None:
        """The attempt on the node is over, without an answer or in the middle of one."""
        ...

    def residency_changed(self, node: str) -> None:
        """A model was loaded or left; nobody tells a real gateway."""
        ...

    def trouble_changed(self, node: str) -> None:
        """Something broke there or was mended; nobody tells a real gateway."""
        ...


class SimNode:
    """A node, the requests in it, and what is wrong with it.

    ``slow``: everything takes so many times as long (infinite: nothing moves, since ``stood_at``). ``refuses``: nobody
    listens. ``silent``: it takes connections and answers nothing, looks neither. ``fails``: the share of requests answered
    with ``failure`` at once.
    """

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.model = NodeModel(spec)
        self.requests: dict[int, Request] = {}
        self.handles: dict[int, int] = {}
        self.due = inf
        self.slow = 1.0
        self.stood_at = inf
        self.refuses = self.silent = False
        self.fails = 0.0
        self.failure = Failure.ERROR
        self.doomed: set[int] = set()
        self.chance = Random(f"fails {spec.name}")

    @property
    def useless(self) -> bool:
        """Whether nothing sent there would be answered."""
        return self.refuses or self.silent or self.slow == inf or self.fails >= 1.0

    def fate(self) -> Failure | None:
        """What a request that comes now is answered with at once, if it is."""
        if self.refuses:
            return Failure.REFUSED
        return self.failure if self.fails and self.chance.random() < self.fails else None


class World:
    """Runs actions in order of time. `on_end` may be set to react to answers (the next turn of a conversation)."""

    def __init__(self, specs: Sequence[NodeSpec], policy: Policy) -> None:
        self.now = 0.0
        self.nodes = {spec.name: SimNode(spec) for spec in specs}
        self.records: dict[int, Record] = {}
        self.policy = policy
        self.failed = 0
        self.back_at: dict[str, float] = {}
        self.on_end: Callable[[Request], None] | None = None
        self._heap: list[tuple[float, int, Action]] = []
        self._number = 0
        self._coming = 0
        self._open = 0

    # --- for scenarios

    def at(self, time: float, action: Action) -> None:
        """Do something at ``time`` (not before now)."""
        self._number += 1
        heappush(self._heap, (max(time, self.now), self._number, action))

    def arrive(self, request: Request) -> None:
        """The request comes to the policy at its time."""
        self._coming += 1
        self.at(request.at, lambda: self._arrive(request))

    def replay(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self.arrive(request)

    def run(self, limit: float) -> None:
        """Until every request was answered or refused, or ``limit`` (virtual seconds) is reached."""
        self.policy.begin(self)
        while self.busy and self._heap and self._heap[0][0] <= limit:
            self.now, _, action = heappop(self._heap)
            action()

    @property
    def busy(self) -> bool:
        """Whether a request is yet to come, or to end."""
        return self._coming > 0 or self._open > 0

    # --- what breaks

    def slow(self, name: str, factor: float) -> None:
        """Everything takes ``factor`` times as long there from now on; infinite: it is stuck, and still looks well."""
        node = self.nodes[name]
        node.slow = factor
        node.stood_at = self.now if factor == inf else inf
        node.model.set_slow(factor, self.now)
        self._schedule(node)
        self.policy.trouble_changed(name)

    def hang(self, name: str) -> None:
        """It takes connections and is silent."""
        self.nodes[name].silent = True
        self.slow(name, inf)

    def kill(self, name: str) -> None:
        """The program is gone, and with it all that it had."""
        node = self.nodes[name]
        node.refuses = True
        for request_id, handle in node.handles.items():
            self._keep(node, node.requests[handle], handle)
            self._doom(node, self.records[request_id].request, Failure.CLOSED)
        node.handles.clear()
        node.requests.clear()
        node.model.crash(self.now)
        self._schedule(node)
        self.policy.trouble_changed(name)

    def fail(self, name: str, share: float, failure: Failure) -> None:
        """From now on ``share`` of what comes there is answered with ``failure`` at once; looks find nothing wrong."""
        node = self.nodes[name]
        node.fails, node.failure = share, failure
        self.policy.trouble_changed(name)

    def mend(self, name: str) -> None:
        """Whatever was wrong there is over; one that hung or was stuck was started anew."""
        node = self.nodes[name]
        if node.slow == inf:
            self.kill(name)
        node.refuses = node.silent = False
        node.fails = 0.0
        self.back_at[name] = self.now
        self.slow(name, 1.0)

    # --- for policies

    def send(self, request: Request, name: str) -> int:
        """Hand a request to a node; returns the node's handle (0: it fails at once). What was written is not asked again."""
        node = self.nodes[name]
        record = self.records[request.id]
        record.sent += ((self.now, name),)
        fate = node.fate()
        if fate is not None:
            self._doom(node, request, fate)
            return 0
        work = Work(
            request.model,
            request.prompt_tokens + record.written,
            max(1, request.output_tokens - record.written),
            num_ctx=request.num_ctx,
            boundaries=request.token_boundaries,
            after=request.after,
        )
        handle = node.model.submit(work, self.now)
        node.requests[handle] = request
        node.handles[request.id] = handle
        self._schedule(node)
        return handle

    def cancel(self, request: Request, name: str) -> None:
        """Give the attempt on the node up; what it has written so far is kept. Harmless if it is over."""
        node = self.nodes[name]
        node.doomed.discard(request.id)
        handle = node.handles.pop(request.id, None)
        if handle is not None:
            del node.requests[handle]
            self._keep(node, request, handle)
            node.model.cancel(handle, self.now)
            self._schedule(node)

    def refuse(self, request: Request, reason: str) -> None:
        """Tell the client that it gets no answer."""
        self.records[request.id].refused = reason
        self._open -= 1

    # --- inside

    def _keep(self, node: SimNode, request: Request, handle: int) -> None:
        record = self.records[request.id]
        if record.first is not None:
            record.written += node.model.tokens(handle, self.now)

    def _doom(self, node: SimNode, request: Request, failure: Failure) -> None:
        node.doomed.add(request.id)

        def tell() -> None:
            if request.id in node.doomed:
                node.doomed.discard(request.id)
                self.failed += 1
                self.policy.broke(request, node.spec.name, failure)

        self.at(self.now + _WIRE_SECONDS, tell)

    def _arrive(self, request: Request) -> None:
        self._coming -= 1
        self._open += 1
        self.records[request.id] = Record(request)
        self.policy.arrived(request)

    def _schedule(self, node: SimNode) -> None:
        when = node.model.next_time()
        due = inf if when is None else when
        if due != node.due:
            node.due = due
            if due < inf:
                self.at(due, lambda: self._wake(node, due))

    def _wake(self, node: SimNode, due: float) -> None:
        if node.due != due:
            return  # something changed there since; another wake-up is on its way
        node.due = inf
        for happening in node.model.advance(self.now):
            self._happened(node, happening)
        self._schedule(node)

    def _happened(self, node: SimNode, happening: Happening) -> None:
        name = node.spec.name
        match happening:
            case FirstToken(time, handle):
                request = node.requests[handle]
                record = self.records[request.id]
                if record.first is None:
                    record.first = time
                self.policy.first_token(request, name)
            case Finished(time, handle, counters):
                request = node.requests.pop(handle)
                del node.handles[request.id]
                self.records[request.id].ended = time
                self._open -= 1
                self.policy.answered(request, name, counters)
                if self.on_end is not None:
                    self.on_end(request)
            case Refused(_, handle):
                request = node.requests.pop(handle)
                del node.handles[request.id]
                self.failed += 1
                self.policy.broke(request, name, Failure.BUSY)
            case Loaded() | Unloaded():
                self.policy.residency_changed(name)
