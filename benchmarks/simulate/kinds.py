"""What a scenario is: nodes, what happens there, and what our policy promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulate import clusters
from benchmarks.simulate.traffic import Population, Source, capacity, people
from benchmarks.simulate.world import World

from sollol.emulator.specs import NodeSpec

OURS, KNOWN, IDEAL = "ours", "ours, slots known", "ideal"
BLIND, UNFAIR, MODELESS = "ours, prefixes unseen", "ours, without fairness", "ours, without modes"
RANDOM, TURNS, LEAST, TWO = "random", "round robin", "least connections", "two choices"
AT_ONCE = "true values, sent at once"
RESIDENT, FORMULA = "resident first", "documented formula"
SIMPLE = (RANDOM, TURNS, LEAST, TWO, RESIDENT, FORMULA)

Play = Callable[[World, int, float], None]


@dataclass(frozen=True)
class Bar:
    """A promise: ``figure`` of ours is at most ``limit`` × that of ``versus``, or ``limit`` itself where that is empty.

    ``at_least`` turns it round.
    """

    figure: str
    versus: str
    limit: float
    at_least: bool = False

    def kept(self, found: float) -> bool:
        return found >= self.limit if self.at_least else found <= self.limit

    @property
    def text(self) -> str:
        """In words: what is promised."""
        return f"{self.figure} {'≥' if self.at_least else '≤'} {self.limit:g}{' × ' + self.versus if self.versus else ''}"


@dataclass(frozen=True)
class Scenario:
    """``play(world, seed, scale)`` says who comes when; ``scale`` under 1 asks for a shorter run of the same kind.

    ``shortest`` is the least scale at which the promises mean anything: learning has its price once, not in each request.
    ``seeds`` is the most seeds that a run plays, ``fewest`` the least: where chances at the beginning last, single seeds say
    little. ``others`` are policies beyond those that every scenario has.
    ``rivals``: whether no simple policy may be better; not where the promise is about some requests at the cost of others.
    ``short``: whether the short form of everything has it.
    """

    name: str
    title: str
    nodes: tuple[NodeSpec, ...]
    play: Play
    bars: tuple[Bar, ...]
    others: tuple[str, ...] = ()
    shortest: float = 0.3
    seeds: int = 100
    fewest: int = 1
    rivals: bool = True
    short: bool = True

    @property
    def policies(self) -> tuple[str, ...]:
        """Who plays it."""
        return (OURS, *self.others, IDEAL, AT_ONCE, *SIMPLE)

    @property
    def promises(self) -> tuple[Bar, ...]:
        """The scenario's own bars, and that no simple policy is better by more than 3 %."""
        return self.bars + (tuple(Bar("mean", name, 1.03) for name in SIMPLE) if self.rivals else ())


NEAR_IDEAL = (Bar("mean", IDEAL, 1.05), Bar("p95", IDEAL, 1.15))
EARLY = Bar("first_p95", IDEAL, 1.2)
"""First tokens."""
ONE_MODEL = people([(clusters.CHAT.name, 1.0)])


def steady(nodes: tuple[NodeSpec, ...], population: Population, share: float, count: int) -> Play:
    """Requests at random times, ``share`` of the capacity of ``nodes``."""
    rate = share * capacity(nodes, population)

    def play(world: World, seed: int, scale: float) -> None:
        world.replay(Source(population, f"steady {seed}").steady(rate, round(count * scale)))

    return play
