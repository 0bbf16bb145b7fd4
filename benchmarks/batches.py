"""How close batches come to the ideal, and how many vectors a second pass through: ``python benchmarks/batches.py``.

Everything is measured against emulated nodes of the same run, in another process. The ideal of a batch is the time in which
all nodes together do its items when none ever waits; after a death: the time until then, and what was missing then at the
pace of the nodes that are left. The vectors of the nodes are prepared, so that making them is not what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sollol.errors import BatchError
from sollol.pool.sync_pool import SyncPool

MODEL = "bench-embed:latest"
RESULTS = Path(__file__).parent / "results"
NODES = """
import asyncio, sys
from dataclasses import replace
from msgspec import Raw
from sollol.emulator import ollama_api, text
from sollol.emulator.connection import dumps
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec, embedder

PREPARED = [Raw(dumps(text.embedding("digest", str(number), 768))) for number in range(1000)]
ollama_api.vectors = lambda model, texts, dimensions=0: [PREPARED[int(one) % 1000] for one in texts]

def spec(name, seconds):
    tokens = text.count_tokens("1234") + 2
    model = replace(embedder("bench-embed:latest", size=1000), prefill=tokens / seconds if seconds else 0.0)
    return NodeSpec(name, contention=0.0, models=(model,), fixed_delay=None if seconds else 0.0001)

async def main():
    specs = [spec(f"node-{place}", float(seconds)) for place, seconds in enumerate(sys.argv[1:])]
    async with EmulatedCluster(specs) as cluster:
        print(*cluster.urls, flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            await cluster[line].stop()

asyncio.run(main())
"""


class Nodes:
    """Emulated nodes in a process of their own; each takes so many seconds for an item."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self._stdin = process.stdin
        self.urls = process.stdout.readline().split()

    def kill(self, place: int) -> None:
        """That machine dies."""
        self._stdin.write(f"node-{place}\n")
        self._stdin.flush()

    def close(self) -> None:
        self._stdin.close()


@contextlib.contextmanager
def nodes(*seconds: float) -> Iterator[Nodes]:
    command = [sys.executable, "-c", NODES, *map(str, seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        opened = Nodes(process)
        try:
            yield opened
        finally:
            opened.close()


@contextlib.contextmanager
def pool_of(opened: Nodes) -> Iterator[SyncPool]:
    """A pool whose nodes have the model loaded; of their speed it knows nothing."""
    with SyncPool(opened.urls) as pool:
        pool.ready()
        for node in pool.nodes:
            pool.embed(MODEL, ["1"], node=node.node_id)
        yield pool


def texts(count: int) -> list[str]:
    return [f"{1000 + number % 1000}" for number in range(count)]


def in_order(vectors: Sequence[Sequence[float]], count: int) -> bool:
    """Whether each vector is that of its text: the first number tells them apart well enough."""
    firsts = [float(vector[0]) for vector in vectors]
    return len(firsts) == count and all(firsts[place] == firsts[place % 1000] for place in range(count))


def paced(seconds: Sequence[float], count: int, told: Callable[[int, int | None], None] | None = None) -> dict[str, Any]:
    """A batch on nodes of known pace."""
    ideal = count / sum(1.0 / each for each in seconds)
    with nodes(*seconds) as opened, pool_of(opened) as pool:
        began = time.perf_counter()
        vectors = pool.embed_batch(MODEL, texts(count), progress=told or False)
        took = time.perf_counter() - began
    return {"items": count, "seconds": took, "ideal": ideal, "times_ideal": took / ideal, "right": in_order(vectors, count)}


def death(seconds: Sequence[float], count: int) -> dict[str, Any]:
    """The first node dies when half of the batch is done."""
    left = 1.0 / sum(1.0 / each for each in seconds[1:])
    with nodes(*seconds) as opened, pool_of(opened) as pool:
        died: list[tuple[float, int]] = []

        def told(done: int, total: int | None) -> None:
            if not died and done >= count // 2:
                opened.kill(0)
                died.append((time.perf_counter() - began, count - done))

        began = time.perf_counter()
        try:
            vectors, lost = pool.embed_batch(MODEL, texts(count), progress=told), 0
        except BatchError as error:
            vectors, lost = error.results, len(error.errors)
        took = time.perf_counter() - began
    at, missing = died[0]
    ideal = at + missing * left
    found = {"items": count, "seconds": took, "ideal": ideal, "times_ideal": took / ideal, "lost": lost}
    return found | {"died_at": at, "missing_then": missing, "right": in_order(vectors, count)}


def slow_node(fast: float, factor: float, count: int) -> dict[str, Any]:
    """One node is far slower than the other: the ideal is that of the other alone."""
    found = paced((fast, fast * factor), count)
    ideal = count * fast
    return found | {"ideal": ideal, "times_ideal": found["seconds"] / ideal}


def bulk(count: int, *, array: bool) -> dict[str, Any]:
    """Vectors per second on two nodes that take no time, and memory, in a process of its own."""
    with nodes(0, 0) as opened:
        command = [sys.executable, __file__, "--inside", "array" if array else "lists", "--items", str(count), *opened.urls]
        found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def inside(what: str, count: int, urls: Sequence[str]) -> dict[str, Any]:
    """The bulk measurement, in this process."""
    inputs = texts(count)
    with SyncPool(urls) as pool:
        pool.ready()
        pool.embed_batch(MODEL, texts(256), as_array=what == "array")
        before = resident("VmRSS")
        began, worked = time.perf_counter(), time.process_time()
        vectors: Any = pool.embed_batch(MODEL, inputs, as_array=what == "array")
        took, worked = time.perf_counter() - began, time.process_time() - worked
        grown = resident("VmHWM") - before
    if what == "array":
        returned = vectors.nbytes
    else:
        returned = sys.getsizeof(vectors) + sum(sys.getsizeof(vector) + 24 * len(vector) for vector in vectors)
    found = {
        "items": count,
        "seconds": took,
        "per_second": count / took,
        "per_second_of_processor": count / worked,
        "returned_mb": returned / 1e6,
        "grown_mb": grown / 1e6,
    }
    return found | {"memory_times_returned": grown / returned, "right": in_order(vectors, count)}


def resident(what: str) -> int:
    """Bytes of memory in use (VmRSS), or at most until now (VmHWM)."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def measured(runs: int) -> dict[str, list[dict[str, Any]]]:
    """Every scenario, so many times."""
    pair = (0.020, 0.110)
    scenarios: dict[str, Callable[[], dict[str, Any]]] = {
        "30 items, 20 and 110 ms": lambda: paced(pair, 30),
        "60 items, 20 and 110 ms": lambda: paced(pair, 60),
        "600 items, 20 and 110 ms": lambda: paced(pair, 600),
        "the fast node dies half-way": lambda: death(pair, 200),
        "the faster of three dies half-way": lambda: death((0.020, 0.040, 0.110), 600),
        "a node 300 times slower": lambda: slow_node(0.020, 300.0, 300),
        "a node 300 times slower, 30 items": lambda: slow_node(0.020, 300.0, 30),
        "10,000 vectors as lists": lambda: bulk(10_000, array=False),
        "10,000 vectors as an array": lambda: bulk(10_000, array=True),
    }
    return {name: [scenario() for _ in range(runs)] for name, scenario in scenarios.items() if told(name)}


def told(name: str) -> bool:
    print(f"{name} ...", flush=True)
    return True


def shown(name: str, runs: list[dict[str, Any]]) -> str:
    if "per_second" in runs[0]:
        speeds = [f"{run['per_second']:.0f}/s ({run['per_second_of_processor']:.0f} a second of processor)" for run in runs]
        figures = [f"{speed}, {run['memory_times_returned']:.2f} × the memory" for speed, run in zip(speeds, runs, strict=True)]
    else:
        figures = [f"{run['times_ideal']:.3f} × ideal" for run in runs]
    right = all(run["right"] and not run.get("lost") for run in runs)
    return f"{name}: {'; '.join(figures)}{'' if right else '  WRONG RESULTS'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="how often each scenario is measured (default: 3)")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--inside", choices=["lists", "array"], help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int, default=10_000, help=argparse.SUPPRESS)
    parser.add_argument("urls", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(inside(given.inside, given.items, given.urls)))
        return
    load = os.getloadavg()[0]
    found = measured(given.runs)
    for name, runs in found.items():
        print(shown(name, runs))
    if given.write:
        about: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d"),
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        about |= {"processors": os.cpu_count(), "load_average": [load, os.getloadavg()[0]]}
        path = RESULTS / f"batches-{about['date']}.json"
        path.write_text(json.dumps({**about, "scenarios": found}, indent=1) + "\n", "utf-8")
        print(f"written to {path}")


if __name__ == "__main__":
    main()
