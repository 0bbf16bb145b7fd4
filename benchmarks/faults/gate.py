"""A gateway as people run it, `sollol up`, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.faults.client import call, eventually
from benchmarks.faults.nodes import ROOT


def free_port() -> int:
    """A port that nobody listens on, below those that connections get by themselves: nobody takes it in between."""
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


class Gate:
    """One gateway. It can be killed and started again on its port. ``nodes`` are tables of `[[nodes]]`."""

    def __init__(self, folder: Path, nodes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.known = len(nodes)
        self.log = folder / "gateway.log"
        self._folder = folder
        tables = {name: dict(table) for name, table in settings.items()}
        tables.setdefault("gateway", {})["port"] = self.port
        tables["discovery"] = {"enabled": False}
        text = "".join(_table(f"[{name}]", table) for name, table in tables.items())
        self._file = folder / "sollol.toml"
        self._file.write_text(text + "".join(_table("[[nodes]]", node) for node in nodes))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin, again too; `ready` says when it can be used."""
        self.close()
        names = [name for name in os.environ if name.startswith("SOLLOL_") or name == "OLLAMA_HOST"]
        environment = {k: v for k, v in os.environ.items() if k not in names} | {"SOLLOL_DATA_DIR": str(self._folder)}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "sollol", "up", "--config", str(self._file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)

    async def ready(self, seconds: float = 15.0) -> None:
        """Wait until every node has been found up."""

        async def looked() -> bool:
            _, found = await call(self.url, "GET", "/api/nodes")
            return sum(node["state"] == "up" for node in found["nodes"]) >= self.known

        if await eventually(looked, seconds) is None:
            raise RuntimeError(f"the gateway did not start: {self.log.read_text()[-2000:]}")

    async def states(self) -> dict[str, str]:
        """The state of each node, by its name."""
        _, found = await call(self.url, "GET", "/api/nodes")
        return {node["name"]: node["state"] for node in found["nodes"]}

    async def models(self) -> set[str]:
        """The models that it lists."""
        _, found = await call(self.url, "GET", "/api/tags")
        return {model["name"] for model in found["models"]}

    @property
    def resumed(self) -> int:
        """Requests that another node went on with, by its log."""
        return self.log.read_text().count(" resumed=")

    async def all_resumed(self) -> int:
        """The same once the log has been written, which is a moment later."""
        before = -1
        while before != (now := self.resumed):
            before = now
            await asyncio.sleep(0.25)
        return now

    @property
    def megabytes(self) -> float:
        """Memory of the process (RSS), in 10^6 bytes."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0

    def signal(self, number: signal.Signals) -> float:
        """Send it a signal; the moment on the monotonic clock."""
        assert self.process is not None
        self.process.send_signal(number)
        return time.monotonic()

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


def _table(head: str, fields: Mapping[str, Any]) -> str:
    return f"{head}\n" + "".join(f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in fields.items())
