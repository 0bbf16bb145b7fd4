"""What a row plays on: emulated nodes and a gateway, each in a process of its own; and what was counted there."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.faults.client import ANSWERED, ERROR, LOST, SHAPES, Ask, Conversation, Shape, ask, finish, open_one
from benchmarks.faults.gate import Gate
from benchmarks.faults.nodes import TALE, Nodes, equal

from sollol.emulator.specs import ModelSpec, NodeSpec

VICTIM = "n1"
"""The node that fails. It has the highest priority, so that among equals it gets the first request."""


@dataclass(frozen=True)
class Setup:
    """``specs`` are the nodes, the first one the victim; with ``lone`` it is a process of its own, which can be killed.

    ``settings`` are tables of the gateway's file. With few requests in flight the nodes are ``pace`` times as fast.
    ``host`` is the address of a lone victim, and ``away`` the command that runs it elsewhere.
    """

    specs: Sequence[NodeSpec] = field(default_factory=lambda: equal(4))
    lone: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    load_base: float = 0.05
    pace: float = 4.0
    host: str = "127.0.0.1"
    away: Sequence[str] = ()


@dataclass
class Found:
    """What one run of a row came to. ``figures`` are its own measures, ``broken`` the parts of its bar that did not hold."""

    requests: int = 0
    answered: int = 0
    resumed: int = 0
    errors: int = 0
    lost: int = 0
    wrong: int = 0
    headline: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    skipped: str = ""

    def count(self, conversations: Iterable[Conversation]) -> None:
        """Judge replies. Those whose clients left on purpose are not to be given."""
        for conversation in conversations:
            self.requests += 1
            outcome, why = conversation.verdict()
            self.answered += outcome == ANSWERED
            self.errors += outcome == ERROR
            self.lost += outcome == LOST
            self.wrong += outcome not in (ANSWERED, ERROR, LOST)
            if why and len(self.reasons) < 8:
                self.reasons.append(f"{conversation.asked.shape}: {outcome}: {why}")

    def must(self, holds: object, words: str) -> None:
        """A part of the bar."""
        if not holds:
            self.broken.append(words)

    def nothing_lost(self, *, all_answered: bool = True) -> None:
        """The bar of every row; most also want each request answered."""
        self.must(not self.lost, f"{self.lost} lost")
        self.must(not self.wrong, f"{self.wrong} wrong")
        if all_answered:
            self.must(not self.errors, f"{self.errors} errors")

    @property
    def passed(self) -> bool:
        return not self.broken


def p95(seconds: Iterable[float]) -> float:
    """The value that 95 % do not exceed; 0 of nothing."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(0.95 * len(ordered)) - 1)] if ordered else 0.0


class Stage:
    """Nodes that run, a gateway that knows them, and the next number of a request."""

    def __init__(self, setup: Setup, gate: Gate, nodes: Nodes, victim: Nodes, *, short: bool) -> None:
        self.setup = setup
        self.gate = gate
        self.nodes = nodes
        self.victim = victim
        self.short = short
        self.model: ModelSpec = TALE
        self._number = 0

    @property
    def others(self) -> list[str]:
        return [name for name in self.nodes.names if name != VICTIM]

    async def fault(self, **faults: Any) -> None:
        """Set the faults of the victim; none heals it."""
        await self.victim.fault(VICTIM, **faults)

    async def victim_stats(self) -> dict[str, Any]:
        return await self.victim.stats(VICTIM)

    async def in_flight(self) -> int:
        """Requests in all nodes."""
        return await self.nodes.in_flight() + (await self.victim.in_flight() if self.victim is not self.nodes else 0)

    def ask(self, shape: Shape | None = None, **fields: Any) -> Ask:
        """A request that no other one is like."""
        self._number += 1
        return ask(self._number - 1, fields.pop("model", self.model), shape=shape, **fields)

    async def open(self, count: int, **fields: Any) -> list[Conversation]:
        """Send so many requests, of all shapes in turn."""
        return list(await asyncio.gather(*(open_one(self.gate.url, self.ask(**fields)) for _ in range(count))))

    async def burst(self, count: int, **fields: Any) -> list[Conversation]:
        """Send so many at once and wait for all."""
        return list(await asyncio.gather(*(finish(one) for one in await self.open(count, **fields))))

    async def one_by_one(self, shapes: Sequence[Shape] = SHAPES, **fields: Any) -> list[Conversation]:
        """One request of each shape, one after another."""
        return [await finish(await open_one(self.gate.url, self.ask(shape, **fields))) for shape in shapes]

    async def warm(self) -> None:
        """Have every node load the model and show how fast it is."""
        for name in (*self.victim.names, *self.others):
            headers = {"X-SOLLOL-Node": name}
            for shape in SHAPES[:2]:
                done = await finish(await open_one(self.gate.url, self.ask(shape, limit=4, headers=headers)))
                if done.verdict()[0] != ANSWERED:
                    raise RuntimeError(f"no start: {done.verdict()}: {self.gate.log.read_text()[-1000:]}")


@asynccontextmanager
async def stage(setup: Setup, count: int, *, short: bool = False) -> AsyncIterator[Stage]:
    """Start everything for `count` requests in flight; end it with the block."""
    with ExitStack() as ending:
        folder = Path(ending.enter_context(TemporaryDirectory(prefix="faults-")))
        specs = [spec.faster(setup.pace) for spec in setup.specs] if count < 100 else list(setup.specs)
        victim = None
        if setup.lone:
            victim = Nodes(specs[:1], host=setup.host, load_base=setup.load_base, inside=setup.away)
            ending.callback(victim.close)
        nodes = Nodes(specs[1:] if setup.lone else specs, load_base=setup.load_base)
        ending.callback(nodes.close)
        groups = [victim, nodes] if victim is not None else [nodes]
        tables = [
            {"url": url, "name": name, "slots": spec.slots, "priority": 9 if name == VICTIM else 5}
            for group in groups
            for url, name, spec in zip(group.urls, group.names, (s for s in specs if s.name in group.names), strict=True)
        ]
        gate = Gate(folder, tables, setup.settings)
        ending.callback(gate.close)
        gate.start()
        await gate.ready()
        running = Stage(setup, gate, nodes, victim or nodes, short=short)
        await running.warm()
        yield running
