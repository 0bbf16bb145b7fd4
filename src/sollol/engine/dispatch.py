"""Carries a request to its end: attempt, then elsewhere if that failed before the client saw anything."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from sollol.core.attempts import MAX_ATTEMPTS, MoveBudget, Next, after_failure, same_complaint
from sollol.core.events import AttemptEnded, Event, FailureWithdrawn, HealthChanged
from sollol.core.node import NodeState
from sollol.core.ports import Header, Outgoing, Sink
from sollol.core.types import Counters, Decision, Health, Node, Task
from sollol.engine.admission import Admission, Placement
from sollol.engine.attempt import Attempt, Plan, Refusal, Result, passed_on
from sollol.engine.engine import Engine
from sollol.engine.judge import judge, outcome_of
from sollol.engine.pipeline import Outcome
from sollol.engine.plan import plan
from sollol.engine.stall import Stalls
from sollol.engine.story import Rendering, Story, begin, going_on, prompt_of, rendering
from sollol.errors import (
    AllAttemptsFailed,
    BrokeMidStream,
    CannotCarry,
    NodeClosed,
    NodeError,
    NodeFailed,
    NodeLoading,
    NodeUnreachable,
    NoNodeForModel,
    RequestError,
    SollolError,
)
from sollol.wire import errors as wire_errors
from sollol.wire import routing

FRESH_SECONDS: Final = 1.0
"""What was asked so short a time before a request came is believed to hold still."""

_JSON: Final[Header] = (b"content-type", b"application/json; charset=utf-8")


class Dispatch:
    """The last layer of the pipeline, and the only caller of `Transport.send` for requests of clients.

    ``look`` has a node looked at now: the stall watch asks for that. ``afresh`` has the nodes looked at that were not since a
    time on the engine's clock, and tells whether there were any.
    """

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        look: Callable[[str], None] = lambda node: None,
        afresh: Callable[[float], Awaitable[bool]] | None = None,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._afresh = afresh
        self._budget = MoveBudget()
        self._running: defaultdict[str, dict[int, Attempt | Rendering]] = defaultdict(dict)
        self._stalls = Stalls(engine, self._running, look)
        engine.listen(self._heard, HealthChanged)

    async def __call__(self, task: Task, sink: Sink) -> Outcome:
        """Answer `task` into `sink`. Raises a `SollolError` when nothing was shown to the client yet."""
        try:
            placement = await self._admission.place(task)
        except NoNodeForModel:
            # Nobody was known to have it when it was last asked; somebody may have got it since, by other hands.
            if self._afresh is None or not await self._afresh(task.arrived - FRESH_SECONDS):
                raise
            placement = await self._admission.place(task)
        story = begin(task) if task.plain else None
        result = await self._attempt(task, sink, placement, story)
        if _final(result):
            return self._outcome(placement, (placement.decision.node,), result, story)
        if task.once and result.error is not None:
            raise result.error
        return await self._go_on(task, sink, placement, result, story)

    async def _go_on(self, task: Task, sink: Sink, placement: Placement, result: Result, story: Story | None) -> Outcome:
        """After a failed attempt: elsewhere, from the start or from where it broke off, until one delivers or none is left."""
        way = _Way(task, sink, story)
        while not _final(result):
            assert isinstance(result.error, NodeError)
            way.failed(result.error)
            try:
                follows = self._follows(way)
                if follows is Next.PASS_ON:
                    return self._pass_on(placement.decision, way)
                if story is not None and story.begun and story.left(task) == 0:
                    return self._close(placement.decision, way, story)
                if follows is Next.GIVE_UP:
                    way.start_afresh()
                await self._wait_for_budget(len(way.tried) - 1)
                placement = await self._admission.place(task, way.exclude | self._unfit(story))
            except SollolError as error:
                if not sink.started:
                    raise
                return self._break_off(placement.decision, way, error)
            result = await self._attempt(task, sink, placement, story)
        return self._outcome(placement, (*way.nodes, placement.decision.node), result, story)

    def _follows(self, way: _Way) -> Next:
        """What follows the last failure. Raises the error for the client when nothing may."""
        task, sink, story, tried = way.task, way.sink, way.story, way.tried
        now, last = self._engine.clock.now(), tried[-1]
        if story is not None:
            why = story.stays(task)
            if why and sink.started:
                raise BrokeMidStream(last.node, last.text)
            if why or (story.begun and not sink.started and not self._usable(task, now, way.exclude | self._unfit(story))):
                story.forget(task)  # nothing of it was shown: another node may answer from the start
        left = self._usable(task, now, way.exclude | self._unfit(story))
        follows = after_failure(tried, len(tried) + left)
        if follows is Next.GIVE_UP and (left or len(tried) >= MAX_ATTEMPTS or self._serves_still(task, way.exclude)):
            raise (BrokeMidStream(last.node, last.text) if sink.started else _given_up(tried))
        return follows

    def _usable(self, task: Task, now: float, exclude: frozenset[str]) -> int:
        return self._engine.scheduler.usable(task, now, exclude)

    def _unfit(self, story: Story | None) -> frozenset[str]:
        """Nodes that cannot go on with an answer that was begun."""
        return story.unfit(self._engine.state.nodes.values()) if story is not None else frozenset()

    async def _attempt(self, task: Task, sink: Sink, placement: Placement, story: Story | None) -> Result:
        """One attempt from its slot to its end. However it ends, the slot is given back here and nowhere else."""
        decision = placement.decision
        running = self._running[decision.node]
        result: Result | None = None
        attempt: Attempt | None = None
        part = story is not None and story.begun
        try:
            planned = await self._continuation(task, decision, story) if story is not None and part else None
            attempt = running[task.id] = self._send(task, sink, placement, planned, story)
            try:
                result = await attempt.finished
            except asyncio.CancelledError:
                attempt.end_line()
                raise
            result = self._judged(decision, result, sink, attempt.plan, part)
        except NodeError as error:
            result = Result(error=error, sent=sink.started, broken=story is not None)
        finally:
            running.pop(task.id, None)
            if attempt is not None and attempt.exchange is not None:
                attempt.exchange.close()
            sink.attach(None)
            if story is not None and result is not None and result.error is not None:
                self._note(story, task, decision.node)
            self._publish_end(task, decision.node, result, part)
        return result

    def _send(self, task: Task, sink: Sink, placement: Placement, planned: Plan | None, story: Story | None) -> Attempt:
        engine, decision = self._engine, placement.decision
        known = self._known(decision)
        node = known.node
        self._budget.attempted(engine.clock.now())
        if planned is None:
            try:
                planned = plan(task, known, decision)
            except RequestError as error:
                raise CannotCarry(node.id, error) from error
        shown = partial(routing.headers, decision, node, known.kind)
        if story is None:
            attempt = Attempt(engine, placement, planned, sink, shown)
        else:
            attempt = story.attempt((engine, placement, planned, sink, shown), known.kind)
        attempt.exchange = exchange = engine.transport.send(node, planned.outgoing, attempt)
        sink.attach(exchange)
        attempt.think_ahead()
        if self._stalls.idle:
            self._stalls.begin()
        return attempt

    async def _continuation(self, task: Task, decision: Decision, story: Story) -> Plan:
        """How to go on at this node, which renders the prompt for it where that is needed."""
        known = self._known(decision)
        prompt: str | None = None
        try:
            outgoing = rendering(task, known, story, decision)
            if outgoing is not None:
                prompt = prompt_of(known.id, known.kind, await self._rendered(task, known.node, outgoing))
            planned = going_on(task, known, story, decision, prompt)
        except RequestError as error:
            raise CannotCarry(known.id, error) from error
        story.resumed += 1
        return planned

    async def _rendered(self, task: Task, node: Node, outgoing: Outgoing) -> bytes:
        running = self._running[node.id]
        receiver = running[task.id] = Rendering(node.id)
        exchange = self._engine.transport.send(node, outgoing, receiver)
        if self._stalls.idle:
            self._stalls.begin()
        try:
            return await receiver.finished
        finally:
            exchange.close()

    def _known(self, decision: Decision) -> NodeState:
        known = self._engine.state.nodes.get(decision.node)
        if known is None:
            raise NodeUnreachable(decision.node, "the node was removed")
        return known

    def _note(self, story: Story, task: Task, node: str) -> None:
        """An attempt broke off; what is known of it is about to be forgotten."""
        state = self._engine.state
        story.broke(state.attempt(node, task), state.nodes.get(node), self._engine.clock.now())

    def _judged(self, decision: Decision, result: Result, sink: Sink, planned: Plan, part: bool) -> Result:
        """A refusal by the node is either its failure, which may be tried elsewhere, or the request's fault and passed on."""
        refusal = result.refusal
        if refusal is None:
            return result
        error = judge(decision.node, refusal.status, refusal.body)
        if error is None and (part or sink.started):
            # It is too late to refuse the request: this node cannot go on with it, and that is nobody's failure.
            error = CannotCarry(decision.node, RequestError(wire_errors.message(refusal.body)))
        if error is not None:
            return Result(error=error, status=result.status, sent=result.sent, broken=result.broken)
        if planned.refusal is not None:
            status, body = planned.refusal(refusal.status, refusal.body)
            if body is not refusal.body:
                refusal = Refusal(status, (_JSON,), body)
        self._show_refusal(decision, refusal, sink)
        return Result(refusal=refusal, status=refusal.status)

    def _publish_end(self, task: Task, node: str, result: Result | None, part: bool) -> None:
        """The one place where an attempt ends, however it ended."""
        engine = self._engine
        now = engine.clock.now()
        if result is None:
            engine.publish(AttemptEnded(now, task, node, "cancelled"))
            return
        if result.error is None:
            self._stalls.worked(node, now)
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
                part=part,
                cut=isinstance(result.error, NodeClosed),
            )
        )

    def _outcome(self, placement: Placement, nodes: tuple[str, ...], result: Result, story: Story | None) -> Outcome:
        decision, error = placement.decision, result.error
        first, counters = (placement.progress.first_at, result.ending.counters if result.ending is not None else None)
        resumed = 0
        if story is not None and story.resumed:
            first, counters, resumed = (story.first_at or first, story.summed(counters), story.resumed)
        return Outcome(
            status=result.status,
            outcome="client-error" if result.refusal is not None else "ok" if error is None else "failed",
            nodes=nodes,
            queued=decision.queued,
            first_byte=first,
            counters=counters,
            decision=decision,
            text="" if error is None else str(error),
            resumed=resumed,
        )

    def _pass_on(self, decision: Decision, way: _Way) -> Outcome:
        """Two nodes said the same: the request's fault, so both failures are taken back and the reply is passed on."""
        last = way.tried[-1]
        assert isinstance(last, NodeFailed)
        now = self._engine.clock.now()
        for error in way.tried:
            if same_complaint(error, last):
                self._engine.publish(FailureWithdrawn(now, error.node, way.task))
        if way.sink.started:
            return self._break_off(decision, way, BrokeMidStream(last.node, last.text))
        status, body = wire_errors.in_dialect(way.task.dialect, last.node_status, last.body)
        self._show_refusal(decision, Refusal(status, (_JSON,), body), way.sink)
        return Outcome(last.node_status, "client-error", tuple(way.nodes), decision.queued, decision=decision, text=last.text)

    def _break_off(self, decision: Decision, way: _Way, error: SollolError) -> Outcome:
        """The answer had begun and cannot be completed: say so in the words of the client's dialect."""
        story, text = way.story, str(error)
        made = None if story is None else story.made
        way.sink.data(wire_errors.stream_ending(way.task.dialect, text) if made is None else made.failure(text))
        way.sink.end()
        first, resumed = (story.first_at, story.resumed) if story is not None else (None, 0)
        return Outcome(
            200, "failed", tuple(way.nodes), decision.queued, first, decision=decision, text=str(error), resumed=resumed
        )

    def _close(self, decision: Decision, way: _Way, story: Story) -> Outcome:
        """All tokens that were asked for are there; only the end is missing."""
        task, sink, made = way.task, way.sink, story.made
        closing = story.closing(task, self._engine.state.prompt_tokens(task), self._engine.clock.now(), shown=sink.started)
        if sink.started:
            sink.data(closing)
            sink.end()
        else:
            content = _JSON if made is None else (b"content-type", made.content_type)
            self._show_refusal(decision, Refusal(200, (content,), closing), sink)
        counters = Counters(output_tokens=story.before.tokens, done_reason="length")
        nodes = tuple(way.nodes)
        return Outcome(200, "ok", nodes, decision.queued, story.first_at, counters, decision, resumed=story.resumed)

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
            for attempt in tuple(self._running.get(event.node, {}).values()):
                attempt.fail(NodeClosed(event.node, f"the node went down ({event.reason})"))


class _Way:
    """Where a request has been: ``nodes`` in order, ``tried`` the failures that count for what follows."""

    __slots__ = ("exclude", "nodes", "sink", "story", "task", "tried")

    def __init__(self, task: Task, sink: Sink, story: Story | None) -> None:
        self.task, self.sink, self.story = task, sink, story
        self.nodes: list[str] = []
        self.tried: list[NodeError] = []
        self.exclude: frozenset[str] = frozenset()

    def failed(self, error: NodeError) -> None:
        """An attempt failed."""
        self.nodes.append(error.node)
        self.tried.append(error)
        self.exclude |= {error.node}

    def start_afresh(self) -> None:
        """Nothing is left to ask now, but a node may come back or have loaded soon: the queue knows how long to wait for that,
        and whether there is any hope. The attempts start afresh then, but for those that only met a node that was loading:
        one that always says so is not asked for ever.
        """
        self.tried = [error for error in self.tried if isinstance(error, NodeLoading)]
        self.exclude = frozenset()
        if self.story is None or not self.story.begun:
            self.nodes = [error.node for error in self.tried]


def _final(result: Result) -> bool:
    """Whether nothing follows."""
    return result.error is None or (result.sent and not result.broken)


def _given_up(tried: list[NodeError]) -> SollolError:
    """The error for a request that nobody could answer: its own fault where every node said so, else all that was tried."""
    last = tried[-1]
    if isinstance(last, CannotCarry) and all(isinstance(error, CannotCarry) for error in tried):
        return last.refusal
    return AllAttemptsFailed(tried)
