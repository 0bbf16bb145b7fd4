"""Carries a batch to its end: reads the inputs, sends what the board decides, hands results on as they come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar

from sollol.core.batch import Board, Fault
from sollol.core.estimates import Recent
from sollol.core.gates import USABLE
from sollol.core.lanes import Flight, Offer
from sollol.core.node import NodeState
from sollol.core.types import Cost, Task
from sollol.engine.engine import Engine
from sollol.errors import (
    AllAttemptsFailed,
    BadValue,
    DeadlineExceeded,
    ModelGone,
    NodeBusy,
    NodeError,
    NodeUnreachable,
    NoNodes,
    QueueFull,
    RequestError,
    ShuttingDown,
    SollolError,
)

I = TypeVar("I")  # noqa: E741 - input and result, as everywhere
R = TypeVar("R")
Settled = tuple[int, R | None, SollolError | None]
Send = Callable[[Sequence[I], str | None, Callable[[Task], None]], Coroutine[Any, Any, Sequence[R]]]
Speeds = Recent[tuple[str, str], float]

TICK_SECONDS: Final = 0.05
SURVEY_SECONDS: Final = 0.25
LOOKAHEAD: Final = 1_024
"""Inputs that are read before somebody works on them."""
READY: Final = 1_024
"""Results that wait for whoever reads them; with more, no new work is begun."""
MOST_AT_NODE: Final = 8
MOST_ROUTED: Final = 64
ALIKE: Final = 8
"""So many single items refused in the same words, and none accepted: that is about none of them."""

_NOBODYS: Final = (NodeUnreachable, NodeBusy, ModelGone, QueueFull, NoNodes)


class Batch(Generic[I, R]):
    """One batch under way. `take` gives what is settled, `close` ends it; both in the loop of the engine.

    ``source`` gives the inputs in lists. ``send`` asks for some of them, at a node or (None) where routing sends it, and tells
    the task that it made. ``probe`` is a request of this kind, for asking which nodes could serve it. ``routed``: routing
    places every request. ``timeout`` is in seconds, for everything.
    """

    def __init__(
        self,
        engine: Engine,
        board: Board,
        source: AsyncIterator[Sequence[I]],
        send: Send[I, R],
        *,
        probe: Task,
        speeds: Speeds,
        check: Callable[[I], str] = lambda one: "",
        routed: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._engine, self._board, self._source, self._send, self._probe = engine, board, source, send, probe
        self._speeds, self._check, self._routed = speeds, check, routed
        self._inputs: dict[int, I] = {}
        self._runs: dict[Flight, asyncio.Task[Sequence[R]]] = {}
        self._tasks: dict[Flight, Task] = {}
        self._ready: deque[Settled[R]] = deque()
        self._news, self._hungry = asyncio.Event(), asyncio.Event()
        self._broken: BaseException | None = None
        self._closed = self._any_done = False
        self._refused = ("", 0)
        self._surveyed = float("-inf")
        self._somebody_at = engine.clock.now()
        self._timers: list[asyncio.TimerHandle] = []
        if timeout is not None:
            late = partial(self._abort, DeadlineExceeded(f"not done within {timeout:g} s"))
            self._timers.append(engine.loop.call_later(timeout, late))
        self._ticker = engine.loop.call_later(TICK_SECONDS, self._tick)
        self._feeder = engine.loop.create_task(self._feed())
        self._feeder.add_done_callback(self._fed)

    async def take(self) -> list[Settled[R]]:
        """What was settled since the last call, in no order: (index, result, error). Empty at the end.

        Raises what the inputs raised, and `ShuttingDown`.
        """
        while not self._ready and self._broken is None and not self._board.over and not self._closed:
            self._news.clear()
            await self._news.wait()
        if self._broken is not None:
            self.close()
            raise self._broken
        settled = list(self._ready)
        self._ready.clear()
        if settled:
            self._pump()
        else:
            self.close()
        return settled

    def close(self) -> None:
        """End everything that runs. Harmless when it is over."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        self._feeder.cancel()
        self._ticker.cancel()
        for timer in self._timers:
            timer.cancel()
        for lane in self._board.lanes.values():
            if lane.speed is not None and lane.node:
                self._speeds.put((lane.node, self._probe.model), lane.speed)
        for flight in list(self._runs):
            self._cancel(flight)

    # --- inputs

    async def _feed(self) -> None:
        board, index = self._board, 0
        async for piece in self._source:
            good: list[int] = []
            for one in piece:
                wrong = self._check(one)
                if wrong:
                    self._ready.append((index, None, BadValue(wrong)))
                else:
                    self._inputs[index] = one
                    good.append(index)
                index += 1
            board.offer(good)
            board.skip(len(piece) - len(good))
            self._pump()
            while board.waiting >= LOOKAHEAD or len(self._ready) >= READY:
                self._hungry.clear()
                await self._hungry.wait()

    def _fed(self, feeder: asyncio.Task[None]) -> None:
        if feeder.cancelled():
            return
        self._broken = self._broken or feeder.exception()
        self._board.end()
        self._pump()

    # --- work

    def _tick(self) -> None:
        """What is late is noticed by time alone."""
        self._ticker = self._engine.loop.call_later(TICK_SECONDS, self._tick)
        self._pump()

    def _pump(self) -> None:
        """Send what can be sent now."""
        if self._closed:
            return
        board, now = self._board, self._engine.clock.now()
        if now - self._surveyed >= SURVEY_SECONDS:
            self._survey(now)
        if len(self._ready) < READY:
            for flight in board.begin(now):
                self._launch(flight, now)
        if board.waiting < LOOKAHEAD and len(self._ready) < READY:
            self._hungry.set()
        if self._ready or self._broken is not None or board.over:
            self._news.set()

    def _survey(self, now: float) -> None:
        """Ask the routing who could work, and how much at once."""
        self._surveyed = now
        engine, board = self._engine, self._board
        costs = [cost for cost in engine.scheduler.explain(self._probe, now) if not cost.blocked]
        nodes = engine.state.nodes
        preferred = [cost for cost in costs if nodes[cost.node].node.priority > 1]
        offers = {cost.node: self._offer(nodes[cost.node], cost) for cost in preferred or costs}
        if self._routed and offers:
            width = sum(min(nodes[node].slots.window, MOST_ROUTED) if offers[node].width > 1 else 1 for node in offers)
            offers = {"": Offer(width + len(offers), width)}
        for flight in board.survey(offers):
            if not self._routed and not self._running(flight):
                self._cancel(flight)
                board.back(flight, now)
        patience = engine.scheduler.limits.no_node_seconds
        if board.usable or self._runs or self._somebody_comes(now):
            self._somebody_at = now
        elif patience is not None and now - self._somebody_at > patience:
            self._abort(NoNodes("no node that could do the rest is reachable"))

    def _offer(self, node: NodeState, cost: Cost) -> Offer:
        serial = node.serial(self._probe.kind, self._probe.model)
        width = 1 if serial else max(1, min(node.slots.window, MOST_AT_NODE))
        return Offer(width + 1, width, cost.load + cost.evict, self._speeds.get((cost.node, self._probe.model)))

    def _somebody_comes(self, now: float) -> bool:
        """Whether a node that has the model is there, and only cannot take anything at this moment."""
        model = self._probe.model
        return any(model in node.models and node.health.at(now) in USABLE for node in self._engine.state.nodes.values())

    def _launch(self, flight: Flight, now: float) -> None:
        pin = flight.node or None
        if flight.beside is not None:
            pin = self._elsewhere(flight.beside, now)
            if pin is None:
                self._board.back(flight, now)
                return
        inputs = [self._inputs[item] for item in flight.items]
        work = self._send(inputs, pin, partial(self._tasks.__setitem__, flight))
        run = self._runs[flight] = self._engine.loop.create_task(work)
        run.add_done_callback(partial(self._landed, flight))

    def _elsewhere(self, flight: Flight, now: float) -> str | None:
        """Another node with an idle slot, for a second run of what routing has placed."""
        task = self._tasks.get(flight)
        engine = self._engine
        if task is None or engine.scheduler.waiting:
            return None
        here = next((node.id for node in engine.state.nodes.values() if task.id in node.running), None)
        if here is None:
            return None
        idle = (cost for cost in engine.scheduler.explain(self._probe, now) if not cost.blocked and cost.free and not cost.load)
        return next((cost.node for cost in idle if cost.node != here), None)

    def _running(self, flight: Flight) -> bool:
        """Whether it is at its node already, and not only in the queue."""
        task, node = self._tasks.get(flight), self._engine.state.nodes.get(flight.node)
        return task is not None and node is not None and task.id in node.running

    # --- what becomes of it

    def _landed(self, flight: Flight, run: asyncio.Task[Sequence[R]]) -> None:
        if self._runs.pop(flight, None) is None:
            if not run.cancelled():
                run.exception()  # it was given up, whatever came of it
            return
        self._tasks.pop(flight, None)
        error: BaseException | None = ShuttingDown("the pool was closed") if run.cancelled() else run.exception()
        now = self._engine.clock.now()
        if error is None:
            self._done(flight, run.result(), now)
        elif isinstance(error, ShuttingDown) or not isinstance(error, SollolError):
            self._broken = self._broken or error
        else:
            self._failed(flight, error, now)
        self._pump()

    def _done(self, flight: Flight, results: Sequence[R], now: float) -> None:
        self._any_done = True
        for place in self._board.done(flight, now):
            item = flight.items[place]
            del self._inputs[item]
            self._ready.append((item, results[place], None))
        for other in self._board.spent():
            self._cancel(other)

    def _failed(self, flight: Flight, error: SollolError, now: float) -> None:
        fault = Fault.LOST
        if isinstance(error, RequestError):
            fault = Fault.REFUSED
        elif isinstance(error, _NOBODYS) and not self._routed:
            fault = Fault.UNSENT
        for item, said in self._board.failed(flight, now, fault, error).items():
            self._give_up(item, said)
        if fault is Fault.REFUSED and len(flight.items) == 1 and not self._any_done:
            text, count = self._refused
            self._refused = (str(error), count + 1 if text == str(error) else 1)
            if self._refused[1] >= ALIKE:
                self._abort(error)

    def _give_up(self, item: int, said: Sequence[Exception]) -> None:
        del self._inputs[item]
        failures = [error for error in said if isinstance(error, NodeError)]
        last = said[-1]
        error = AllAttemptsFailed(failures) if len(failures) == len(said) > 1 else last
        self._ready.append((item, None, error if isinstance(error, SollolError) else SollolError(str(error))))

    def _abort(self, error: SollolError) -> None:
        """Nothing more can be done: what has no result yet gets this error."""
        for flight in list(self._runs):
            self._cancel(flight)
        self._feeder.cancel()
        self._ready.extend((item, None, error) for item in self._board.drop_rest())
        self._inputs.clear()
        self._news.set()

    def _cancel(self, flight: Flight) -> None:
        """End a request, also at its node."""
        self._tasks.pop(flight, None)
        run = self._runs.pop(flight, None)
        if run is not None:
            run.cancel()
