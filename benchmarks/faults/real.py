"""The rows dies, stalls and killed with real llama.cpp servers and a tiny model.

Text after a break may differ from that of an unbroken run, since a prompt that is read in one piece is rounded in another way
than one that was written; what had been sent must stay, the count be right and nothing be repeated.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.faults.client import ANSWERED, LOST, SHAPES, Ask, Conversation, Shape, call, eventually, finish, open_one
from benchmarks.faults.ending import AT_ONCE, RESTART, hurried
from benchmarks.faults.gate import Gate
from benchmarks.faults.stage import Found
from tests.support.llama_cpp import HOW, SLOW, LlamaServer, find_llama_server

LIMIT = 120
SLOTS = 4
BREAK_AT = 15
"""Pieces that each stream has had when the fault comes."""


class Real:
    """Two llama.cpp servers with the same model, and a gateway. The first server is the victim."""

    def __init__(self, gate: Gate, servers: Sequence[LlamaServer]) -> None:
        self.gate = gate
        self.servers = servers
        self.urls = [server.url for server in servers]

    def asks(self, count: int, shapes: Sequence[Shape] = SHAPES) -> list[Ask]:
        """So many requests, of these shapes in turn."""
        texts = [f"people of house {i} say how long the day was" for i in range(count)]
        model, made = self.servers[0].model, {"X-SOLLOL-Cache": "no"}
        return [Ask(shapes[i % len(shapes)], model, text, limit=LIMIT, headers=made) for i, text in enumerate(texts)]

    async def open(self, asked: Sequence[Ask]) -> list[Conversation]:
        return list(await asyncio.gather(*(open_one(self.gate.url, one) for one in asked)))

    async def busy(self, which: Sequence[int] = (0, 1)) -> int:
        """Slots of these servers that work."""
        found = [(await call(self.urls[i], "GET", "/slots"))[1] for i in which]
        return sum(bool(slot["is_processing"]) for slots in found for slot in slots)


@asynccontextmanager
async def real() -> AsyncIterator[Real]:
    """Start them; end them with the block."""
    program = find_llama_server()
    assert program is not None
    with ExitStack() as ending:
        folder = Path(ending.enter_context(TemporaryDirectory(prefix="faults-")))
        servers = []
        for _ in range(2):
            server = LlamaServer(program, folder, slots=SLOTS, shape=SLOW, options=("--slots",))
            ending.callback(server.kill)
            servers.append(server)
        tables = [{"url": server.url, "name": f"n{i + 1}", "priority": 9 - i} for i, server in enumerate(servers)]
        gate = Gate(folder, tables, {})
        ending.callback(gate.close)
        gate.start()
        await gate.ready()
        yield Real(gate, servers)


def _compare(found: Found, broken: Sequence[Conversation], whole: Sequence[Conversation], kept: Sequence[str]) -> None:
    """Judge answers that were broken by those that were not; `kept` is what each client had at the break."""
    found.count(broken)
    same = 0
    for one, right, had in zip(broken, whole, kept, strict=True):
        if one.verdict()[0] != ANSWERED:
            continue
        same += one.text == right.text
        sound = one.text.startswith(had) and right.text.startswith(had)
        rest = one.text[len(had) :]
        again = bool(had) and len(rest) > 20 and (rest.startswith(had[:20]) or rest.startswith(had[-20:]))
        if not sound or one.counted != right.counted or (again and one.text != right.text):
            found.wrong += 1
            found.answered -= 1
            found.reasons.append(
                f"{one.asked.shape}: {one.counted} of {right.counted} tokens: ...{had[-30:]!r} + {rest[:30]!r}"
            )
    found.figures["same_as_unbroken"] = same


async def _break(count: int, how: signal.Signals, gap: float) -> Found:
    """Send `how` to the victim's process while it writes."""
    if find_llama_server() is None:
        return Found(skipped=HOW)
    found = Found()
    async with real() as here:
        asked = here.asks(count)
        whole = [await finish(one) for one in await here.open(asked)]
        for one in whole:
            found.must(one.verdict()[0] == ANSWERED, f"unbroken run: {one.verdict()}")
        running = await here.open(asked)
        await asyncio.gather(*(one.said(BREAK_AT) for one in running if one.asked.shape.stream))
        found.must(await here.busy([0]), "the victim has nothing to do")
        os.kill(here.servers[0].pid, how)
        kept = [one.text for one in running]
        _compare(found, [await finish(one) for one in running], whole, kept)
        found.resumed = await here.gate.all_resumed()
        found.must(found.resumed, "nothing was resumed")
        longest = max(one.gap for one in running)
        found.figures["longest_pause_s"] = longest
        found.headline = f"longest pause {longest:.2f} s; {found.figures['same_as_unbroken']:.0f} of {count} as unbroken"
        found.must(longest <= gap, f"a stream stood still for {longest:.1f} s")
        found.nothing_lost()
    return found


async def dies(count: int, short: bool) -> Found:
    """The victim is killed."""
    return await _break(count, signal.SIGKILL, 3.0)


async def stalls(count: int, short: bool) -> Found:
    """The victim stands still."""
    return await _break(count, signal.SIGSTOP, 14.0)


async def killed(count: int, short: bool) -> Found:
    """The gateway is killed. All is streamed: else llama.cpp looks for its client only once a second."""
    if find_llama_server() is None:
        return Found(skipped=HOW)
    found = Found(requests=count)
    async with real() as here:
        running = await here.open(here.asks(count, SHAPES[:3]))
        await asyncio.gather(*(one.said(BREAK_AT) for one in running if one.asked.shape.stream))
        moment = asyncio.get_running_loop().time()
        here.gate.signal(signal.SIGKILL)

        async def free() -> bool:
            return await here.busy() == 0

        freed = await eventually(free, 5, every=0.0)
        for one in running:
            await finish(one, grace=0.0)
        found.errors = sum(one.verdict()[0] == LOST and one.ended - moment <= AT_ONCE for one in running)
        found.answered = sum(one.verdict()[0] == ANSWERED for one in running)
        found.lost = count - found.errors - found.answered
        begun = time.perf_counter()
        here.gate.start()

        async def serves() -> bool:
            ask = replace(here.asks(1)[0], limit=1)
            return (await finish((await here.open([ask]))[0])).verdict()[0] == ANSWERED

        again = await eventually(serves, 10, every=0.005)
        seconds = time.perf_counter() - begun
        found.figures = {"freed_s": freed if freed is not None else 5.0, "restart_s": seconds}
        found.headline = f"slots free after {1e3 * found.figures['freed_s']:.0f} ms, serves again after {seconds:.2f} s"
        found.must(freed is not None and freed <= hurried(AT_ONCE, short), "slots were not free within 200 ms")
        found.must(
            again is not None and seconds <= hurried(RESTART, short), f"the restarted gateway served only after {seconds:.2f} s"
        )
        found.must(not found.lost, f"{found.lost} lost")
    return found
