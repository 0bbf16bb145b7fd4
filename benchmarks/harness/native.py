"""The two C programs: built on demand, the stub as a context, the generator as a call that also weighs who stands between."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent
CACHE = ROOT / ".tools" / "bench"
MODEL = "bench:latest"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Count from zero."}], "stream": False}


@dataclass(frozen=True)
class Node:
    """A running stub."""

    url: str
    pid: int


@dataclass(frozen=True)
class Shape:
    """How a stub answers: milliseconds and number of chunks, as its command line takes them."""

    delay: float = 0
    first: float = 0
    interval: float = 0
    chunks: int = 4

    @property
    def stream_seconds(self) -> float:
        return (self.first + self.interval * (self.chunks - 1)) / 1e3


def build(name: str) -> Path:
    """Compile `native/NAME.c` unless the program is newer than its source."""
    source, program = HERE / "native" / f"{name}.c", CACHE / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    return program


def pinned(core: int, *command: str | Path) -> list[str]:
    return ["taskset", "-c", str(core), *map(str, command)]


@contextmanager
def stub_nodes(count: int, shape: Shape, core: int) -> Iterator[list[Node]]:
    """`count` stub nodes on ports of their own, ended with the block."""
    options = [f"--{key}={value}" for key, value in vars(shape).items()]
    command = pinned(core, build("stub"), *(part for option in options for part in option.split("=")))
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        nodes = []
        for process in running:
            assert process.stdout is not None
            nodes.append(Node(f"http://127.0.0.1:{int(process.stdout.readline())}", process.pid))
        yield nodes
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def load(
    urls: Sequence[str],
    core: int,
    chunks: int,
    *,
    path: str = "/v1/chat/completions",
    stream: bool = False,
    look: Callable[[], dict[str, float]] | None = None,
    **options: float,
) -> dict[str, Any]:
    """One run of the generator. `look` is called as the measured time begins and ends; the differences are ``used``."""
    body = json.dumps(BODY | {"stream": stream}, separators=(",", ":"))
    command = pinned(core, build("load"), "--url", ",".join(urls), "--path", path, "--body", body, "--chunks", str(chunks))
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    if stream:
        command.append("--stream")
    seen: list[dict[str, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                result: dict[str, Any] = json.loads(line)
            elif look:
                seen.append(look())
    if process.returncode:
        raise RuntimeError(f"the load generator ended with {process.returncode}")
    if len(seen) == 2:
        result["used"] = {key: round(seen[1][key] - seen[0][key], 4) for key in seen[0]}
    return result
