"""The rows that are measured under load. Each gives the results of every front door; doors take turns within a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from harness.doors import (
    DIRECT,
    DOORS,
    LITELLM,
    NGINX,
    SOLLOL,
    SOLLOL_ASYNCIO,
    SOLLOL_COMPILED,
    VLLM_ROUTER,
    Door,
    Running,
    Unavailable,
    opened,
)
from harness.machine import Cores, core_seconds, cpu_seconds, has_uvloop, memory_mb
from harness.native import Node, Shape, load, stub_nodes

Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds, the doors that take part, and the factor on every duration."""

    cores: Cores
    rounds: int = 3
    doors: Sequence[Door] = DOORS
    brief: bool = False

    def seconds(self, full: float, brief: float) -> float:
        return brief if self.brief else full


@dataclass
class Row:
    """What one row found. ``rounds[door]`` are the generator's results, ``absent[door]`` why there are none."""

    name: str
    title: str
    rounds: dict[str, list[Result]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, object]] = field(default_factory=dict)


def _weigh(cores: Cores, door: Running, nodes: Sequence[Node]) -> Callable[[], dict[str, float]]:
    def look() -> dict[str, float]:
        return {
            "door": cpu_seconds(door.pid) if door.pid else 0.0,
            "stub": sum(cpu_seconds(node.pid) for node in nodes),
            "door_core": core_seconds(cores.door),
        }

    return look


def _once(plan: Plan, door: Running, nodes: Sequence[Node], chunks: int, options: Result) -> Result:
    weigh = _weigh(plan.cores, door, nodes)
    memory: list[dict[str, float]] = []

    def look() -> dict[str, float]:
        if door.pid:
            memory.append(memory_mb(door.pid))
        return weigh()

    result = load(door.urls, plan.cores.load, chunks, look=look, **options)
    used, seconds = result["used"], max(result["seconds"], 1e-6)
    result["memory_mb"] = memory[-1] if memory else None
    result["door_cpu"] = round(used["door"] / seconds, 4)
    result["door_cpu_us_per_request"] = round(used["door"] / result["done"] * 1e6, 1) if result["done"] else None
    result["others_on_door_core"] = round(max(0.0, used["door_core"] - used["door"]) / seconds, 3) if door.pid else 0.0
    stub = used["stub"] / seconds
    busiest = result["cpu"] + stub if plan.cores.shared else max(result["cpu"], stub / len(nodes))
    result["generator_and_stub_core"] = round(busiest, 3)
    result["limited_by_generator_or_stub"] = (
        busiest > 0.9 and result["connections"] > 1
    )  # one client has at most one thing to do
    return result


def measure(
    plan: Plan, row: Row, doors: Sequence[Door], *, shape: Shape, options: Result, count: int = 1, slots: int | None = 1024
) -> Row:
    """Start every door in front of the same `count` stub nodes, then let them take turns for `plan.rounds` rounds."""
    with ExitStack() as stack:
        nodes = stack.enter_context(stub_nodes(count, shape, plan.cores.stub))
        running: list[Running] = []
        for door in doors:
            if door not in plan.doors:
                continue
            try:
                running.append(stack.enter_context(opened(door, nodes, plan.cores.door, slots)))
            except Unavailable as error:
                row.absent[door.name] = str(error)
        for one in running:
            if one.pid and one.name.startswith("sollol"):
                row.facts[one.name] = {"uvloop": has_uvloop(one.pid)}
        for _ in range(plan.rounds):
            for one in running:
                row.rounds.setdefault(one.name, []).append(_once(plan, one, nodes, shape.chunks, options))
    return row


def latency(plan: Plan) -> Row:
    row = Row("latency", "One client, small non-streaming /v1/chat/completions: what the door adds")
    return measure(plan, row, DOORS, shape=Shape(), options={"duration": plan.seconds(4, 1.5), "warmup": 1})


def throughput(plan: Plan) -> Row:
    row = Row("throughput", "64 clients, small non-streaming /v1/chat/completions")
    return measure(plan, row, DOORS, shape=Shape(), options={"connections": 64, "duration": plan.seconds(5, 2), "warmup": 1})


def native(plan: Plan) -> Row:
    row = Row("native", "64 clients, small non-streaming /api/chat")
    options = {"path": "/api/chat", "connections": 64, "duration": plan.seconds(5, 2), "warmup": 1}
    return measure(plan, row, (DIRECT, NGINX, SOLLOL, SOLLOL_COMPILED, SOLLOL_ASYNCIO), shape=Shape(), options=options)


def streams(plan: Plan) -> Row:
    shape = Shape(delay=5, first=5, interval=100, chunks=26 if plan.brief else 51)
    row = Row(
        "streams", f"1,000 concurrent streams of {shape.chunks} chunks, {shape.interval:.0f} ms apart, first byte after 5 ms"
    )
    length = shape.stream_seconds
    options = {
        "stream": True,
        "connections": 1000,
        "ramp": length,
        "warmup": 0.5,
        "duration": 1.5 * length,
        "limit": 2 * length + 5,
    }
    return measure(
        plan, row, (DIRECT, NGINX, SOLLOL, SOLLOL_COMPILED, SOLLOL_ASYNCIO, VLLM_ROUTER, LITELLM), shape=shape, options=options
    )


def native_streams(plan: Plan) -> Row:
    shape = Shape(delay=5, first=5, interval=100, chunks=26 if plan.brief else 51)
    row = Row("native-streams", f"1,000 concurrent /api/chat streams of {shape.chunks} chunks, {shape.interval:.0f} ms apart")
    length = shape.stream_seconds
    options = {
        "stream": True,
        "connections": 1000,
        "ramp": length,
        "warmup": 0.5,
        "duration": 1.5 * length,
        "limit": 2 * length + 5,
    }
    return measure(plan, row, (DIRECT, NGINX, SOLLOL, SOLLOL_COMPILED), shape=shape, options=options | {"path": "/api/chat"})


def unknown_slots(plan: Plan) -> Row:
    row = Row("unknown-slots", "Three 100 ms nodes, 32 clients, /api/chat, slots not configured")
    shape = Shape(delay=100, first=100)
    options = {"path": "/api/chat", "connections": 32, "duration": plan.seconds(10, 5), "warmup": 3}
    return measure(plan, row, (DIRECT, NGINX, SOLLOL, SOLLOL_COMPILED), shape=shape, options=options, count=3, slots=None)


LOAD_ROWS: dict[str, Callable[[Plan], Row]] = {
    "latency": latency,
    "throughput": throughput,
    "native": native,
    "streams": streams,
    "native-streams": native_streams,
    "unknown-slots": unknown_slots,
}
