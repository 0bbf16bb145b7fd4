"""Events about nodes: added, changed, looked at. Functions of the state and one event, called by `state` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from . import events as ev
from .digests import Digests
from .health import Signal
from .node import ALWAYS_RESIDENT, NodeState, Runner
from .slots import Slots
from .types import Health, Resident, Survey

if TYPE_CHECKING:
    from .state import ClusterState


def added(state: ClusterState, event: ev.NodeAdded) -> None:
    """A node became known."""
    if event.node.id in state.known:
        changed(state, ev.NodeChanged(event.at, event.node))
        return
    state.made += 1
    state.known[event.node.id] = NodeState(event.node, state.made)
    state.layout += 1


def changed(state: ClusterState, event: ev.NodeChanged) -> None:
    """Its name, priority, slots, drain, key or address changed."""
    node = state.known.get(event.node.id)
    if node is None:
        return
    if event.node.slots != node.node.slots:
        node.slots.fixed = event.node.slots
    before = node.health.state
    node.health.draining = event.node.draining
    state.note_health(node, before, event.at, "drained" if event.node.draining else "taken back")
    node.node = event.node
    node.version += 1
    state.layout += 1


def removed(state: ClusterState, event: ev.NodeRemoved) -> None:
    """Forget it; what runs there goes on unseen."""
    node = state.known.pop(event.node, None)
    if node is None:
        return
    for runner in node.runners.values():
        state.mirror.forget_all(runner.kv)
    for run in node.running.values():
        run.kv = None
    state.layout += 1
    if state.digests is not Digests.ONE:
        state.bar()


def surveyed(state: ClusterState, event: ev.NodeSurveyed) -> None:
    """A look at it was answered."""
    node = state.known.get(event.node)
    if node is None:
        return
    survey = event.survey
    if survey.kind is not node.kind:
        node.kind = survey.kind
        node.slots = Slots(survey.kind, node.node.slots)
    if node.node.slots is None and survey.slots:
        node.slots.fixed = survey.slots
    node.latency = survey.latency
    node.version_text = survey.version
    node.emulated = node.node.emulated or survey.emulated
    if node.loading is not survey.loading or not node.surveyed:
        state.layout += 1
    node.loading = survey.loading
    if not survey.loading and survey.speaks != node.speaks:
        node.speaks = survey.speaks
        state.layout += 1
    node.surveyed = True
    node.told_at = event.at if event.begun is None else event.begun
    if node.gone or node.unloaded:
        survey = _without_gone(node, survey)
    node.resident = survey.resident
    if node.take_models(survey):
        state.layout += 1
    take_residents(state, node, survey, event.at)
    node.health.looked(event.at)
    node.health.urgent = survey.loading or any(runner.loading for runner in node.runners.values())
    signal(state, node, Signal.SEEN, event.at, "answered a look")
    if state.digests is not Digests.ONE:
        state.bar()


def _without_gone(node: NodeState, survey: Survey) -> Survey:
    """The survey as it would be now: without what has gone since it was asked for."""
    since = node.told_at
    gone = {name for name, at in node.gone.items() if at > since}
    unloaded = {name for name, at in node.unloaded.items() if at > since} | gone
    node.gone.clear()
    node.unloaded.clear()
    if not unloaded:
        return survey
    return replace(
        survey,
        models=tuple(model for model in survey.models if model.name not in gone),
        # loaded again since then, it is in the memory all the same
        resident=tuple(one for one in survey.resident if one.name not in unloaded or one.name in node.runners),
    )


def take_residents(state: ClusterState, node: NodeState, survey: Survey, at: float) -> None:
    """Believe what it says is loaded, but not that what is loading or busy is gone, nor what has changed since it was asked."""
    node.advance(at)
    listed = {resident.name: resident for resident in survey.resident}
    if node.kind in ALWAYS_RESIDENT:
        listed = {name: listed.get(name, Resident(name)) for name in node.models}
    for resident in listed.values():
        take_resident(state, node, resident, at)
    for runner in list(node.runners.values()):
        newer = max(runner.made_at, runner.used_at) > node.told_at
        if runner.model not in listed and not runner.loading and not runner.running and not newer:
            drop(state, node, runner, at)
    total = float(sum(resident.size for resident in survey.resident))
    node.memory_seen = max(node.memory_seen, total)
    if total:
        node.gpu = any(resident.size_vram for resident in survey.resident)


def take_resident(state: ClusterState, node: NodeState, resident: Resident, at: float) -> None:
    """Believe what it says of one model that is loaded."""
    name = resident.name
    runner = node.runners.get(name)
    if runner is None:
        runner = node.runners[name] = Runner(node.id, name, None, loading=False, ready_at=at)
    elif runner.made_at > node.told_at:
        return  # what it told of was another load of the model
    elif runner.loading:
        up(state, node, runner, at)
    runner.context = resident.context_length
    if runner.used_at <= node.told_at:
        runner.expires = at + resident.expires_in if resident.expires_in is not None and not runner.running else None
    if resident.expires_in is not None and resident.expires_in > node.keep + 5.0:
        node.keep = resident.expires_in
    if resident.size:
        node.sizes.put(name, float(resident.size))


def probe_failed(state: ClusterState, event: ev.ProbeFailed) -> None:
    """A look at it failed; silence does not count while a stream there moves."""
    node = state.known.get(event.node)
    if node is None:
        return
    node.health.looked(event.at)
    node.health.last_error = event.text
    # Silence that does not count, or that work which just ends takes back, is looked into all the same: connections of a
    # process that dies end one after another, and the look met the end of one.
    node.health.urgent = not event.refused
    moving = any(run.progress.last_at is not None and event.at - run.progress.last_at < 3.0 for run in node.running.values())
    if event.refused or not moving:
        signal(state, node, Signal.REFUSED if event.refused else Signal.SILENT, event.at, event.text)


def signal(state: ClusterState, node: NodeState, what: Signal, at: float, reason: str) -> None:
    """Tell the health of ``node``; one that went down forgets what it had loaded, for it may have been restarted."""
    before = node.health.state
    if node.health.on(what, at, state.jitter()):
        state.note_health(node, before, at, reason)
        if node.health.state is Health.DOWN:
            if state.digests is not Digests.ONE:
                state.bar()
            for runner in list(node.runners.values()):
                runner.leaving_for = ""
                if not runner.running:
                    drop(state, node, runner, at)
    node.version += 1


def model_learned(state: ClusterState, event: ev.ModelLearned) -> None:
    """More is known about one of its models."""
    node = state.known.get(event.node)
    if node is not None and event.model.name in node.models:
        node.put_model(event.model)
        node.version += 1
        state.layout += 1


def slow(state: ClusterState, event: ev.NodeSlow) -> None:
    """It is behind its forecasts."""
    node = state.known.get(event.node)
    if node is not None:
        node.slow.raise_to(event.ratio, event.at)
        node.version += 1


def up(state: ClusterState, node: NodeState, runner: Runner, at: float) -> None:
    """A load is done: whoever was to leave for it is gone."""
    runner.loading = False
    for other in list(node.runners.values()):
        if other.leaving_for == runner.model:
            other.leaving_for = ""
            if not other.running:
                drop(state, node, other, at)


def drop(state: ClusterState, node: NodeState, runner: Runner, at: float) -> None:
    """The runner is gone, and every prefix that it held."""
    state.mirror.forget_all(runner.kv)
    if node.runners.get(runner.model) is runner and node.kind not in ALWAYS_RESIDENT:
        del node.runners[runner.model]
        node.unloaded[runner.model] = at
