"""HTTP to nodes: `core.ports.Transport` with kept connections, written on asyncio's protocols and llhttp for speed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from functools import cached_property

from sollol.core.ports import Outgoing, Receiver
from sollol.core.types import Endpoint, Node
from sollol.errors import NodeUnreachable

from .http_call import Call
from .http_connect import open_connection
from .http_connection import Connection

READ_BYTES = 65_536
"""Of a reply that are read at once: so much may come for a client that does not read after its node was told to pause."""


class HttpTransport:
    """Sends requests to nodes over kept connections; must be used from one running loop.

    ``connect_timeout`` (seconds) covers name, connection and TLS; nothing limits how long a reply takes. Per endpoint at most
    ``max_idle`` connections are kept, the latest used first, none idle for longer than ``idle_seconds``. ``tls`` replaces the
    default certificate checks. A kept connection that the node closed while our request was on its way is replaced once,
    silently, unless the request is an upload.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = 2.0,
        max_idle: int = 128,
        idle_seconds: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connect_timeout = connect_timeout
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._tls = tls
        self.buffer = memoryview(bytearray(READ_BYTES))
        self._idle: dict[Endpoint, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._opening: dict[asyncio.Task[None], Call] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._nothing_open = asyncio.Event()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Asked for once: asyncio makes a system call to find it."""
        return asyncio.get_running_loop()

    def send(self, node: Node, request: Outgoing, receiver: Receiver) -> Call:
        """Start an exchange. Raises ValueError for a target or header that would break the framing, nothing else."""
        call = Call(self, node, request, receiver)
        idle = self._idle.get(node.endpoint)
        while idle:
            connection = idle.pop()
            if connection.usable:
                call.start(connection)
                return call
        self.connect(call)
        return call

    def connect(self, call: Call) -> None:
        """Open a fresh connection for `call`, in the background."""
        call.opening = task = self._loop.create_task(self._connect(call))
        self._opening[task] = call
        task.add_done_callback(self._opening.pop)

    async def _connect(self, call: Call) -> None:
        node, endpoint = call.node, call.node.endpoint
        try:
            if self._closed:
                raise OSError("the transport is closed")
            async with asyncio.timeout(self.connect_timeout):
                context = self._context() if endpoint.tls else None
                connection = await open_connection(lambda: Connection(self, endpoint), endpoint, context)
        except TimeoutError:
            call.fail(NodeUnreachable(node.id, f"no connection within {self.connect_timeout:g} s"))
        except (OSError, UnicodeError) as error:  # UnicodeError: no name at all, for the resolver
            call.fail(NodeUnreachable(node.id, _words(error)))
        else:
            if call.over:
                connection.abort()
            elif connection.usable:
                call.start(connection)
            else:
                call.disconnected(connection, "connection closed as soon as it was open")

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def forget(self, endpoint: Endpoint) -> None:
        """Close the idle connections to `endpoint`; running exchanges go on."""
        for connection in self._idle.pop(endpoint, ()):
            connection.abort()

    async def close(self) -> None:
        """Close everything; running exchanges end with an error. Returns when no socket and no task is left."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        self._idle.clear()
        opening = list(self._opening)
        for task, call in list(self._opening.items()):
            task.cancel()
            call.fail(NodeUnreachable(call.node.id, "the gateway is stopping"))
        for connection in list(self._open):
            connection.fail("the gateway is stopping")
        await asyncio.gather(*opening, return_exceptions=True)
        if self._open:
            self._nothing_open.clear()
            await self._nothing_open.wait()

    # what connections report

    def opened(self, connection: Connection) -> None:
        """A socket is open."""
        self._open.add(connection)

    def lost(self, connection: Connection) -> None:
        """A socket is closed."""
        self._open.discard(connection)
        idle = self._idle.get(connection.endpoint)
        if idle and connection in idle:
            idle.remove(connection)
        if not self._open:
            self._nothing_open.set()

    def keep(self, connection: Connection) -> None:
        """A connection has become idle."""
        idle = self._idle.setdefault(connection.endpoint, [])
        if self._closed or len(idle) >= self._max_idle:
            connection.abort()
            return
        connection.kept_at = self._loop.time()
        idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle_seconds, self._close_old)

    def _close_old(self) -> None:
        oldest = self._loop.time() - self._idle_seconds
        for endpoint, idle in list(self._idle.items()):
            for connection in idle:
                if connection.kept_at <= oldest:
                    connection.abort()  # `lost` takes it out of the pool; until then it is not usable
            if not idle:
                del self._idle[endpoint]
        self._sweep = self._loop.call_later(max(self._idle_seconds / 2, 0.01), self._close_old) if self._idle else None


def _words(error: OSError | UnicodeError) -> str:
    """The error as people read it; asyncio's own text holds a number and a tuple."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror | ssl.SSLError) else None
    known = os.strerror(number).lower() if number is not None and number in errno.errorcode else ""
    return known or str(error) or type(error).__name__
