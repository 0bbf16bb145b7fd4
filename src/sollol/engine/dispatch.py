"""Carries a request to its end: attempt, then elsewhere if that failed before the client saw anything."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial
from typing import Final

from sollol.core.attempts import MAX_ATTEMPTS, MoveBudget, Next, after_failure, same_complaint
from sollol.core.events import AttemptEnded, Event, FailureWithdrawn, HealthChanged
from sollol.core.ports import Exchange, Header, Sink
from sollol.core.types import Decision, Health, Task
from sollol.engine.admission import Admission, Placement
from sollol.engine.attempt import Attempt, Plan, Refusal, Result, passed_on
from sollol.engine.engine import Engine
from sollol.engine.judge import judge, outcome_of
from sollol.engine.pipeline import Outcome
from sollol.engine.plan import plan
from sollol.errors import (
    AllAttemptsFailed,
    CannotCarry,
    NodeClosed,
    NodeError,
    NodeFailed,
    NodeLoading,
    NodeUnreachable,
    RequestError,
    SollolError,
)
from sollol.wire import routing

_JSON: Final[Header] = (b"content-type", b"application/json; charset=utf-8")


class Dispatch:
    """The last layer of the pipeline, and the only caller of `Transport.send` for requests of clients."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission
        self._budget = MoveBudget()
        self._running: defaultdict[str, set[Attempt]] = defaultdict(set)
        engine.listen(self._heard, HealthChanged)

    async def __call__(self, task: Task, sink: Sink) -> Outcome:
        """Answer `task` into `sink`. Raises a `SollolError` when nothing was shown to the client yet."""
        tried: list[NodeError] = []
        exclude: frozenset[str] = frozenset()
        placement = await self._admission.place(task)
        while True:
            result = await self._attempt(task, sink, placement)
            if result.sent or result.refusal is not None:
                return self._outcome(placement, tried, result)
            assert isinstance(result.error, NodeError)
            tried.append(result.error)
            exclude |= {result.error.node}
            left = self._engine.scheduler.usable(task, self._engine.clock.now(), exclude)
            match after_failure(tried, len(tried) + left):
                case Next.PASS_ON:
                    return self._pass_on(task, sink, placement.decision, tried)
                case Next.GIVE_UP if left or len(tried) >= MAX_ATTEMPTS or self._serves_still(task, exclude):
                    raise _given_up(tried)
                case Next.GIVE_UP:
                    # Nothing is left to ask now, but a node may come back or have loaded soon: the queue knows how long to
                    # wait for that, and whether there is any hope. The attempts start afresh then, but for those that only
                    # met a node that was loading: one that always says so is not asked for ever.
                    tried, exclude = [error for error in tried if isinstance(error, NodeLoading)], frozenset()
            await self._wait_for_budget(len(tried) - 1)
            placement = await self._admission.place(task, exclude)

    async def _attempt(self, task: Task, sink: Sink, placement: Placement) -> Result:
        """One attempt from its slot to its end. However it ends, the slot is given back here and nowhere else."""
        decision = placement.decision
        result: Result | None = None
        exchange: Exchange | None = None
        try:
            attempt, exchange = self._send(task, sink, placement)
            self._running[decision.node].add(attempt)
            try:
                result = await attempt.finished
            except asyncio.CancelledError:
                attempt.end_line()
                raise
            finally:
                self._running[decision.node].discard(attempt)
            result = self._judged(task, decision, result, sink, attempt.plan)
        except NodeError as error:
            result = Result(error=error)
        finally:
            if exchange is not None:
                exchange.close()
            sink.attach(None)
            self._publish_end(task, decision.node, result)
        return result

    def _send(self, task: Task, sink: Sink, placement: Placement) -> tuple[Attempt, Exchange]:
        engine, decision = self._engine, placement.decision
        known = engine.state.nodes.get(decision.node)
        if known is None:
            raise NodeUnreachable(decision.node, "the node was removed")
        node = known.node
        self._budget.attempted(engine.clock.now())
        try:
            planned = plan(task, node, known.kind, known.models.get(task.model), decision)
        except RequestError as error:
            raise CannotCarry(node.id, error) from error
        shown = partial(routing.headers, decision, node, known.kind)
        attempt = Attempt(engine, placement, planned, sink, shown)
        exchange = engine.transport.send(node, planned.outgoing, attempt)
        sink.attach(exchange)
        return attempt, exchange

    def _judged(self, task: Task, decision: Decision, result: Result, sink: Sink, planned: Plan) -> Result:
        """A refusal by the node is either its failure, which may be tried elsewhere, or the request's fault and passed on."""
        refusal = result.refusal
        if refusal is None:
            return result
        error = judge(decision.node, refusal.status, refusal.body)
        if error is not None:
            return Result(error=error, status=result.status)
        if planned.refusal is not None:
            status, body = planned.refusal(refusal.status, refusal.body)
            refusal = Refusal(status, (_JSON,), body)
        self._show_refusal(decision, refusal, sink)
        return Result(refusal=refusal, status=refusal.status)

    def _publish_end(self, task: Task, node: str, result: Result | None) -> None:
        """The one place where an attempt ends, however it ended."""
        engine = self._engine
        now = engine.clock.now()
        if result is None:
            engine.publish(AttemptEnded(now, task, node, "cancelled"))
            return
        ending = result.ending
        outcome = "client-error" if result.refusal is not None and result.error is None else outcome_of(result.error)
        engine.publish(
            AttemptEnded(
                now,
                task,
                node,
                outcome,
                text="" if result.error is None else result.error.text,
                status=result.status,
                counters=ending.counters if ending is not None else None,
                native=ending is not None and ending.native,
                sent=result.sent,
                unreachable=isinstance(result.error, NodeUnreachable),
            ),
        )

    def _outcome(self, placement: Placement, tried: list[NodeError], result: Result) -> Outcome:
        decision, error = placement.decision, result.error
        return Outcome(
            status=result.status,
            outcome="client-error" if result.refusal is not None else "ok" if error is None else "failed",
            nodes=(*[failed.node for failed in tried], decision.node),
            queued=decision.queued,
            first_byte=placement.progress.first_at,
            counters=result.ending.counters if result.ending is not None else None,
            decision=decision,
            text="" if error is None else str(error),
        )

    def _pass_on(self, task: Task, sink: Sink, decision: Decision, tried: list[NodeError]) -> Outcome:
        """Two nodes said the same: the request's fault, so both failures are taken back and the reply is passed on."""
        last = tried[-1]
        assert isinstance(last, NodeFailed)
        now = self._engine.clock.now()
        for error in tried:
            if same_complaint(error, last):
                self._engine.publish(FailureWithdrawn(now, error.node, task))
        self._show_refusal(decision, Refusal(last.node_status, (_JSON,), last.body), sink)
        nodes = tuple(error.node for error in tried)
        return Outcome(last.node_status, "client-error", nodes, decision.queued, decision=decision, text=last.text)

    def _show_refusal(self, decision: Decision, refusal: Refusal, sink: Sink) -> None:
        known = self._engine.state.nodes.get(decision.node)
        shown = routing.headers(decision, known.node, known.kind) if known is not None else []
        sink.head(refusal.status, [*passed_on(refusal.headers), *shown], len(refusal.body))
        if refusal.body:
            sink.data(refusal.body)
        sink.end()

    def _serves_still(self, task: Task, tried: frozenset[str]) -> bool:
        """Whether one of the nodes that failed could take the request again: it is there, up, loaded, and has the model."""
        nodes = (self._engine.state.nodes.get(node) for node in tried)
        return any(
            node is not None
            and node.state is not Health.DOWN
            and not node.loading
            and (not task.model or task.model in node.models)
            for node in nodes
        )

    async def _wait_for_budget(self, moves_before: int) -> None:
        clock = self._engine.clock
        while not self._budget.take(clock.now(), max(moves_before, 0)):
            pause = max(self._budget.next_chance(clock.now()), 0.05)
            await asyncio.sleep(pause)

    def _heard(self, event: Event) -> None:
        """A node that goes down ends what runs there at once; nobody waits for a socket that stays silent."""
        if isinstance(event, HealthChanged) and event.new == Health.DOWN:
            for attempt in tuple(self._running.get(event.node, ())):
                attempt.fail(NodeClosed(event.node, f"the node went down ({event.reason})"))


def _given_up(tried: list[NodeError]) -> SollolError:
    """The error for a request that nobody could answer: its own fault where every node said so, else all that was tried."""
    last = tried[-1]
    if isinstance(last, CannotCarry) and all(isinstance(error, CannotCarry) for error in tried):
        return last.refusal
    return AllAttemptsFailed(tried)
