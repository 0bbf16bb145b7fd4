"""Events about requests: an attempt began, spoke, ended. Functions of the state and one event, called by `state` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from . import events as ev
from .health import Signal
from .learning import learn
from .mirror import KvSlot, oldest_free
from .node import ALWAYS_RESIDENT, NodeState, Runner, Running
from .node_events import drop, signal, up
from .residency import plan
from .types import Decision, Health, Kind, Progress, Task

if TYPE_CHECKING:
    from .state import ClusterState

_BAD = frozenset({"failed", "busy"})
_OVER = frozenset({"ok", "client-error", "cancelled", "withdrawn"})


class Settlement(Struct, frozen=True):
    """An attempt ended: its client had ``foreseen`` node seconds on its account, took ``used``. ``over``: no move follows."""

    task: Task
    foreseen: float
    used: float
    over: bool


def arrived(state: ClusterState, event: ev.TaskArrived) -> None:
    """Count the use of the model."""
    state.stats(event.task.model).count(event.at)


def started(state: ClusterState, event: ev.AttemptStarted) -> None:
    """A request went to a node: its runner, slot and prefix are taken."""
    decision = event.decision
    node = state.known.get(decision.node)
    if node is None:
        return
    task, at = decision.task, event.at
    node.advance(at)
    k = node.at_runner(task.model)
    runner = runner_for(state, node, task, at)
    run = _foreseen(decision, runner, event.progress, at)
    run.k = k
    run.integral = node.busy_integral
    if runner.loading:
        run.ready_at = max(at, runner.ready_at)
        run.loads = runner.running == 0 and len(node.running) == 0
        node.health.urgent = True
    if task.kind is not Kind.EMBED and task.model:
        run.kv = hold_prefix(state, node, runner, run, at)
    runner.running += 1
    runner.expires = None
    node.running[task.id] = run
    node.attempts += 1
    node.slots.sent(k)
    if node.health.state is Health.OPEN:
        signal(state, node, Signal.DUE, at, "lets one request through")
    node.version += 1


def runner_for(state: ClusterState, node: NodeState, task: Task, at: float) -> Runner:
    """The runner that the request will use; a load it begins makes idle victims leave and decides the switch of busy ones."""
    model = task.model
    if not model:
        return Runner(node.id, "", None, loading=False, ready_at=at)
    runner = node.runner(model, at)
    if runner is not None and not runner.leaving_for and node.suits(runner, task.num_ctx):
        return runner
    needed = plan(state, node, model, at)
    for victim in needed.victims:
        if (victim.running or victim.loading) and victim.model != model:
            victim.leaving_for = model
        else:
            drop(state, node, victim, at)
    fresh = Runner(node.id, model, task.num_ctx, loading=True, ready_at=at + needed.seconds)
    fresh.made_at = at
    node.runners[model] = fresh
    return fresh


def hold_prefix(state: ClusterState, node: NodeState, runner: Runner, run: Running, at: float) -> KvSlot | None:
    """The KV slot that will be used: the one with the longest prefix, else a new one, else the free one used longest ago."""
    prompt = run.task.prompt
    # The decision has looked already: where it found nothing there is nothing.
    match = state.mirror.find(prompt, runner.model).get(node.id) if run.cached > 0.0 else None
    if state.mirror.follows(prompt):
        state.mirror.followed(match is not None)
    slot = match[1] if match is not None else None
    if slot is None:
        if len(runner.kv) < node.slots.count:
            slot = KvSlot(runner)
            runner.kv.append(slot)
        else:
            slot = oldest_free(runner.kv)
    if slot is not None:
        state.mirror.take(slot, prompt, run.prompt, at)
    return slot


def first_token(state: ClusterState, event: ev.FirstToken) -> None:
    """The first byte came: whatever was loading is loaded."""
    node = state.known.get(event.node)
    run = node.running.get(event.task.id) if node is not None else None
    if node is None or run is None:
        return
    node.advance(event.at)
    run.first_at = event.at
    run.first_integral = node.busy_integral
    if run.runner.loading:
        up(state, node, run.runner, event.at)
        node.health.urgent = True  # only a look tells whom the load drove out
        node.version += 1
    run.beside = node.at_work() - 1
    if node.slots.fixed is None and node.slots.streaming(sum(other.first_at is not None for other in node.beside(run))):
        node.version += 1


def ended(state: ClusterState, event: ev.AttemptEnded) -> None:
    """A request is off a node, however it ended: free what it held, learn, judge."""
    node = state.known.get(event.node)
    run = node.running.get(event.task.id) if node is not None else None
    if node is None or run is None:
        state.settled.append(Settlement(event.task, 0.0, 0.0, event.outcome in _OVER))
        return
    at, task = event.at, event.task
    node.advance(at)
    del node.running[task.id]
    stats = state.stats(task.model)
    if event.outcome == "ok":
        learn(node, run, event, stats, state.answers)
    if run.kv is not None:
        state.mirror.release(run.kv, _output(run, event), stats.chars_per_token, at)
    if node.slots.fixed is None:  # else nobody asks for `k`, and looking at all that run costs more than the rest of this
        _made_room(node, run, at)
    release(state, node, run, event)
    judge(state, node, event, run.started)
    used = _used(run, event)
    state.settled.append(Settlement(task, run.run, used, event.outcome in _OVER))
    node.version += 1


def _made_room(node: NodeState, run: Running, at: float) -> None:
    """Who was sent just now had one fewer before it: it cannot be told from one that found a free slot."""
    for other in node.running.values():
        if at - other.started < 0.020 + 0.02 * other.run and (other.runner is run.runner or node.shares_slots()):
            other.k -= 1


def _output(run: Running, event: ev.AttemptEnded) -> float:
    counters = event.counters
    if counters is None or counters.output_tokens is None:
        return float(run.progress.tokens)
    return float(counters.output_tokens)


def _used(run: Running, event: ev.AttemptEnded) -> float:
    """Seconds of the node that the attempt took: its own counters, else its time there after loads and foreseen waits."""
    counters = event.counters
    if counters is not None and counters.decode is not None:
        return counters.decode + (counters.prefill or 0.0)
    return max(0.0, event.at - max(run.started + run.wait, run.ready_at))


def release(state: ClusterState, node: NodeState, run: Running, event: ev.AttemptEnded) -> None:
    """The request is off its runner: a load may be done or given up, keep_alive begins, a runner that had to leave is gone."""
    runner, at = run.runner, event.at
    runner.running -= 1
    runner.used_at = at
    if run.task.keep_alive is not None:
        runner.keep = run.task.keep_alive
    if runner.loading:
        if event.outcome == "ok" or event.sent:
            up(state, node, runner, at)
            node.health.urgent = True
        elif runner.running == 0:
            _give_up(state, node, runner, at)
    if runner.running or node.kind in ALWAYS_RESIDENT:
        return
    keep = runner.keep if runner.keep is not None else node.keep
    if runner.leaving_for or keep == 0.0:
        drop(state, node, runner, at)
    else:
        runner.expires = at + keep if keep > 0.0 else None


def _give_up(state: ClusterState, node: NodeState, runner: Runner, at: float) -> None:
    """Nobody waits for this load any more: the decided switch is off, and the next look tells what is really loaded."""
    drop(state, node, runner, at)
    for other in node.runners.values():
        if other.leaving_for == runner.model:
            other.leaving_for = ""
    node.health.urgent = True


def judge(state: ClusterState, node: NodeState, event: ev.AttemptEnded, sent_at: float) -> None:
    """What the outcome says about the health of the node and of the pair of node and model."""
    outcome, at, model = event.outcome, event.at, event.task.model
    if outcome == "ok":
        node.health.success.learn(True, at)
        known = node.rates.get(model)
        if known is not None:
            known.success.learn(True, at)
        if not node.health.steady:
            signal(state, node, Signal.WORKED, at, "answered a request")
    elif outcome in _BAD:
        _failed(state, node, event, sent_at)
    elif outcome == "load-failed":
        node.failed += 1
        node.health.last_error = event.text
        node.rates_of(model).success.learn(False, at)
    elif outcome == "loading":
        node.loading = node.health.urgent = True
    elif outcome == "model-gone" and node.drop_model(model, at):
        state.layout += 1


def _failed(state: ClusterState, node: NodeState, event: ev.AttemptEnded, sent_at: float) -> None:
    """Count a failure against the node.

    Attempts that were under way together when their connections were cut are one failure of the node: its death, which is no
    row of failures that would keep work away after its return. Nor are refusals by a node that is known to be down.
    """
    at, health = event.at, node.health
    node.failed += 1
    health.last_error = event.text
    if (event.cut and sent_at <= health.cut_at) or (event.unreachable and health.state is Health.DOWN):
        return
    if event.cut:
        health.cut_at = at
    health.success.learn(False, at)
    if event.task.model:
        node.rates_of(event.task.model).success.learn(False, at)
    signal(state, node, Signal.FAILED, at, event.text)
    if event.unreachable:
        signal(state, node, Signal.REFUSED, at, event.text)


def withdrawn(state: ClusterState, event: ev.FailureWithdrawn) -> None:
    """The failure of ``event.task`` on the node was the request's own fault: take it back."""
    node = state.known.get(event.node)
    if node is None:
        return
    node.failed = max(0, node.failed - 1)
    before = node.health.state
    node.health.withdraw(event.at)
    state.note_health(node, before, event.at, "the failure was the request's own fault")
    known = node.rates.get(event.task.model)
    if known is not None:
        known.success.withdraw(event.at)
    node.version += 1


def unloaded(state: ClusterState, event: ev.Unloaded) -> None:
    """The model leaves the node: at once when idle, else when its requests are done."""
    node = state.known.get(event.node)
    runner = node.runners.get(event.model) if node is not None else None
    if node is None or runner is None:
        return
    if runner.running:
        runner.keep = 0.0
    else:
        drop(state, node, runner, event.at)
    node.version += 1


def _foreseen(decision: Decision, runner: Runner, progress: Progress, at: float) -> Running:
    cost = decision.ranked[0]
    run = Running(decision.task, runner, progress, at)
    run.wait, run.prefill, run.decode = cost.wait, cost.prefill, cost.decode
    run.prompt, run.cached, run.out = cost.prompt_tokens, cost.cached_tokens, cost.out_tokens
    return run


def task_ended(state: ClusterState, event: ev.TaskEnded) -> None:
    """Nothing more will come of the request: its place in the queue can be forgotten."""
    state.settled.append(Settlement(event.task, 0.0, 0.0, True))
