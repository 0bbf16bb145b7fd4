"""Scenarios in which the best node is in trouble for the middle half of the time: chat at a third of what all nodes can do."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf

from benchmarks.simulate import clusters
from benchmarks.simulate.kinds import IDEAL, ONE_MODEL, Bar, Scenario
from benchmarks.simulate.traffic import Source, capacity
from benchmarks.simulate.world import Failure, World

SHARE = 0.33
COUNT = 2_000
VICTIM = "gpu-fast"
"""The best node: without it the others are at four fifths of what they can do."""

Break = Callable[[World], None]
NEAR = Bar("mean", IDEAL, 1.10)
STUCK = Bar("mean", IDEAL, 1.15)
"""Only requests that wait for nothing tell that a node is stuck which looks well; now and then one has to be risked."""
RETURNS = Bar("returned", IDEAL, 0.7, at_least=True)


def trouble(
    name: str, title: str, breaks: Break, bars: tuple[Bar, ...], *, lasts: float = inf, shortest: float = 0.3
) -> Scenario:
    """``breaks`` happens after a quarter of the time, and is mended at three quarters or ``lasts`` seconds later if sooner."""
    nodes = clusters.unequal()
    rate = SHARE * capacity(nodes, ONE_MODEL)

    def play(world: World, seed: int, scale: float) -> None:
        requests = Source(ONE_MODEL, f"trouble {seed}").steady(rate, round(COUNT * scale))
        world.replay(requests)
        span = requests[-1].at
        world.at(0.25 * span, lambda: breaks(world))
        world.at(min(0.75 * span, 0.25 * span + lasts), lambda: world.mend(VICTIM))

    return Scenario(name, title, nodes, play, bars, shortest=shortest)


def dead() -> Scenario:
    """The best node dies and does not come back."""
    nodes = clusters.unequal()
    rate = SHARE * capacity(nodes, ONE_MODEL)

    def play(world: World, seed: int, scale: float) -> None:
        requests = Source(ONE_MODEL, f"trouble {seed}").steady(rate, round(COUNT * scale))
        world.replay(requests)
        world.at(0.25 * requests[-1].at, lambda: world.kill(VICTIM))

    return Scenario("dead", "node dies", nodes, play, (NEAR,))


def attempts_allowed(seconds: float) -> int:
    """Attempts on a node that always fails: five until the breaker opens, then one after 5, 10, 20, 40, 60, 60 ... s (-10 %).

    Up to three more may be on their way while the fifth fails.
    """
    intervals = 4 + ceil(max(0.0, seconds - 0.9 * 75.0) / (0.9 * 60.0))
    return 5 + 3 + intervals


def all_scenarios() -> tuple[Scenario, ...]:
    half = 0.5 * COUNT / (SHARE * capacity(clusters.unequal(), ONE_MODEL))
    return (
        trouble("slow", "node 10× slower for a while", lambda world: world.slow(VICTIM, 10.0), (NEAR, RETURNS)),
        trouble(
            "stuck", "node stuck, looks well; restarted", lambda world: world.slow(VICTIM, inf), (STUCK, RETURNS), shortest=1.0
        ),
        trouble("hung", "node hangs; restarted", lambda world: world.hang(VICTIM), (NEAR, RETURNS)),
        dead(),
        trouble("restarted", "node away for 30 s", lambda world: world.kill(VICTIM), (NEAR, RETURNS), lasts=30.0),
        trouble(
            "fails-sometimes",
            "node fails 3 of 10 requests",
            lambda world: world.fail(VICTIM, 0.3, Failure.ERROR),
            (NEAR, RETURNS),
        ),
        trouble(
            "instant-503",
            "503 at once behind a healthy look",
            lambda world: world.fail(VICTIM, 1.0, Failure.BUSY),
            (NEAR, RETURNS, Bar("failed", "", attempts_allowed(half))),
            shortest=1.0,
        ),
    )
