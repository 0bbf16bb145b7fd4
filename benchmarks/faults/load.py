"""Rows with more work than the nodes can do: a full queue, and ten times too many requests for half a minute."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from benchmarks.faults.client import Conversation, call, eventually, finish, open_one
from benchmarks.faults.nodes import LONG
from benchmarks.faults.stage import Found, Stage, p95

QUEUE = 20
HELD_TOKENS = 150
"""Of answers that hold a slot: five seconds."""
CRITICAL_SHARE = 0.3
TIMES = 10
PATIENCE, SHORT_PATIENCE = 15.0, 3.0
"""Seconds that the requests of the overload allow which are not critical."""


async def queue_full(here: Stage, count: int) -> Found:
    """The queue is full: newcomers are refused at once, but critical ones drive out the last in order."""
    found = Found()
    holding = await _take_all_slots(here, found)
    waiting = await here.open(QUEUE, model=LONG, limit=3)

    async def full() -> bool:
        return bool((await call(here.gate.url, "GET", "/api/queue"))[1]["waiting"] == QUEUE)

    found.must(await eventually(full, 5) is not None, "the queue did not fill")
    refused = await here.burst(count, model=LONG)
    critical = await here.open(2, model=LONG, limit=3, headers={"X-SOLLOL-Priority": "critical"})
    found.must(not await _answered(critical), "a critical request did not wait")
    found.must(not any(one.over.done() for one in holding), "a slot was free before all had come")
    held = [await finish(one) for one in (*holding, *waiting)]
    critical = [await finish(one) for one in critical]
    found.count([*held, *refused, *critical])
    slowest = p95(one.seconds for one in refused)
    told = [one for one in (*refused, *held) if one.status == 503]
    found.figures = {"refusal_p95_s": slowest, "refused": len(told)}
    found.headline = f"{len(told)} refused, p95 of a refusal {1e3 * slowest:.0f} ms"
    found.must(all(one.status == 503 for one in refused), "a newcomer was not refused")
    found.must(all(int(one.headers.get("retry-after", 0)) > 0 for one in told), "a refusal without Retry-After")
    found.must(all(one.status == 200 for one in critical), "a critical request was refused")
    found.must(len(told) == count + 2, f"{len(told)} refused instead of {count + 2}")
    found.must(slowest <= 0.5, "a refusal took over half a second")
    found.nothing_lost(all_answered=False)
    return found


async def _take_all_slots(here: Stage, found: Found) -> list[Conversation]:
    """Requests that hold every slot, until all of the others have come: else some of those are let in as slots become free."""
    held: list[Conversation] = []
    for spec in here.setup.specs:
        held += await here.open(spec.slots, model=LONG, limit=HELD_TOKENS, headers={"X-SOLLOL-Node": spec.name})

    async def there() -> bool:
        return await here.in_flight() == len(held)

    found.must(await eventually(there, 5) is not None, "not all slots were taken")
    return held


async def _answered(critical: Sequence[Conversation]) -> bool:
    """Whether any of them ends at once, which it does only where it was refused or a slot was free."""
    done, _ = await asyncio.wait([one.over for one in critical], timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
    return bool(done)


async def _stream(here: Stage, rate: float, seconds: float, chance: random.Random, **fields: object) -> list[Conversation]:
    """Requests at `rate` a second, at random moments, until `seconds` have passed."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    end, asked = due + seconds, []
    while (due := due + chance.expovariate(rate)) < end:
        await asyncio.sleep(max(0.0, due - loop.time()))
        asked.append(asyncio.ensure_future(open_one(here.gate.url, here.ask(**fields))))
    return [await finish(await one) for one in asked]


async def overload(here: Stage, count: int) -> Found:
    """Ten times what the nodes can do, of every priority; the critical ones are at most 30 % of what they can do."""
    found = Found()
    specs = here.setup.specs
    model = specs[0].models[0]
    capacity = sum(spec.slots for spec in specs) * model.decode / model.answer_tokens
    seconds = 4.0 if here.short else 30.0
    chance = random.Random(4)
    critical = {"headers": {"X-SOLLOL-Priority": "critical", "X-SOLLOL-App": "alarm"}}
    alone = await _stream(here, CRITICAL_SHARE * capacity, seconds / 2, chance, **critical)
    crowd = [
        _stream(
            here,
            (TIMES - CRITICAL_SHARE) * capacity / len(CROWD),
            seconds,
            chance,
            deadline=SHORT_PATIENCE if here.short else PATIENCE,
            headers={"X-SOLLOL-Priority": priority, "X-SOLLOL-App": app},
        )
        for app, priority in CROWD
    ]
    urgent, *others = await asyncio.gather(_stream(here, CRITICAL_SHARE * capacity, seconds, chance, **critical), *crowd)
    found.count([*urgent, *(one for asked in others for one in asked)])
    unloaded, loaded = p95(one.seconds for one in alone), p95(one.seconds for one in urgent)
    found.figures = {"critical_p95_s": loaded, "unloaded_p95_s": unloaded, "critical": len(urgent), "capacity_per_s": capacity}
    found.headline = f"critical p95 {loaded:.2f} s, {unloaded:.2f} s unloaded; none of {len(urgent)} refused"
    found.must(loaded <= 2 * unloaded, f"critical p95 is {loaded / unloaded:.1f} times that without load")
    refused = sum(one.status != 200 or one.error is not None for one in urgent)
    found.must(not refused, f"{refused} critical requests refused")
    found.nothing_lost(all_answered=False)
    return found


CROWD: Sequence[tuple[str, str]] = (("batch", "1"), ("reports", "3"), ("chat", "5"), ("editor", "7"))
