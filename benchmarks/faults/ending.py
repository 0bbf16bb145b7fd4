"""Rows in which the gateway itself is ended."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

from benchmarks.faults.client import LOST, Conversation, call, eventually, finish
from benchmarks.faults.stage import Found, Stage

AT_ONCE = 0.2
RESTART = 1.5


def hurried(seconds: float, short: bool) -> float:
    """What a bar is in the short form: that runs beside other tests, on as many processors."""
    return 2 * seconds if short else seconds


async def terminated(here: Stage, count: int) -> Found:
    """SIGTERM: nothing new is let in, what runs is finished, and the program ends by itself with success."""
    found = Found()
    streams = await _in_the_middle(here, count)
    begun = [one for one in streams if one.pieces]
    here.gate.signal(signal.SIGTERM)
    process = here.gate.process
    assert process is not None

    async def closed() -> bool:
        with suppress(ConnectionError):
            await call(here.gate.url, "GET", "/api/version", seconds=1)
            return False
        return True

    shut = await eventually(closed, 3)
    done = [await finish(one) for one in streams]
    last = time.perf_counter()

    async def ended() -> bool:
        return process.poll() is not None

    left = await eventually(ended, 10)
    found.count(done)
    found.figures = {"closed_s": shut if shut is not None else 3.0, "ended_s": time.perf_counter() - last}
    found.headline = f"ended {found.figures['ended_s']:.2f} s after the last answer"
    found.must(shut is not None, "it still lets new ones in")
    found.must(left is not None and process.returncode == 0, f"it ended with {process.returncode}")
    found.must(all(one.verdict()[0] == "answered" for one in begun), "a running answer was not finished")
    found.must(found.figures["ended_s"] <= 2, "it did not end within 2 s of the last answer")
    found.nothing_lost(all_answered=False)
    return found


async def _in_the_middle(here: Stage, count: int) -> list[Conversation]:
    """Requests of which those that run and are streamed have said something."""
    streams = await here.open(count)
    slots = sum(spec.slots for spec in here.setup.specs)

    async def there() -> bool:
        return await here.in_flight() >= min(slots, count)

    await eventually(there, 5)
    first = [one for one in streams[: min(slots, count)] if one.asked.shape.stream]
    await asyncio.gather(*(one.said(2) for one in first[: len(first) // 2]))
    return streams


async def killed(here: Stage, count: int) -> Found:
    """SIGKILL: clients see it at once, the nodes' slots are free at once, and a new gateway soon serves."""
    found = Found()
    streams = await _in_the_middle(here, count)
    loop = asyncio.get_running_loop()
    here.gate.signal(signal.SIGKILL)
    moment = loop.time()

    async def free() -> bool:
        return await here.in_flight() == 0

    freed = await eventually(free, 5, every=0.0)
    for one in streams:
        await finish(one, grace=0.0)
    seen = max(one.ended for one in streams) - moment
    for one in streams:
        outcome, why = one.verdict()
        expected = one.asked.expected
        sound = expected is not None and expected.text.startswith(one.text)
        found.requests += 1
        found.answered += outcome == "answered"
        found.errors += outcome == LOST and sound and one.ended - moment <= AT_ONCE
        found.lost += outcome == LOST and not one.ended - moment <= AT_ONCE
        found.wrong += not sound or outcome not in (LOST, "answered")
        found.must(outcome in (LOST, "answered"), why)
    begun = time.perf_counter()
    here.gate.start()

    async def serves() -> bool:
        return all(one.verdict()[0] == "answered" for one in await here.burst(1, limit=1))

    again = await eventually(serves, 10, every=0.005)
    seconds = time.perf_counter() - begun
    found.figures = {"seen_s": seen, "freed_s": freed if freed is not None else 5.0, "restart_s": seconds}
    found.headline = f"reset after {1e3 * seen:.0f} ms, slots free after {1e3 * found.figures['freed_s']:.0f} ms, "
    found.headline += f"serves again after {seconds:.2f} s"
    found.must(seen <= hurried(AT_ONCE, here.short), f"clients saw it only after {seen:.2f} s")
    found.must(freed is not None and freed <= hurried(AT_ONCE, here.short), "slots were not free within 200 ms")
    found.must(
        again is not None and seconds <= hurried(RESTART, here.short),
        f"the restarted gateway served only after {seconds:.2f} s",
    )
    found.count(await here.burst(count))
    found.must(not found.lost and not found.wrong, "lost or wrong")
    return found
