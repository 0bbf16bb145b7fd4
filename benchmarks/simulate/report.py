"""Tables in Markdown and one JSON document."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.simulate.kinds import IDEAL, OURS, SIMPLE
from benchmarks.simulate.measure import Outcome

_COLUMNS = (
    ("mean", "mean"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("first_mean", "first token, mean"),
    ("first_p95", "first token, p95"),
    ("loads", "loads"),
    ("fairness", "fairness (Jain)"),
    ("refused", "refused"),
    ("lost", "lost"),
    ("failed", "failed attempts"),
    ("watched_mean", "watched, mean"),
    ("watched_max", "watched, longest"),
    ("returned", "returned"),
)
_COUNTS = frozenset({"loads", "refused", "lost", "failed"})


def summary(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario: ideal in seconds, the others as mean ÷ ideal."""
    lines = [
        "| scenario | ideal: mean / p95 / first token p95 (s) | **ours** ÷ ideal, same three | "
        + " | ".join(SIMPLE)
        + " | fairness | loads: ours / ideal |",
        "|---|---|---|" + "---|" * (len(SIMPLE) + 2),
    ]
    for outcome in outcomes:
        ideal = " / ".join(f"{outcome.median(IDEAL, figure):.1f}" for figure in ("mean", "p95", "first_p95"))
        ours = [f"{outcome.ratio(figure, IDEAL):.2f}" for figure in ("mean", "p95", "first_p95")]
        others = " | ".join(_short(outcome, policy) for policy in SIMPLE)
        loads = " / ".join(f"{outcome.median(policy, 'loads'):.0f}" for policy in (OURS, IDEAL))
        fair = f"{outcome.median(OURS, 'fairness'):.2f}"
        title = outcome.scenario.title
        lines.append(f"| {title} | {ideal} | **{ours[0]}** / {ours[1]} / {ours[2]} | {others} | {fair} | {loads} |")
    return "\n".join(lines)


def seconds(outcomes: Sequence[Outcome]) -> str:
    """One row a scenario: the figures of ours themselves, medians over the seeds."""
    shown = _COLUMNS[:7]
    lines = ["| ours, seconds | " + " | ".join(title for _, title in shown) + " |", "|---|" + "---|" * len(shown)]
    for outcome in outcomes:
        cells = " | ".join(_cell(figure, outcome.median(OURS, figure)) for figure, _ in shown)
        lines.append(f"| {outcome.scenario.title} | {cells} |")
    return "\n".join(lines)


def _cell(figure: str, value: float) -> str:
    return f"{value:.0f}" if figure in _COUNTS else f"{value:.2f}"


def _short(outcome: Outcome, policy: str) -> str:
    """Mean ÷ ideal; ∞ where some requests got no answer."""
    if policy not in outcome.runs:
        return "-"
    ratio = outcome.ratio("mean", IDEAL, policy)
    if ratio == float("inf"):
        gone = outcome.median(policy, "lost") + outcome.median(policy, "refused")
        return f"∞, {gone:.0f} lost"
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def details(outcome: Outcome) -> str:
    """Every figure of every policy in one scenario: medians over the seeds."""
    lines = [
        f"### {outcome.scenario.title} (`{outcome.scenario.name}`)",
        "",
        "| policy | " + " | ".join(title for _, title in _COLUMNS) + " |",
        "|---|" + "---|" * len(_COLUMNS),
    ]
    for policy in outcome.runs:
        values = ((figure, outcome.median(policy, figure)) for figure, _ in _COLUMNS)
        cells = " | ".join(_cell(figure, value) for figure, value in values)
        lines.append(f"| {policy} | {cells} |")
    lines += ["", "Promised of ours:"]
    for bar, found in outcome.promises():
        lines.append(f"- {bar.text}: {found:.3f}, {'kept' if bar.kept(found) else 'BROKEN'}")
    return "\n".join(lines)


def document(outcomes: Sequence[Outcome], seeds: Sequence[int], scale: float, seconds: float) -> dict[str, Any]:
    """Everything, for a file. Infinite figures are null."""
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
        "promises": [{"promise": bar.text, "found": _finite(round(found, 4))} for bar, found in outcome.promises()],
        "cpu_seconds": {policy: round(seconds, 2) for policy, seconds in outcome.cpu.items()},
        "runs": {
            policy: [{name: _finite(value) for name, value in figures.as_dict().items()} for figures in runs]
            for policy, runs in outcome.runs.items()
        },
    }


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
