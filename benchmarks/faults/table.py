"""The rows: what fails, what is promised, and what plays it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import msgspec
from benchmarks.faults import cluster, ending, leaving, load, middle, real
from benchmarks.faults.before import Scenario, moved
from benchmarks.faults.black_hole import black_hole
from benchmarks.faults.client import SHAPES
from benchmarks.faults.nodes import BIG, LONG, ROOT, TALE, equal
from benchmarks.faults.stage import Found, Setup, stage

Play = Callable[[int, bool], Awaitable[Found]]
SIZES = (1, 200)
SHORT_SIZES = (24,)
BOTH = (1, 24)
ONE = SHAPES[:1]


@dataclass(frozen=True)
class Row:
    """One row. ``bar`` is the promise in words. ``play`` takes the number of requests in flight and whether to be short.

    ``sizes`` are those numbers, in the long and the short form; 0 where the row says itself how many there are.
    """

    name: str
    what: str
    bar: str
    play: Play
    sizes: tuple[int, ...] = SIZES
    short_sizes: tuple[int, ...] = SHORT_SIZES


def on(scenario: Scenario, setup: Setup | Callable[[int], Setup] | None = None) -> Play:
    """A scenario on nodes and a gateway of its own."""

    async def play(count: int, short: bool) -> Found:
        chosen = setup(count) if callable(setup) else setup or Setup()
        async with stage(chosen, count, short=short) as here:
            found = await scenario(here, count)
            found.resumed = await here.gate.all_resumed()
            return found

    return play


def _leaving(count: int) -> Setup:
    """Room for just so many."""
    return Setup(equal(2, slots=(count + 1) // 2, load_gbps=1.0, models=(TALE, BIG, LONG)), pace=1.0)


async def _ten_minute_load(count: int, short: bool) -> Found:
    """In a process of its own, since it has a time of its own."""
    command = [sys.executable, "-m", "benchmarks.faults.virtual", str(count)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-2000:])
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Found)


_LONE = Setup(lone=True)
_TIGHT = Setup(equal(2, slots=2, models=(TALE, LONG)), settings={"queue": {"limit": load.QUEUE}}, pace=1.0)
_EIGHT = Setup(equal(2, slots=4, models=(replace(TALE, decode=60.0),)), pace=1.0)
_CROWDED = Setup(equal(4, slots=40))

_MOVED = "all answered, p95 at most 1 s more"
_SHUNNED = f"{_MOVED}; then < 2 % tried there"
_RESUMED = "all answered, no pause over 2 s"
_REAL = "all answered, the count right, nothing repeated"
_REAL_SIZES = ((1, 8), (6,))


def _refusing(name: str, what: str, short_sizes: tuple[int, ...] = SHORT_SIZES, **faults: object) -> Row:
    return Row(name, what, _SHUNNED, on(moved(slower=1, share=True, **faults)), short_sizes=short_sizes)


def _cut(name: str, what: str, short_sizes: tuple[int, ...] = SHORT_SIZES, **faults: object) -> Row:
    return Row(name, what, _RESUMED, on(middle.cut(gap=2, **faults)), short_sizes=short_sizes)


_ROWS = (
    _refusing("refused", "nothing listens at the node", BOTH, refuse=True),
    _refusing("reset", "the node resets every connection", reset=True),
    Row("black-hole", "the machine is gone, packets to it are dropped", "all answered, p95 at most 10 s more", black_hole),
    Row(
        "silent",
        "the node takes requests and says nothing",
        "all answered within 30 s",
        on(moved(slower=30, shapes=ONE, hang=True)),
    ),
    _refusing("instant-500", "the node answers 500 at once", status=500),
    _refusing("instant-503", "the node answers 503 at once", status=503),
    Row("dies-before", "the connection ends before the first byte", _MOVED, on(moved(slower=1, die_after=0))),
    Row("dies-in-answer", "the node's process is killed in the middle", _RESUMED, on(middle.dies, _LONE)),
    _cut("broken-connection", "the connection ends in the middle", BOTH, die_after=5),
    _cut("error-line", "an error line in the middle", error_after=5),
    _cut("no-end", "the stream ends early, without `done` or `[DONE]`", end_after=5),
    _cut("no-last-line", "the whole text comes, but neither `done` nor `[DONE]`", end_after=1000),
    Row(
        "bad-json",
        "replies that are no JSON",
        "all answered, p95 at most 2 s more",
        on(moved(slower=2, bad_json=True)),
    ),
    Row(
        "stalls",
        "nothing more comes in the middle",
        "all answered, no pause over 12 s",
        on(middle.cut(gap=12, shapes=ONE, stall_after=5)),
    ),
    Row("ten-times-slower", "the node becomes ten times slower", "none is cut off, later ones avoid it", on(middle.slow)),
    Row("ten-minute-load", "a model takes ten minutes to load", "all answered, nobody else waits", _ten_minute_load),
    Row(
        "flapping",
        "the node comes and goes each second",
        "all answered; used again within 2 s",
        on(middle.flapping),
    ),
    Row("model-vanished", "the model is deleted at the node", _MOVED, on(cluster.vanished)),
    Row(
        "node-replaced",
        "another server with another model at the address",
        "all answered; the new model is known in 10 s",
        on(cluster.replaced, _LONE),
    ),
    Row("all-down", "all nodes are down, then one is back", "all answered, the first word in 2.5 s", on(cluster.all_down)),
    Row(
        "client-leaves",
        "the client leaves: loading, streaming, waiting",
        "slots and places free in 200 ms",
        on(leaving.leaves, _leaving),
    ),
    Row(
        "slow-reader",
        "clients read a long answer slowly",
        "at most 0.25 MB each; others as before",
        on(leaving.slow_reader),
    ),
    Row(
        "idle-connections",
        "5,000 connections are opened and say nothing",
        "20 kB each; others as before",
        on(leaving.idle_connections),
    ),
    Row("queue-full", "the queue is full", "refused at once, critical ones are not", on(load.queue_full, _TIGHT)),
    Row(
        "overload",
        "ten times too many for 30 s",
        "critical p95 at most 2 × unloaded, none refused",
        on(load.overload, _EIGHT),
        (0,),
        (0,),
    ),
    Row("sigterm", "SIGTERM in the middle", "what runs is finished; ends by itself", on(ending.terminated, _CROWDED)),
    Row(
        "sigkill",
        "SIGKILL of the gateway",
        "reset and slots free in 200 ms; serves in 1.5 s",
        on(ending.killed),
        short_sizes=BOTH,
    ),
    Row("real-dies", "llama.cpp is killed in the middle", _REAL, real.dies, *_REAL_SIZES),
    Row("real-stalls", "llama.cpp stands still in the middle", _REAL, real.stalls, *_REAL_SIZES),
    Row(
        "real-killed",
        "the gateway is killed, before llama.cpp",
        "slots free in 200 ms; serves in 1.5 s",
        real.killed,
        *_REAL_SIZES,
    ),
)
ROWS = {row.name: row for row in _ROWS}
