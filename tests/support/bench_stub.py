"""A node for tests of load tools: an asyncio server whose answers, delays and failures each test chooses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httptools

Answer = Callable[["Seen"], Awaitable[None]]


class Seen:
    """One request as it came, with what a test may answer."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.path = ""
        self.body = b""
        self.headers: dict[str, str] = {}
        self.complete = False
        self.writer = writer

    def on_url(self, url: bytes) -> None:
        self.path += url.decode()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True

    def reply(self, document: object, status: int = 200, node: str = "a:1") -> None:
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nX-SOLLOL-Node: {node}\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def begin(self, kind: str = "application/x-ndjson", node: str = "a:1") -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nX-SOLLOL-Node: {node}\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.writer.write(head.encode())

    def chunk(self, text: str) -> None:
        self.writer.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")


@asynccontextmanager
async def bench_stub(answer: Answer, lists: bool = True) -> AsyncIterator[tuple[str, list[Seen]]]:
    """A server on a free port; yields its URL and every request that it got. GET /v1/models lists one model, or is
    not there."""
    seen: list[Seen] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            while not writer.is_closing():
                request = Seen(writer)
                parser = httptools.HttpRequestParser(request)
                while not request.complete:
                    data = await reader.read(65_536)
                    if not data:
                        return
                    parser.feed_data(data)
                if request.path == "/v1/models":
                    request.reply({"object": "list", "data": [{"id": "listed:latest"}]} if lists else {}, 200 if lists else 404)
                    continue
                seen.append(request)
                await answer(request)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()
