"""Tables in Markdown and one JSON document."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.simulate.measure import Outcome
from benchmarks.simulate.scenarios import IDEAL, OURS, SIMPLE

_COLUMNS = (
    ("mean", "mean"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("first_mean", "first token, mean"),
    ("first_p95", "first token, p95"),
    ("loads", "loads"),
    ("refused", "refused"),
    ("lost", "lost"),
)
_COUNTS = frozenset({"loads", "refused", "lost"})


def summary(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario: ideal in seconds, the others as mean ÷ ideal."""
    lines = [
        "| scenario | ideal: mean / p95 / first token p95 (s) | **ours** ÷ ideal, same three | least connections | "
        "round robin | random | loads: ours / ideal / least connections |",
        "|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        ideal = " / ".join(f"{outcome.median(IDEAL, figure):.1f}" for figure in ("mean", "p95", "first_p95"))
        ours = [f"{outcome.ratio(figure, IDEAL):.2f}" for figure in ("mean", "p95", "first_p95")]
        others = " | ".join(f"{outcome.ratio('mean', IDEAL, policy):.2f}" for policy in reversed(SIMPLE))
        loads = " / ".join(f"{outcome.median(policy, 'loads'):.0f}" for policy in (OURS, IDEAL, SIMPLE[-1]))
        lines.append(f"| {outcome.scenario.title} | {ideal} | **{ours[0]}** / {ours[1]} / {ours[2]} | {others} | {loads} |")
    return "\n".join(lines)


def details(outcome: Outcome) -> str:
    """Every figure of every policy in one scenario: medians over the seeds."""
    lines = [
        f"### {outcome.scenario.title} (`{outcome.scenario.name}`)",
        "",
        "| policy | " + " | ".join(title for _, title in _COLUMNS) + " |",
        "|---|" + "---|" * len(_COLUMNS),
    ]
    for policy in outcome.scenario.policies:
        values = ((figure, outcome.median(policy, figure)) for figure, _ in _COLUMNS)
        cells = " | ".join(f"{value:.0f}" if figure in _COUNTS else f"{value:.2f}" for figure, value in values)
        lines.append(f"| {policy} | {cells} |")
    lines += ["", "Promised of ours:"]
    for bar in outcome.scenario.promises:
        found = outcome.ratio(bar.figure, bar.versus)
        verdict = "kept" if found <= bar.limit else "BROKEN"
        lines.append(f"- {bar.figure} ≤ {bar.limit} × {bar.versus}: {found:.3f}, {verdict}")
    return "\n".join(lines)


def document(outcomes: Sequence[Outcome], seeds: Sequence[int], scale: float, seconds: float) -> dict[str, Any]:
    """Everything, for a file."""
    return {
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "seeds": list(seeds),
        "scale": scale,
        "cpu_seconds": round(seconds, 1),
        "broken": [line for outcome in outcomes for line in outcome.broken()],
        "scenarios": {outcome.scenario.name: _scenario(outcome) for outcome in outcomes},
    }


def _scenario(outcome: Outcome) -> dict[str, Any]:
    return {
        "title": outcome.scenario.title,
        "promises": [
            {
                "figure": bar.figure,
                "versus": bar.versus,
                "limit": bar.limit,
                "found": round(outcome.ratio(bar.figure, bar.versus), 4),
            }
            for bar in outcome.scenario.promises
        ],
        "runs": {policy: [figures.as_dict() for figures in runs] for policy, runs in outcome.runs.items()},
    }
