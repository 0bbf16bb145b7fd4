"""What a pool adds to a call, and how much of the ideal many calls at once reach: ``python benchmarks/pool_calls.py``.

Everything is measured against emulated nodes of the same run, in another process. "Adds" is the difference of the medians of
`SyncPool.chat` (or `AsyncPool.chat`) and of the same request over a plain kept socket, taken in turns. "Share of the ideal" is
calls × delay ÷ callers, divided by the time that it took, once the pool has learned how much the nodes do at a time. "Idle" is
the share of the processors that nobody used in the second before: where it is low, other programs are measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

import sollol
from sollol.pool.async_pool import AsyncPool
from sollol.pool.sync_pool import SyncPool

MODEL = "bench:latest"
HELLO = [{"role": "user", "content": "Hello!"}]
WARM = 15
"""Rounds before anything is counted: 4 nodes show in these that they take 64 requests at a time."""
AIMS = {"sync_adds_ms": 0.4, "async_adds_ms": 0.4, "threads": 0.97, "coroutines": 0.97}
NODE = """
import asyncio, sys
from sollol.emulator.presets import instant
from sollol.emulator.server import EmulatedCluster

async def main():
    async with EmulatedCluster(instant(float(sys.argv[1]), count=int(sys.argv[2]), tokens=5)) as cluster:
        print(*cluster.urls, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@contextlib.contextmanager
def nodes(delay: float, count: int = 1) -> Iterator[list[str]]:
    """Emulated nodes in a process of their own; each answers after ``delay`` seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", NODE, str(delay), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()
        assert process.stdin is not None
        process.stdin.close()


class RawSocket:
    """The same request over a plain kept connection: what cannot be avoided."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = json.dumps({"model": MODEL, "messages": HELLO, "stream": False}).encode()
        self._request = (
            b"POST /api/chat HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (
                host.encode(),
                len(body),
                body,
            )
        )

    def chat(self) -> None:
        self._socket.sendall(self._request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(65_536)
        head, _, rest = data.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            while not rest.endswith(b"0\r\n\r\n"):
                rest += self._socket.recv(65_536)
            rest = rest.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
        else:
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            while len(rest) < length:
                rest += self._socket.recv(65_536)
        json.loads(rest)

    def close(self) -> None:
        self._socket.close()


def added(calls: int) -> dict[str, float]:
    """Milliseconds at the median: the plain socket, and what the pools add."""
    with nodes(0.001) as urls, SyncPool(urls) as pool:
        raw = RawSocket(urls[0])
        for _ in range(50):
            raw.chat()
            pool.chat(MODEL, HELLO)
        plain, waiting = [], []
        for _ in range(calls):
            plain.append(timed(raw.chat))
            waiting.append(timed(lambda: pool.chat(MODEL, HELLO)))
        awaiting = asyncio.run(awaited(urls, calls, raw))
        raw.close()
    base = statistics.median(plain)
    return {"raw_ms": base, "sync_adds_ms": statistics.median(waiting) - base, "async_adds_ms": awaiting}


async def awaited(urls: list[str], calls: int, raw: RawSocket) -> float:
    """What a call adds that is awaited, in milliseconds at the median."""
    async with AsyncPool(urls) as pool:
        for _ in range(50):
            await pool.chat(MODEL, HELLO)
        plain, times = [], []
        for _ in range(calls):
            plain.append(timed(raw.chat))
            began = time.perf_counter()
            await pool.chat(MODEL, HELLO)
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times) - statistics.median(plain)


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def shares(callers: int, calls: int, delay: float) -> dict[str, float]:
    """Share of the ideal with so many threads, and with so many coroutines."""
    ideal = calls * delay / callers
    with nodes(delay, 4) as urls:
        with SyncPool(urls) as pool, ThreadPoolExecutor(callers) as threads:
            list(threads.map(lambda _: pool.chat(MODEL, HELLO), range(WARM * callers)))
            began = time.perf_counter()
            list(threads.map(lambda _: pool.chat(MODEL, HELLO), range(calls)))
            by_threads = ideal / (time.perf_counter() - began)
        by_coroutines = asyncio.run(gathered(urls, callers, calls, ideal))
    return {"threads": by_threads, "coroutines": by_coroutines}


async def gathered(urls: list[str], callers: int, calls: int, ideal: float) -> float:
    async with AsyncPool(urls) as pool:

        async def caller(number: int) -> None:
            for _ in range(number):
                await pool.chat(MODEL, HELLO)

        await asyncio.gather(*(caller(WARM) for _ in range(callers)))
        began = time.perf_counter()
        await asyncio.gather(*(caller(calls // callers) for _ in range(callers)))
        return ideal / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000, help="calls one after another (default: 1000)")
    parser.add_argument("--callers", type=int, default=64, help="threads, and coroutines, at once (default: 64)")
    parser.add_argument("--rounds", type=int, default=20, help="calls of each of them (default: 20)")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds that a node takes (default: 0.1)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    given = parser.parse_args()
    idle = 1.0 - psutil.cpu_percent(interval=1.0) / 100.0
    found = added(given.calls)
    print(f"idle before: {idle:.0%} of {os.cpu_count()} processors")
    print(f"raw socket: {found['raw_ms']:.3f} ms at the median of {given.calls} calls")
    print(f"SyncPool.chat adds {found['sync_adds_ms']:.3f} ms, AsyncPool.chat adds {found['async_adds_ms']:.3f} ms")
    found |= shares(given.callers, given.callers * given.rounds, given.delay)
    print(
        f"{given.callers} callers on nodes of {given.delay * 1000:.0f} ms, share of the ideal: "
        f"threads {found['threads']:.3f}, coroutines {found['coroutines']:.3f}"
    )
    if given.json is not None:
        machine = {"python": platform.python_version(), "system": platform.platform(), "processors": os.cpu_count()}
        measured = {key: round(value, 4) for key, value in found.items()}
        document = {"version": sollol.__version__, "machine": machine, "idle_before": round(idle, 3)}
        if hasattr(os, "getloadavg"):
            document["load_after"] = round(os.getloadavg()[0], 2)
        document |= {"calls": given.calls, "callers": given.callers, "rounds": given.rounds, "delay_seconds": given.delay}
        given.json.write_text(json.dumps({**document, "aims": AIMS, "measured": measured}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
