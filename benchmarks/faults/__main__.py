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
    options = parser.parse_args(arguments)
    if not sys.platform.startswith("linux"):
        print("The fault table needs Linux.", file=sys.stderr)
        return 2
    begun = time.monotonic()
    all_played = []
    print(report.HEADER, flush=True)
    for name in options.row or ROWS:
        row = ROWS[name]
        for count in options.size or (row.short_sizes if options.short else row.sizes):
            played = play(row, count, short=options.short)
            all_played.append(played)
            print(report.line(played), flush=True)
            print("".join(f"{words}\n" for words in report.troubles(played)), end="", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begun
    failed = [played for played in all_played if played.verdict == "FAIL"]
    print(f"\n{len(all_played)} runs, {len(failed)} failed, {seconds:.0f} s")
    whole = not (options.short or options.row or options.size)
    path = options.json or (RESULTS / f"faults-{datetime.now(UTC):%Y-%m-%d}.json" if whole else None)
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "cores": os.cpu_count(), "python": platform.python_version()}
    if whole:
        PAGE.write_text(report.into(PAGE.read_text(), all_played, about))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.document(all_played, about | {"seconds": round(seconds)}), indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
