"""Scenarios of many who want something at once: priorities, clients that flood, work that can wait."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.simulate import clusters
from benchmarks.simulate.kinds import IDEAL, MODELESS, ONE_MODEL, UNFAIR, Bar, Scenario
from benchmarks.simulate.traffic import Request, Source, capacity
from benchmarks.simulate.world import World

from sollol.core.types import Mode, Priority

WARM_UP = 300.0
"""Seconds of light traffic that nobody counts, so that nodes are known."""
BOUND_SECONDS = 600.0
"""A request that has waited so long takes every second slot."""


def critical_behind_backlog() -> Scenario:
    """Four hundred unimportant requests wait when important ones begin to come."""
    nodes = clusters.unequal()
    rate = capacity(nodes, ONE_MODEL)

    def play(world: World, seed: int, scale: float) -> None:
        source = Source(ONE_MODEL, f"backlog {seed}")
        world.replay(source.steady(0.2 * rate, round(0.2 * rate * WARM_UP), counted=False))
        low = source.burst(round(400 * scale), WARM_UP, 5.0)
        world.replay([replace(one, priority=Priority.LOW, counted=False) for one in low])
        high = source.steady(0.15 * rate, round(60 * scale), WARM_UP + 10.0)
        world.replay([replace(one, priority=Priority.CRITICAL) for one in high])

    bars = (Bar("mean", IDEAL, 1.15),)
    return Scenario("critical-backlog", "critical requests behind a backlog", nodes, play, bars)


def critical_flood() -> Scenario:
    """More critical requests than the cluster can serve, and one of the lowest priority among them."""
    nodes = clusters.unequal()
    rate = capacity(nodes, ONE_MODEL)

    def play(world: World, seed: int, scale: float) -> None:
        source = Source(ONE_MODEL, f"flood {seed}")
        world.replay(source.steady(0.2 * rate, round(0.2 * rate * WARM_UP), counted=False))
        flood = source.steady(1.15 * rate, round(1_500 * scale), WARM_UP)
        world.replay([replace(one, priority=Priority.CRITICAL) for one in flood])
        world.arrive(
            replace(source.draw(WARM_UP + 60.0, counted=False), client="patient", priority=Priority.BATCH, watched=True)
        )

    bars = (Bar("mean", IDEAL, 1.15), Bar("watched_max", "", BOUND_SECONDS))
    return Scenario("critical-flood", "critical flood, one low request", nodes, play, bars)


def one_floods() -> Scenario:
    """One client sends hundreds of requests at once; the others go on as ever, and only they count."""
    nodes = clusters.unequal()
    rate = capacity(nodes, ONE_MODEL)

    def play(world: World, seed: int, scale: float) -> None:
        source = Source(ONE_MODEL, f"flooder {seed}")
        world.replay(source.steady(0.2 * rate, round(0.2 * rate * WARM_UP), counted=False))
        flood = source.burst(round(600 * scale), WARM_UP, 10.0)
        world.replay([replace(one, client="flooder", counted=False, watched=True) for one in flood])
        world.replay(source.steady(0.2 * rate, round(120 * scale), WARM_UP + 5.0))

    bars = (Bar("mean", UNFAIR, 0.1),)
    return Scenario("one-floods", "one client floods", nodes, play, bars, others=(UNFAIR,), shortest=1.0)


def beside_async() -> Scenario:
    """People who wait for an answer, who count, and as much work again that nobody waits for."""
    nodes = clusters.unequal()

    def play(world: World, seed: int, scale: float) -> None:
        waits, later = Source(ONE_MODEL, f"now {seed}"), Source(ONE_MODEL, f"later {seed}", first=1_000_000)
        rate = 0.25 * capacity(nodes, ONE_MODEL)
        count = round(800 * scale)
        world.replay(waits.steady(rate, count))
        world.replay([_later(one) for one in later.steady(rate, count, counted=False)])

    bars = (Bar("mean", MODELESS, 0.9),)
    return Scenario("async", "ASYNC beside interactive", nodes, play, bars, others=(MODELESS,))


def _later(request: Request) -> Request:
    return replace(request, mode=Mode.ASYNC, client=f"later-{request.client}", watched=True)


def all_scenarios() -> tuple[Scenario, ...]:
    return critical_behind_backlog(), critical_flood(), one_floods(), beside_async()
