"""A node with one long answer and all the time of the world: `python -m benchmarks.faults.firehose`.

It speaks as much of Ollama's language as the gateway needs, writes as fast as it is read, and never holds an answer in memory
twice: what a slow reader costs shows in the gateway alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

import msgspec
from benchmarks.faults.nodes import ROOT

MODEL = "flood:latest"
LINES = 40_000
_TAG = {"name": MODEL, "model": MODEL, "modified_at": "2026-01-01T00:00:00Z", "size": 1, "digest": "f" * 64, "details": {}}
_LOADED = {**_TAG, "expires_at": "2099-01-01T00:00:00Z", "size_vram": 1, "context_length": 4096}
_FIXED = {"/api/version": {"version": "0.33.0"}, "/api/tags": {"models": [_TAG]}, "/api/ps": {"models": [_LOADED]}}


def word(number: int) -> str:
    """The piece of that number of every answer."""
    return f" word{number}"


def _answer() -> bytes:
    """All lines of the answer, about five megabytes."""
    head = {"model": MODEL, "created_at": "2026-01-01T00:00:00Z"}
    lines = [head | {"message": {"role": "assistant", "content": word(i)}, "done": False} for i in range(LINES)]
    figures = {"total_duration": 9, "prompt_eval_count": 9, "prompt_eval_duration": 9, "eval_count": LINES, "eval_duration": 9}
    lines.append(head | {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"} | figures)
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


class _Node:
    def __init__(self) -> None:
        self._answer = _answer()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode("latin-1")
                low = head.lower()
                if b"content-length: " in low:
                    await reader.readexactly(int(low.split(b"content-length: ", 1)[1].split(b"\r\n")[0]))
                if path == "/api/chat":
                    await self._stream(writer)
                else:
                    body = msgspec.json.encode(_FIXED.get(path, {}))
                    kind = b"Content-Type: application/json; charset=utf-8\r\n"
                    writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (kind, len(body), body))
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        kind = b"Content-Type: application/x-ndjson\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n" % kind)
        for at in range(0, len(self._answer), 32_768):
            part = self._answer[at : at + 32_768]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


class Firehose:
    """The running process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.firehose"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


async def _main() -> None:
    server = await asyncio.start_server(_Node().serve, "127.0.0.1", 0, limit=1 << 20)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
