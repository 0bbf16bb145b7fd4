"""The rows about the program's own life: import, start, idle, stop, and what an installation brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.doors import COMMANDS, Unavailable, await_reply, free_port, plain, stop
from harness.machine import memory_mb
from harness.native import ROOT, Shape, pinned, stub_nodes
from harness.rows import Plan, Row

PROBE = """
import json, resource, sys, time
began = time.perf_counter()
import sollol
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"import_ms": seconds * 1e3, "import_mb": peak / 1e6, "modules": len(sys.modules)}))
"""


def importing(plan: Plan) -> Row:
    """`import sollol` in a fresh interpreter; the memory is the whole interpreter's peak."""
    row = Row("import", "`import sollol` in a fresh interpreter")
    for _ in range(max(plan.rounds, 3) + 1):
        done = subprocess.run(pinned(plan.cores.door, sys.executable, "-c", PROBE), capture_output=True, text=True, check=False)
        if done.returncode:
            row.absent["sollol"] = plain(done.stderr.strip().splitlines()[-1])
            return row
        row.rounds.setdefault("sollol", []).append(json.loads(done.stdout))
    row.rounds["sollol"] = row.rounds["sollol"][1:]  # the first one compiled and filled the disk's cache
    return row


def life(plan: Plan) -> Row:
    """`sollol up` with static nodes until the first routed reply, memory once it idles, and how long it takes to stop."""
    row = Row("life", "`sollol up` with two static nodes: start, idle, stop")
    with stub_nodes(2, Shape(), plan.cores.stub) as nodes:
        for _ in range(plan.rounds):
            try:
                found = _one_life(plan, [node.url for node in nodes])
                row.rounds.setdefault("sollol", []).append(found)
            except Unavailable as error:
                row.absent["sollol"] = str(error)
                break
    return row


def _one_life(plan: Plan, urls: list[str]) -> dict[str, Any]:
    with TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        command, environment = COMMANDS["sollol"](Path(folder), port, urls, None)
        log = Path(folder) / "log"
        with log.open("wb") as output:
            began = time.monotonic()
            process = subprocess.Popen(
                pinned(plan.cores.door, *command), stdout=output, stderr=output, env=os.environ | environment, cwd=folder
            )
        try:
            await_reply(f"http://127.0.0.1:{port}", process, 15, every=0.005)
            started = time.monotonic() - began
            time.sleep(2)  # what is measured is a gateway that has had nothing to do
            memory = memory_mb(process.pid)
        except (Unavailable, OSError, HTTPException) as error:
            tail = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            raise Unavailable(plain(f"{error}; its last words: {tail}")) from error
        finally:
            stopped = stop(process)
        return {
            "start_s": round(started, 3),
            "idle_rss_mb": memory["rss"],
            "idle_pss_mb": memory["pss"],
            "stop_s": round(stopped, 3),
            "exit_status": process.returncode,
        }


def packages(_plan: Plan) -> Row:
    """How many packages `pip install .` brings into an empty environment, sollol itself counted, pip and setuptools not."""
    row = Row("packages", "`pip install .` into an empty environment")
    with TemporaryDirectory(prefix="bench-") as folder:
        python = str(Path(folder) / "bin" / "python")
        steps = ([sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", "--quiet", str(ROOT)])
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False, timeout=600)
            if done.returncode:
                row.absent["sollol"] = "could not install (offline?): " + plain(done.stderr.strip().splitlines()[-1])
                return row
        listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
        found = sorted(p["name"] for p in json.loads(listed.stdout) if p["name"] not in {"pip", "setuptools", "wheel"})
        row.rounds["sollol"] = [{"packages": len(found)}]
        row.facts["sollol"] = {"names": found}
    return row


LIFE_ROWS: dict[str, Callable[[Plan], Row]] = {"import": importing, "life": life, "packages": packages}
