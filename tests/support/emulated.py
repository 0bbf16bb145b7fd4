"""Plain requests to emulated nodes, over a socket and nothing else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from sollol.emulator.node import EmulatedNode


@dataclass
class Got:
    """A reply as it came; `chunks` are the chunks of a chunked one, `complete` whether it ended as HTTP wants."""

    status: int = 0
    headers: list[list[str]] = field(default_factory=list)
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def framing(self) -> str:
        if self.header("Content-Length") is not None:
            return "length"
        return "chunked" if self.header("Transfer-Encoding") else "none"

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def events(self) -> list[Any]:
        found = [part.split(b"data: ", 1)[1] for part in self.body.split(b"\n\n") if b"data: " in part]
        return [data.decode() if data == b"[DONE]" else json.loads(data) for data in found]


def encode(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a request; a body that is no text or bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1"]
    fields = {"Host": "localhost"} | (headers or {})
    if body is not None:
        fields["Content-Length"] = str(len(raw))
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (raw if body is not None else b"")


async def read_reply(reader: asyncio.StreamReader, method: str = "GET") -> Got:
    """One reply; what can be read of it, if it breaks off."""
    got = Got()
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        got.status = int(head[0].split()[1])
        got.headers = [line.split(": ", 1) for line in head[1:] if line]
        if got.header("Transfer-Encoding") and method != "HEAD":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                got.chunks.append((await reader.readexactly(size + 2))[:-2])
                got.body += got.chunks[-1]
            await reader.readexactly(2)
        elif method != "HEAD":
            got.body = await reader.readexactly(int(got.header("Content-Length") or 0))
        got.complete = True
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    return got


async def ask(
    node: EmulatedNode, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, limit: float = 20.0
) -> Got:
    """One request on a connection of its own."""
    async with asyncio.timeout(limit):
        reader, writer = await asyncio.open_connection(node.host, node.port)
        try:
            writer.write(encode(method, path, body, headers))
            return await read_reply(reader, method)
        finally:
            writer.close()
