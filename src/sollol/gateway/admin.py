"""SOLLOL's own API: health, statistics, nodes, queue. Plain handlers like all others.

A framework for these dozen small paths would add a second way of routing, refusing and limiting beside the door's own.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import msgspec
from msgspec import UNSET

import sollol
from sollol.core.events import NodeChanged
from sollol.core.node import NodeState
from sollol.core.ports import Sink
from sollol.core.types import Node, Origin
from sollol.engine.statistics import Tally
from sollol.errors import BadRequest, ConfigError, Conflict, RequestError
from sollol.gateway import cache_page, explain, metrics_page, openapi
from sollol.gateway.answers import send_json
from sollol.gateway.context import Gateway
from sollol.gateway.http import Request
from sollol.gateway.shapes import Health, NewNode, NodeChange, NodeCount, NodeInfo, NodeList, Queue, Removed, Waiting
from sollol.gateway.targets import find, known_names, reachable, usable
from sollol.wire.address import parse_endpoint
from sollol.wire.catalogue import Catalogue

Handler = Callable[[Gateway, Request, Sink], Awaitable[None]]

NODES: Final = "/api/nodes/"
QUEUE_SHOWN: Final = 100

T = TypeVar("T", NewNode, NodeChange)


async def health(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Whether the gateway can answer requests now."""
    nodes = list(gateway.engine.state.nodes.values())
    count = NodeCount(len(nodes), sum(map(usable, nodes)))
    status = "no-nodes" if not nodes else "ok" if count.usable == count.known else "degraded"
    seconds = round(gateway.engine.clock.now() - gateway.started, 3)
    send_json(sink, Health(status, "SOLLOL", sollol.__version__, os.getpid(), seconds, count, gateway.address))


async def stats(gateway: Gateway, request: Request, sink: Sink) -> None:
    """What was counted since the start. A figure is measured, or null."""
    send_json(sink, statistics(gateway))


def statistics(gateway: Gateway) -> dict[str, Any]:
    """The document of `/api/stats`."""
    counted, state = gateway.statistics, gateway.engine.state
    nodes = [(node, counted.nodes.get(node.id, Tally())) for node in state.nodes.values()]
    overall = counted.overall
    return {
        "total_requests": counted.requests,
        "successful_requests": overall.ok,
        "failed_requests": overall.failed,
        "client_errors": counted.client_errors,
        "cancelled_requests": counted.cancelled,
        "retried_requests": counted.retried,
        "avg_latency_ms": _rounded(overall.latency_ms),
        "avg_first_byte_ms": _rounded(overall.first_byte_ms),
        "success_rate": overall.success_rate,
        "active_nodes": sum(usable(node) for node, _ in nodes),
        "total_nodes": len(nodes),
        "queue_depth": gateway.admission.waiting,
        "prompt_tokens": overall.prompt_tokens,
        "output_tokens": overall.output_tokens,
        "uptime_seconds": round(gateway.engine.clock.now() - gateway.started, 3),
        "hosts": {node.node.endpoint.authority: _host(node, tally) for node, tally in nodes},
        "node_performance": {node.id: _performance(tally) for node, tally in nodes},
        # The connections to nodes are HTTP/1.1: it is all that Ollama and llama.cpp speak.
        "http2_enabled": False,
        "cache": cache_page.state(gateway),
    }


async def list_nodes(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Every known node."""
    status = gateway.finder.status()
    nodes = [info(gateway, node) for node in gateway.engine.state.nodes.values()]
    send_json(sink, NodeList(nodes, list(status.where), list(status.notes)))


async def get_node(gateway: Gateway, request: Request, sink: Sink) -> None:
    """One node, by id or name."""
    send_json(sink, info(gateway, _node(gateway, request)))


async def add_node(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Take a node in. It is looked at before the answer, so that a wrong address shows; it stays known all the same."""
    new = _read(request.body, NewNode)
    try:
        endpoint = parse_endpoint(new.url)
    except ConfigError as error:
        raise BadRequest(str(error)) from None
    before = set(gateway.engine.state.nodes)
    _free_name(gateway, new.name)
    wanted = Node(
        endpoint.authority,
        endpoint,
        name=new.name,
        priority=new.priority,
        slots=new.slots,
        api_key=new.api_key,
        origin=Origin.API,
        names=_names(gateway, new.names),
    )
    known = gateway.finder.add(wanted)
    if known.id in before and known.origin is not Origin.API:
        raise Conflict(f"this node is known already as '{known.id}'")
    if known.id in before and known != msgspec.structs.replace(wanted, id=known.id, kind=known.kind, emulated=known.emulated):
        raise Conflict(f"this node is known already as '{known.id}'")
    gateway.name_models()
    await gateway.monitor.looked([known.id])
    state = gateway.engine.state.nodes.get(known.id)
    if state is None:
        raise Conflict("the node was removed again while it was looked at")
    shown = info(gateway, state)
    if not reachable(state):
        shown.warning = f"not reachable now ({state.last_error or 'no answer'}); it is looked at again every second"
    elif not state.surveyed:
        shown.warning = f"it cannot be used: {state.last_error or 'nobody knows yet what it is'}"
    send_json(sink, shown, 201)


async def change_node(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Change name, priority, slots, draining, key or names of models of a node."""
    state = _node(gateway, request)
    change = _read(request.body, NodeChange)
    if isinstance(change.name, str) and change.name:
        _free_name(gateway, change.name, state.id)
    wanted = {field: value for field in NodeChange.__struct_fields__ if (value := getattr(change, field)) is not UNSET}
    if change.names is not UNSET:
        wanted["names"] = _names(gateway, change.names)
    gateway.engine.publish(NodeChanged(gateway.engine.clock.now(), msgspec.structs.replace(state.node, **wanted)))
    if change.names is not UNSET:
        gateway.name_models()
        await gateway.monitor.looked([state.id])  # which tells its models under their names
    send_json(sink, info(gateway, state))


async def remove_node(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Forget a node; it is not found again until it is named. What runs there goes on to its end."""
    node = _node(gateway, request)
    gateway.finder.remove(node.id)
    gateway.name_models()
    send_json(sink, Removed(node.id, True))


async def reload(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Read the settings again and take them; with a broken file nothing changes."""
    if gateway.reload is None:
        raise Conflict("the settings of this gateway were given by the program that started it: there is nothing to read again")
    try:
        done = gateway.reload()
    except ConfigError as error:
        raise BadRequest(str(error)) from None
    send_json(sink, done)


async def queue(gateway: Gateway, request: Request, sink: Sink) -> None:
    """The requests that wait for a node."""
    now = gateway.engine.clock.now()
    first = [
        Waiting(task.id, task.model, task.priority, task.app, round(now - task.arrived, 3))
        for task in gateway.engine.scheduler.first(QUEUE_SHOWN)
    ]
    send_json(sink, Queue(gateway.admission.waiting, gateway.config.queue.limit, first))


def info(gateway: Gateway, node: NodeState) -> NodeInfo:
    """One node as it is believed to be now."""
    now = gateway.engine.clock.now()
    worked = gateway.statistics.nodes.get(node.id) is not None
    return NodeInfo(
        id=node.id,
        name=node.label,
        url=node.node.endpoint.url,
        kind=node.kind.value,
        state=node.state.value,
        priority=node.node.priority,
        slots=node.slots.count,
        slots_known=node.slots.fixed is not None or node.slots.known,
        in_flight=node.in_flight,
        version=node.version_text,
        latency_ms=round(node.latency * 1000, 2) if node.surveyed else None,
        models=list(node.models),
        resident=[runner.model for runner in node.residents(now) if not runner.loading],
        origin=node.node.origin.value,
        emulated=node.emulated,
        failure_rate=round(node.health.failure_rate(now), 4) if worked else None,
        last_error=node.last_error,
        draining=node.node.draining,
        names=dict(node.node.names),
    )


def _node(gateway: Gateway, request: Request) -> NodeState:
    wanted = unquote(request.path.removeprefix(NODES))
    node = find(gateway, wanted)
    if node is None:
        raise NoSuchNode(f"node '{wanted[:200]}' is not known (known: {known_names(gateway)})")
    return node


class NoSuchNode(RequestError):
    """No node has that id or name."""

    status = 404


def _free_name(gateway: Gateway, name: str, own: str = "") -> None:
    """Nodes are asked for by name: two of one name could not be told apart."""
    taken = find(gateway, name) if name else None
    if taken is not None and taken.id != own:
        raise Conflict(f"the name '{name}' is taken by node '{taken.id}'")


def _names(gateway: Gateway, given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Names that a node has for models, checked as those of the settings are."""
    try:
        return tuple(Catalogue(gateway.config.aliases, {"names": given}).names["names"].items())
    except ConfigError as error:
        raise BadRequest(str(error)) from None


def _read(body: bytes, form: type[T]) -> T:
    if not body.strip():
        raise BadRequest("missing request body")
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.DecodeError as error:
        raise BadRequest(str(error)) from None
    except (RecursionError, UnicodeDecodeError):
        raise BadRequest("the body is no sensible JSON") from None


def _host(node: NodeState, tally: Tally) -> dict[str, Any]:
    return {
        "node": node.label,
        "state": node.state.value,
        "requests": tally.ok + tally.failed,
        "failed_requests": tally.failed,
        "latency_ms": _rounded(tally.latency_ms),
        "first_byte_ms": _rounded(tally.first_byte_ms),
        "success_rate": tally.success_rate,
        "in_flight": node.in_flight,
        "prompt_tokens": tally.prompt_tokens,
        "output_tokens": tally.output_tokens,
    }


def _performance(tally: Tally) -> dict[str, Any]:
    return {
        "latency_ms": _rounded(tally.latency_ms),
        "success_rate": tally.success_rate,
        "batch_throughput": _rounded(tally.batch_throughput),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


ROUTES: Final[dict[tuple[str, str], Handler]] = {
    ("GET", "/api/health"): health,
    ("HEAD", "/api/health"): health,
    ("GET", "/api/stats"): stats,
    ("GET", "/api/nodes"): list_nodes,
    ("POST", "/api/nodes"): add_node,
    ("POST", "/api/reload"): reload,
    ("GET", "/api/queue"): queue,
    ("GET", "/api/routing/explain"): explain.explain,
    ("GET", cache_page.PATH): cache_page.show,
    ("DELETE", cache_page.PATH): cache_page.clear,
    ("GET", openapi.PATH): openapi.openapi,
    ("GET", metrics_page.PATH): metrics_page.metrics,
    ("HEAD", metrics_page.PATH): metrics_page.metrics,
}
PREFIXES: Final[dict[str, dict[str, Handler]]] = {
    NODES: {"GET": get_node, "PATCH": change_node, "DELETE": remove_node},
}
