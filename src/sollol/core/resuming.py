"""Whether another node can go on with an answer that broke off: only where it would have said the same."""

from __future__ import annotations

from collections.abc import Iterable

from .node import NodeState
from .types import Dialect, Model, NodeKind, Task

_RENDERED = frozenset({Dialect.OLLAMA, Dialect.OPENAI})


def continues(task: Task, kind: NodeKind) -> bool:
    """Whether an answer to ``task`` that such a node began can be continued: the prompt can be had as the model sees it.

    Ollama's dialect and OpenAI's at Ollama and llama.cpp. Other engines render no prompt for us.
    """
    return kind in (NodeKind.OLLAMA, NodeKind.LLAMACPP) and task.dialect in _RENDERED


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
