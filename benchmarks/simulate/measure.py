"""One run of a scenario under a policy, and what it shows."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf

from benchmarks.simulate.kinds import (
    AT_ONCE,
    BLIND,
    FORMULA,
    IDEAL,
    KNOWN,
    LEAST,
    MODELESS,
    OURS,
    RANDOM,
    RESIDENT,
    TURNS,
    TWO,
    UNFAIR,
    Bar,
    Scenario,
)
from benchmarks.simulate.shipped import Options, Shipped
from benchmarks.simulate.simple import Formula, LeastConnections, RandomNode, ResidentFirst, RoundRobin, TwoChoices
from benchmarks.simulate.truth import AtOnce, Ideal
from benchmarks.simulate.world import Policy, Record, World

LIMIT_SECONDS = 200_000.0
"""Virtual time at which a run that does not end is cut off."""

MAKERS: Mapping[str, Callable[[int], Policy]] = {
    OURS: lambda _: Shipped(),
    KNOWN: lambda _: Shipped(Options(slots=True)),
    BLIND: lambda _: Shipped(Options(prefixes=False)),
    UNFAIR: lambda _: Shipped(Options(fair=False)),
    MODELESS: lambda _: Shipped(Options(modes=False)),
    IDEAL: lambda _: Ideal(),
    AT_ONCE: AtOnce,
    RANDOM: RandomNode,
    TURNS: RoundRobin,
    LEAST: LeastConnections,
    TWO: TwoChoices,
    RESIDENT: ResidentFirst,
    FORMULA: Formula,
}


@dataclass(frozen=True)
class Figures:
    """What one run showed. Times are seconds from arrival, of the counted requests; infinite where some got no answer.

    ``loads`` on all nodes; ``refused`` were told an error, ``lost`` were told nothing; ``failed`` attempts of all requests.
    ``fairness`` is Jain's index over clients of their time ÷ tokens: 1 where all fare alike. ``watched_max`` is the longest
    time of the requests that are looked at by themselves, ``watched_mean`` their mean. ``returned``: requests a second that
    were sent to a node after it was mended (0: no such node).
    """

    mean: float
    p95: float
    p99: float
    first_mean: float
    first_p95: float
    loads: float
    refused: float
    lost: float
    failed: float
    fairness: float
    watched_mean: float
    watched_max: float
    returned: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def run(scenario: Scenario, policy: str, seed: int, scale: float = 1.0) -> Figures:
    """Play the scenario once."""
    world = World(scenario.nodes, MAKERS[policy](seed))
    scenario.play(world, seed, scale)
    world.run(LIMIT_SECONDS)
    return figures(world)


def figures(world: World) -> Figures:
    """What became of the requests."""
    every = list(world.records.values())
    records = [record for record in every if record.request.counted]
    watched = [record.seconds for record in every if record.request.watched] or [0.0]
    whole = sorted(record.seconds for record in records)
    first = sorted(record.first_seconds if record.ended is not None else inf for record in records)
    refused = sum(1 for record in every if record.refused)
    unanswered = sum(1 for record in every if record.ended is None)
    return Figures(
        mean=statistics.fmean(whole),
        p95=quantile(whole, 0.95),
        p99=quantile(whole, 0.99),
        first_mean=statistics.fmean(first),
        first_p95=quantile(first, 0.95),
        loads=float(sum(node.model.loads for node in world.nodes.values())),
        refused=float(refused),
        lost=float(unanswered - refused),
        failed=float(world.failed),
        fairness=fairness(records),
        watched_mean=statistics.fmean(watched),
        watched_max=max(watched),
        returned=returned(world),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that ``share`` of the (sorted) values do not exceed; infinite for none."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else inf


def fairness(records: Sequence[Record]) -> float:
    """Jain's index over clients: (sum x)² ÷ (n × sum x²), x the seconds of a client's answers ÷ their tokens."""
    seconds: defaultdict[str, float] = defaultdict(float)
    tokens: defaultdict[str, float] = defaultdict(float)
    for record in records:
        if record.ended is not None:
            seconds[record.request.client] += record.seconds
            tokens[record.request.client] += 0.04 * record.request.prompt_tokens + record.request.output_tokens
    each = [seconds[client] / tokens[client] for client in seconds]
    return sum(each) ** 2 / (len(each) * sum(x * x for x in each)) if each else 0.0


def returned(world: World) -> float:
    """Requests a second sent to mended nodes, from then to the last arrival."""
    last = max(record.request.at for record in world.records.values())
    count = seconds = 0.0
    for name, at in world.back_at.items():
        seconds += max(0.0, last - at)
        count += sum(
            1 for record in world.records.values() for when, node in record.sent if node == name and at <= when <= last
        )
    return count / seconds if seconds else 0.0


@dataclass(frozen=True)
class Outcome:
    """All runs of one scenario: policy -> figures, one for each seed; ``cpu``: policy -> seconds of processor time."""

    scenario: Scenario
    runs: dict[str, list[Figures]]
    cpu: dict[str, float]

    def median(self, policy: str, figure: str) -> float:
        return statistics.median(float(getattr(figures, figure)) for figures in self.runs[policy])

    def ratio(self, figure: str, versus: str, policy: str = OURS) -> float:
        """The median over seeds of ``policy`` ÷ ``versus`` on the very same requests; of ``policy`` alone without versus."""
        if not versus:
            return self.median(policy, figure)
        pairs = zip(self.runs[policy], self.runs[versus], strict=True)
        return statistics.median(_quotient(float(getattr(a, figure)), float(getattr(b, figure))) for a, b in pairs)

    def promises(self) -> list[tuple[Bar, float]]:
        """What is promised of the policies that played, and what was found."""
        played = (bar for bar in self.scenario.promises if not bar.versus or bar.versus in self.runs)
        return [(bar, self.ratio(bar.figure, bar.versus)) for bar in played]

    def broken(self) -> list[str]:
        """Promises that did not hold, in words."""
        name = self.scenario.name
        out = [f"{name}: promised {bar.text}, found {found:.3f}" for bar, found in self.promises() if not bar.kept(found)]
        for figure in ("refused", "lost"):
            worst = max(getattr(figures, figure) for figures in self.runs[OURS])
            if worst:
                out.append(f"{name}: {worst:.0f} requests {figure}")
        return out

    def best_simple(self, simple: Sequence[str]) -> tuple[str, float]:
        """The best of the simple policies that played, and its mean ÷ that of the ideal."""
        found = {policy: self.ratio("mean", IDEAL, policy) for policy in simple if policy in self.runs}
        best = min(found, key=found.__getitem__)
        return best, found[best]


def _quotient(one: float, other: float) -> float:
    if other == inf:
        return 0.0 if one < inf else 1.0
    return one / max(other, 1e-9)


def play(scenario: Scenario, seeds: Sequence[int], scale: float = 1.0, policies: Sequence[str] | None = None) -> Outcome:
    """The scenario under each of its policies (or those of them that are named), once for each seed; more if it needs more."""
    scale = max(scale, scenario.shortest)
    played = range(seeds[0], seeds[0] + min(scenario.seeds, max(scenario.fewest, len(seeds))))
    runs: dict[str, list[Figures]] = {}
    cpu: dict[str, float] = {}
    for policy in scenario.policies:
        if policies is None or policy in policies:
            begun = time.process_time()
            runs[policy] = [run(scenario, policy, seed, scale) for seed in played]
            cpu[policy] = time.process_time() - begun
    return Outcome(scenario, runs, cpu)
