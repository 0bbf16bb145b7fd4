"""A bridge from the door to an ASGI application (the pages that Starlette serves), never on the way of inference."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from sollol.core.ports import Sink

from .http import Handler, Request

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_PATIENCE = 1.0  # seconds in which an application may act on `http.disconnect` before it is cancelled


class _Wire:
    """`receive` and `send` of one request; towards the door it is the exchange that is paused and closed."""

    def __init__(self, request: Request, sink: Sink) -> None:
        self._request = request
        self._sink = sink
        self._asked = False
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        sink.attach(self)

    async def receive(self) -> Message:
        if not self._asked or self._request.chunks is not None:
            self._asked = True
            piece, more = await self._body()
            return {"type": "http.request", "body": piece, "more_body": more}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _body(self) -> tuple[bytes, bool]:
        chunks = self._request.chunks
        if chunks is None:
            return self._request.body, False
        async for piece in chunks:
            return piece, True
        self._request.chunks = None
        return b"", False

    async def send(self, message: Message) -> None:
        await self._writable.wait()
        if message["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            length = next((int(value) for name, value in headers if name.lower() == b"content-length"), None)
            self._sink.head(message["status"], headers, length)
        elif message["type"] == "http.response.body":
            self._sink.data(message.get("body", b""))
            if not message.get("more_body", False):
                self._sink.end()

    # core.ports.Exchange, as far as the door uses it

    def pause(self) -> None:
        self._writable.clear()

    def resume(self) -> None:
        self._writable.set()

    def write(self, data: bytes) -> None:
        """Nothing is uploaded through this."""

    def finish(self) -> None:
        """Nothing is uploaded through this."""

    def close(self) -> None:
        """The client left."""
        self._gone.set()
        self._writable.set()


def bridge(app: AsgiApp, *, root_path: str = "", scheme: str = "http", server: tuple[str, int] | None = None) -> Handler:
    """A handler that lets `app` answer. When the client leaves, the application gets `http.disconnect` and is cancelled
    a second later if it goes on.
    """

    async def handler(request: Request, sink: Sink) -> None:
        wire = _Wire(request, sink)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if request.http10 else "1.1",
            "method": request.method,
            "scheme": scheme,
            "path": unquote(request.path),
            "raw_path": request.path.encode("ascii", "replace"),
            "query_string": request.query.encode("ascii", "replace"),
            "root_path": root_path,
            "headers": list(request.headers),
            "client": (request.client, 0),
            "server": server,
            "extensions": {},
        }
        task = asyncio.ensure_future(app(scope, wire.receive, wire.send))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                await asyncio.wait((task,), timeout=_PATIENCE)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)  # what it says to nobody is not an error
            raise

    return handler
