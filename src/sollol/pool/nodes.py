"""Nodes as a pool shows them."""

from __future__ import annotations

from typing import Any

from sollol.config import NodeSettings
from sollol.core.node import NodeState
from sollol.core.types import Endpoint, Health
from sollol.wire.address import parse_endpoint


class PoolNode(dict[str, Any]):
    """One node, read like a dict ("host", "port", "priority", and "name" where it has one) or like an object.

    As an object it has more: ``url``, ``node_id``, ``kind``, ``models``, ``is_healthy`` (it takes requests now; false before it
    was looked at), ``gpu_available`` (None where nothing is known), ``in_flight`` and ``last_error``. It is what was known at
    the moment; ask the pool again for news. It can be given to another pool as a node.
    """

    def __init__(self, endpoint: Endpoint, priority: int, name: str) -> None:
        super().__init__(host=endpoint.host, port=endpoint.port, priority=priority)
        if name:
            self["name"] = name
        self.host = endpoint.host
        self.port = endpoint.port
        self.priority = priority
        self.name = name
        self.url = endpoint.url
        self.node_id = endpoint.authority
        self.kind = ""
        self.models: tuple[str, ...] = ()
        self.is_healthy = False
        self.gpu_available: bool | None = None
        self.in_flight = 0
        self.last_error = ""


Nodes = list[PoolNode]


def known_node(state: NodeState) -> PoolNode:
    """A node of a running pool."""
    node = state.node
    shown = PoolNode(node.endpoint, node.priority, node.name)
    shown.node_id = node.id
    shown.kind = state.kind.value
    shown.models = tuple(model.native for model in state.models.values())
    shown.is_healthy = state.state in (Health.UP, Health.HALF_OPEN)
    shown.gpu_available = state.gpu if state.surveyed else None
    shown.in_flight = state.in_flight
    shown.last_error = state.last_error
    return shown


def named_node(settings: NodeSettings) -> PoolNode:
    """A node of a pool that has not begun."""
    return PoolNode(parse_endpoint(settings.url), settings.priority, settings.name)
