"""What passes between the door's protocol (`protocol.py`) and the handlers behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sollol.core.ports import Header, Headers, Sink
from sollol.errors import SollolError


@dataclass(slots=True, eq=False)
class Request:
    """One request as it came. Header names are lower case; ``path`` has no query and is not percent-decoded.

    ``body`` is complete before the handler runs, unless the route streams: then ``chunks`` yields it, with backpressure.
    ``client`` is the address of the peer, ``http10`` true for HTTP/1.0 clients. ``notes`` keep what was worked out from the
    headers alone, Content-Length left aside: a client mostly sends the same ones again, and then finds them worked out.
    """

    method: str
    path: str
    query: str
    headers: list[Header]
    client: str
    body: bytes = b""
    chunks: AsyncIterator[bytes] | None = None
    length: int | None = None
    http10: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def header(self, name: bytes, default: bytes = b"") -> bytes:
        """The first header of that (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return default


Handler = Callable[[Request, Sink], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. ``body_limit`` in bytes; over it the door refuses with `BodyTooLarge` before reading on."""

    handler: Handler
    body_limit: int
    streams: bool = False


class App(Protocol):
    """What the door asks; `server.py` has the one of the gateway."""

    def route(self, request: Request) -> Route:
        """Called when the headers are complete, before any body is read; raises a `SollolError` to refuse."""
        ...

    def refuse(self, request: Request | None, sink: Sink, error: SollolError) -> None:
        """Answer an error in the dialect of the path (`request` is None when not even the request line could be read)."""
        ...

    def reply_headers(self, request: Request | None) -> Headers:
        """Headers that every reply to this request carries (X-Powered-By, CORS); none may be added by handlers again."""
        ...
