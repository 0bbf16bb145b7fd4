"""`python -m benchmarks.faults`: play the rows, print the table, write the figures and the table into the documentation."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.faults import report
from benchmarks.faults.report import Played
from benchmarks.faults.stage import Found
from benchmarks.faults.table import ROWS, Row

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def play(row: Row, count: int, *, short: bool) -> Played:
    """One row with so many requests in flight, on processes of its own."""
    begun = time.monotonic()
    try:
        found = asyncio.run(row.play(count, short))
    except (AssertionError, RuntimeError, OSError) as problem:  # the other rows are played all the same
        found = Found(broken=[f"it could not be played: {problem}"])
    return Played(row, count, found, time.monotonic() - begun)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a bar is broken, 2 where the rows cannot be played."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Faults, and what clients see of them.")
    parser.add_argument("--short", action="store_true", help="fewer requests, shorter runs; writes no file by itself")
    parser.add_argument("--row", action="append", choices=list(ROWS), metavar="NAME", help=f"only this one: {', '.join(ROWS)}")
    parser.add_argument("--size", type=int, action="append", metavar="N", help="requests in flight, instead of the row's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go (a whole run: benchmarks/results/)")
    parser.add_argument("--again", metavar="DATE", help="play rows of that whole run again (those given, else what failed)")
    options = parser.parse_args(arguments)
    if not sys.platform.startswith("linux"):
        print("The fault table needs Linux.", file=sys.stderr)
        return 2
    earlier = report.read(RESULTS / f"faults-{options.again}.json") if options.again else {}
    begun = time.monotonic()
    played = _play_all(options, earlier)
    seconds = round(time.monotonic() - begun)
    failed = sum(one.verdict == "FAIL" for one in played)
    print(f"\n{len(played)} runs, {failed} failed, {seconds} s")
    whole = bool(options.again) or not (options.short or options.row or options.size)
    today = options.again or f"{datetime.now(UTC):%Y-%m-%d}"
    about = {"date": today, "cores": os.cpu_count(), "python": platform.python_version(), "seconds": seconds}
    if options.again:
        before = json.loads((RESULTS / f"faults-{options.again}.json").read_text())["about"].get("again", [])
        about["again"] = sorted({*before, *(f"{one.row.name} with {one.count}" for one in played)})
        played = list((earlier | {(one.row.name, one.count): one for one in played}).values())
    path = options.json or (RESULTS / f"faults-{today}.json" if whole else None)
    if whole:
        PAGE.write_text(report.into(PAGE.read_text(), played, about))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.document(played, about), indent=1) + "\n")
    return 1 if failed else 0


def _play_all(options: argparse.Namespace, earlier: dict[tuple[str, int], Played]) -> list[Played]:
    """Play what was asked for, or of an earlier run what failed, and print each line when it is known."""
    runs = [(name, count) for (name, count), one in earlier.items() if one.verdict == "FAIL"]
    if options.row or not earlier:
        runs = []
        for name in options.row or ROWS:
            sizes = options.size or (ROWS[name].short_sizes if options.short else ROWS[name].sizes)
            runs += [(name, count) for count in sizes]
    all_played = []
    print(report.HEADER, flush=True)
    for name, count in runs:
        played = play(ROWS[name], count, short=options.short)
        all_played.append(played)
        print(report.line(played), flush=True)
        print("".join(f"{words}\n" for words in report.troubles(played)), end="", file=sys.stderr, flush=True)
    return all_played


if __name__ == "__main__":
    sys.exit(main())
