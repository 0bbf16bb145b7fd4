"""What `sollol up` tells the person at the terminal: what was found, where the gateway is, and a line to try."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime

from sollol.core.events import Event, HealthChanged, NodeAdded, NodeChanged, NodeRemoved
from sollol.core.node import NodeState
from sollol.core.types import Health
from sollol.engine.finder import Finder
from sollol.gateway.running import RunningGateway

Announce = Callable[[str], None]
_STANDING_IN = "starting three emulated nodes to try things with (made-up answers). They leave when a real node is found"
_QUIET = frozenset({Health.UNKNOWN, Health.HALF_OPEN})


async def tell(gateway: RunningGateway, announce: Announce, *, demo: Callable[[], Awaitable[bool]] | None = None) -> None:
    """Announce the address, then what the first search found, then every change of a node. Runs until cancelled.

    ``demo`` starts emulated nodes if none was found, and says whether it did.
    """
    house = gateway.house
    announce(f"SOLLOL listens on {gateway.address}")
    if house.finder.status().enabled:
        announce("looking for nodes ...")
    await house.finder.searched()
    nodes = house.engine.state.nodes
    await house.monitor.looked(list(nodes))
    if demo is not None and not nodes:
        for line in nothing_found(house.finder, demo=True):
            announce(line)
        await demo()
    for line in found_lines(list(nodes.values()), house.finder):
        announce(line)
    hint = curl_line(gateway.address, list(nodes.values()))
    if hint:
        announce(f"try it:\n  {hint}")
    changes = Changes({node.id: node.label for node in nodes.values()}, announce)
    house.engine.listen(changes.heard, NodeAdded, NodeChanged, NodeRemoved, HealthChanged)
    await asyncio.Event().wait()


def found_lines(nodes: list[NodeState], finder: Finder) -> list[str]:
    """What is known about the nodes, a line each; without nodes, what was searched and what to do."""
    if not nodes:
        return nothing_found(finder)
    up = sum(1 for node in nodes if node.state is Health.UP)
    return [f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}, {up} up:", *_lines(nodes)]


def nothing_found(finder: Finder, *, demo: bool = False) -> list[str]:
    """Plain words for an empty cluster; ``demo``: emulated nodes are about to be started."""
    status = finder.status()
    if not status.enabled:
        lines = ["no nodes: discovery is off and none is configured; name one with --node URL"]
        return [*lines, _STANDING_IN] if demo else lines
    where = "; ".join(status.where) or "nowhere"
    lines = [f"no nodes found. Searched: {where}"]
    lines += [f"  note: {note}" for note in status.notes]
    if demo:
        return [*lines, _STANDING_IN]
    lines.append("still searching. A node elsewhere: `sollol nodes add URL`. To try without any: `sollol up --demo-if-empty`")
    return lines


def curl_line(address: str, nodes: list[NodeState]) -> str:
    """One command that asks a model which can chat; empty when there is none."""
    for node in nodes:
        for model in node.models.values():
            if node.state is Health.UP and (not model.capabilities or "completion" in model.capabilities):
                body = {"model": model.native, "messages": [{"role": "user", "content": "Hello!"}], "stream": False}
                return f"curl {address}/api/chat -d '{json.dumps(body)}'"
    return ""


class Changes:
    """Tells of nodes that come, go, fail and return, by the names that people know them by. ``labels`` are those of now."""

    def __init__(self, labels: dict[str, str], announce: Announce) -> None:
        self._labels = labels
        self._announce = announce

    def heard(self, event: Event) -> None:
        """One event; those that say nothing to a person are passed over."""
        words = self._words(event)
        if words:
            self._announce(f"{datetime.now().astimezone():%H:%M:%S}  {words}")

    def _words(self, event: Event) -> str:
        labels = self._labels
        match event:
            case NodeAdded(node=added):
                labels[added.id] = added.label
                return f"found {added.label} at {added.endpoint.url}"
            case NodeChanged(node=changed):
                labels[changed.id] = changed.label
            case NodeRemoved(node=gone, reason=reason):
                return f"{labels.pop(gone, gone)} is gone: {reason}"
            case HealthChanged(node=node, new=new, reason=reason) if node in labels and new not in _QUIET:
                return f"{labels[node]} is {new}" + (f": {reason}" if new != Health.UP else "")
        return ""


def _lines(nodes: list[NodeState]) -> list[str]:
    """A line for each node, in columns."""
    rows = [(node.label, node.node.endpoint.url, _state(node)) for node in nodes]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"  {label:<{widths[0]}}  {url:<{widths[1]}}  {state}" for label, url, state in rows]


def _state(node: NodeState) -> str:
    if node.state is not Health.UP:
        return f"{node.state.value}: {node.last_error or 'not answered yet'}"
    what = f"{node.kind.value} {node.version_text}".strip()
    mark = ", emulated" if node.emulated else ""
    models = len(node.models)
    return f"{what}{mark}, {models} model{'s' if models != 1 else ''}"
