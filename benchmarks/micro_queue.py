"""What a long line costs: `python benchmarks/micro_queue.py`. 100 nodes, 10,000 waiting requests for 50 models, all at once.

An event is an arrival, a first token, an end or a tick of the clock, each with the looks at the queue that it causes and with
what the engine tells the state of the decisions made. `memory` is that of 10,000 requests that wait in the engine, each with
its task, its future and its place in line, bodies and sockets left out. `--write` keeps the figures in `benchmarks/results/`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

from sollol.core.events import AttemptEnded, AttemptStarted, FirstToken, NodeAdded, NodeSurveyed, TaskArrived, TaskEnded
from sollol.core.ports import Exchange, Outgoing, Receiver
from sollol.core.scheduler import Limits, Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import (
    Counters,
    Decision,
    Dialect,
    Endpoint,
    Kind,
    Model,
    Node,
    NodeKind,
    Progress,
    Prompt,
    Resident,
    Survey,
    Task,
)
from sollol.drivers.clock import SystemClock
from sollol.engine.admission import Admission
from sollol.engine.engine import Engine

SIZE = 5_000_000_000
FITTING = 3
STEP = 0.002
SAID = Counters(110, 100, None, 2.6, 0.01, 0.1, 2.48, "stop")
PRIORITIES = (1, 3, 5, 5, 5, 7, 10)


def cluster(nodes: int, models: int, each: int) -> ClusterState:
    """Nodes with ``each`` of the models, of which three fit into memory at a time; the rates of all are learned."""
    state = ClusterState()
    for number in range(nodes):
        names = [f"model-{(number * 7 + step) % models}:latest" for step in range(each)]
        loaded = tuple(Resident(name, size=SIZE, size_vram=SIZE, expires_in=1e6) for name in names[:FITTING])
        node = Node(f"node-{number}", Endpoint("127.0.0.1", 20_000 + number), slots=4, memory=SIZE * FITTING)
        survey = Survey(NodeKind.OLLAMA, "0.1", 0.001, tuple(Model(name, name, size=SIZE) for name in names), loaded)
        state.apply(NodeAdded(0.0, node))
        state.apply(NodeSurveyed(0.0, node.id, survey))
        for name in names:
            rates = state.known[node.id].rates_of(name)
            rates.learn_prefill(1000.0 + 10 * number, 0.0)
            rates.learn_decode(40.0 + number, 0.0)
    return state


def task(number: int, now: float, models: int, chance: random.Random, turns: int = 4) -> Task:
    ends = tuple((400 * turn, hash((number, turn))) for turn in range(1, turns + 1))
    return Task(
        number,
        Kind.CHAT,
        Dialect.OLLAMA,
        "/api/chat",
        f"model-{chance.randrange(models)}:latest",
        b"",
        now,
        priority=chance.choice(PRIORITIES),
        client=f"client-{number % 40}",
        prompt=Prompt(400 * turns, 0, ends),
    )


class Crowd:
    """A cluster with a line of ``waiting`` requests; `times` are the processor seconds of each event since it was full."""

    def __init__(self, waiting: int, each: int, nodes: int = 100, models: int = 50) -> None:
        self.state = cluster(nodes, models, each)
        self.queue = Scheduler(self.state, Limits(waiting=1_000_000, body_bytes=1 << 60))
        self.chance = random.Random(1)
        self.models = models
        self.now = 1.0
        self.number = 0
        self.running: list[Decision] = []
        self.times: list[float] = []
        while self.queue.waiting < waiting:
            self.arrive()
        self.times.clear()

    def pump(self) -> None:
        while decisions := self.queue.pump(self.now):
            for decision in decisions:
                self.state.apply(AttemptStarted(self.now, decision, Progress()))
                self.running.append(decision)

    def arrive(self) -> None:
        self.number += 1
        self.now += STEP
        made = task(self.number, self.now, self.models, self.chance)
        start = time.thread_time()
        self.state.apply(TaskArrived(self.now, made))
        self.queue.arrive(made, self.now)
        self.pump()
        self.queue.overflow()
        self.queue.queued(made, self.now)
        self.times.append(time.thread_time() - start)

    def end(self) -> None:
        self.now += STEP
        decision = self.running.pop(self.chance.randrange(len(self.running) // 4 + 1))
        made, node = decision.task, decision.node
        start = time.thread_time()
        self.state.apply(FirstToken(self.now, made, node))
        self.pump()
        first = time.thread_time()
        self.state.apply(AttemptEnded(self.now, made, node, "ok", counters=SAID, native=True, sent=True))
        self.pump()
        self.state.apply(TaskEnded(self.now, made, 200, "ok", (node,), 0.0, 1.0, None))
        self.times += (first - start, time.thread_time() - first)

    def tick(self) -> None:
        start = time.thread_time()
        self.state.behind(self.now)
        self.pump()
        self.queue.expired(self.now)
        self.times.append(time.thread_time() - start)

    def run(self, rounds: int) -> tuple[float, float, float]:
        """Seconds of processor an event took: in the mean, of the slowest in a hundred the quickest, of the slowest."""
        for number in range(rounds):
            self.arrive()
            self.end()
            if number % 100 == 0:
                self.tick()
        times = sorted(self.times)
        return sum(times) / len(times), times[int(0.99 * len(times))], times[-1]


class Nowhere:
    """A transport that is never used: nothing is sent here."""

    def send(self, node: Node, request: Outgoing, receiver: Receiver) -> Exchange:
        raise AssertionError("nothing is sent here")

    def forget(self, endpoint: Endpoint) -> None:
        raise AssertionError("nothing is sent here")

    async def close(self) -> None:
        return None


async def memory(waiting: int) -> int:
    """Bytes that so many requests take while they wait in the engine."""
    state = cluster(10, 50, 50)
    clock = SystemClock()
    for node in state.known.values():
        node.health.draining = True  # all have to wait
    engine = Engine(state, Scheduler(state, Limits(waiting=waiting)), Nowhere(), clock)
    admission = Admission(engine)
    chance = random.Random(1)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.ensure_future(admission.place(task(number, clock.now(), 50, chance))) for number in range(waiting)]
    while admission.waiting < waiting:  # noqa: ASYNC110 - turns of the loop are what is waited for
        await asyncio.sleep(0)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for one in tasks:
        one.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    admission.close()
    return taken


def main() -> None:
    document: dict[str, object] = {"python": sys.version.split()[0], "waiting": 10_000, "nodes": 100, "models": 50}
    print(f"Python {sys.version.split()[0]}; 100 nodes, 10,000 waiting, 50 models; microseconds of processor an event")
    for each in (3, 10, 50):
        mean, slow, slowest = (round(1e6 * seconds) for seconds in Crowd(10_000, each).run(3_000))
        document[f"models_each_{each}"] = {"mean_us": mean, "p99_us": slow, "slowest_us": slowest}
        print(f"each node has {each:>2} of the models: mean {mean:6}   p99 {slow:6}   slowest {slowest:6}", flush=True)
    megabytes = document["memory_mb"] = round(asyncio.run(memory(10_000)) / 1e6, 1)
    print(f"memory of 10,000 that wait: {megabytes} MB")
    if "--write" in sys.argv[1:]:
        today = document["made"] = f"{datetime.now(UTC):%Y-%m-%d}"
        document["load_average"] = round(os.getloadavg()[0], 1)
        (Path(__file__).parent / "results" / f"queue-{today}.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
