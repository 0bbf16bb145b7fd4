"""A load of ten minutes, in seconds: `python -m benchmarks.faults.virtual COUNT`.

The whole gateway, emulated nodes and clients run in one process on one event loop, with real sockets between them. Its clock
stands while bytes move: only when nothing has come on any socket for a moment of real time does it jump to the next timer.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from benchmarks.faults.client import ANSWERED, Ask, Conversation, ask, call, finish, open_one
from benchmarks.faults.nodes import TALE, equal
from benchmarks.faults.stage import Found, p95

from sollol.config import Config, Discovery, Gateway, NodeSettings
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import ModelSpec
from sollol.gateway.running import open_gateway

QUIET = 0.001
"""Real seconds without a byte after which time goes on; a byte on loopback takes a hundredth of that."""
LOAD = 600.0
HUGE = ModelSpec("huge:latest", 599_000_000_000, prefill=5_000, decode=30, answer_tokens=30)


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it moves the clock, but first lets the kernel deliver what is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        ready = super().select(QUIET if timeout is not None else 1.0)
        if not ready and timeout is not None:
            self.now += timeout
        return ready


def run(scenario: Any) -> Any:
    """The result of a coroutine that is run in such time. `time.monotonic` is the loop's from then on, for everybody here."""
    selector = JumpingSelector()
    time.monotonic = lambda: selector.now  # type: ignore[assignment]  # the one clock of this process
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(scenario)


async def _ask_all(url: str, count: int, model: ModelSpec, first: int, **fields: Any) -> list[Conversation]:
    asked = [ask(first + i, model, **fields) for i in range(count)]
    return list(await asyncio.gather(*(_one(url, one) for one in asked)))


async def _one(url: str, asked: Ask) -> Conversation:
    return await finish(await open_one(url, asked))


async def ten_minute_load(count: int) -> Found:
    """`count` wait for a model that takes ten minutes to load; others use a small one meanwhile, one is in a hurry."""
    found = Found()
    begun = time.perf_counter()
    specs = equal(2, load_gbps=1.0, memory=100_000_000_000_000, models=(TALE, HUGE))
    with TemporaryDirectory(prefix="faults-") as folder:
        async with EmulatedCluster(specs) as cluster:
            nodes = tuple(NodeSettings(node.url, name=node.name, slots=100) for node in cluster.nodes)
            config = Config(Gateway(port=0), nodes, Discovery(enabled=False), data_dir=Path(folder))
            running = await open_gateway(config)
            try:
                await _until_up(running.address, len(nodes))
                for node in nodes:  # the small model is in use everywhere
                    await _ask_all(running.address, 1, TALE, 20_000, headers={"X-SOLLOL-Node": node.name})
                waiting = asyncio.ensure_future(_ask_all(running.address, count, HUGE, 0, deadline=1_800))
                await asyncio.sleep(1)
                hurried = await _ask_all(running.address, 1, HUGE, 9_000, deadline=30)
                small = []
                for i in range(10):
                    await asyncio.sleep(30)
                    small += await _ask_all(running.address, 2, TALE, 10_000 + 10 * i)
                patient = await waiting
            finally:
                await running.close(0.0)
            loads = sum(node.stats.loads for node in cluster.nodes)
            cancelled = sum(node.stats.cancelled for node in cluster.nodes)
    found.count([*patient, *small])
    _judge(found, patient, small, hurried[0], {"loads": loads, "cancelled": cancelled})
    found.figures["real_s"] = time.perf_counter() - begun
    return found


def _judge(
    found: Found, patient: list[Conversation], small: list[Conversation], hurried: Conversation, at_nodes: Mapping[str, int]
) -> None:
    slowest, others = max(one.seconds for one in patient), p95(one.seconds for one in small)
    found.figures |= {"slowest_s": slowest, "others_p95_s": others, **at_nodes}
    found.headline = f"slowest {slowest:.0f} s, others p95 {others:.1f} s, {at_nodes['loads']} loads"
    moved = [one for one in patient if one.headers.get("x-sollol-attempts", "1") != "1"]
    found.must(not moved, f"{len(moved)} were taken from a node that was loading")
    found.must(LOAD <= slowest <= LOAD + 60, f"the slowest took {slowest:.0f} s")
    found.must(others <= 10, f"others waited for the load: p95 {others:.1f} s")
    outcome, why = hurried.verdict()
    in_time = outcome != ANSWERED and hurried.status == 504 and hurried.seconds <= 31
    found.must(in_time, f"the one in a hurry: {outcome} {hurried.status} after {hurried.seconds:.0f} s: {why}")
    found.must(at_nodes["cancelled"] <= 1, f"{at_nodes['cancelled']} requests were cancelled at the nodes")
    found.nothing_lost()


async def _until_up(url: str, count: int) -> None:
    while True:
        _, found = await call(url, "GET", "/api/nodes")
        if sum(node["state"] == "up" for node in found["nodes"]) >= count:
            return
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(run(ten_minute_load(int(sys.argv[1])))).decode() + "\n")
