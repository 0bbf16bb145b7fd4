"""Listens for clients: `serve` opens the sockets, `Serving` is what all their connections share."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

from sollol.errors import PortTaken

from .door import Door
from .http import App

LAST_WORDS_SECONDS = 0.1
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))  # a client without power is noticed in 60 s
# What a client has not read waits at its node and not, with megabytes for each, in our kernel.
_UNSENT = ("TCP_NOTSENT_LOWAT", 131_072)
UNSENT_BYTES = 32_768
"""Of a reply may wait in our own memory before the node is told to pause: some two hundred pieces of a stream."""


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """Limits of every connection; times in seconds, all positive.

    ``header_bytes``: request line and headers, and trailers. ``header_seconds``: from the first byte of a request to the end
    of its headers, and from connecting to the first byte. ``body_seconds``: between two pieces of a body. ``idle_seconds``:
    between two requests. ``linger_seconds``: how long unread input is thrown away after a refusal. ``connections``: above it
    new ones are answered with 503.
    """

    header_bytes: int = 65_536
    header_seconds: float = 30.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0
    linger_seconds: float = 2.0
    connections: int = 10_000


class Serving:
    """Open sockets and the connections made through them. Made by `serve`."""

    def __init__(self, app: App, limits: DoorLimits) -> None:
        self.app = app
        self.tick = 0
        self.date = b"Date: "
        self.closing = False
        self._interval = max(0.01, min(1.0, *(seconds / 4 for seconds in _times(limits))))
        self.limit(limits)
        self._doors: set[Door] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: (address, port), in the order of the sockets."""
        sockets = self._server.sockets if self._server is not None else ()
        return [sock.getsockname()[:2] for sock in sockets]

    @property
    def connections(self) -> int:
        """Clients' connections now."""
        return len(self._doors)

    def limit(self, limits: DoorLimits) -> None:
        """Other limits from now on. Times are counted in the ticks of the first ones, so a much shorter one is rough."""
        self.header_limit = limits.header_bytes
        ticks = [math.ceil(seconds / self._interval) + 1 for seconds in _times(limits)]
        self.header_ticks, self.body_ticks, self.idle_ticks, self.linger_ticks = ticks
        self._connections = limits.connections

    async def listen(self, host: str | Sequence[str] | None, port: int, backlog: int) -> None:
        """Open the sockets. Raises `PortTaken`; other OSErrors (no such address) as they are."""
        try:
            self._server = await self._loop.create_server(self._door, host, port, backlog=backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortTaken(
                f"port {port} is in use by another program (an Ollama, or another gateway?); "
                "stop that one, or choose another port with --port"
            ) from error
        for sock in self._server.sockets:  # what is accepted inherits these
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in (*_KEEPALIVE, _UNSENT):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._sweep()

    def stop(self) -> None:
        """Stop accepting; idle connections close now, busy ones with the end of what they are doing."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for door in tuple(self._doors):
            door.close_when_idle()

    async def empty(self, seconds: float) -> bool:
        """Wait until no connection is left, for so many seconds; whether it came to that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        return not self._doors

    async def close(self, grace: float = 5.0) -> None:
        """`stop`; after `grace` seconds what still runs is cancelled, so that it can say so, and then broken."""
        self.stop()
        await self.empty(grace)
        tasks = [door.current.task for door in self._doors if door.current is not None and door.current.task is not None]
        for task in tasks:
            task.cancel()
        await self.empty(LAST_WORDS_SECONDS)
        for door in tuple(self._doors):
            door.transport.abort()
        await self._empty.wait()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            await self._server.wait_closed()

    # what connections ask

    def enter(self, door: Door) -> int:
        """A connection was made."""
        door.transport.set_write_buffer_limits(UNSENT_BYTES)
        self._doors.add(door)
        self._empty.clear()
        return len(self._doors) - self._connections

    def leave(self, door: Door) -> None:
        """A connection was lost."""
        self._doors.discard(door)
        if not self._doors:
            self._empty.set()

    def _door(self) -> Door:
        return Door(self, self._loop)

    def _sweep(self) -> None:
        """One timer for the time limits of all connections, and for the Date header."""
        self.tick = tick = self.tick + 1
        self.date = b"Date: %b" % formatdate(time.time(), usegmt=True).encode()
        for door in [door for door in self._doors if door.expires <= tick]:
            door.expire()
        self._timer = self._loop.call_later(self._interval, self._sweep)


def _times(limits: DoorLimits) -> tuple[float, ...]:
    return (limits.header_seconds, limits.body_seconds, limits.idle_seconds, limits.linger_seconds)


async def serve(
    app: App,
    host: str | Sequence[str] | None,
    port: int,
    *,
    limits: DoorLimits | None = None,
    backlog: int = 4096,
) -> Serving:
    """Answer HTTP on `host` (None: every address) and `port` (0: a free one). Raises `PortTaken`."""
    serving = Serving(app, limits or DoorLimits())
    await serving.listen(host, port, backlog)
    return serving


__all__ = ["Door", "DoorLimits", "Serving", "serve"]
