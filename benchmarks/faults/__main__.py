"""`python -m benchmarks.faults`: play the rows, print the table, write the figures."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.stage import Found, stage
from benchmarks.faults.table import ROWS, Row

RESULTS = Path(__file__).parents[1] / "results"


async def play(row: Row, count: int, *, short: bool) -> Found:
    """One row with so many requests in flight, on fresh nodes and a fresh gateway."""
    async with stage(row.setup(count), count, short=short) as here:
        return await row.play(here, count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a bar is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Faults, and what clients see of them.")
    parser.add_argument("--short", action="store_true", help="fewer requests, shorter runs")
    parser.add_argument("--row", action="append", choices=list(ROWS), metavar="NAME", help=f"only this one: {', '.join(ROWS)}")
    parser.add_argument("--size", type=int, action="append", metavar="N", help="requests in flight, instead of those of the row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    options = parser.parse_args(arguments)
    broken = 0
    for name in options.row or ROWS:
        row = ROWS[name]
        for count in options.size or (row.short_sizes if options.short else row.sizes):
            begun = time.monotonic()
            found = asyncio.run(play(row, count, short=options.short))
            print(f"| {row.name} | {count} | {found.requests} | {found.answered} | {found.resumed} | {found.errors} | {found.lost} | "
                  f"{found.wrong} | {found.headline} | {'pass' if found.passed else 'FAIL: ' + '; '.join(found.broken)} | {time.monotonic() - begun:.1f} s", flush=True)
            for reason in found.reasons:
                print("   ", reason)
            broken += not found.passed
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
