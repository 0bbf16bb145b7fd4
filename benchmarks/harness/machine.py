"""The machine: which cores there are, what it is called in a report, and what processes cost on it (Linux)."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """Who runs where. ``note`` says in words what shares a core, because that bounds what can be measured."""

    load: int
    stub: int
    door: int
    note: str

    @property
    def shared(self) -> bool:
        """Whether generator and stub have one core between them."""
        return self.load == self.stub


def plan_cores() -> Cores:
    """One core for the front door alone wherever there are two; generator and stub apart where there are three."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        return Cores(
            usable[0],
            usable[0],
            usable[0],
            "one core: generator, stub and front door share it, ratios flatter nobody and mean little",
        )
    if len(usable) == 2:
        return Cores(usable[0], usable[0], usable[1], "two cores: generator and stub share one, the front door has the other")
    return Cores(usable[0], usable[1], usable[2], "generator, stub and front door have a core each")


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found.extend(int(child) for child in children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, threads included, in seconds (steps of one clock tick)."""
    total = 0
    for one in process_tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def core_seconds(core: int) -> float:
    """User and system time that anybody has spent on a core since the machine started, in seconds."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            return sum(int(field) for field in fields[:3]) / TICK
    return 0.0


def memory_mb(pid: int) -> dict[str, float]:
    """RSS and PSS of the tree in MB (10^6 bytes). PSS counts a page that n processes share as 1/n."""
    total = {"rss": 0.0, "pss": 0.0}
    for one in process_tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for line in lines:
            key, _, value = line.partition(":")
            if key.lower() in total:
                total[key.lower()] += int(value.split()[0]) * 1024 / 1e6
    return {key: round(value, 1) for key, value in total.items()}


def has_uvloop(pid: int) -> bool:
    """Whether the process has uvloop's library in memory: proof of which loop it runs on."""
    return "uvloop" in Path(f"/proc/{pid}/maps").read_text()


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "absent"
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def describe(cores: Cores) -> dict[str, object]:
    """What a reader needs to place the figures; no host name, no path."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 1e6, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "compiler": _first_line("cc", "--version"),
        "pinning": cores.note,
        "load_average_before": round(os.getloadavg()[0], 2),
        "packages": {name: _version(name) for name in ("sollol", "uvloop", "httptools", "msgspec")},
    }
