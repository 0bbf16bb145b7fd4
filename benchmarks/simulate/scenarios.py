"""The scenarios of a cluster in good health: loads, bursts, many models, conversations. More in `crowds` and `troubles`."""

from __future__ import annotations

from random import Random

from benchmarks.simulate import clusters, crowds, troubles
from benchmarks.simulate.kinds import BLIND, EARLY, IDEAL, KNOWN, LEAST, NEAR_IDEAL, ONE_MODEL, Bar, Scenario, steady
from benchmarks.simulate.talks import Habits, Talk, converse, spread
from benchmarks.simulate.traffic import Source, capacity, people
from benchmarks.simulate.world import World


def chat(name: str, title: str, share: float, bars: tuple[Bar, ...] = (*NEAR_IDEAL, EARLY)) -> Scenario:
    """Chat with one model on unequal nodes, ``share`` of their capacity asked for."""
    nodes = clusters.unequal()
    return Scenario(name, title, nodes, steady(nodes, ONE_MODEL, share, 2_000), bars)


def equal() -> Scenario:
    """Nodes that are all alike, where the simple policies are at their best."""
    nodes = clusters.equal(5)
    return Scenario("equal", "equal nodes, high load", nodes, steady(nodes, ONE_MODEL, 0.85, 2_000), NEAR_IDEAL)


def agents() -> Scenario:
    """Every minute or so forty requests at once, as programs make them."""
    nodes = clusters.unequal()
    pause = 40 / (0.6 * capacity(nodes, ONE_MODEL))

    def play(world: World, seed: int, scale: float) -> None:
        source = Source(ONE_MODEL, f"agents {seed}")
        for number in range(round(40 * scale)):
            world.replay(source.burst(40, 1.0 + number * pause, 0.5))

    return Scenario("agents", "bursts of agents", nodes, play, (Bar("mean", IDEAL, 1.05),))


def cold_burst() -> Scenario:
    """The first thing a new gateway sees: a hundred requests at once, nothing loaded anywhere."""

    def play(world: World, seed: int, scale: float) -> None:
        world.replay(Source(ONE_MODEL, f"burst {seed}").burst(100, 1.0))

    return Scenario("cold-burst", "first burst, cold gateway", clusters.unequal(), play, (Bar("mean", IDEAL, 1.15),), fewest=15)


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
    return Scenario("many-models", "five models that do not fit together", nodes, play, bars, shortest=1.0, fewest=9)


def conversations() -> Scenario:
    """People who talk to a model for a while, all with the same instructions before what they say."""
    nodes = clusters.unequal()
    habits = Habits(system=400, opening=200, message=80, answer=150, pause=15.0)

    def play(world: World, seed: int, scale: float) -> None:
        def make(number: int, random: Random) -> Talk:
            return Talk(number, f"client-{number % 8}", random.randint(2, 10), habits, random)

        converse(world, spread(f"talks {seed}", round(400 * scale), 0.4, make))

    return Scenario("conversations", "conversations", nodes, play, (Bar("mean", IDEAL, 1.05),), others=(BLIND,))


def long_agents() -> Scenario:
    """Six programs whose prompts grow and grow, and who go on a few seconds after each answer."""
    nodes = clusters.unequal(context=32_768)
    habits = Habits(system=2_000, opening=9_000, message=250, answer=120, pause=3.0)

    def play(world: World, seed: int, scale: float) -> None:
        def make(number: int, random: Random) -> Talk:
            return Talk(number, f"agent-{number}", round(random.randint(40, 60) * scale), habits, random)

        converse(world, spread(f"long {seed}", 6, 0.2, make))

    bars = (Bar("mean", BLIND, 0.7),)
    return Scenario("long-agents", "few long agents", nodes, play, bars, others=(BLIND, KNOWN), shortest=1.0)


def unknown_slots(slots: int) -> Scenario:
    """About an hour of nodes of ``slots`` slots, which nobody says."""
    nodes = clusters.alike(6 if slots == 1 else 3, slots)
    title = "slots unknown: " + ("one each" if slots == 1 else f"{slots} each")
    bars = (Bar("mean", KNOWN, 1.02),)
    play = steady(nodes, ONE_MODEL, 0.7, 4_000)
    return Scenario(f"slots-{slots}", title, nodes, play, bars, others=(KNOWN,), shortest=1.0, fewest=7)


def large() -> Scenario:
    """An hour of fifty busy nodes of ten kinds."""
    nodes = clusters.many(50)
    rate = 0.7 * capacity(nodes, ONE_MODEL)
    play = steady(nodes, ONE_MODEL, 0.7, round(3_600 * rate))
    return Scenario("fifty-nodes", "an hour of fifty busy nodes", nodes, play, NEAR_IDEAL, shortest=1.0, seeds=2, short=False)


def all_scenarios() -> dict[str, Scenario]:
    """Every scenario by name, in the order of the table."""
    high = (Bar("mean", IDEAL, 1.10), Bar("p95", IDEAL, 1.15), EARLY)
    made = (
        chat("chat-light", "chat, light load", 0.25),
        chat("chat-medium", "chat, medium load", 0.55),
        chat("chat-high", "chat, high load", 0.85, high),
        equal(),
        many_models(),
        cold_burst(),
        warm_burst(),
        agents(),
        conversations(),
        long_agents(),
        unknown_slots(1),
        unknown_slots(8),
        *crowds.all_scenarios(),
        *troubles.all_scenarios(),
        large(),
    )
    return {scenario.name: scenario for scenario in made}
