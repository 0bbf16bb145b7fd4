"""The rows: what fails, what is promised, and the scenario that plays it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.faults import cluster, ending, leaving, load, middle
from benchmarks.faults.before import Scenario, moved
from benchmarks.faults.client import SHAPES
from benchmarks.faults.nodes import LONG, BIG, TALE, equal
from benchmarks.faults.stage import Setup

def _same(*arguments: Any, **fields: Any) -> Callable[[int], Setup]:
    """The same setup for every number of requests."""
    setup = Setup(*arguments, **fields)
    return lambda _: setup


SIZES = (1, 200)
SHORT_SIZES = (1, 24)
ONE = SHAPES[:1]


@dataclass(frozen=True)
class Row:
    """One row. ``bar`` is the promise in words; ``sizes`` how many requests are in flight, in the long and the short form."""

    name: str
    what: str
    bar: str
    play: Scenario
    setup: Callable[[int], Setup] = _same()
    sizes: tuple[int, ...] = SIZES
    short_sizes: tuple[int, ...] = SHORT_SIZES


_MOVED = "all answered, p95 at most 1 s more"
_RESUMED = "all answered, no pause over 2 s"



def _leaving(count: int) -> Setup:
    """Room for just so many."""
    return Setup(equal(2, slots=(count + 1) // 2, load_gbps=1.0, models=(TALE, BIG, LONG)), pace=1.0)


_TIGHT = _same(equal(2, slots=2), settings={"queue": {"limit": load.QUEUE}}, pace=1.0)
_EIGHT = _same(equal(2, slots=4, models=(replace(TALE, decode=60.0),)), pace=1.0)

_ROWS = (
    Row("refused", "nothing listens at the node", _MOVED, moved(slower=1, share=True, refuse=True)),
    Row("reset", "the node resets every connection", _MOVED, moved(slower=1, share=True, reset=True)),
    Row("silent", "the node takes requests and says nothing", "all answered within 30 s", moved(slower=30, shapes=ONE, hang=True)),
    Row("instant-500", "the node answers 500 at once", _MOVED + ", < 2 % tried there", moved(slower=1, share=True, status=500)),
    Row("instant-503", "the node answers 503 at once", _MOVED + ", < 2 % tried there", moved(slower=1, share=True, status=503)),
    Row("dies-before", "the connection ends before the first byte", _MOVED, moved(slower=1, die_after=0)),
    Row("dies-in-answer", "the node dies in the middle", _RESUMED, middle.dies, _same(lone=True)),
    Row("broken-connection", "the connection ends in the middle", _RESUMED, middle.cut(gap=2, die_after=5)),
    Row("error-line", "an error line in the middle", _RESUMED, middle.cut(gap=2, error_after=5)),
    Row("no-end", "the stream ends without `done` or `[DONE]`", _RESUMED, middle.cut(gap=2, end_after=5)),
    Row("no-last-line", "all of the text, but neither `done` nor `[DONE]`", _RESUMED, middle.cut(gap=2, end_after=1000)),
    Row("bad-json", "replies that are no JSON", "all answered, p95 at most 2 s more", moved(slower=2, bad_json=True)),
    Row("stalls", "nothing more comes in the middle", "all answered, no pause over 12 s", middle.cut(gap=12, shapes=ONE, stall_after=5)),
    Row("ten-times-slower", "the node becomes ten times slower", "none cut off, later ones avoid it", middle.slow),
    Row("model-vanished", "the model is deleted at the node", _MOVED, cluster.vanished),
    Row("node-replaced", "another server with another model at the address", "all answered", cluster.replaced, _same(lone=True)),
    Row("all-down", "all nodes are down, then one is back", "all answered, the first within 2.5 s", cluster.all_down),
    Row("client-leaves", "the client leaves: loading, streaming, waiting", "slots and places free in 200 ms", leaving.leaves, _leaving),
    Row("idle-connections", "5,000 connections are opened and say nothing", "others are answered as before", leaving.idle_connections),
    Row("queue-full", "the queue is full", "refused at once with Retry-After", load.queue_full, _TIGHT),
    Row("overload", "ten times too many for 30 s", "critical p95 ≤ 2 × unloaded, none refused", load.overload, _EIGHT, (0,), (0,)),
    Row("sigterm", "SIGTERM in the middle", "what runs is finished", ending.terminated, _same(equal(4, slots=40))),
    Row("sigkill", "SIGKILL of the gateway", "reset and slots free in 200 ms, serves in 1.5 s", ending.killed),
    Row("flapping", "the node comes and goes each second", "all answered, used again in 2 s", middle.flapping),
)
ROWS = {row.name: row for row in _ROWS}
