"""One name that stands for different models (digests) on several nodes: which of the nodes may be used for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

from .node import NodeState
from .types import Health, Model

# Ollama writes nanoseconds; Python reads microseconds.
_FRACTION: Final = re.compile(r"(\.\d{6})\d+")
_SHOWN: Final = 12


class Digests(StrEnum):
    """What is done about it: all are taken for the same, only the newest is used, or none is."""

    ONE = "one"
    NEWEST = "newest"
    REFUSE = "refuse"


def modified(model: Model) -> float:
    """When the model was last changed, seconds since the epoch; 0 where it is not known."""
    try:
        return datetime.fromisoformat(_FRACTION.sub(r"\1", model.modified_at.replace("Z", "+00:00"))).timestamp()
    except ValueError:
        return 0.0


def differing(nodes: Iterable[NodeState]) -> dict[str, list[NodeState]]:
    """Names with more than one digest, and the nodes that have the model and tell its digest."""
    found: dict[str, list[NodeState]] = {}
    for node in nodes:
        for name, model in node.models.items():
            if model.digest:
                found.setdefault(name, []).append(node)
    return {name: holders for name, holders in found.items() if len({node.models[name].digest for node in holders}) > 1}


def barred(nodes: Mapping[str, NodeState], rule: Digests) -> dict[str, dict[str, str]]:
    """By node and name, why the node may not be used for a model. Nodes that do not tell digests may always be.

    The newest is looked for among nodes that are not down, so that a machine that is switched off takes no model with it.
    """
    out: dict[str, dict[str, str]] = {}
    if rule is Digests.ONE:
        return out
    for name, holders in differing(nodes.values()).items():
        there = [node for node in holders if node.state is not Health.DOWN] or holders
        newest = max(there, key=lambda node: modified(node.models[name])).models[name].digest
        for node in holders:
            if rule is Digests.REFUSE:
                told = ", ".join(f"{other.label} {_short(other.models[name])}" for other in holders)
                out.setdefault(node.id, {})[name] = f"differs between nodes ({told})"
            elif node.models[name].digest != newest:
                out.setdefault(node.id, {})[name] = f"older than the newest of that name ({newest[:_SHOWN]})"
    return out


def _short(model: Model) -> str:
    return model.digest.removeprefix("sha256:")[:_SHOWN]
