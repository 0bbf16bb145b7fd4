"""A node for tests of the door: looks at it are answered like an Ollama with given models, everything else as a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httptools

from sollol.drivers.survey import ASKED_FOR

Answer = Callable[["Seen"], Awaitable[None]]


class Seen:
    """One request as it came. ``gone`` is set when the connection is lost, ``complete`` when the body was read."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.method = ""
        self.path = ""
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.complete = asyncio.Event()
        self.gone = asyncio.Event()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> dict[str, object]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    def reply(self, status: int = 200, body: object = b"", kind: str = "application/json; charset=utf-8") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        head = f"HTTP/1.1 {status} X\r\n" + (f"Content-Type: {kind}\r\n" if data else "")
        shown = b"" if self.method == "HEAD" else data
        self.transport.write(
            f"{head}Date: Sat, 21 Nov 2026 05:12:33 GMT\r\nContent-Length: {len(data)}\r\n\r\n".encode() + shown
        )

    def begin(self, kind: str = "application/x-ndjson") -> None:
        self.transport.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

    def line(self, value: object) -> None:
        text = json.dumps(value, separators=(",", ":")) + "\n"
        self.transport.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def end(self) -> None:
        self.transport.write(b"0\r\n\r\n")


class ScriptedNode:
    """``models`` maps names to digests. ``answers`` is asked by (method, path); a path in ``early`` is answered at its head."""

    def __init__(self, *models: str, version: str = "0.33.0", age: int = 1) -> None:
        self.models = {name: f"{index:064x}" for index, name in enumerate(models, 1)}
        self.version = version
        self.modified = f"2026-11-{age:02}T05:04:00.052483272Z"
        self.resident: list[dict[str, object]] = []
        self.answers: dict[tuple[str, str], Answer] = {}
        self.early: set[str] = set()
        self.seen: list[Seen] = []
        self.url = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self.open: set[asyncio.Transport] = set()
        self.server: asyncio.Server | None = None

    @property
    def id(self) -> str:
        return self.url.removeprefix("http://")

    def stop(self) -> None:
        """Listen no more, and break what is open."""
        if self.server is not None:
            self.server.close()
        for transport in list(self.open):
            transport.abort()

    def asked(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def tag(self, name: str) -> dict[str, object]:
        details = {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"]}
        details |= {"parameter_size": "478K", "quantization_level": "F16", "context_length": 2048, "embedding_length": 128}
        found = {"name": name, "model": name, "modified_at": self.modified, "size": 975125, "digest": self.models[name]}
        return found | {"details": details, "capabilities": ["completion"]}

    async def answer(self, seen: Seen) -> None:
        chosen = self.answers.get((seen.method, seen.path.partition("?")[0]))
        if chosen is not None:
            await chosen(seen)
        elif (seen.method, seen.path) == ("GET", "/api/version"):
            seen.reply(body={"version": self.version})
        elif (seen.method, seen.path) == ("GET", "/api/tags"):
            seen.reply(body={"models": [self.tag(name) for name in self.models]})
        elif (seen.method, seen.path) == ("GET", "/api/ps"):
            seen.reply(body={"models": self.resident})
        elif (seen.method, seen.path) == ("GET", "/"):
            seen.reply(body=b"Ollama is running", kind="text/plain; charset=utf-8")
        else:
            seen.reply(404, b"404 page not found", "text/plain")


class _Connection(asyncio.Protocol):
    def __init__(self, node: ScriptedNode) -> None:
        self._node = node
        self._seen: list[Seen] = []
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._node.open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._node.open.discard(self._transport)
        for seen in self._seen:
            seen.gone.set()

    def on_message_begin(self) -> None:
        self._seen.append(Seen(self._transport))

    def on_url(self, url: bytes) -> None:
        self._seen[-1].path += url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._seen[-1].headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        seen = self._seen[-1]
        seen.method = self._parser.get_method().decode()
        # That a look asks for newer paths, which it has not unless a test says so, is left out.
        if seen.path not in ASKED_FOR or (seen.method, seen.path) in self._node.answers:
            self._node.seen.append(seen)
        if seen.path in self._node.early:
            self._start(seen)

    def on_body(self, body: bytes) -> None:
        self._seen[-1].pieces.append(body)

    def on_message_complete(self) -> None:
        seen = self._seen[-1]
        seen.complete.set()
        if seen.path not in self._node.early:
            self._start(seen)

    def _start(self, seen: Seen) -> None:
        task = asyncio.get_running_loop().create_task(self._node.answer(seen))
        self._node.tasks.add(task)
        task.add_done_callback(self._node.tasks.discard)


@asynccontextmanager
async def scripted(*models: str, version: str = "0.33.0", age: int = 1) -> AsyncIterator[ScriptedNode]:
    """A node that listens on a free port until the end of the block."""
    node = ScriptedNode(*models, version=version, age=age)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(node), "127.0.0.1", 0)
    node.server = server
    node.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield node
    finally:
        node.stop()
        for task in list(node.tasks):
            task.cancel()
        await asyncio.gather(*node.tasks, return_exceptions=True)
