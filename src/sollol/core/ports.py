"""The outside as `engine` sees it. `drivers` implement these; tests put small fakes in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from .types import Endpoint, Model, Node, Survey

Header = tuple[bytes, bytes]
Headers = Sequence[Header]


class Clock(Protocol):
    """Where time comes from. `now` is monotonic seconds; `wall` is seconds since the epoch."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    def jitter(self) -> float:
        """A fresh random number in [0, 1)."""
        ...


class Outgoing(Struct, frozen=True):
    """One HTTP request to a node. ``target`` is path and query; Host, Content-Length and Connection are the transport's.

    ``upload`` true: the body follows through `Exchange.write` and `Exchange.finish`; ``length`` is its size if known, else
    it goes chunked. An upload is never sent twice.
    """

    method: str
    target: str
    headers: Headers = ()
    body: bytes = b""
    upload: bool = False
    length: int | None = None


class Receiver(Protocol):
    """What a transport tells about one exchange, in order, in the loop. After `Exchange.close` nothing more is told."""

    def on_head(self, status: int, headers: Headers) -> None:
        """The reply's status and headers; hop-by-hop ones and the framing (length, chunked) are removed already."""
        ...

    def on_data(self, data: bytes) -> None:
        """A piece of the body, as it came; never empty."""
        ...

    def on_end(self) -> None:
        """The body is complete and its framing was good. The last call."""
        ...

    def on_error(self, error: Exception) -> None:
        """A `NodeError`: unreachable, closed early, bad framing. The last call, instead of `on_end`."""
        ...

    def on_writable(self, writable: bool) -> None:
        """For uploads: False when the socket's buffer is full, True when it has room again."""
        ...


class Exchange(Protocol):
    """One request under way on one connection."""

    def pause(self) -> None:
        """Stop reading from the node: the client is slower than the node."""
        ...

    def resume(self) -> None: ...
    def write(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """The upload is complete."""
        ...

    def close(self) -> None:
        """Give up: the socket to the node is closed in this very turn of the loop. Harmless when it is over already."""
        ...


class Sent(Exchange, Protocol):
    """What a transport carries."""

    @property
    def paused(self) -> bool:
        """Whether nothing is read from the node now."""
        ...


class Transport(Protocol):
    """HTTP to nodes, with a pool of kept connections per node."""

    def send(self, node: Node, request: Outgoing, receiver: Receiver) -> Sent:
        """Start an exchange; returns at once. Errors go to the receiver, never raised from here."""
        ...

    def forget(self, endpoint: Endpoint) -> None:
        """Close kept connections to an endpoint (the node went down or was removed)."""
        ...

    async def close(self) -> None: ...


class Sink(Protocol):
    """The client's side of one request, as the door implements it."""

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        """Send status and headers once. ``length`` None: the body goes chunked (or until close, for HTTP/1.0)."""
        ...

    def data(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def abort(self) -> None:
        """Break the connection: the body cannot be completed and the dialect has no words for that."""
        ...

    @property
    def started(self) -> bool:
        """True once `head` was called."""
        ...

    def attach(self, exchange: Exchange | None) -> None:
        """Whom to pause when the client reads slowly, and to close at once when it leaves."""
        ...


class Surveyor(Protocol):
    """Looks at a node: what it is, which models it has, what is loaded."""

    async def survey(self, node: Node) -> Survey:
        """Raises `NodeError` when the node does not answer or is no node."""
        ...

    async def show(self, node: Node, model: Model) -> Model:
        """More about one model of an Ollama node: capabilities, context length, parameters. Raises `NodeError`."""
        ...

    def forget(self, node: Node) -> None:
        """The node may have been started anew, with other settings: nothing that was found out before is taken as known."""
        ...
