"""One run of a scenario under a policy, and what it shows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf

from benchmarks.simulate.scenarios import IDEAL, KNOWN, LEAST, OURS, RANDOM, TURNS, Bar, Scenario
from benchmarks.simulate.shipped import Shipped
from benchmarks.simulate.simple import LeastConnections, RandomNode, RoundRobin
from benchmarks.simulate.truth import Ideal
from benchmarks.simulate.world import Policy, World

LIMIT_SECONDS = 200_000.0
"""Virtual time at which a run that does not end is cut off."""

MAKERS: Mapping[str, Callable[[int], Policy]] = {
    OURS: lambda _: Shipped(),
    KNOWN: lambda _: Shipped(slots_known=True),
    IDEAL: lambda _: Ideal(),
    RANDOM: RandomNode,
    TURNS: RoundRobin,
    LEAST: LeastConnections,
}


@dataclass(frozen=True)
class Figures:
    """Seconds of the counted requests from arrival; loads on all nodes; requests that got no answer."""

    mean: float
    p95: float
    p99: float
    first_mean: float
    first_p95: float
    loads: float
    refused: float
    lost: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def run(scenario: Scenario, policy: str, seed: int, scale: float = 1.0) -> Figures:
    """Play the scenario once."""
    world = World(scenario.nodes, MAKERS[policy](seed))
    scenario.play(world, seed, scale)
    world.run(LIMIT_SECONDS)
    records = [record for record in world.records.values() if record.request.counted]
    answered = [record for record in records if record.ended is not None]
    whole = sorted(record.seconds for record in answered)
    first = sorted(record.first_seconds for record in answered)
    refused = sum(1 for record in records if record.refused)
    return Figures(
        mean=statistics.fmean(whole) if whole else inf,
        p95=quantile(whole, 0.95),
        p99=quantile(whole, 0.99),
        first_mean=statistics.fmean(first) if first else inf,
        first_p95=quantile(first, 0.95),
        loads=float(sum(node.model.loads for node in world.nodes.values())),
        refused=float(refused),
        lost=float(len(records) - len(answered) - refused),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of the (sorted) values do not exceed; infinite for none."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else inf


@dataclass(frozen=True)
class Outcome:
    """All runs of one scenario: policy -> figures, one for each seed."""

    scenario: Scenario
    runs: dict[str, list[Figures]]

    def median(self, policy: str, figure: str) -> float:
        return statistics.median(float(getattr(figures, figure)) for figures in self.runs[policy])

    def ratio(self, figure: str, versus: str, policy: str = OURS) -> float:
        """The median over seeds of ``policy`` ÷ ``versus`` on the very same requests."""
        pairs = zip(self.runs[policy], self.runs[versus], strict=True)
        return statistics.median(float(getattr(one, figure)) / max(float(getattr(other, figure)), 1e-9) for one, other in pairs)

    def broken(self) -> list[str]:
        """Promises that did not hold, in words."""
        out = [self._said(bar) for bar in self.scenario.promises if self.ratio(bar.figure, bar.versus) > bar.limit]
        for figure in ("refused", "lost"):
            worst = max(getattr(figures, figure) for figures in self.runs[OURS])
            if worst:
                out.append(f"{self.scenario.name}: {worst:.0f} requests {figure}")
        return out

    def _said(self, bar: Bar) -> str:
        found = self.ratio(bar.figure, bar.versus)
        return f"{self.scenario.name}: {bar.figure} is {found:.3f} × {bar.versus}, promised ≤ {bar.limit}"


def play(scenario: Scenario, seeds: Sequence[int], scale: float = 1.0) -> Outcome:
    """The scenario under each of its policies, once for each seed."""
    scale = max(scale, scenario.shortest)
    return Outcome(scenario, {policy: [run(scenario, policy, seed, scale) for seed in seeds] for policy in scenario.policies})
