"""Which nodes a request about models goes to: those it names, those that have the model, or the one where it fits best."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from sollol.core.digests import modified
from sollol.core.node import NodeState
from sollol.core.types import Health, NodeKind
from sollol.errors import BadRequest, NoNodes, Unsupported
from sollol.gateway.context import Gateway

ALL: Final = "all"
# What a name may look like, as Ollama has it: [scheme://][host/][namespace/]model[:tag]
_NAME: Final = re.compile(
    r"(?:[A-Za-z]{1,10}://)?"
    r"(?:(?:[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}/)?[A-Za-z0-9_][A-Za-z0-9_-]{0,79}/)?"
    r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?",
)


def is_model_name(name: str) -> bool:
    """Whether Ollama would take `name` for a model."""
    return _NAME.fullmatch(name) is not None


def reachable(node: NodeState) -> bool:
    """Whether asking the node makes sense: one with failing requests still manages its models, one that is down cannot."""
    return node.state is not Health.DOWN


def usable(node: NodeState) -> bool:
    """Whether the node takes new requests."""
    return node.state in (Health.UP, Health.HALF_OPEN, Health.UNKNOWN)


def find(gateway: Gateway, wanted: str) -> NodeState | None:
    """The node of that id, or of that name (case aside)."""
    nodes = gateway.engine.state.nodes
    if wanted in nodes:
        return nodes[wanted]
    low = wanted.lower()
    return next((node for node in nodes.values() if low in (node.id.lower(), node.label.lower())), None)


def known_names(gateway: Gateway) -> str:
    """The names of all nodes, for error texts."""
    return ", ".join(node.label for node in gateway.engine.state.nodes.values()) or "none"


def nobody(gateway: Gateway) -> str:
    """What is said while no node is known: where was searched, and what to do."""
    status = gateway.finder.status()
    searched = f"searched: {'; '.join(status.where)}" if status.where else "searching" if status.enabled else "discovery is off"
    return f"no node is known ({searched}); start one, or name one: `sollol nodes add URL`"


def ollama_nodes(gateway: Gateway) -> list[NodeState]:
    """Every Ollama node that can be asked. Raises `NoNodes` or `Unsupported` when there is none."""
    nodes = list(gateway.engine.state.nodes.values())
    ollama = [node for node in nodes if node.kind is NodeKind.OLLAMA]
    up = [node for node in ollama if reachable(node)]
    if up:
        return up
    if ollama:
        raise NoNodes(f"no Ollama node is reachable now (known: {known_names(gateway)})", retry_after=1.0)
    if nodes:
        raise Unsupported(f"no node here is an Ollama server, and only those manage models (known: {known_names(gateway)})")
    raise NoNodes(nobody(gateway), retry_after=5.0)


def chosen(gateway: Gateway, wanted: str | Sequence[str]) -> list[NodeState]:
    """The nodes that a request names: a list of names or ids, or "all". Raises `BadRequest` naming the known ones."""
    if wanted == ALL or list(wanted) == [ALL]:
        return ollama_nodes(gateway)
    if isinstance(wanted, str):
        wanted = [wanted]
    if not wanted:
        raise BadRequest(f'nodes is empty: name at least one, or "all" (known: {known_names(gateway)})')
    found: dict[str, NodeState] = {}
    for name in wanted:
        node = find(gateway, name)
        if node is None:
            raise BadRequest(f"node '{name[:200]}' is not known (known: {known_names(gateway)})")
        if node.kind is not NodeKind.OLLAMA:
            raise BadRequest(f"node '{node.label}' is no Ollama server ({node.kind.value}) and cannot manage models")
        if not reachable(node):
            raise NoNodes(f"node '{node.label}' is not reachable now: {node.last_error or 'it is down'}", retry_after=1.0)
        found[node.id] = node
    return list(found.values())


def holders(gateway: Gateway, model: str) -> tuple[list[NodeState], list[NodeState]]:
    """Nodes that list the (canonical) model: those that can be asked, idle ones first, and those that are down."""
    found = gateway.engine.state.holders(model)
    return idle_first(node for node in found if reachable(node)), [node for node in found if not reachable(node)]


def idle_first(nodes: Iterable[NodeState]) -> list[NodeState]:
    """Nearest in time first: healthy before failing, few requests before many, then the quickest to answer a probe."""
    return sorted(nodes, key=lambda node: (node.state is not Health.UP, node.in_flight, node.latency, node.index))


def newest_first(nodes: Sequence[NodeState], model: str) -> list[NodeState]:
    """Where nodes have different models of one name, those with the newest come first: the one that listings name first."""
    newest = max((node.models[model] for node in nodes), key=modified, default=None)
    return sorted(nodes, key=lambda node: newest is not None and node.models[model].digest != newest.digest)


def best_fit(nodes: Sequence[NodeState]) -> NodeState:
    """Where a new model goes when nobody says where.

    A node that takes new work before one that does not, a GPU before a CPU, the last resort (priority 1) last; then the one
    with the most memory free of loaded models (as far as it is known); then the one with the least stored, so that models
    spread; then the first known. What disks have left cannot be asked of Ollama.
    """

    def rank(node: NodeState) -> tuple[bool, bool, bool, float, int, int]:
        memory = node.node.memory or node.memory_seen
        loaded = sum(node.footprint(name) for name in node.runners)
        stored = sum(model.size for model in node.models.values())
        return (not usable(node), node.node.priority == 1, not node.gpu, -max(0.0, memory - loaded), stored, node.index)

    return min(nodes, key=rank)
