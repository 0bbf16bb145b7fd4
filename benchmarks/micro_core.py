"""Microseconds of the decision alone: `python benchmarks/micro_core.py`. No sockets, no loop; the median of many requests.

`decide` is arrive + pump, `apply` is AttemptStarted + FirstToken + AttemptEnded, `free` is the pump after an end.
"""

from __future__ import annotations

import statistics
import sys
import time

from sollol.core.events import AttemptEnded, AttemptStarted, FirstToken, NodeAdded, NodeSurveyed, TaskArrived
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

MODEL = "llama3:latest"
SIZE = 5_000_000_000


def cluster(nodes: int, slots: int | None, unlike: bool) -> ClusterState:
    state = ClusterState()
    models = tuple(Model(name, name, size=SIZE) for name in (MODEL, "other:latest"))
    loaded = (Resident(MODEL, size=SIZE, size_vram=SIZE, expires_in=1e6),)
    survey = Survey(NodeKind.OLLAMA, "0.1", 0.001, models, loaded)
    for number in range(nodes):
        node = Node(f"node-{number}", Endpoint("127.0.0.1", 20_000 + number), slots=slots)
        state.apply(NodeAdded(0.0, node))
        state.apply(NodeSurveyed(0.0, node.id, survey))
        if unlike:
            rates = state.known[node.id].rates_of(MODEL)
            rates.learn_prefill(1000.0 + 10 * number, 0.0)
            rates.learn_decode(40.0 + number, 0.0)
    return state


def task(number: int, now: float, turns: int) -> Task:
    ends = tuple((400 * turn, hash((number, turn))) for turn in range(1, turns + 1))
    prompt = Prompt(400 * max(turns, 1), 0, ends)
    client = f"client-{number % 16}"
    return Task(number, Kind.CHAT, Dialect.OLLAMA, "/api/chat", MODEL, b"", now, prompt=prompt, client=client)


class Driver:
    """Sends requests one after the other, times each part, and keeps `busy` of them running."""

    def __init__(self, nodes: int, waiting: int, turns: int, slots: int | None = 4) -> None:
        self.state = cluster(nodes, slots, unlike=True)
        self.scheduler = Scheduler(self.state, Limits(waiting=100_000))
        self.now = 1.0
        self.turns = turns
        self.number = 0
        self.running: list[tuple[Decision, float]] = []
        self.decide: list[float] = []
        self.apply: list[float] = []
        self.free: list[float] = []
        if waiting:
            while self.scheduler.waiting < waiting:
                self.arrive()

    def arrive(self) -> None:
        self.number += 1
        self.now += 0.01
        made = task(self.number, self.now, self.turns)
        self.state.apply(TaskArrived(self.now, made))
        start = time.perf_counter()
        self.scheduler.arrive(made, self.now)
        decisions = self.scheduler.pump(self.now)
        self.decide.append(time.perf_counter() - start)
        self.start(decisions)

    def start(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            start = time.perf_counter()
            self.state.apply(AttemptStarted(self.now, decision, Progress()))
            self.running.append((decision, time.perf_counter() - start))

    def end(self) -> None:
        decision, begun = self.running.pop(0)
        self.now += 0.01
        counters = Counters(110, 100, None, 2.6, 0.01, 0.1, 2.48, "stop")
        start = time.perf_counter()
        self.state.apply(FirstToken(self.now, decision.task, decision.node))
        self.state.apply(AttemptEnded(self.now, decision.task, decision.node, "ok", counters=counters, native=True, sent=True))
        self.apply.append(begun + time.perf_counter() - start)
        start = time.perf_counter()
        decisions = self.scheduler.pump(self.now)
        self.free.append(time.perf_counter() - start)
        self.start(decisions)


def measure(nodes: int, waiting: int, turns: int) -> str:
    driver = Driver(nodes, waiting, turns)
    driver.decide.clear()
    driver.apply.clear()
    rounds = 2_000 if nodes < 50 else 500
    for _ in range(rounds):
        driver.arrive()
        if waiting or len(driver.running) >= nodes:
            driver.end()
    cells = [f"{nodes:>5} {waiting:>7} {turns:>5}"]
    for name in ("decide", "free", "apply"):
        times = sorted(getattr(driver, name)) or [0.0]
        cells.append(f"{name} {statistics.median(times) * 1e6:6.1f} p95 {times[int(0.95 * len(times))] * 1e6:6.1f}")
    return "   ".join(cells)


def main() -> None:
    print(f"Python {sys.version.split()[0]}; microseconds; nodes, waiting, turns of the conversation")
    for nodes in (10, 100):
        for waiting in (0, 10_000):
            for turns in (0, 8):
                print(measure(nodes, waiting, turns))


if __name__ == "__main__":
    main()
