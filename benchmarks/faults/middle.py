"""Rows in which a node fails in the middle of its answers: another one goes on, in the same stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from benchmarks.faults.before import Scenario, play, usable
from benchmarks.faults.client import SHAPES, Conversation, Shape, eventually, finish
from benchmarks.faults.stage import VICTIM, Found, Stage, p95

STREAMS = SHAPES[:3]


def judge(found: Found, hit: Sequence[Conversation], *, gap: float) -> None:
    """All answered, and no stream stood still for longer than `gap` seconds."""
    found.count(hit)
    longest = max(one.gap for one in hit)
    found.figures |= {"p95_s": p95(one.seconds for one in hit), "longest_pause_s": longest}
    found.headline = f"longest pause {longest:.2f} s"
    found.must(longest <= gap, f"a stream stood still for {longest:.1f} s")
    found.nothing_lost()


def cut(*, gap: float, shapes: Sequence[Shape] = SHAPES, **faults: Any) -> Scenario:
    """The victim's answers break off in this way."""

    async def scenario(here: Stage, count: int) -> Found:
        found = Found()
        _, hit = await play(here, count, faults, shapes)
        judge(found, hit, gap=gap)
        found.must(await here.gate.all_resumed(), "the fault hit nobody")
        return found

    return scenario


async def dies(here: Stage, count: int) -> Found:
    """The victim's process is killed while it writes."""
    found = Found()
    streams = await here.open(count)
    await asyncio.gather(*(one.said(5) for one in streams if one.asked.shape.stream))
    await eventually(lambda: busy(here), 5)
    here.victim.kill()
    judge(found, [await finish(one) for one in streams], gap=2.0)
    down = await eventually(lambda: is_down(here), 5)
    found.must(down is not None, "the dead node is not taken for dead")
    return found


async def busy(here: Stage) -> bool:
    return bool((await here.victim_stats())["in_flight"])


async def is_down(here: Stage) -> bool:
    return (await here.gate.states())[VICTIM] == "down"


async def slow(here: Stage, count: int) -> Found:
    """The victim becomes ten times slower while it writes: it is not taken for stuck, and what comes after avoids it."""
    found = Found()
    healthy = await here.burst(count)
    before = (await here.victim_stats())["cancelled"]
    streams = await here.open(count)
    await asyncio.gather(*(one.said(5) for one in streams if one.asked.shape.stream))
    await here.fault(slow=10)
    await asyncio.sleep(2)  # long enough for it to show: a tenth of the tokens came
    later = await here.burst(max(1, count // 2))
    found.count([await finish(one) for one in streams])
    found.count(later)
    cancelled = (await here.victim_stats())["cancelled"] - before
    unhurt, after = p95(one.seconds for one in healthy), p95(one.seconds for one in later)
    found.figures = {"later_p95_s": after, "healthy_p95_s": unhurt, "cut_off": cancelled}
    found.headline = f"p95 of later ones {after:.2f} s, {unhurt:.2f} s healthy"
    found.must(after <= 1.5 * unhurt + 0.5, f"later requests went to the slow node: p95 {after:.1f} s")
    found.must(not cancelled, f"{cancelled} answers were taken from a node that was only slow")
    found.nothing_lost()
    return found


async def flapping(here: Stage, count: int) -> Found:
    """The victim comes and goes, a second each, while `count` clients ask one thing after another."""
    found = Found()
    end = asyncio.get_running_loop().time() + (4 if here.short else 10)
    await here.fault(flap=1.0)

    async def client() -> list[Conversation]:
        asked = []
        while asyncio.get_running_loop().time() < end:
            asked += await here.burst(1)
        return asked

    every = [one for asked in await asyncio.gather(*(client() for _ in range(count))) for one in asked]
    found.count(every)
    await here.fault()
    back = await eventually(lambda: usable(here), 5)
    found.figures = {"p95_s": p95(one.seconds for one in every), "back_s": back or 0.0}
    found.headline = f"p95 {found.figures['p95_s']:.2f} s; used again {back or 0:.2f} s after the last return"
    found.must(back is not None and back <= 2, "not used again within 2 s")
    found.nothing_lost()
    return found
