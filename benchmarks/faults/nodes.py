"""Emulated nodes in a process of their own: `python -m benchmarks.faults.nodes`, and the handle on it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.faults.client import call

from sollol.drivers.loops import fastest
from sollol.emulator import specs as emulator_specs
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import ModelSpec, NodeSpec

ROOT = Path(__file__).parents[2]

TALE = ModelSpec("tale:latest", 1_000_000_000, prefill=5_000, decode=30, answer_tokens=30)
OTHER = ModelSpec("other:latest", 1_000_000_000, prefill=5_000, decode=30, answer_tokens=30)
BIG = ModelSpec("big:latest", 6_000_000_000, prefill=5_000, decode=30, answer_tokens=30)
LONG = ModelSpec("long:latest", 100_000_000, prefill=5_000, decode=30, answer_tokens=1_000)


class Order(msgspec.Struct):
    """What the process is told. ``load_base`` is the least time of a load, in seconds."""

    specs: list[NodeSpec]
    host: str = "127.0.0.1"
    port: int = 0
    load_base: float = 0.05


def equal(count: int, **fields: Any) -> list[NodeSpec]:
    """`count` equal nodes "n1", "n2", ... with room for a hundred requests each, unless `fields` say otherwise."""
    given = {"slots": 100, "contention": 0.0, "load_gbps": 1e6, "models": (TALE, OTHER)} | fields
    return [NodeSpec(f"n{i + 1}", **given) for i in range(count)]


class Nodes:
    """A running process of emulated nodes. `urls` are in the order of the specs."""

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        load_base: float = 0.05,
        inside: Sequence[str] = (),
    ) -> None:
        order = Order(list(specs), host, port, load_base)
        self.names = [spec.name for spec in specs]
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-m", "benchmarks.faults.nodes", msgspec.json.encode(order).decode()],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the emulated nodes did not start")
        *self.urls, self.control = msgspec.json.decode(line)

    def url(self, name: str) -> str:
        return str(self.urls[self.names.index(name)])

    async def fault(self, name: str, **faults: Any) -> None:
        """Replace the faults of a node; none heals it."""
        status, found = await call(self.control, "POST", f"/_emulator/faults?node={name}", faults)
        assert status == 200, found

    async def stats(self, name: str) -> dict[str, Any]:
        """What a node has counted."""
        return dict((await call(self.control, "GET", f"/_emulator?node={name}"))[1]["stats"])

    async def in_flight(self) -> int:
        """Requests in all nodes."""
        return sum([(await self.stats(name))["in_flight"] for name in self.names])

    def kill(self) -> None:
        """The machine is gone, without a word."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()


async def _serve(order: Order) -> None:
    emulator_specs.LOAD_BASE_SECONDS = order.load_base
    # One more node, which the gateway is never told of: faults are set through it, whatever happens to the others.
    control = EmulatedCluster([NodeSpec("control", models=())], host=order.host)
    async with EmulatedCluster(order.specs, host=order.host, port=order.port) as cluster, control:
        control.nodes[0].peers = [*cluster.nodes, *control.nodes]
        sys.stdout.write(msgspec.json.encode([*cluster.urls, *control.urls]).decode() + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    with asyncio.Runner(loop_factory=fastest()) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_serve(order))


if __name__ == "__main__":
    main()
