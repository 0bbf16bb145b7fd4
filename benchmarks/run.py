"""Measure the gateway beside direct access, nginx, vllm-router and litellm: `make bench`.

One front door on a core of its own, a stub node and a load generator in C on the others; every figure is the median of the
rounds, every ratio is taken within a round. Absent peers are named as absent; `benchmarks/setup_peers.sh` installs them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from harness import machine, report
from harness.doors import DOORS, PEERS, SOLLOL
from harness.life import LIFE_ROWS
from harness.native import ROOT, build
from harness.rows import LOAD_ROWS, Plan, Row

ROWS = LIFE_ROWS | LOAD_ROWS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the gateway against direct access and other front doors.")
    parser.add_argument("--quick", action="store_true", help="one round, short runs: for a look, not for publishing")
    parser.add_argument(
        "--only", action="append", choices=sorted(ROWS), metavar="ROW", help=f"one row, repeatable: {', '.join(ROWS)}"
    )
    parser.add_argument(
        "--door", action="append", choices=[d.name for d in DOORS], metavar="DOOR", help="one front door, repeatable"
    )
    parser.add_argument("--no-uvloop", action="store_true", help="run the gateway on asyncio's own loop (SOLLOL_UVLOOP=0) only")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every row (default 3)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the results go (default for full runs: benchmarks/results/)"
    )
    return parser.parse_args()


def versions() -> dict[str, str]:
    """Of the front doors that are here."""
    found = {}
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx:
        text = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
        found["nginx"] = text.rpartition("/")[2].strip()
    for name in ("vllm-router", "litellm"):
        python = PEERS / name / "bin" / "python"
        if python.exists():
            ask = f"import importlib.metadata as m; print(m.version({name!r}))"
            done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=False)
            found[name] = done.stdout.strip() or "absent"
    return found


def commit() -> str:
    """The short name of the commit measured, "+" when the tree had changes."""
    git = shutil.which("git")
    if not git:
        return "unknown"
    name = subprocess.run(
        [git, "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    changed = subprocess.run(
        [git, "status", "--porcelain", "-uno", "src"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    return (name or "unknown") + ("+" if changed.strip() else "")


def destination(options: argparse.Namespace, name: str) -> Path | None:
    if options.json:
        return Path(options.json)
    if options.quick or options.only or options.door or options.no_uvloop:
        return None
    return ROOT / "benchmarks" / "results" / f"{datetime.now(UTC):%Y-%m-%d}-{name}.json"


def chosen(options: argparse.Namespace) -> list[str]:
    names = options.door or [d.name for d in DOORS]
    return [n for n in names if not (options.no_uvloop and n == SOLLOL.name)]


def main() -> int:
    options = arguments()
    if not sys.platform.startswith("linux") or not shutil.which("cc") or not shutil.which("taskset"):
        print(
            "The benchmarks need Linux, a C compiler (cc) and taskset: apt-get install gcc libc6-dev util-linux",
            file=sys.stderr,
        )
        return 2
    cores = machine.plan_cores()
    about = machine.describe(cores) | {"commit": commit()}
    os.sched_setaffinity(0, {cores.load})  # this script sleeps while it measures, and what it does is kept off the door's core
    for program in ("stub", "load"):
        build(program)
    rounds = 1 if options.quick else options.rounds
    plan = Plan(cores, rounds, [d for d in DOORS if d.name in chosen(options)], options.quick)
    print(f"## SOLLOL benchmarks\n\n{about['cpu']}, {about['cores']} cores; {cores.note}; {rounds} round(s), medians\n")
    if cores.shared:
        print("Generator and stub share a core: direct, and any front door near it, is bounded by that core and marked.\n")
    rows: dict[str, Row] = {}
    for name in options.only or ROWS:
        rows[name] = ROWS[name](plan)
        print(report.markdown(rows[name]), flush=True)
    judged = report.judge(rows)
    print(report.verdicts(judged))
    target = destination(options, str(about["commit"]).rstrip("+"))
    if target:
        found = report.document(about, versions(), rounds, rows)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        print(f"\nResults: {target.name}")
    return 1 if any(j["verdict"] == "FAIL" for j in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
