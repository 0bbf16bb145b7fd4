"""Rows in which a node fails before the first byte: another one answers, and the client does not notice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.faults.client import SHAPES, Conversation, Shape, eventually, finish, open_one
from benchmarks.faults.stage import VICTIM, Found, Stage, p95

Scenario = Callable[[Stage, int], Awaitable[Found]]
MOST = 100
INFERENCE = tuple(f"POST {shape.path}" for shape in SHAPES[:3])


async def usable(here: Stage) -> bool:
    """Whether the gateway would use the victim."""
    return (await here.gate.states())[VICTIM] in ("up", "half-open")


async def arm(here: Stage, faults: dict[str, Any]) -> None:
    """Set the faults of the victim. With `reset` those connections are cut too that are open already."""
    if faults.get("reset"):
        await here.fault(refuse=True)
    await here.fault(**faults)


async def play(
    here: Stage, count: int, faults: dict[str, Any], shapes: Sequence[Shape] = SHAPES
) -> tuple[list[Conversation], list[Conversation]]:
    """The same load without and with the fault: `count` at once, or for one in flight one of each shape in turn.

    All say how many tokens they want at most, since a document is given up only when it is late for so many.
    """
    if count > 1:
        healthy = await here.burst(count, limit=MOST)
        await arm(here, faults)
        return healthy, await here.burst(count, limit=MOST)
    if here.short:
        shapes = shapes[::5]
    healthy = await here.one_by_one(shapes, limit=MOST)
    hit = []
    for shape in shapes:
        await arm(here, faults)
        hit.append(await finish(await open_one(here.gate.url, here.ask(shape, limit=MOST))))
        await here.fault()
        await eventually(lambda: usable(here), 8)
        await here.burst(1, headers={"X-SOLLOL-Node": VICTIM}, limit=1)  # it works again: its failures are not in a row
    await arm(here, faults)
    return healthy, hit


def moved(*, slower: float, shapes: Sequence[Shape] = SHAPES, share: bool = False, **faults: Any) -> Scenario:
    """Everything is answered, p95 at most `slower` seconds above that of the same load without the fault.

    With `share` the load then goes on, and under 2 % of it may be tried at the failing node.
    """

    async def scenario(here: Stage, count: int) -> Found:
        found = Found()
        healthy, hit = await play(here, count, faults, shapes)
        found.count(hit)
        before, after = p95(one.seconds for one in healthy), p95(one.seconds for one in hit)
        found.figures = {"p95_s": after, "healthy_p95_s": before}
        found.headline = f"p95 {after:.2f} s, {before:.2f} s without the fault"
        found.must(after <= before + slower, f"p95 is {after - before:.2f} s more than without the fault")
        found.must(any(one.headers.get("x-sollol-attempts", "1") != "1" for one in hit), "the fault hit nobody")
        if share and count > 1:
            await share_of_victim(here, count, found)
        found.nothing_lost()
        return found

    return scenario


async def share_of_victim(here: Stage, count: int, found: Found) -> None:
    """A node that fails at once must not attract the traffic."""
    before = tries(await here.victim_stats())
    again = [one for _ in range(2) for one in await here.burst(count)]
    found.count(again)
    tried = tries(await here.victim_stats()) - before
    found.figures["share_of_failing_node"] = tried / len(again)
    found.headline += f"; {tried} of the next {len(again)} tried it"
    found.must(tried <= max(2, 0.02 * len(again)), f"{tried} of {len(again)} attempts went to the failing node")


def tries(stats: dict[str, Any]) -> int:
    """Requests for tokens that a node has been asked."""
    return sum(stats["paths"].get(path, 0) for path in INFERENCE)
