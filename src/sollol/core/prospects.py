"""What can be said about a request without sending it: the ranked nodes, and whether any node could ever serve it."""

from __future__ import annotations

from ..errors import BadRequest, NoNodeForModel, NoNodes, SollolError, Unsupported
from .gates import cannot, too_long
from .node import NodeState
from .routing import Load, Term, explained, group_key, weight
from .state import ClusterState
from .types import Cost, Mode, Task
from .waiting import Group, Place, Waiting


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
    why = ""
    for node in nodes:
        if not node.surveyed and not node.models:
            return None  # nobody knows yet what it has
        if not task.model or task.model in node.models:
            why = _never(state, node, task)
            if not why:
                return None
    return _error(task, why)


def _never(state: ClusterState, node: NodeState, task: Task) -> str:
    if node.loading:
        return ""
    why = cannot(node, group_key(task))
    if not why and too_long(node, task, state.prompt_tokens(task)):
        return "the prompt is longer than its context"
    return why


def _error(task: Task, why: str) -> SollolError:
    if not why:
        return NoNodeForModel(task.model)
    if not why.startswith("lacks"):
        error = Unsupported if "memory" in why else BadRequest
        return error(f"no node can serve '{task.model}': {why}")
    if "embedding" in task.needs:
        return Unsupported("this model does not support embeddings")
    lacking = ", ".join(sorted(task.needs - {"completion"}))
    return BadRequest(f'"{task.model.removesuffix(":latest")}" does not support {lacking}')
