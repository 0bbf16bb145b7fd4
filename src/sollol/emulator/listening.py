"""A port that can be opened and shut at any moment, and is kept while it is shut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress


class Listener:
    """Listens on `host`:`port` (0: any free one) while it is open; connections go to what `protocol` makes.

    An `asyncio.Server` would leave a connection without an answer for ever that it accepted just before it was closed.
    """

    def __init__(self, host: str, port: int, protocol: Callable[[], asyncio.Protocol]) -> None:
        self.host = host
        self.port = port
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return self._accepting is not None

    def open(self) -> None:
        """Listen from this moment on. Raises OSError if the port is taken."""
        if self._accepting is None:
            sock = self._socket = self._socket or self._bind()
            sock.listen(4096)
            self._accepting = self._begin(self._accept(sock))
            self._accepting.add_done_callback(lambda _: sock.close())

    def shut(self) -> None:
        """Refuse connections from this moment on; the port stays bound, so that nobody else gets it."""
        if self._accepting is None or self._socket is None:
            return
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # which ends the task that accepts, with what it had accepted
        except OSError:
            self._accepting.cancel()  # not every system can: the port is then shut at the next turn of the loop
        self._accepting = self._socket = None
        with suppress(OSError):  # where it is not free yet it is bound when it is opened again
            self._socket = self._bind()

    async def release(self) -> None:
        """Shut, and give the port back."""
        self.shut()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # The protocol is named, since asyncio has small pieces sent at once (as Ollama has) only where it knows that it is TCP.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        return sock

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError:
                if self._socket is not listening:
                    return
                await asyncio.sleep(0.05)  # out of descriptors, most likely
            else:
                self._begin(self._connect(connection))

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
