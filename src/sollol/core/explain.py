"""A decision in one line of words."""

from __future__ import annotations

from collections.abc import Sequence

from .types import Cost, Decision

_LEAST = 0.05
"""Seconds below which a term is left out."""


def reason(decision: Decision | Sequence[Cost]) -> str:
    """``NODE eta Xs = wait A + load B + prefill C (K of N tok cached) + decode D; next NODE2 Ys (largest difference)``.

    Takes a decision, or costs ranked best first; blocked ones are passed over. Empty when nothing is left.
    """
    costs = decision.ranked if isinstance(decision, Decision) else decision
    ranked = [cost for cost in costs if not cost.blocked]
    if not ranked:
        return ""
    chosen = ranked[0]
    text = f"{chosen.name or chosen.node} eta {_number(chosen.eta)}s"
    terms = _terms(chosen)
    if terms:
        text += " = " + " + ".join(terms)
    if len(ranked) > 1:
        text += "; next " + _next(chosen, ranked[1])
    return text


def _terms(cost: Cost) -> list[str]:
    shown = []
    if cost.wait >= _LEAST:
        shown.append(f"wait {_number(cost.wait)}")
    if cost.load >= _LEAST:
        shown.append(f"load {_number(cost.load)}")
    prefill, decode = cost.prefill * cost.slow, cost.decode * cost.slow
    if prefill >= _LEAST:
        reused = f" ({cost.cached_tokens:.0f} of {cost.prompt_tokens:.0f} tok cached)" if cost.cached_tokens >= 1.0 else ""
        shown.append(f"prefill {_number(prefill)}{reused}")
    if decode >= _LEAST:
        shown.append(f"decode {_number(decode)}")
    return shown


def _next(chosen: Cost, other: Cost) -> str:
    text = f"{other.name or other.node} {_number(other.eta)}s"
    differences = [
        ("wait", other.wait - chosen.wait),
        ("load", other.load - chosen.load),
        ("prefill", other.prefill * other.slow - chosen.prefill * chosen.slow),
        ("decode", other.decode * other.slow - chosen.decode * chosen.slow),
        ("evict", other.evict - chosen.evict),
        ("lost", other.lost - chosen.lost),
    ]
    name, largest = max(differences, key=lambda entry: abs(entry[1]))
    if abs(largest) < _LEAST:
        return text
    return f"{text} ({name} {'+' if largest > 0 else '-'}{_number(abs(largest))})"


def _number(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100.0 else f"{seconds:.0f}"
