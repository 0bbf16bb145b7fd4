"""One exchange with a node, whichever connection carries it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from sollol.core.ports import Headers, Outgoing, Receiver
from sollol.core.types import Node
from sollol.errors import NodeClosed, NodeError

from .http_message import request_head

if TYPE_CHECKING:
    from .http_connection import Connection

_JOIN_LIMIT = 65_536  # a body up to this size goes out in one write with the head; copying more costs more than a write


class Owner(Protocol):
    """What a connection and a call ask of the transport that made them. ``buffer``: what is read is used at once, so all
    connections of one loop read into the same memory.
    """

    buffer: memoryview

    def opened(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...
    def keep(self, connection: Connection) -> None:
        """The reply is complete and its framing was good: the connection may carry another request."""
        ...

    def connect(self, call: Call) -> None: ...


class _Nobody:
    """Takes the receiver's place when an exchange is over: the receiver mostly knows its exchange, and a pair that hold
    each other would, with all that belongs to the request, stay in memory until the cycle collector comes.
    """

    def on_head(self, status: int, headers: Headers) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_error(self, error: Exception) -> None: ...
    def on_writable(self, writable: bool) -> None: ...


_NOBODY = _Nobody()


class Call:
    """One exchange: a request, its receiver, and the connection that carries it. ``length`` is the reply's Content-Length."""

    __slots__ = (
        "_backlog",
        "_backlog_size",
        "_finished",
        "_left",
        "_owner",
        "connection",
        "head",
        "length",
        "node",
        "opening",
        "over",
        "paused",
        "receiver",
        "request",
        "retried",
    )

    def __init__(self, owner: Owner, node: Node, request: Outgoing, receiver: Receiver) -> None:
        self.node = node
        self.request = request
        self.receiver: Receiver = receiver
        self.head = request_head(node, request)
        self.connection: Connection | None = None
        self.opening: asyncio.Task[None] | None = None
        self.length: int | None = None
        self.over = False
        self.paused = False
        self.retried = False
        self._owner = owner
        self._finished = not request.upload
        self._left = request.length
        self._backlog: list[bytes] = []
        self._backlog_size = 0

    @property
    def sent(self) -> bool:
        """The request is out completely, so that the connection may be used again."""
        return self._finished

    def start(self, connection: Connection) -> None:
        """Send the request on `connection`."""
        self.opening = None
        self.connection = connection
        connection.begin(self)
        body = self.request.body
        if self._backlog:
            backlog, full = self._backlog, self._backlog_size >= _JOIN_LIMIT
            self._backlog, self._backlog_size = [], 0
            connection.write(b"".join((self.head, *backlog)))
            if full and not self.over and connection.writable:
                self.receiver.on_writable(True)
        elif len(body) > _JOIN_LIMIT:
            connection.write(self.head)
            connection.write(body)
        else:
            connection.write(self.head + body if body else self.head)
        if self.paused:
            connection.pause()

    def pause(self) -> None:
        """Stop reading from the node."""
        self.paused = True
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        if self.connection is not None:
            self.connection.resume()

    def write(self, data: bytes) -> None:
        """A piece of an upload. ValueError: after `finish`, or more than the announced length."""
        if self.over or not data:
            return
        if self._finished:
            raise ValueError("write after the end of the request")
        if self._left is None:
            self._put(b"%x\r\n%b\r\n" % (len(data), data))
            return
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("the upload is longer than announced")
        self._put(data)

    def finish(self) -> None:
        """The upload is complete. ValueError: less than the announced length was written."""
        if self.over or self._finished:
            return
        if self._left:
            raise ValueError("the upload is shorter than announced")
        self._finished = True
        if self._left is None:
            self._put(b"0\r\n\r\n")

    def _put(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.write(data)
            return
        self._backlog.append(data)
        before, self._backlog_size = self._backlog_size, self._backlog_size + len(data)
        if before < _JOIN_LIMIT <= self._backlog_size:
            self.receiver.on_writable(False)

    def close(self) -> None:
        """Give up; the socket is closed now."""
        if self.over:
            return
        self.finish_receiving()
        if self.opening is not None:
            self.opening.cancel()
        if self.connection is not None:
            self.connection.abandon()

    def fail(self, error: NodeError) -> None:
        """The exchange ends with `error`."""
        if not self.over:
            self.finish_receiving().on_error(error)

    def finish_receiving(self) -> Receiver:
        """The exchange is over; gives the receiver for its last call."""
        self.over = True
        receiver, self.receiver = self.receiver, _NOBODY
        return receiver

    def disconnected(self, connection: Connection, text: str) -> None:
        """The node closed the connection before the reply was complete."""
        self.connection = None
        if connection.reused and not connection.answered and not self.retried and not self.request.upload:
            # It closed while it was idle and our request crossed that on its way: nothing has been served.
            self.retried = True
            self._owner.connect(self)
        else:
            self.fail(NodeClosed(self.node.id, text))
