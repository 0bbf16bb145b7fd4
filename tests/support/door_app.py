"""A small app behind a real door, and a raw client that decides about every byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httptools

from sollol.core.ports import Header, Headers, Sink
from sollol.errors import SollolError
from sollol.gateway.http import Request, Route
from sollol.gateway.protocol import DoorLimits, Serving, serve

LIMIT = 1000


def reply(sink: Sink, status: int, body: bytes, length: bool = True, headers: Headers = ()) -> None:
    sink.head(status, headers, len(body) if length else None)
    sink.data(body)
    sink.end()


async def echo(request: Request, sink: Sink) -> None:
    reply(sink, 200, f"{request.method} {request.path}?{request.query} ".encode() + request.body)


@dataclass
class TestApp:
    """Routes by path; what has no route of its own is echoed."""

    __test__ = False  # it only sounds like one, to pytest

    routes: dict[str, Route] = field(default_factory=dict)
    refusals: dict[str, SollolError] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    refused: list[SollolError] = field(default_factory=list)

    def on(self, path: str, handler: Callable[[Request, Sink], Awaitable[None]], *, streams: bool = False) -> None:
        self.routes[path] = Route(handler, LIMIT if not streams else 10_000_000, streams)

    def route(self, request: Request) -> Route:
        self.seen.append(request)
        if request.path in self.refusals:
            raise self.refusals[request.path]
        return self.routes.get(request.path) or Route(echo, LIMIT)

    def refuse(self, request: Request | None, sink: Sink, error: SollolError) -> None:
        self.refused.append(error)
        reply(sink, error.status, str(error).encode())

    def reply_headers(self, request: Request | None) -> list[Header]:
        return [(b"X-Powered-By", b"SOLLOL")]


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Client:
    """A raw connection to a door; replies are read with llhttp."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.rest = b""

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next reply. Raises AssertionError if the connection ends before it is complete."""
        found = _Parsed(head_only)
        parser = httptools.HttpResponseParser(found)
        while not found.over:
            data = self.rest or await asyncio.wait_for(self.reader.read(65_536), 10)
            self.rest = b""
            if not data:
                assert found.until_close, f"closed in the middle of a reply: {found.body!r}"
                break
            for at in range(len(data)):
                parser.feed_data(data[at : at + 1])
                if found.over:
                    self.rest = data[at + 1 :]
                    break
        return Answer(parser.get_status_code(), found.headers, bytes(found.body))

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def closed(self) -> bytes:
        """Wait for the door to close; what it sent until then."""
        try:
            return self.rest + await asyncio.wait_for(self.reader.read(), 10)
        except ConnectionError:
            return self.rest

    def leave(self, *, reset: bool = False) -> None:
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()


class _Parsed:
    def __init__(self, head_only: bool) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = bytearray()
        self.over = self.until_close = False
        self._head_only = head_only

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.over = self._head_only
        self.until_close = not {b"content-length", b"transfer-encoding"} & set(self.headers)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.over = True


@dataclass
class Doors:
    app: TestApp
    serving: Serving
    clients: list[Client] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.serving.addresses[0][1]

    async def client(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self.clients[-1]

    async def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
        return await (await self.client()).ask(data)


@asynccontextmanager
async def doors(app: TestApp | None = None, **limits: float) -> AsyncIterator[Doors]:
    """A door on a free port of the loopback; everything is closed afterwards."""
    app = app or TestApp()
    serving = await serve(app, "127.0.0.1", 0, limits=DoorLimits(**limits))  # type: ignore[arg-type]  # ints among them
    made = Doors(app, serving)
    try:
        yield made
    finally:
        for client in made.clients:
            client.writer.close()
        await serving.close(0)
        await asyncio.sleep(0)
