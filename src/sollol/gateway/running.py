"""One gateway from open to close: the engine, the door, and what counts and writes on the side."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TextIO

from sollol.assemble import House, build, configured_nodes
from sollol.config import Config, Log
from sollol.core.events import AttemptEnded, NodeRemoved, TaskEnded
from sollol.drivers.request_log import RequestLog
from sollol.errors import ConfigError
from sollol.gateway.app import GatewayApp
from sollol.gateway.context import Gateway
from sollol.gateway.inference import Inference
from sollol.gateway.metrics_page import MetricsApp
from sollol.gateway.protocol import Serving, serve
from sollol.gateway.reload import Reload, door_limits, guard_of, warn_if_open

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

    def reload_as_asked(self) -> None:
        """Read the settings again because of a signal: there is nobody to answer, so the log says what came of it."""
        if self.gateway.reload is None:
            log.warning("the settings were given by the program that started the gateway: there is nothing to read again")
            return
        try:
            self.gateway.reload()
        except ConfigError as error:
            log.error("nothing was changed: %s", error)

    async def close(self, grace: float | None = None, hurry: asyncio.Event | None = None) -> None:
        """End everything. Nothing new is taken, what waits for a node is refused with a 503, and running answers may finish
        for `grace` seconds (default: as configured) or until `hurry` is set; then they end with an error of their dialect.
        """
        seconds = self.gateway.config.gateway.shutdown_seconds if grace is None else grace
        for door in self.doors:
            door.stop()
        self.house.admission.stop()
        await self._drain(seconds, hurry or asyncio.Event())
        self.house.engine.stopped = True
        for door in self.doors:
            await door.close(0.0)
        await self.house.close()
        self.request_log.close()

    async def _drain(self, seconds: float, hurry: asyncio.Event) -> None:
        """Wait until nobody is being served any more, or until that has to do."""
        ends = {asyncio.create_task(door.empty(seconds)) for door in self.doors}
        hurried = asyncio.create_task(hurry.wait())
        while ends and not hurried.done():
            _, rest = await asyncio.wait({*ends, hurried}, return_when=asyncio.FIRST_COMPLETED)
            ends &= rest
        for task in (*ends, hurried):
            task.cancel()
        await asyncio.gather(*ends, hurried, return_exceptions=True)
        left = sum(door.connections for door in self.doors)
        if left and seconds > 0:
            log.warning("stopped before every answer was complete", extra={"connections": left})


async def open_gateway(
    config: Config,
    *,
    read: Callable[[], Config] | None = None,
    tell: Callable[[Log], TextIO | None] | None = None,
) -> RunningGateway:
    """Start a gateway in this event loop; it answers when this returns. Raises `PortTaken` when the port is in use.

    ``read`` reads the settings again for a reload; without it there is none. ``tell`` is given the settings of the log, at once
    and when they change, and says where the line of each request goes; without it they go to the logger ``sollol.requests``.
    """
    house = build(config)
    guard = guard_of(config, secrets.token_hex(8))
    gateway = Gateway(
        config,
        house.engine,
        house.admission,
        house.monitor,
        house.finder,
        started=house.engine.clock.now(),
        guard=guard,
        cache=house.cache,
    )
    request_log = RequestLog(stream=tell(config.log) if tell is not None else None, as_json=config.log.format == "json")
    _count(gateway, request_log)
    app = GatewayApp(gateway, Inference(gateway, house.pipeline))
    async with AsyncExitStack() as undo:
        undo.push_async_callback(house.close)
        door = await serve(app, config.gateway.host, config.gateway.port, limits=door_limits(config))
        undo.push_async_callback(door.close, 0.0)
        doors = [door]
        gateway.address = _address(config.gateway.host, door)
        if config.gateway.metrics_port:
            doors.append(await serve(MetricsApp(gateway), config.gateway.host, config.gateway.metrics_port))
        undo.pop_all()  # both ports are open: there is nothing to undo
    request_log.start()
    house.finder.never(door.addresses)
    house.finder.start(configured_nodes(config))
    warn_if_open(config)
    if read is not None:

        def told(settings: Log) -> None:
            if tell is not None:
                request_log.to(tell(settings), as_json=settings.format == "json")

        gateway.reload = Reload(gateway, house, app, door, read=read, tell=told)
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
