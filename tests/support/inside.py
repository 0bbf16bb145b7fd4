"""What tests run inside a network namespace: ``serve PLACE...``, ``announce PLACE``, ``find JSON``, ``now JSON``."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from tests.support.canned import OLLAMA, canned

from sollol.config import Discovery
from sollol.core.events import NodeAdded, Searched
from sollol.core.state import ClusterState
from sollol.core.types import Endpoint, Node
from sollol.drivers.clock import SystemClock
from sollol.drivers.http import HttpTransport
from sollol.drivers.interfaces import own_addresses, resolve
from sollol.drivers.searches import searches
from sollol.drivers.survey import HttpSurveyor
from sollol.engine.finder import Finder


async def until_stdin_ends() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


async def serve(places: list[str]) -> None:
    """An Ollama node at each place."""
    async with AsyncExitStack() as stack:
        for place in places:
            host, _, port = place.rpartition(":")
            await stack.enter_async_context(canned(OLLAMA, host, int(port)))
        await until_stdin_ends()


async def announce(place: str) -> None:
    """An Ollama node that announces itself by mDNS."""
    from zeroconf import IPVersion
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    host, _, port = place.rpartition(":")
    kind = "_ollama._tcp.local."
    service = AsyncServiceInfo(
        kind, f"gpu-box.{kind}", port=int(port), addresses=[socket.inet_aton(host)], server="gpu-box.local."
    )
    zeroconf = AsyncZeroconf(interfaces=[host], ip_version=IPVersion.V4Only)
    async with canned(OLLAMA, host, int(port)):
        await (await zeroconf.async_register_service(service))
        await until_stdin_ends()
        await zeroconf.async_close()


class Ticker:
    """Measures how long the loop was held between two turns: in seconds, and in seconds of work by this process alone."""

    def __init__(self) -> None:
        self.longest = self.busiest = 0.0

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.last, self.worked = self.loop.time(), time.thread_time()
        self.loop.call_later(0.001, self.tick)

    def tick(self) -> None:
        now, worked = self.loop.time(), time.thread_time()
        self.longest = max(self.longest, now - self.last - 0.001)
        self.busiest = max(self.busiest, worked - self.worked)
        self.last, self.worked = now, worked
        self.loop.call_later(0.001, self.tick)


async def find(settings: Discovery, static: list[str]) -> dict[str, Any]:
    """One round of the finder with everything real; when each node became known, and how responsive the loop was."""
    state, ticker, added = ClusterState(), Ticker(), {}
    transport = HttpTransport()
    started = time.monotonic()
    ended: list[Searched] = []

    def publish(event: Any) -> None:
        state.apply(event)
        if isinstance(event, NodeAdded):
            added[event.node.id] = round(time.monotonic() - started, 3)
        if isinstance(event, Searched):
            ended.append(event)

    clock = SystemClock()
    surveyor = HttpSurveyor(transport, clock)
    finder = Finder(state, publish, clock, surveyor, searches(settings), addresses=own_addresses, resolve=resolve)
    ticker.start()
    processor = time.process_time()
    finder.start([Node("", Endpoint(text.rpartition(":")[0], int(text.rpartition(":")[2]))) for text in static])
    await finder.searched()
    processor = time.process_time() - processor
    await finder.close()
    await transport.close()
    return {
        "added": added,
        "nodes": sorted(state.nodes),
        "origins": {node_id: known.node.origin for node_id, known in state.nodes.items()},
        "seconds": ended[0].seconds,
        "processor": processor,
        "where": ended[0].where,
        "notes": ended[0].notes,
        "longest_gap": ticker.longest,
        "busiest_gap": ticker.busiest,
        "threads": threading.active_count(),
    }


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve(rest))
        return
    if what == "announce":
        asyncio.run(announce(rest[0]))
        return
    asked = json.loads(rest[0])
    settings = msgspec.convert(asked.pop("settings"), Discovery)
    if what == "find":
        result: Any = asyncio.run(find(settings, **asked))
    else:
        from sollol.discovery import discover_ollama_nodes

        result = discover_ollama_nodes(settings=settings, **asked)
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
