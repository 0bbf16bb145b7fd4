"""Hedging: a small request runs on a second node too, where a slot stands idle, and the first answer wins.

A layer around the dispatch: each run is an ordinary request to it, with a sink of its own. The run whose answer begins first
gets the client; the sockets of the others are closed in the same turn, and what they tell is "cancelled".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from itertools import count
from typing import Final

from msgspec.structs import replace

from sollol.core.node import NodeState
from sollol.core.ports import Exchange, Headers, Sink
from sollol.core.races import RaceBudget, idle_for, may_race, patience
from sollol.core.types import Task
from sollol.engine.engine import Engine
from sollol.engine.pipeline import Handler, Outcome
from sollol.wire.routing import ascii_value

HEADER: Final = b"x-sollol-hedged"


class Hedge:
    """The layer. ``always`` true: every small request may race; else only those whose client asks for it."""

    def __init__(self, engine: Engine, *, always: bool = False) -> None:
        self.always = always
        self.engine = engine
        self._budget = RaceBudget(engine.clock.now(), self._work(engine.clock.now()))
        self._ids = count(-1, -1)

    def __call__(self, task: Task, sink: Sink, *, call_next: Handler) -> Awaitable[Outcome]:
        if task.hedge is None and not self.always:
            return call_next(task, sink)
        runs = 2 if task.hedge is None else task.hedge
        if runs < 2 or not may_race(task):
            return call_next(task, sink)
        return Race(self, task, sink, call_next, runs).run()

    def another(self, task: Task, used: set[str]) -> Task | None:
        """The same request for one more node, the best that is idle; None where there is none, or it would be too much."""
        engine = self.engine
        now = engine.clock.now()
        if engine.scheduler.waiting:
            return None
        for cost in engine.scheduler.explain(task, now):
            if cost.blocked or not cost.free or cost.load or cost.wait or cost.node in used:
                continue
            node = engine.state.nodes.get(cost.node)
            if node is None or not idle_for(node, task, now):
                continue
            if not self._budget.take(now, self._work(now), cost.slow * (cost.prefill + cost.decode)):
                return None
            return replace(task, id=next(self._ids), pin=cost.node, arrived=now)
        return None

    def place_of(self, task: Task) -> NodeState | None:
        """The node on which ``task`` runs now."""
        return next((node for node in self.engine.state.nodes.values() if task.id in node.running), None)

    def _work(self, now: float) -> float:
        return sum(node.integral(now) for node in self.engine.state.nodes.values())


class Race:
    """One request and its runs; towards the client's door it is the exchange of all of them."""

    def __init__(self, hedge: Hedge, task: Task, sink: Sink, call_next: Handler, runs: int) -> None:
        self.sink = sink
        self._hedge = hedge
        self._task = task
        self._call_next = call_next
        self._others = runs - 1
        self._runs: list[Run] = []
        self._winner: Run | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False
        self._result: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def run(self) -> Outcome:
        """The outcome of the run that won; the error of the first one if none did."""
        self.sink.attach(self)
        self._enter(self._task)
        try:
            return await self._result
        finally:
            self._over = True
            self.sink.attach(None)
            if self._timer is not None:
                self._timer.cancel()
            for run in self._runs:
                if run is self._winner:
                    run.work.cancel()  # harmless at its end; before it, what it still has to say goes to the client
                else:
                    run.drop()
            await asyncio.wait([run.work for run in self._runs])
            if self._result.done() and not self._result.cancelled():
                self._result.exception()  # whoever was cancelled in the same turn does not ask for it

    # --- what the runs tell

    def sent(self, run: Run) -> None:
        """A run was given to a node."""
        node = self._hedge.place_of(run.task)
        run.node = node.label if node is not None else ""
        if run is not self._runs[0]:
            # From now on it is a request like any other: should its node break, it may go on elsewhere.
            run.task.pin = None
        elif self._timer is None and node is not None:
            foreseen = node.running[run.task.id]
            wait = patience(self._task, foreseen.prefill, foreseen.decode)
            self._timer = asyncio.get_running_loop().call_later(wait, self._more)

    def unsent(self, run: Run) -> None:
        """The attempt of a run ended before it said anything: the first one may move, another one is out."""
        if run is not self._runs[0]:
            run.drop()

    def wins(self, run: Run, status: int) -> bool:
        """An answer begins: whether it is the one that the client gets. The others end in this turn."""
        if self._over or (self._winner is None and run is not self._runs[0] and status >= 300):
            run.drop()
        elif self._winner is None:
            self._winner = run
            for other in self._runs:
                if other is not run:
                    other.drop()
        return self._winner is run

    def ended(self, run: Run) -> None:
        """The work of a run is over."""
        if self._result.done() or (self._winner is not None and run is not self._winner):
            return
        if run is not self._winner and not all(other.work.done() for other in self._runs):
            return
        last = run if run is self._winner else self._runs[0]
        if last.work.cancelled():
            self._result.cancel()
            return
        error = last.work.exception()
        if error is not None:
            self._result.set_exception(error)
        else:
            self._result.set_result(replace(last.work.result(), hedged=self.lost))

    @property
    def lost(self) -> str:
        """The nodes that ran it too."""
        return ",".join(other.node for other in self._runs if other is not self._winner and other.node)

    # --- core.ports.Exchange, for the door

    def pause(self) -> None:
        for run in self._runs:
            if run.exchange is not None:
                run.exchange.pause()

    def resume(self) -> None:
        for run in self._runs:
            if run.exchange is not None:
                run.exchange.resume()

    def write(self, data: bytes) -> None:
        """Requests here are whole; nothing is written afterwards."""

    def finish(self) -> None:
        """There is no upload."""

    def close(self) -> None:
        """The client has gone."""
        self._over = True
        for run in self._runs:
            run.hang_up()

    # ---

    def _more(self) -> None:
        """Time for the other runs, unless an answer has begun."""
        first = self._hedge.place_of(self._task)
        if first is None or self._winner is not None or self._over:
            return
        used = {first.id}
        while len(used) <= self._others:
            task = self._hedge.another(self._task, used)
            if task is None or task.pin is None:
                return
            used.add(task.pin)
            self._enter(task)

    def _enter(self, task: Task) -> None:
        run = Run(self, task)
        self._runs.append(run)
        run.start(self._call_next)
        if task is not self._task:
            # It takes a slot that is free now, in its first turn, or it is too late for it: it must not wait for one.
            asyncio.get_running_loop().call_soon(run.drop_unsent)


class Run:
    """One run of the request: the sink of its dispatch."""

    def __init__(self, race: Race, task: Task) -> None:
        self.task = task
        self.node = ""
        self.exchange: Exchange | None = None
        self.work: asyncio.Task[Outcome]
        self._race = race
        self._begun = self._dropped = False

    def start(self, call_next: Handler) -> None:
        """Let it run."""
        self.work = asyncio.create_task(_called(call_next, self.task, self))
        self.work.add_done_callback(lambda work: self._race.ended(self))

    def drop(self) -> None:
        """It has lost, or nobody wants it any more."""
        if not self._dropped:
            self._dropped = True
            self.hang_up()
            self.work.cancel()

    def drop_unsent(self) -> None:
        """Drop it if no node has got it yet."""
        if not self.node:
            self.drop()

    def hang_up(self) -> None:
        """Close the socket to its node."""
        if self.exchange is not None:
            self.exchange.close()

    # --- core.ports.Sink

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        self._begun = True
        if self._race.wins(self, status):
            lost = self._race.lost
            self._race.sink.head(status, [*headers, (HEADER, ascii_value(lost))] if lost else headers, length)

    def data(self, data: bytes) -> None:
        if not self._dropped:
            self._race.sink.data(data)

    def end(self) -> None:
        if not self._dropped:
            self._race.sink.end()

    def abort(self) -> None:
        if not self._dropped:
            self._race.sink.abort()

    @property
    def started(self) -> bool:
        return self._begun

    def attach(self, exchange: Exchange | None) -> None:
        self.exchange = exchange
        if exchange is None:
            if not self._begun:
                self._race.unsent(self)
        elif self._dropped:
            exchange.close()
        else:
            self._race.sent(self)


async def _called(call_next: Handler, task: Task, sink: Sink) -> Outcome:
    return await call_next(task, sink)
