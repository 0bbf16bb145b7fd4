"""A tiny HTTP server with fixed replies, for tests that need a node's exact words."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

Headers = Mapping[str, str]
Canned = tuple[int, Any] | tuple[int, Any, Headers]

OLLAMA_TAG = {
    "name": "tiny:latest",
    "model": "tiny:latest",
    "modified_at": "2026-11-21T05:04:00.052483272Z",
    "size": 975125,
    "digest": "18c1",
    "details": {"parameter_size": "478K", "context_length": 2048},
    "capabilities": ["completion"],
}
OLLAMA: dict[str, Canned] = {
    "/api/version": (200, {"version": "0.33.0"}),
    "/api/tags": (200, {"models": [OLLAMA_TAG]}),
    "/api/ps": (200, {"models": []}),
}
LLAMACPP: dict[str, Canned] = {
    "/props": (
        200,
        {"build_info": "b6000", "total_slots": 4, "model_path": "/m/Tiny.gguf", "default_generation_settings": {"n_ctx": 512}},
    ),
    "/v1/models": (200, {"data": [{"id": "/m/Tiny.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 2048}}]}),
}
VLLM: dict[str, Canned] = {
    "/v1/models": (200, {"data": [{"id": "Qwen/Q", "owned_by": "vllm", "max_model_len": 4096}]}),
    "/version": (200, {"version": "0.20.1"}),
}
LMSTUDIO: dict[str, Canned] = {
    "/api/v0/models": (200, {"data": [{"id": "q", "type": "llm", "state": "loaded", "max_context_length": 4096}]}),
    "/v1/models": (200, {"data": [{"id": "q", "object": "model"}]}),
    # LM Studio answers 200 to paths that it does not have
    "*": (200, {"error": "Unexpected endpoint or method. Returning 200 anyway"}),
}
OTHER: dict[str, Canned] = {"/v1/models": (200, {"data": [{"id": "some-model"}]})}
LOADING: dict[str, Canned] = {"*": (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})}


class CannedServer:
    """Answers each path with what ``replies`` has for it, "*" for all others, else 404. ``asked`` lists (method, path, body).

    A reply is (status, JSON value or bytes) and maybe headers; the value None: the connection stays open without a reply.
    """

    def __init__(self, replies: Mapping[str, Canned]) -> None:
        self.replies = dict(replies)
        self.asked: list[tuple[str, str, bytes]] = []
        self.requests: list[bytes] = []
        self.port = 0
        self.connections: set[asyncio.Task[None]] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            while True:
                await self._one(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
            self.connections.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path = head.decode().split(" ", 2)[:2]
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        body = await reader.readexactly(length)
        self.requests.append(head)
        self.asked.append((method, path, body))
        status, value, *headers = self.replies.get(path) or self.replies.get("*") or (404, b"404 page not found")
        if value is None:
            await reader.read()
            return
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = "".join(f"{name}: {text}\r\n" for name, text in (headers[0] if headers else {}).items())
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{lines}\r\n".encode() + data)
        await writer.drain()

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


@asynccontextmanager
async def canned(replies: Mapping[str, Canned], host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[CannedServer]:
    server = CannedServer(replies)
    listening = await asyncio.start_server(server.answer, host, port)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in list(server.connections):
            task.cancel()
        await asyncio.gather(*server.connections, return_exceptions=True)
        await listening.wait_closed()


@contextmanager
def canned_in_thread(replies: Mapping[str, Canned], host: str = "127.0.0.1", port: int = 0) -> Iterator[CannedServer]:
    """The same in a thread with a loop of its own, for callers that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    serving = canned(replies, host, port)
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(5)
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(5)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
