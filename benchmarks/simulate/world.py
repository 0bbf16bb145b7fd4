"""Virtual time, the nodes, and what became of each request. Knows nothing of how a node is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Protocol

from benchmarks.simulate.traffic import Request

from sollol.core.types import Counters
from sollol.emulator.model import NodeModel
from sollol.emulator.specs import Finished, FirstToken, Happening, Loaded, NodeSpec, Refused, Unloaded, Work

Action = Callable[[], None]


@dataclass(slots=True)
class Record:
    """One request's way: times in virtual seconds. ``ended`` None: not answered; ``refused`` says why, if anybody said so."""

    request: Request
    first: float | None = None
    ended: float | None = None
    refused: str = ""
    nodes: tuple[str, ...] = ()

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
    def turned_away(self, request: Request, node: str) -> None:
        """The node would not take the request (503)."""
        ...

    def residency_changed(self, node: str) -> None:
        """A model was loaded or left; nobody tells a real gateway."""
        ...


class SimNode:
    """A node and the requests in it."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.model = NodeModel(spec)
        self.requests: dict[int, Request] = {}
        self.due = inf


class World:
    """Runs actions in order of time. `on_end` may be set to react to answers (the next turn of a conversation)."""

    def __init__(self, specs: Sequence[NodeSpec], policy: Policy) -> None:
        self.now = 0.0
        self.nodes = {spec.name: SimNode(spec) for spec in specs}
        self.records: dict[int, Record] = {}
        self.policy = policy
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

    # --- for policies

    def every(self, seconds: float, action: Action) -> None:
        """Do something again and again, beginning ``seconds`` from now."""

        def again() -> None:
            action()
            self.at(self.now + seconds, again)

        self.at(self.now + seconds, again)

    def send(self, request: Request, name: str) -> int:
        """Hand a request to a node; returns the node's handle."""
        node = self.nodes[name]
        record = self.records[request.id]
        record.nodes += (name,)
        work = Work(
            request.model,
            request.prompt_tokens,
            request.output_tokens,
            num_ctx=request.num_ctx,
            boundaries=request.token_boundaries,
            after=request.after,
        )
        handle = node.model.submit(work, self.now)
        node.requests[handle] = request
        self._schedule(node)
        return handle

    def refuse(self, request: Request, reason: str) -> None:
        """Tell the client that it gets no answer."""
        self.records[request.id].refused = reason
        self._open -= 1

    # --- inside

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
                self.records[request.id].first = time
                self.policy.first_token(request, name)
            case Finished(time, handle, counters):
                request = node.requests.pop(handle)
                self.records[request.id].ended = time
                self._open -= 1
                self.policy.answered(request, name, counters)
                if self.on_end is not None:
                    self.on_end(request)
            case Refused(_, handle):
                self.policy.turned_away(node.requests.pop(handle), name)
            case Loaded() | Unloaded():
                self.policy.residency_changed(name)
