"""Rows about clients: they leave, read slowly, or open connections and say nothing."""

from __future__ import annotations

import asyncio
import resource
import socket
import time

from benchmarks.faults.client import SHAPES, Ask, Conversation, call, eventually, finish
from benchmarks.faults.firehose import LINES, Firehose, word
from benchmarks.faults.firehose import MODEL as FLOOD
from benchmarks.faults.nodes import BIG, LONG
from benchmarks.faults.stage import VICTIM, Found, Stage, p95

from sollol.emulator.text import Answer

FREE = 0.2
REST = 0.1
"""Seconds between two readings of a slow reader."""
SLOW_SECONDS = 12.0
"""Longer than a stream of a node may stand still: here it is the client that makes it stand still."""
MANY = 24
"""So many slow readers read at that pace; more of them share it."""
READ_TO_THE_END = 4


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
    await _waiting(here, found, count)
    found.headline = ", ".join(f"{name.removesuffix('_s')} {1e3 * value:.0f} ms" for name, value in found.figures.items())
    found.nothing_lost()
    return found


async def _waiting(here: Stage, found: Found, count: int) -> None:
    """With every slot of a node taken, `count` more wait for it and leave; those that run are not disturbed."""
    there = {"X-SOLLOL-Node": VICTIM}
    slots = here.setup.specs[0].slots
    running = await here.open(slots, model=LONG, limit=60, headers=there)
    await _arrived(here, slots)
    waiting = await here.open(count, model=LONG, headers=there)  # another model would have slots of its own

    async def queued(wanted: int) -> bool:
        return bool((await call(here.gate.url, "GET", "/api/queue"))[1]["waiting"] == wanted)

    found.must(await eventually(lambda: queued(count), 5) is not None, "they do not wait in the queue")
    for one in waiting:
        one.leave()
    gone = await eventually(lambda: queued(0), 5)
    found.figures["waiting_s"] = gone if gone is not None else 5.0
    found.must(gone is not None and gone <= FREE, "they are still in the queue after 200 ms")
    found.count([await finish(one) for one in running])


class SlowReader(Conversation):
    """Reads a piece, rests, and so on; after `hurry` as fast as it can."""

    slow = True
    rest = REST

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.slow and self.transport is not None and not self.over.done():
            self.transport.pause_reading()
            self._loop.call_later(self.rest, self._go_on)

    def _go_on(self) -> None:
        if self.transport is not None and not self.over.done() and not self.transport.is_closing():
            self.transport.resume_reading()

    def hurry(self) -> None:
        self.slow = False
        self._go_on()


async def slow_reader(here: Stage, count: int) -> Found:
    """Clients that read a long answer slowly cost little memory and nobody else's time; some of them read to the end."""
    found = Found()
    flood = Firehose()
    try:
        await call(here.gate.url, "POST", "/api/nodes", {"url": flood.url, "name": "flood", "slots": 1000})

        async def known() -> bool:
            return FLOOD in await here.gate.models()

        found.must(await eventually(known, 5) is not None, "the node with the long answer was not taken in")
        healthy = p95(one.seconds for one in await here.burst(20))
        memory = here.gate.megabytes
        expected = Answer(tuple(word(i) for i in range(LINES)))
        headers = {"X-SOLLOL-App": "slow", "X-SOLLOL-Cache": "no"}
        asked = [Ask(SHAPES[0], FLOOD, f"A long one, number {i}", expected, headers=headers) for i in range(count)]
        readers = [await _slow_one(here, one) for one in asked]
        for reader in readers:  # this process judges each line that is read, and is not to be what others wait for
            reader.rest = REST * max(1.0, count / MANY)
        readers[0].rest = SLOW_SECONDS  # which reads nothing at all for a long time
        await asyncio.sleep(1 if here.short else SLOW_SECONDS)
        meanwhile = await here.burst(20)
        grown = here.gate.megabytes - memory
        unfinished = sum(not one.over.done() for one in readers)
        for one in readers[READ_TO_THE_END:]:
            one.leave()
        for one in readers[:READ_TO_THE_END]:
            one.hurry()
        found.count([*meanwhile, *[await finish(one) for one in readers[:READ_TO_THE_END]]])
    finally:
        flood.close()
    after = p95(one.seconds for one in meanwhile)
    found.figures = {"memory_mb": grown, "p95_s": after, "healthy_p95_s": healthy}
    found.headline = f"{grown:.0f} MB more; p95 of others {after:.2f} s, {healthy:.2f} s without"
    found.must(unfinished == count, f"{count - unfinished} readers were not slow enough to matter")
    found.must(grown <= 10 + 0.25 * count, f"{grown:.0f} MB more for {count} slow readers")
    found.must(after <= healthy + 0.5, "others waited for slow readers")
    found.nothing_lost()
    return found


async def _slow_one(here: Stage, asked: Ask) -> SlowReader:
    """With a small window, so that what it does not read stays at the gateway."""
    reader = SlowReader(asked, here.gate.url.removeprefix("http://"))
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", here.gate.port))
    await loop.create_connection(lambda: reader, sock=sock)
    return reader


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
