"""What can be said about a request without sending it: the ranked nodes, and whether any node could ever serve it."""

from __future__ import annotations

from ..errors import BadRequest, Conflict, NoNodeForModel, NoNodes, SollolError, Unsupported
from . import gates
from .gates import cannot, too_long
from .line import Line
from .node import NodeState
from .routing import Load, Term, explained, group_key, weight
from .state import ClusterState
from .types import Cost, Health, Mode, Queued, Task
from .waiting import Group, Place, Waiting

SHOWN = 3
"""Nodes that a reason names at most."""
WHY_SECONDS = 0.5
MODELS_SHOWN = 5
"""Models that an error names at most."""
_TOO_LONG = "the prompt is longer than its context"
_RECONCILE = "pull it again on all of them, give the models names of their own, or set digests under [models]"


def explain(state: ClusterState, task: Task, entry: Waiting | None, now: float) -> tuple[Cost, ...]:
    """Every known node, best first, blocked ones last with their reason. ``entry`` is the task's place in the queue, if any."""
    group = Group(group_key(task))
    group.refresh(state, now)
    load = Load(task, state)
    if entry is None:
        entry = Waiting(task, group, Place(0.0, 0.0, 0, 0.0), now)
    wait_weight, reliable = weight(task.mode), task.mode is Mode.RELIABLE
    ranked: list[tuple[float, int, Cost]] = []
    blocked: list[Cost] = []
    for node in state.known.values():
        term = group.by_node.get(node.id)
        why = _why_not(entry, node, term, load)
        if term is None or why:
            blocked.append(Cost(node.id, blocked=why, name=node.node.name))
        else:
            cost = explained(load, term, now, wait_weight, reliable)
            ranked.append((cost.total, node.index, cost))
    ranked.sort(key=lambda place: place[:2])
    return (*(cost for _, _, cost in ranked), *blocked)


def _why_not(entry: Waiting, node: NodeState, term: Term | None, load: Load) -> str:
    if term is None:
        return "model not there"
    if term.blocked:
        return term.blocked
    if entry.avoids(node):
        return "failed there before" if node.id in entry.exclude else "pinned elsewhere"
    return "prompt too long for its context" if too_long(node, entry.task, load.prompt) else ""


def hopeless(state: ClusterState, task: Task) -> SollolError | None:
    """The error for a request that no known node can ever serve, nodes that are down counted; else None."""
    known = state.known
    if not known:
        return NoNodes("no node is known", retry_after=10.0)
    nodes = [node for node in known.values() if task.pin is None or task.pin in (node.id, node.node.name)]
    if not nodes:
        names = ", ".join(node.label for node in known.values())
        return BadRequest(f"X-SOLLOL-Node: node '{task.pin}' is not known (known: {names})")
    found: list[tuple[NodeState, str]] = []
    for node in nodes:
        if not node.surveyed and not node.models:
            return None  # nobody knows yet what it has
        if not task.model or task.model in node.models:
            why = _never(state, node, task)
            if not why:
                return None
            found.append((node, why))
    return _error(state, task, found)


def _never(state: ClusterState, node: NodeState, task: Task) -> str:
    if node.loading:
        return ""
    why = cannot(node, group_key(task))
    if not why and too_long(node, task, state.prompt_tokens(task)):
        return _TOO_LONG
    return why


def _error(state: ClusterState, task: Task, found: list[tuple[NodeState, str]]) -> SollolError:
    """``found`` are the nodes that have the model, and why each of them can never serve the request."""
    if not found:
        return NoNodeForModel(task.model)
    name = task.model.removesuffix(":latest")
    allowed = [(node, why) for node, why in found if task.model not in node.barred]
    if not allowed:
        return Conflict(f"model '{name}' {found[0][1]}: {_RECONCILE}")
    lacking_ = [gates.lacking(node, node.models[task.model], task.needs) for node, _ in allowed if task.model]
    if lacking_ and all(lacking_):
        return _incapable(state, task, name, frozenset[str]().union(*lacking_))
    why = next(why for node, why in reversed(allowed) if not why.startswith("lacks"))
    if why == _TOO_LONG:
        most = max(gates.context(node, task.model) or 0 for node, _ in allowed)
        tokens = state.prompt_tokens(task)
        return BadRequest(f"the prompt of about {tokens:.0f} tokens is longer than the context of '{name}' ({most} at most)")
    return (Unsupported if "memory" in why else BadRequest)(f"no node can serve '{task.model}': {why}")


def _incapable(state: ClusterState, task: Task, name: str, lacking: frozenset[str]) -> SollolError:
    able = _able(state, task.needs)
    others = f"models here that do: {', '.join(able)}" if able else "no model here is known to"
    if "embedding" in lacking:
        return Unsupported(f"this model does not support embeddings ('{name}'); {others}")
    return BadRequest(f'"{name}" does not support {", ".join(sorted(lacking))}; {others}')


def _able(state: ClusterState, needs: frozenset[str]) -> list[str]:
    """Models that are known to have all of it on some node, by name; a few."""
    names = {
        model.name.removesuffix(":latest")
        for node in state.known.values()
        for model in node.models.values()
        if model.name not in node.barred and gates.has(node, model, needs)
    }
    more = [f"and {len(names) - MODELS_SHOWN} more"] if len(names) > MODELS_SHOWN else []
    return sorted(names)[:MODELS_SHOWN] + more


# --- where somebody stands who waits


def queued(line: Line, entry: Waiting, now: float) -> Queued:
    """Position, expected start and reason of a request in the queue, by its group's terms as they are."""
    return Queued(1 + line.ahead(entry), _start(line, entry, now), why(entry, now))


def _start(line: Line, entry: Waiting, now: float) -> float | None:
    """Seconds until the request is expected to start: the first slot that frees, and the work of those before it."""
    group = entry.group
    waits = [_wait(term, now) for term in group.open if not entry.avoids(term.node)]
    if not waits:
        return None
    start = min(waits)
    for other in line.models.get(group.key[0], ()):
        start += other.ahead(entry)[1]
    if group.shares_slots():
        alike = len(group.waiting)
        others = line.ahead(entry) - group.ahead(entry)[0]
        rest = len(line.order) - alike
        if rest > 0:
            # A list, not a generator: compiled, a sum of floats over that begins as a whole number and stays one.
            start += others * sum([other.work_waiting for other in line.active.values() if other is not group], 0.0) / rest
    return start


def outlook(line: Line, group: Group, now: float) -> Queued:
    """As `queued`, for one more request that would be the last in line."""
    waits = [_wait(term, now) for term in group.open]
    start = min(waits) + sum(other.work_waiting for other in line.models.get(group.key[0], ())) if waits else None
    return Queued(1 + len(line.order), start, _why(group.terms, now))


def _wait(term: Term, now: float) -> float:
    """Seconds until the node could begin with a request of the group that stood first in line."""
    busy = 0.0 if term.free > 0 or not term.pristine else max(0.0, min(term.pristine) - now)
    return max(busy, term.load)


def why(entry: Waiting, now: float) -> str:
    """What a request waits for, in a few words. Alike for all of a group but the pinned and the moved, and kept for a while."""
    group = entry.group
    special = bool(entry.exclude) or entry.task.pin is not None
    if not special and now < group.why_until:
        return group.why
    allowed = [term for term in group.terms if not entry.avoids(term.node)]
    text = _why(allowed, now)
    if not special:
        group.why, group.why_until = text, now + WHY_SECONDS
    return text


def _why(allowed: list[Term], now: float) -> str:
    """The node that could begin first and what keeps it; if none is open, why not."""
    open_ = [term for term in allowed if not term.blocked]
    if not open_:
        return _closed(allowed)
    first = min(open_, key=lambda term: (_wait(term, now), term.node.index))
    label, wait = first.node.node.label, _wait(first, now)
    if first.free > 0:
        return f"others are before it in line for {label}" if first.warm else f"{label} loads the model when others are done"
    if first.load > 0.0:
        return f"{label} loads the model, ready in {wait:.1f} s"
    return f"all slots are busy; {label} is the first to have one, in {wait:.1f} s"


def _closed(allowed: list[Term]) -> str:
    if not allowed:
        return "no node is left that may serve it"
    if all(term.node.health.state is Health.DOWN for term in allowed):
        return "every node that has the model is down"
    said = [f"{term.node.node.label}: {term.blocked}" for term in allowed[:SHOWN]]
    return "; ".join(said) + (f"; and {len(allowed) - SHOWN} more" if len(allowed) > SHOWN else "")
