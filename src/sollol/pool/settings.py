"""What a pool was given, as one value: it can be pickled, and a new process makes the same pool of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from sollol.config import Config, NodeSettings
from sollol.config_sources import load
from sollol.core.types import Endpoint, Mode, Node, NodeKind
from sollol.errors import BadRequest, BadValue, ConfigError
from sollol.wire import control
from sollol.wire.address import Address, parse_address

GATEWAY_SLOTS: Final = 4_096
"""A gateway has a queue of its own, and nothing waits before it."""

HEDGED: Final = 2
"""On how many nodes a small request may run where hedging is switched on for a whole pool."""

NodeForm = str | Mapping[str, Any] | Endpoint | Node | Any


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one call asks of the routing; None and "" where the pool's own wish holds. ``timeout`` in seconds.

    ``hedge`` is on how many nodes a small request may run until one of them answers, ``cache`` whether a kept answer will do.
    """

    priority: int | None = None
    mode: Mode | None = None
    timeout: float | None = None
    app: str = ""
    node: str | None = None
    hedge: int | None = None
    cache: bool | None = None


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """``search``: nodes are looked for. ``here``: those of this machine count too. ``tell``: tell a terminal what is found."""

    config: Config
    search: bool
    here: bool = True
    wishes: Wishes = field(default_factory=Wishes)
    tell: bool = False


def pool_settings(
    nodes: Iterable[NodeForm] | NodeForm | None = None,
    *,
    gateway: str | None = None,
    search: bool | None = None,
    exclude_localhost: bool = False,
    app_name: str = "",
    priority: object = None,
    routing_mode: object = None,
    timeout: float | None = None,
    max_queue_size: int | None = None,
    enable_cache: bool | None = None,
    cache_max_size: int | None = None,
    cache_ttl: float | None = None,
    enable_hedging: bool = False,
) -> PoolSettings:
    """Read everything that a pool can be given. Raises `ConfigError` or `BadValue`, both `ValueError`.

    Without nodes those of the configuration (environment, `sollol.toml`) are used, and more are looked for unless it says not
    to. With nodes nothing is looked for unless ``search`` is true.
    """
    if gateway is not None and nodes is not None:
        raise ConfigError("give nodes or a gateway, not both: a gateway has nodes of its own")
    given: dict[str, object] = {
        "queue.limit": max_queue_size,
        "cache.enabled": enable_cache,
        "cache.entries": cache_max_size,
        "cache.ttl_seconds": cache_ttl,
    }
    if nodes is not None or gateway is not None:
        given["nodes"] = []
    config = load(arguments=given).config
    if gateway is not None:
        known: tuple[NodeSettings, ...] = (gateway_settings(gateway),)
    elif nodes is not None:
        known = tuple(node_settings(node) for node in _several(nodes))
    else:
        known = config.nodes
    wanted = search if search is not None else config.discovery.enabled and nodes is None and gateway is None
    discovery = msgspec.structs.replace(config.discovery, enabled=wanted)
    if exclude_localhost:
        discovery = msgspec.structs.replace(discovery, this_machine=False, docker=False)
    wishes = Wishes(
        checked_priority(priority),
        checked_mode(routing_mode),
        checked_timeout(timeout),
        checked_text(app_name, "app_name"),
        hedge=HEDGED if enable_hedging else None,
    )
    config = msgspec.structs.replace(config, nodes=known, discovery=discovery)
    return PoolSettings(config, wanted, not exclude_localhost, wishes)


def node_settings(given: NodeForm) -> NodeSettings:
    """One node in any form: "host:port", a URL, a mapping, or an object with ``host`` and ``port`` or ``url``."""
    if isinstance(given, NodeSettings):
        return given
    if isinstance(given, Node):
        return NodeSettings(given.endpoint.url, given.name, given.priority, given.slots, api_key=given.api_key, kind=given.kind)
    address = _address(given)
    return NodeSettings(address.endpoint.url, name=address.name, priority=address.priority or 5)


def gateway_settings(url: str) -> NodeSettings:
    """A gateway as the one node of a pool."""
    return NodeSettings(parse_address(url).endpoint.url, slots=GATEWAY_SLOTS, kind=NodeKind.SOLLOL)


def checked_priority(value: object) -> int | None:
    """1 to 10, or the name of a priority. Raises `BadValue`."""
    if value is None:
        return None
    try:
        return control.priority(value)
    except BadRequest as error:
        raise BadValue(f"{error}, not {value!r}") from None


def checked_hedge(value: object) -> int | None:
    """1 to 4 nodes. Raises `BadValue`."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= control.MAX_HEDGE:
        return value
    raise BadValue(f"hedge must be a number of nodes from 1 to {control.MAX_HEDGE}, not {value!r}")


def checked_cache(value: object) -> bool | None:
    """True or false. Raises `BadValue`."""
    if value is None or isinstance(value, bool):
        return value
    raise BadValue(f"cache must be true or false, not {value!r}")


def checked_mode(value: object) -> Mode | None:
    """A mode of routing by its value or name. Raises `BadValue`."""
    if value is None:
        return None
    try:
        return Mode(str(getattr(value, "value", value)).lower())
    except ValueError:
        raise BadValue(f"routing_mode must be one of {', '.join(Mode)}, not {value!r}") from None


def checked_timeout(value: object) -> float | None:
    """Seconds, over 0 and up to a day. Raises `BadValue`."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= control.MAX_TIMEOUT:
        return float(value)
    raise BadValue(f"timeout must be a number of seconds over 0 and up to {control.MAX_TIMEOUT:.0f}, not {value!r}")


def checked_text(value: object, what: str) -> str:
    """Printable text of at most 256 characters. Raises `BadValue`."""
    if value is None:
        return ""
    if isinstance(value, str) and len(value) <= control.MAX_TEXT and value.isprintable():
        return value
    raise BadValue(f"{what} must be at most {control.MAX_TEXT} printable characters")


def _several(nodes: Any) -> Iterable[Any]:
    if isinstance(nodes, str | Mapping | Endpoint | Node) or hasattr(nodes, "host") or hasattr(nodes, "url"):
        return [nodes]
    if not isinstance(nodes, Iterable):
        raise ConfigError(f"nodes has to be a list of addresses, not {type(nodes).__name__}")
    return nodes


def _address(given: Any) -> Address:
    if isinstance(given, str | Mapping | Endpoint):
        return parse_address(given)
    if getattr(given, "host", None) is not None:
        return parse_address({key: getattr(given, key, None) for key in ("host", "port", "priority", "name")})
    url = getattr(given, "url", None)
    return parse_address(url if isinstance(url, str) else given)
