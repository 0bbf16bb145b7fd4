from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_cluster import Cluster, a_survey, counters

from sollol.core.events import AttemptEnded
from sollol.core.slots import Slots
from sollol.core.types import Counters, NodeKind, Task


class Served:
    """A node with ``real`` slots behind a queue that is never empty: what one slot cannot take waits inside the node."""

    def __init__(self, real: int, kind: NodeKind = NodeKind.OLLAMA, run: float = 2.0, **fields) -> None:
        self.cluster = Cluster()
        self.cluster.add("n", a_survey(["m"], ["m"], kind=kind), **fields)
        self.native = kind is NodeKind.OLLAMA
        self.run = run
        self.real = real
        self.ends: list[tuple[float, int, float, float, Task]] = []
        self.taken: list[float] = []
        self.windows: list[int] = []

    @property
    def slots(self) -> Slots:
        return self.cluster.state.known["n"].slots

    def serve(self, requests: int) -> None:
        cluster = self.cluster
        for _ in range(requests):
            while cluster.queue.waiting < 3:
                self.begin(cluster.arrive())
            self.finish()

    def begin(self, *_: Task) -> None:
        """Take what was sent since the last look."""
        for decision in self.cluster.sent:
            now = self.cluster.now
            self.windows.append(self.cluster.state.known["n"].in_flight)
            start = now if len(self.taken) < self.real else max(now, sorted(self.taken)[-self.real])
            number = len(self.windows)
            end = start + self.run * (1.0 + 0.01 * (number * 7 % 13))
            heapq.heappush(self.ends, (end, number, now, start, decision.task))
            self.taken.append(end)
        self.cluster.sent.clear()

    def finish(self) -> None:
        end, _, sent, start, task = heapq.heappop(self.ends)
        self.cluster.now = end
        self.taken.remove(end)
        said = counters(end - start, start - sent) if self.native else Counters(output_tokens=80)
        decision = self.cluster.running.pop(task.id)
        self.cluster.state.apply(AttemptEnded(end, task, decision.node, "ok", counters=said, native=self.native))
        self.cluster.pump()
        self.begin()


@pytest.mark.parametrize("real", [1, 4, 8, 16])
def test_native_replies_tell_the_slots(real):
    served = Served(real)
    assert (served.slots.count, served.slots.window) == (2, 3)
    served.serve(100 + 30 * real)
    assert served.slots.count == real
    assert served.slots.known
    served.windows.clear()
    served.serve(400)
    assert served.slots.count == real
    assert sum(window > real for window in served.windows) <= 0.05 * len(served.windows)


@pytest.mark.parametrize("real", [16, 32])
def test_many_clients_of_a_quick_node_are_not_held_back(real):
    served = Served(real, run=0.1)
    served.serve(400)
    began, sent = served.cluster.now, len(served.windows)
    served.serve(1600)
    rate = (len(served.windows) - sent) / (served.cluster.now - began)
    assert rate >= 0.97 * real / (0.1 * 1.06)


@pytest.mark.parametrize("real", [4, 8])
def test_without_counters_slots_rise_while_throughput_does(real):
    served = Served(real, NodeKind.OPENAI)
    served.serve(1500)
    assert real <= served.slots.count <= real + 1


def test_more_room_is_noticed_later():
    served = Served(1)
    served.serve(40)
    assert served.slots.count == 1
    served.real = 8
    served.serve(6000)
    assert served.slots.count == 8


def test_small_waits_between_the_marks_teach_nothing():
    slots = Slots(NodeKind.OLLAMA)
    slots.waited(2, 0.06, 1.0)
    assert (slots.size, slots.known) == (2, False)


def test_one_wait_below_the_belief_is_chance_two_are_not():
    slots = Slots(NodeKind.OLLAMA)
    slots.waited(1, 3.0, 1.0)
    assert slots.size == 2
    slots.waited(1, 3.0, 1.0)
    assert (slots.size, slots.known) == (1, True)


def test_a_free_run_between_clears_the_doubt():
    slots = Slots(NodeKind.OLLAMA)
    slots.waited(1, 3.0, 1.0)
    slots.waited(1, 0.0, 1.0)
    slots.waited(1, 3.0, 1.0)
    assert slots.size == 2


def test_configured_slots_win():
    served = Served(8, slots=3)
    served.serve(100)
    assert (served.slots.count, served.slots.window) == (3, 3)
    assert max(served.windows) == 3


@pytest.mark.parametrize(("kind", "start"), [(NodeKind.OLLAMA, 2), (NodeKind.VLLM, 64), (NodeKind.LMSTUDIO, 4)])
def test_start(kind, start):
    assert Slots(kind).count == start


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 10), st.floats(0.001, 10), st.booleans()), max_size=200))
def test_always_at_least_one_and_window_at_most_one_more(replies):
    slots, now = Slots(NodeKind.OLLAMA), 0.0
    for k, wait, run, native in replies:
        slots.sent(k)
        if native:
            slots.waited(k, wait, run)
        else:
            now += wait
            slots.flowed(run, k + 1, now)
        assert slots.count >= 1
        assert slots.count <= slots.window <= slots.count + 1
