"""Whether another node can go on with an answer that broke off: only where it would have said the same."""

from __future__ import annotations

from collections.abc import Iterable

from .node import NodeState
from .types import Model, NodeKind

_RENDERERS = frozenset({NodeKind.OLLAMA, NodeKind.LLAMACPP})


def continues(kind: NodeKind) -> bool:
    """Whether an answer that such a node began can be continued: it tells the prompt as its model sees it."""
    return kind in _RENDERERS


def same(kind: NodeKind, model: Model, node: NodeState) -> bool:
    """Whether ``node`` has the very model, and renders prompts as a node of ``kind`` does.

    Ollama tells a digest; where nobody does, name and size must do.
    """
    other = node.models.get(model.name)
    if other is None or node.kind is not kind or other.digest != model.digest:
        return False
    return bool(model.digest) or other.size == model.size


def unfit(kind: NodeKind, model: Model, nodes: Iterable[NodeState]) -> frozenset[str]:
    """Ids of the nodes that cannot go on with an answer that ``model`` began at a node of ``kind``."""
    return frozenset(node.id for node in nodes if not same(kind, model, node))
