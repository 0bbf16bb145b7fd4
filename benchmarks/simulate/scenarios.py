"""The scenarios: nodes, what happens there, and what our policy promises. One function each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulate import clusters
from benchmarks.simulate.traffic import Population, Source, capacity, people
from benchmarks.simulate.world import World

from sollol.emulator.specs import NodeSpec

OURS, KNOWN, IDEAL = "ours", "ours, slots known", "ideal"
RANDOM, TURNS, LEAST = "random", "round robin", "least connections"
SIMPLE = (RANDOM, TURNS, LEAST)

Play = Callable[[World, int, float], None]


@dataclass(frozen=True)
class Bar:
    """A promise: ``figure`` of ours is at most ``limit`` × that of ``versus``."""

    figure: str
    versus: str
    limit: float


@dataclass(frozen=True)
class Scenario:
    """``play(world, seed, scale)`` says who comes when; ``scale`` under 1 asks for a shorter run of the same kind.

    ``shortest`` is the least scale at which the promises mean anything: learning has its price once, not in each request.
    """

    name: str
    title: str
    nodes: tuple[NodeSpec, ...]
    play: Play
    bars: tuple[Bar, ...]
    policies: tuple[str, ...] = (OURS, IDEAL, *SIMPLE)
    shortest: float = 0.3

    @property
    def promises(self) -> tuple[Bar, ...]:
        """The scenario's own bars, and that no simple policy is better."""
        return self.bars + tuple(Bar("mean", name, 1.03) for name in self.policies if name in SIMPLE)


NEAR_IDEAL = (Bar("mean", IDEAL, 1.05), Bar("p95", IDEAL, 1.15))
ONE_MODEL = people([(clusters.CHAT.name, 1.0)])


def chat(name: str, title: str, share: float, bars: tuple[Bar, ...] = NEAR_IDEAL) -> Scenario:
    """Chat with one model on unequal nodes, ``share`` of their capacity asked for."""
    nodes = clusters.unequal()
    return Scenario(name, title, nodes, steady(nodes, ONE_MODEL, share, 2_000), bars)


def steady(nodes: tuple[NodeSpec, ...], population: Population, share: float, count: int) -> Play:
    """Requests at random times, ``share`` of the capacity of ``nodes``."""
    rate = share * capacity(nodes, population)

    def play(world: World, seed: int, scale: float) -> None:
        world.replay(Source(population, f"steady {seed}").steady(rate, round(count * scale)))

    return play


def cold_burst() -> Scenario:
    """The first thing a new gateway sees: a hundred requests at once, nothing loaded anywhere."""

    def play(world: World, seed: int, scale: float) -> None:
        world.replay(Source(ONE_MODEL, f"burst {seed}").burst(100, 1.0))

    return Scenario("cold-burst", "first burst, cold gateway", clusters.unequal(), play, (Bar("mean", IDEAL, 1.15),))


def warm_burst() -> Scenario:
    """A hundred requests at once after ten minutes of light chat, which are not counted."""
    nodes = clusters.unequal()
    rate = 0.3 * capacity(nodes, ONE_MODEL)

    def play(world: World, seed: int, scale: float) -> None:
        source = Source(ONE_MODEL, f"burst {seed}")
        before = source.steady(rate, round(600 * rate), counted=False)
        world.replay(before)
        world.replay(source.burst(100, before[-1].at + 60.0))

    return Scenario("warm-burst", "burst, warm nodes", nodes, play, (Bar("mean", IDEAL, 1.05),))


def many_models() -> Scenario:
    """Five models on nodes that hold two or three at a time."""
    population = people([(model.name, weight) for model, weight in zip(clusters.FIVE, (8, 4, 3, 2, 1), strict=True)])
    nodes = clusters.shelf()
    bars = (Bar("mean", IDEAL, 1.10), Bar("loads", IDEAL, 2.5), Bar("loads", LEAST, 0.25))
    play = steady(nodes, population, 0.4, 2_000)
    return Scenario("many-models", "five models that do not fit together", nodes, play, bars, shortest=1.0)


def unknown_slots(slots: int) -> Scenario:
    """About an hour of nodes of ``slots`` slots, which nobody says."""
    nodes = clusters.alike(6 if slots == 1 else 3, slots)
    title = "slots unknown: " + ("one each" if slots == 1 else f"{slots} each")
    bars = (Bar("mean", KNOWN, 1.02),)
    policies = (OURS, KNOWN, IDEAL, *SIMPLE)
    return Scenario(f"slots-{slots}", title, nodes, steady(nodes, ONE_MODEL, 0.7, 4_000), bars, policies, shortest=1.0)


def all_scenarios() -> dict[str, Scenario]:
    """Every scenario by name, in the order of the table."""
    high = (Bar("mean", IDEAL, 1.10), Bar("p95", IDEAL, 1.15))
    made = (
        chat("chat-light", "chat, light load", 0.25),
        chat("chat-medium", "chat, medium load", 0.55),
        chat("chat-high", "chat, high load", 0.85, high),
        many_models(),
        cold_burst(),
        warm_burst(),
        unknown_slots(1),
        unknown_slots(8),
    )
    return {scenario.name: scenario for scenario in made}
