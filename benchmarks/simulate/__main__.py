"""`python -m benchmarks.simulate`: play the scenarios, print tables, write the figures to a file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.simulate import report
from benchmarks.simulate.kinds import BLIND, FORMULA, IDEAL, KNOWN, LEAST, MODELESS, OURS, RESIDENT, UNFAIR
from benchmarks.simulate.measure import play
from benchmarks.simulate.scenarios import all_scenarios

RESULTS = Path(__file__).parents[1] / "results"
SHORT_SCALE, SHORT_SEEDS, SEEDS = 0.3, 3, 5
SHORT_POLICIES = (OURS, KNOWN, BLIND, UNFAIR, MODELESS, IDEAL, LEAST, RESIDENT, FORMULA)
"""Of the simple policies those that come nearest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when a promise is broken."""
    scenarios = all_scenarios()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description="Ways of choosing a node, compared.")
    parser.add_argument("--short", action="store_true", help="fewer requests and seeds, for tests; writes no file by itself")
    parser.add_argument("--scenario", action="append", choices=list(scenarios), help="only this one (may be given again)")
    parser.add_argument("--seed", type=int, default=1, help="the first of the seeds (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go (a whole run: benchmarks/results/)")
    parser.add_argument("--details", action="store_true", help="every figure of every policy")
    options = parser.parse_args(arguments)
    count, scale = (SHORT_SEEDS, SHORT_SCALE) if options.short else (SEEDS, 1.0)
    seeds = range(options.seed, options.seed + count)
    begun = time.process_time()
    outcomes = []
    for name in options.scenario or [name for name, one in scenarios.items() if one.short or not options.short]:
        outcome = play(scenarios[name], seeds, scale, SHORT_POLICIES if options.short else None)
        outcomes.append(outcome)
        if options.details:
            print(report.details(outcome), end="\n\n", flush=True)
    seconds = time.process_time() - begun
    print(report.summary(outcomes), end="\n\n")
    print(report.seconds(outcomes))
    document = report.document(outcomes, seeds, scale, seconds)
    whole = not options.short and not options.scenario and options.seed == 1
    path = options.json or (RESULTS / f"simulation-{datetime.now(UTC):%Y-%m-%d}.json" if whole else None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{len(outcomes)} scenarios, {count} seeds, {seconds:.0f} s of processor time", end="")
    print(f"; figures in {path.name}" if path is not None else "")
    for line in document["broken"]:
        print(f"BROKEN  {line}")
    return 1 if document["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
