"""A gateway on a real socket for tests of the door, and a small HTTP client that hides nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.scripted import ScriptedNode
from tests.support.wait import until

import sollol
from sollol.config import Auth, Config, Discovery, Gateway, Limits, NodeSettings
from sollol.core.events import Event, TaskEnded
from sollol.core.types import Health
from sollol.gateway.context import Gateway as Context
from sollol.gateway.running import open_gateway

PACKAGE = Path(sollol.__file__).parent


@dataclass(slots=True)
class Reply:
    """A complete reply. ``headers`` in the order they came, names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(slots=True)
class Open:
    """A request whose reply is read piece by piece."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)

    async def head(self) -> None:
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(status.split(" ")[1])
        pairs = (line.partition(":") for line in lines if line)
        self.headers = [(name.lower(), value.strip()) for name, _, value in pairs]

    async def chunk(self) -> bytes:
        """One piece of a chunked body; empty at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return data

    async def rest(self) -> bytes:
        if ("transfer-encoding", "chunked") not in self.headers:
            length = next((int(value) for key, value in self.headers if key == "content-length"), 0)
            return await self.reader.readexactly(length)
        whole = b""
        while piece := await self.chunk():
            whole += piece
        return whole

    def leave(self) -> None:
        self.writer.transport.abort()


class Front:
    """A running gateway."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.port = int(context.address.rpartition(":")[2])

    async def open(self, method: str, path: str, body: Any = b"", headers: Mapping[str, str] | None = None) -> Open:
        """Send a request; a dict as JSON. The caller closes it."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Host": f"127.0.0.1:{self.port}", **(headers or {})}
        if (data or method in ("POST", "PATCH", "DELETE")) and "Transfer-Encoding" not in given:
            given.setdefault("Content-Length", str(len(data)))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in given.items()) + "\r\n"
        writer.write(head.encode("latin-1") + data)
        return Open(reader, writer)

    async def ask(self, method: str, path: str, body: Any = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request and read the whole reply."""
        request = await self.open(method, path, body, headers)
        try:
            await request.head()
            data = b"" if method == "HEAD" else await request.rest()
            return Reply(request.status, request.headers, data)
        finally:
            request.writer.close()

    async def down(self, node: ScriptedNode) -> None:
        """Stop the node, and wait until the gateway knows."""
        node.stop()
        self.context.monitor.look(node.id)
        await until(lambda: self.context.engine.state.nodes[node.id].state is Health.DOWN)

    async def looked(self) -> None:
        """Wait until every node has been looked at."""
        await self.context.monitor.looked(list(self.context.engine.state.nodes))


@asynccontextmanager
async def front(
    *nodes: str | NodeSettings,
    auth: Auth | None = None,
    gateway: Gateway | None = None,
    limits: Limits | None = None,
    data_dir: Path | None = None,
    **more: Any,
) -> AsyncIterator[Front]:
    """A gateway with these nodes, looked at already, and without discovery; ``more`` are other settings."""
    config = Config(
        gateway=gateway or Gateway(port=0, shutdown_seconds=0.0),
        nodes=tuple(NodeSettings(node) if isinstance(node, str) else node for node in nodes),
        discovery=Discovery(enabled=False),
        auth=auth or Auth(),
        limits=limits or Limits(),
        data_dir=data_dir or Path("/nonexistent"),
        **more,
    )
    async with nothing_left_running():
        running = await open_gateway(config)
        try:
            front = Front(running.gateway)
            await front.looked()
            yield front
        finally:
            await running.close(0.0)


def ends_of(gate: Front) -> list[TaskEnded]:
    """The ends of requests from now on."""
    ended: list[TaskEnded] = []

    def heard(event: Event) -> None:
        assert isinstance(event, TaskEnded)
        ended.append(event)

    gate.context.engine.listen(heard, TaskEnded)
    return ended


_open: list[object] = []


@asynccontextmanager
async def nothing_left_running() -> AsyncIterator[None]:
    """Fails when a gateway has left a task in this loop. Of several at a time the last one to close looks."""
    this = object()
    _open.append(this)
    try:
        yield
    finally:
        _open.remove(this)
    for _ in range(20):  # what was told to end needs some turns of the loop for that
        left = [] if _open else [task for task in asyncio.all_tasks() if _is_ours(task)]
        if not left:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"tasks left running: {left}")


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """Whether a task belongs to the gateway: neither the test's own nor an emulated node's."""
    code = getattr(task.get_coro(), "cr_code", None)
    file = Path(code.co_filename) if code is not None else PACKAGE
    return PACKAGE in file.parents and PACKAGE / "emulator" not in file.parents
