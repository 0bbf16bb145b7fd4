"""What keeps a node from serving a request, never traded against seconds. A reason in words, or nothing."""

from __future__ import annotations

from .node import NodeState
from .types import Health, Model, NodeKind, Task

# What a kind of node does not tell. Older versions of Ollama make vectors with every model, whatever they list; LM Studio lists
# no model as one that thinks; llama.cpp tells of pictures only; a gateway has the short lists of others. What a node says to
# such a request is passed on.
_UNTOLD = {
    NodeKind.OLLAMA: frozenset({"embedding"}),
    NodeKind.LMSTUDIO: frozenset({"thinking"}),
    NodeKind.LLAMACPP: frozenset({"completion", "embedding", "insert", "thinking", "tools"}),
    NodeKind.SOLLOL: frozenset({"completion", "embedding", "insert", "thinking", "tools", "vision"}),
}
# What needs a path that is passed on as it is, to a node that has it.
OF_PATHS = {"rerank": "/v1/rerank", "transcription": "/v1/audio/transcriptions"}
_PATHS = frozenset(OF_PATHS)
_NOTHING: frozenset[str] = frozenset()
USABLE = frozenset({Health.UP, Health.HALF_OPEN, Health.UNKNOWN})
GroupKey = tuple[str, int | None, frozenset[str], bool]
"""Model, num_ctx, needed capabilities, whether it embeds."""


def gate(node: NodeState, key: GroupKey, health: Health, now: float) -> str:
    """Why ``node``, being in state ``health``, cannot take requests of a group now; empty when it can."""
    if health is not Health.UP:
        if health not in USABLE:
            return f"circuit open for {node.health.retry_at - now:.0f} s" if health is Health.OPEN else health.value
        if health is Health.HALF_OPEN and node.running:
            return "half-open: one request at a time"
    return cannot(node, key) or _switching(node, key[0])


def _switching(node: NodeState, model: str) -> str:
    runner = node.runners.get(model)
    return f"switching to {runner.leaving_for}" if runner is not None and runner.leaving_for else ""


def cannot(node: NodeState, key: GroupKey) -> str:
    """Why ``node`` cannot serve the group, whatever its health; empty when it can."""
    model = key[0]
    if not model:
        return ""
    known = node.models.get(model)
    if known is None:
        return "model not there"
    if node.loading:
        return "loading its model"
    return _unable(node, known, key)


def _unable(node: NodeState, known: Model, key: GroupKey) -> str:
    _, num_ctx, needs, _ = key
    if node.barred and known.name in node.barred:
        return node.barred[known.name]
    missing = lacking(node, known, needs) if needs else needs
    if missing:
        return "lacks " + ", ".join(sorted(missing))
    if num_ctx and known.context_length and num_ctx > known.context_length and node.kind is not NodeKind.OLLAMA:
        return f"context of {known.context_length} tokens"
    if node.node.memory and node.footprint(known.name) > node.node.memory:
        return "does not fit into its memory"
    return ""


def lacking(node: NodeState, known: Model, needs: frozenset[str]) -> frozenset[str]:
    """Of what is needed, what the model is known not to have there. What nobody tells counts as there."""
    missing = frozenset(need for need, path in OF_PATHS.items() if need in needs and path not in node.speaks)
    if not known.capabilities or (node.kind is NodeKind.OLLAMA and known.name not in node.shown):
        return missing
    return missing | (needs - _PATHS - _UNTOLD.get(node.kind, _NOTHING) - known.capabilities)


def has(node: NodeState, known: Model, needs: frozenset[str]) -> bool:
    """Whether the model is known to have there all that is needed."""
    return needs - _PATHS <= known.capabilities and not lacking(node, known, needs)


def context(node: NodeState, model: str) -> int | None:
    """The most tokens of a prompt there, where it is known: what the model was loaded with, else what it could have."""
    runner, known = node.runners.get(model), node.models.get(model)
    loaded = runner.context if runner is not None else None
    return loaded or (known.context_length if known is not None else None)


def too_long(node: NodeState, task: Task, prompt: float) -> bool:
    """Whether the prompt is surely longer than the node's context; Ollama cuts prompts instead."""
    if node.kind is NodeKind.OLLAMA:
        return False
    most = context(node, task.model)
    return most is not None and 0.7 * prompt > most
