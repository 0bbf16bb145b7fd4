"""Takes new settings while the gateway runs: everything that can change does so between two turns of the event loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from msgspec import Struct

from sollol.assemble import House, configured_nodes
from sollol.config import Config, Log
from sollol.config_sources import TABLES, leaves
from sollol.core.events import NodeChanged
from sollol.core.types import Node, Origin
from sollol.errors import BadRequest
from sollol.gateway.app import GatewayApp
from sollol.gateway.context import Gateway
from sollol.gateway.guards import Guard
from sollol.gateway.protocol import DoorLimits, Serving
from sollol.gateway.shapes import NodesReloaded, Reloaded

log = logging.getLogger(__name__)

Read = Callable[[], Config]

LIVE: Final = frozenset(
    {
        *(
            "gateway.allowed_origins",
            "gateway.shutdown_seconds",
            "routing.mode",
            "routing.hedging",
            "models.digests",
            "auth.keys",
            "auth.admin_keys",
        ),
        *(f"discovery.{name}" for name in ("enabled", "networks", "ports", "interval_seconds", "this_machine")),
        *(f"discovery.{name}" for name in ("docker", "docker_host", "mdns")),
        *(f"queue.{name}" for name in ("limit", "body_bytes", "priority_step_seconds", "no_node_seconds")),
        *("health.connect_seconds", "health.probe_seconds"),
        *(f"cache.{name}" for name in ("enabled", "coalesce", "ttl_seconds", "entries", "size_bytes")),
        *(f"limits.{name}" for name in ("json_body_bytes", "header_bytes", "connections")),
        *(f"limits.{name}_seconds" for name in ("header", "body", "idle")),
        *(f"log.{name}" for name in ("level", "format", "requests")),
        *TABLES,
    }
)
"""Settings that are taken while the gateway runs, besides nodes. Every other one, a new one too, needs a restart."""

_OF_A_NODE: Final = ("name", "priority", "slots", "memory", "api_key", "kind", "draining", "names")


class Reload:
    """Called, it reads the settings again and takes them. ``read`` gives them, ``tell`` takes those of the log.

    Nodes that were found, or added by request, stay as they are; so does what was changed by request in a node whose settings
    did not change. Raises what ``read`` raises (`ConfigError`), and has changed nothing then.
    """

    def __init__(
        self, gateway: Gateway, house: House, app: GatewayApp, door: Serving, *, read: Read, tell: Callable[[Log], None]
    ) -> None:
        self._gateway = gateway
        self._house = house
        self._app = app
        self._door = door
        self._read = read
        self._tell = tell

    def __call__(self) -> Reloaded:
        before, wanted = self._gateway.config, self._read()
        config = _kept(before, wanted)
        self._house.take(before, config)
        changed = [path for path in _differing(before, config) if not path.startswith("nodes[")]
        later = [path for path in _differing(config, wanted) if not path.startswith("nodes[")]
        gateway = self._gateway
        gateway.config = config
        gateway.name_models()
        if any(path.startswith(("auth.", "gateway.allowed_origins")) for path in changed):
            gateway.guard = guard_of(config, gateway.guard.id)
        if any(path.startswith("limits.") for path in changed):
            self._door.limit(door_limits(config))
        self._app.settle()
        if any(path.startswith("log.") for path in changed):
            self._tell(config.log)
        done = Reloaded(changed, self._take_nodes(before, config), later)
        gateway.name_models()
        _say(done)
        warn_if_open(config)
        return done

    def _take_nodes(self, before: Config, after: Config) -> NodesReloaded:
        """Nodes that are named no more go, with what runs there left to its end; new ones come; changed ones change."""
        finder = self._house.finder
        old = {node.endpoint: node for node in configured_nodes(before)}
        new = {node.endpoint: node for node in configured_nodes(after)}
        done = NodesReloaded([], [], [], [])
        stay = {known.id for endpoint in old if endpoint in new and (known := finder.known(endpoint)) is not None}
        for endpoint in old:
            known = finder.known(endpoint) if endpoint not in new else None
            if known is not None and known.origin is Origin.STATIC and known.id not in stay:
                finder.remove(known.id, "no longer configured", again=True)
                done.removed.append(known.id)
        for endpoint, node in new.items():
            if endpoint not in old:
                try:
                    done.added.append(finder.add(node).id)
                except BadRequest as error:
                    done.notes.append(str(error))
            elif node != old[endpoint] and (known := finder.known(endpoint)) is not None:
                self._change(known, old[endpoint], node)
                done.changed.append(known.id)
        return done

    def _change(self, known: Node, old: Node, new: Node) -> None:
        given = {name: getattr(new, name) for name in _OF_A_NODE if getattr(new, name) != getattr(old, name)}
        engine = self._house.engine
        engine.publish(NodeChanged(engine.clock.now(), msgspec.structs.replace(known, **given)))


def guard_of(config: Config, id: str) -> Guard:
    """The rules that the settings make; ``id`` names the gateway in the hop header."""
    return Guard(
        keys=config.auth.keys,
        admin_keys=config.auth.admin_keys,
        origins=config.gateway.allowed_origins,
        loopback=is_loopback(config.gateway.host),
        id=id,
    )


def door_limits(config: Config) -> DoorLimits:
    """The limits of one client's connection."""
    limits = config.limits
    return DoorLimits(
        header_bytes=limits.header_bytes,
        header_seconds=limits.header_seconds,
        body_seconds=limits.body_seconds,
        idle_seconds=limits.idle_seconds,
        connections=limits.connections,
    )


def warn_if_open(config: Config) -> None:
    """Log it where everybody on the network may change the cluster."""
    if not is_loopback(config.gateway.host) and not config.auth.keys:
        log.warning(
            "the gateway listens on %s without keys: everybody who reaches it can use and change the cluster "
            "(set [auth] keys and admin_keys, or bind to 127.0.0.1)",
            config.gateway.host,
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _kept(before: Config, wanted: Config) -> Config:
    """The settings as they are from now on: what is wanted, but for what needs a restart."""
    sections: dict[str, Any] = {}
    for section in before.__struct_fields__:
        old, new = getattr(before, section), getattr(wanted, section)
        if isinstance(old, Struct):
            stay = {name: getattr(old, name) for name in old.__struct_fields__ if f"{section}.{name}" not in LIVE}
            sections[section] = msgspec.structs.replace(new, **stay)
        else:
            sections[section] = new if section == "nodes" or section in LIVE else old
    return Config(**sections)


def _differing(one: Config, other: Config) -> list[str]:
    values = dict(leaves(one))
    return [path for path, value in leaves(other) if path not in values or values[path] != value]


def _say(done: Reloaded) -> None:
    nodes = done.nodes
    fields = {
        "changed": ", ".join(done.changed) or "nothing",
        "nodes_added": ", ".join(nodes.added),
        "nodes_removed": ", ".join(nodes.removed),
        "nodes_changed": ", ".join(nodes.changed),
    }
    log.info("settings were read again", extra={name: text for name, text in fields.items() if text})
    for note in nodes.notes:
        log.warning("a node was left out", extra={"why": note})
    if done.restart:
        log.warning("these settings hold after a restart", extra={"settings": ", ".join(done.restart)})
