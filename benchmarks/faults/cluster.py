"""Rows about what nodes have and are: a model vanishes, a node is replaced, all are down."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from benchmarks.faults.before import tries
from benchmarks.faults.client import SHAPES, call, eventually, finish
from benchmarks.faults.nodes import OTHER, Nodes
from benchmarks.faults.stage import VICTIM, Found, Stage, p95

from sollol.core.types import NodeKind


async def vanished(here: Stage, count: int) -> Found:
    """The model is deleted at the victim, behind the gateway's back."""
    found = Found()
    healthy = p95(one.seconds for one in await here.burst(count))
    status, _ = await call(here.victim.url(VICTIM), "DELETE", "/api/delete", {"model": here.model.name})
    assert status == 200
    hit = await here.burst(count)
    before = tries(await here.victim_stats())
    later = await here.burst(count)
    tried = tries(await here.victim_stats()) - before
    found.count([*hit, *later])
    found.figures = {"p95_s": p95(one.seconds for one in hit), "healthy_p95_s": healthy, "tried_again": tried}
    found.headline = f"p95 {found.figures['p95_s']:.2f} s, {healthy:.2f} s healthy; {tried} of the next {count} tried it"
    found.must(found.figures["p95_s"] <= healthy + 1, "answers took over a second more")
    found.must(not tried, f"{tried} requests went to the node that has not got the model")
    found.nothing_lost()
    return found


async def replaced(here: Stage, count: int) -> Found:
    """The victim dies under load, and another server with another model comes up at its address."""
    found = Found()
    streams = await here.open(count)
    await asyncio.gather(*(one.said(5) for one in streams if one.asked.shape.stream))
    port = int(here.victim.url(VICTIM).rpartition(":")[2])
    here.victim.kill()
    new_model = replace(OTHER, name="new:latest", digest="", decode=300.0)
    spec = replace(here.setup.specs[0], kind=NodeKind.LLAMACPP, models=(new_model,))
    new = await asyncio.to_thread(Nodes, [spec], port=port)
    try:
        begun = asyncio.get_running_loop().time()
        found.count([await finish(one) for one in streams])
        later = await here.burst(count)

        async def served() -> bool:
            return any("new" in name for name in await here.gate.models())

        known = await eventually(served, 10)
        seconds = asyncio.get_running_loop().time() - begun
        found.must(known is not None, "the new server's model is not listed")
        name = next((name for name in await here.gate.models() if "new" in name), "")
        later += await here.burst(min(count, 50), model=replace(new_model, name=name), shape=SHAPES[2])
        found.count(later)
        found.figures = {"known_s": seconds}
        found.headline = f"its model was known within {seconds:.1f} s"
        found.nothing_lost()
    finally:
        new.close()
    return found


async def all_down(here: Stage, count: int) -> Found:
    """Every node is down; the first one comes back after a while, and all that waited is answered."""
    found = Found()
    for name in here.nodes.names:
        await here.nodes.fault(name, refuse=True)

    async def none_up() -> bool:
        return set((await here.gate.states()).values()) == {"down"}

    await here.burst(2 * len(here.nodes.names), deadline=1)  # which meet them
    found.must(await eventually(none_up, 10) is not None, "dead nodes are not seen as down")
    streams = await here.open(count)
    await asyncio.sleep(2)
    await here.fault()
    back = asyncio.get_running_loop().time()
    done = [await finish(one) for one in streams]
    found.count(done)
    first = min((one.times[0] for one in done if one.times), default=back) - back
    found.figures = {"first_answer_s": first, "p95_s": p95(one.ended - back for one in done)}
    found.headline = f"first word {first:.2f} s after its return, p95 {found.figures['p95_s']:.2f} s"
    found.must(first <= 2.5, f"first word only {first:.1f} s after the return")
    found.nothing_lost()
    return found
