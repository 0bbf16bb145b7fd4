"""One gateway from open to close: the engine, the door, and what counts and writes on the side."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TextIO

from sollol.assemble import House, build, configured_nodes
from sollol.config import Config
from sollol.core.events import AttemptEnded, NodeRemoved, TaskEnded
from sollol.drivers.request_log import RequestLog
from sollol.gateway.app import GatewayApp
from sollol.gateway.context import Gateway
from sollol.gateway.guards import Guard
from sollol.gateway.inference import Inference
from sollol.gateway.metrics_page import MetricsApp
from sollol.gateway.protocol import DoorLimits, Serving, serve

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RunningGateway:
    """A gateway that answers; `close` ends all of it."""

    gateway: Gateway
    house: House
    doors: list[Serving]
    request_log: RequestLog

    @property
    def address(self) -> str:
        """Where it listens, "http://host:port"."""
        return self.gateway.address

    async def close(self, grace: float | None = None) -> None:
        """Stop accepting, let running answers finish for `grace` seconds (default: as configured), then end everything."""
        seconds = self.gateway.config.gateway.shutdown_seconds if grace is None else grace
        for door in self.doors:
            await door.close(seconds)
        await self.house.close()
        self.request_log.close()


async def open_gateway(config: Config, lines: TextIO | None = None) -> RunningGateway:
    """Start a gateway in this event loop; it answers when this returns. Raises `PortTaken` when the port is in use.

    ``lines`` is where the line of each request goes; without it they go to the logger ``sollol.requests``.
    """
    house = build(config)
    loopback = _is_loopback(config.gateway.host)
    guard = Guard(
        keys=config.auth.keys,
        admin_keys=config.auth.admin_keys,
        origins=config.gateway.allowed_origins,
        loopback=loopback,
        id=secrets.token_hex(8),
    )
    gateway = Gateway(
        config,
        house.engine,
        house.admission,
        house.monitor,
        house.finder,
        started=house.engine.clock.now(),
        guard=guard,
    )
    request_log = RequestLog(stream=lines, as_json=config.log.format == "json")
    _count(gateway, request_log)
    app = GatewayApp(gateway, Inference(gateway, house.pipeline), guard)
    limits = config.limits
    doors: list[Serving] = []
    try:
        door = await serve(
            app,
            config.gateway.host,
            config.gateway.port,
            limits=DoorLimits(
                header_bytes=limits.header_bytes,
                header_seconds=limits.header_seconds,
                body_seconds=limits.body_seconds,
                idle_seconds=limits.idle_seconds,
                connections=limits.connections,
            ),
        )
        doors.append(door)
        gateway.address = _address(config.gateway.host, door)
        if config.gateway.metrics_port:
            doors.append(await serve(MetricsApp(gateway), config.gateway.host, config.gateway.metrics_port))
    except BaseException:
        for opened in doors:
            await opened.close(0.0)
        await house.close()
        raise
    request_log.start()
    house.finder.never(door.addresses)
    house.finder.start(configured_nodes(config))
    if not loopback and not config.auth.keys:
        log.warning(
            "the gateway listens on %s without keys: everybody who reaches it can use and change the cluster "
            "(set [auth] keys and admin_keys, or bind to 127.0.0.1)",
            config.gateway.host,
        )
    return RunningGateway(gateway, house, doors, request_log)


def _count(gateway: Gateway, request_log: RequestLog) -> None:
    """Let everybody who counts hear of the events that concern them."""
    listen = gateway.engine.listen
    listen(gateway.statistics.on_event, TaskEnded, AttemptEnded, NodeRemoved)
    for kind, take in gateway.metrics.takes.items():
        listen(take, kind)
    listen(request_log.on_event, TaskEnded)


def _address(host: str, door: Serving) -> str:
    """An address that can be typed: a bind to every interface is reached on loopback from here."""
    port = door.addresses[0][1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
