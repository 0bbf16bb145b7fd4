"""Rows about clients: they leave, read slowly, or open connections and say nothing."""

from __future__ import annotations

import asyncio
import resource
import time

from benchmarks.faults.client import Conversation, call, eventually, finish
from benchmarks.faults.nodes import BIG, LONG
from benchmarks.faults.stage import Found, Stage, p95

FREE = 0.2


async def _freed(here: Stage, found: Found, name: str, leaving: list[Conversation], staying: int = 0) -> None:
    """Have clients leave; the nodes must be left with those that stay within 200 ms."""
    for one in leaving:
        one.leave()
    begun = time.perf_counter()

    async def free() -> bool:
        return await here.in_flight() <= staying

    await eventually(free, 5, every=0.0)
    seconds = time.perf_counter() - begun
    found.figures[f"{name}_s"] = seconds
    found.must(seconds <= FREE, f"{name}: slots were free only after {seconds * 1e3:.0f} ms")


async def _arrived(here: Stage, count: int) -> None:
    async def there() -> bool:
        return await here.in_flight() >= count

    if await eventually(there, 20) is None:
        raise AssertionError(f"{await here.in_flight()} requests at the nodes instead of {count}")


async def leaves(here: Stage, count: int) -> Found:
    """Clients go away while their requests load a model, while they are streamed to, and while they wait."""
    found = Found()
    slots = sum(spec.slots for spec in here.setup.specs)
    loading = await here.open(count, model=BIG)
    await _arrived(here, 1)
    await _freed(here, found, "loading", loading)
    streaming = await here.open(min(count, slots), model=LONG)
    await asyncio.gather(*(one.said(3) for one in streaming if one.asked.shape.stream))
    await _arrived(here, len(streaming))
    await _freed(here, found, "streaming", streaming)
    await _waiting(here, found, count, slots)
    found.headline = ", ".join(f"{name.removesuffix('_s')} {1e3 * value:.0f} ms" for name, value in found.figures.items())
    found.nothing_lost()
    return found


async def _waiting(here: Stage, found: Found, count: int, slots: int) -> None:
    """With every slot taken, `count` more wait and leave; those that run are not disturbed."""
    running = await here.open(slots, model=LONG, limit=100)
    await _arrived(here, slots)
    waiting = await here.open(count)

    async def queued(wanted: int) -> bool:
        return bool((await call(here.gate.url, "GET", "/api/queue"))[1]["waiting"] == wanted)

    found.must(await eventually(lambda: queued(count), 5) is not None, "they do not wait in the queue")
    for one in waiting:
        one.leave()
    gone = await eventually(lambda: queued(0), 5)
    found.figures["waiting_s"] = gone if gone is not None else 5.0
    found.must(gone is not None and gone <= FREE, "they are still in the queue after 200 ms")
    found.count([await finish(one) for one in running])


async def slow_reader(here: Stage, count: int) -> Found:
    """Clients that read a long answer slowly cost little memory, and everybody else nothing."""
    found = Found()
    before = here.gate.megabytes
    readers = await here.open(count, shape=None)
    found.headline = f"{before}"
    found.count([await finish(one) for one in readers])
    return found


async def idle_connections(here: Stage, count: int) -> Found:
    """Thousands of connections are opened and say nothing; requests are answered as before."""
    found = Found()
    wanted = 1_000 if here.short else 5_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + 1_000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted + 1_000), hard))
    if hard < wanted + 1_000:
        found.broken.append(f"`ulimit -n` is {hard}: {wanted + 1_000} are needed")
        return found
    healthy = p95(one.seconds for one in await here.burst(count))
    memory = here.gate.megabytes
    idle = []
    for _ in range(wanted):
        idle.append(await asyncio.open_connection("127.0.0.1", here.gate.port))
    try:
        hit = await here.burst(count)
        found.count(hit)
        after = p95(one.seconds for one in hit)
        grown = here.gate.megabytes - memory
        found.figures = {"p95_s": after, "healthy_p95_s": healthy, "memory_mb": grown}
        found.headline = f"p95 {after:.2f} s, {healthy:.2f} s without; {grown:.0f} MB more"
        found.must(after <= healthy + 0.5, "answers took over half a second more")
        found.must(grown <= wanted * 0.02, f"{grown:.0f} MB for {wanted} idle connections")
    finally:
        for _, writer in idle:
            writer.transport.abort()
    found.nothing_lost()
    return found
