"""Requests for several kinds of models in one line: whom a pump looks at, who stays when others leave, what each is told."""

from __future__ import annotations

import pytest
from tests.support.core_cluster import Cluster, a_survey, a_task, counters

from sollol.core.batch import Board, Fault
from sollol.core.events import NodeChanged, NodeSlow
from sollol.core.lanes import Lane, Offer
from sollol.core.rounds import GROUPS_LOOKED_AT
from sollol.core.scheduler import Limits
from sollol.core.types import NodeKind, Task
from sollol.errors import NoNodes


def learned(*names: str, models: tuple[str, ...] = ("m",), slots: int = 1, **fields) -> Cluster:
    """Nodes with the models loaded, of which everything is learned: 40 tokens a second."""
    cluster = Cluster(Limits(waiting=1_000, no_node_seconds=10.0))
    for name in names:
        cluster.add(name, a_survey(models, models, **fields), slots=slots)
        for model in models:
            cluster.rates(name, model, a=0.0)
    return cluster


# --- groups


def test_one_sort_of_request_leaves_the_line_and_the_others_for_the_model_stay_in_it():
    cluster = learned("a")
    running = cluster.arrive()
    tools, plain = cluster.arrive(), cluster.arrive(num_ctx=8192)
    cluster.queue.leave(tools, 0.0)
    assert [task.id for task in cluster.queue.first(9)] == [plain.id]
    cluster.end(running)
    assert cluster.where(plain) == "a"
    assert cluster.queue.waiting == 0


def drained(cluster: Cluster, draining: bool) -> None:
    node = cluster.state.known["a"].node
    cluster.state.apply(NodeChanged(cluster.now, type(node)(node.id, node.endpoint, slots=node.slots, draining=draining)))


def crowded(groups: int) -> tuple[Cluster, list[Task]]:
    """A node that has just been taken back, with a slot for each of many groups of one request; the last is the most urgent."""
    cluster = Cluster(Limits(waiting=1_000, priority_step_seconds=1e6))
    cluster.add("a", a_survey(["m"], ["m"], kind=NodeKind.LLAMACPP), slots=groups)
    cluster.queue._rounds.small_line = 0
    drained(cluster, True)
    tasks = [cluster.arrive(num_ctx=1000 + number, priority=1 + 8 * (number == groups - 1)) for number in range(groups)]
    drained(cluster, False)
    return cluster, tasks


def test_of_many_groups_that_an_event_touches_the_first_in_order_are_looked_at_and_the_rest_soon():
    cluster, tasks = crowded(2 * GROUPS_LOOKED_AT + 1)
    cluster.now = 5.0
    first = [decision.task for decision in cluster.pump()]
    assert len(first) == GROUPS_LOOKED_AT
    assert first[0] is tasks[-1]
    wake = cluster.queue.next_wake(5.0)
    assert wake is not None
    assert wake - 5.0 < 0.1
    cluster.now = wake
    assert len(cluster.pump()) == GROUPS_LOOKED_AT
    cluster.now += 0.1
    assert len(cluster.pump()) == 1
    assert cluster.queue.waiting == 0


def test_as_many_groups_as_one_pump_looks_at_go_at_once():
    cluster, _ = crowded(GROUPS_LOOKED_AT)
    assert len(cluster.pump()) == GROUPS_LOOKED_AT
    assert cluster.queue.next_wake(0.0) is None


# --- what is said


def test_what_a_request_was_told_when_it_came_is_what_its_reply_says():
    cluster = learned("a")
    first, second, third = (cluster.arrive() for _ in range(3))
    then = cluster.queue.queued(third, 0.0)
    assert then.position == 2
    cluster.queue.leave(second, 0.0)
    assert cluster.queue.queued(third, 0.0).position == 1, "it moved up"
    cluster.end(first)
    assert (cluster.sent[-1].task, cluster.sent[-1].position, cluster.sent[-1].why) == (third, 2, then.why)


def test_other_models_that_take_the_same_slots_are_waited_for():
    cluster = learned("a", models=("m", "x"), kind=NodeKind.LLAMACPP)
    cluster.arrive(chars=0, max_tokens=200)  # 5 s
    cluster.arrive("x", chars=0, max_tokens=200)
    last = cluster.arrive(chars=0, max_tokens=200)
    alone = learned("a", models=("m", "x"), kind=NodeKind.OLLAMA)
    for model in ("m", "x", "m"):
        own = alone.arrive(model, chars=0, max_tokens=200)
    assert cluster.queue.queued(last, 0.0).start == pytest.approx(5.0 + 5.0 / 0.6)
    assert alone.queue.queued(own, 0.0).start == pytest.approx(5.0), "here each model has slots of its own"
    only = learned("a", models=("m", "x"), kind=NodeKind.LLAMACPP)
    for _ in range(3):
        last = only.arrive(chars=0, max_tokens=200)
    assert only.queue.queued(last, 0.0).start == pytest.approx(5.0 + 5.0 / 0.6), "nobody of another model waits"


@pytest.mark.parametrize(
    ("loaded", "why"), [(("m",), "others are before it in line for a"), ((), "a loads the model when others are done")]
)
def test_a_free_slot_that_somebody_else_will_have_is_no_slot(loaded, why):
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], loaded), slots=1)
    first, second = a_task(1), a_task(2)
    for task in (first, second):
        assert cluster.queue.arrive(task, 0.0) == []
    assert cluster.queue.queued(second, 0.0).why == why


def test_without_a_deadline_nothing_is_too_late():
    cluster = learned("a")
    cluster.arrive(max_tokens=10**6)
    assert cluster.queue.too_late(a_task(9, max_tokens=10**6), 0.0) is None


# --- nobody there


def test_the_time_without_a_node_counts_anew_each_time():
    cluster = learned("a")
    task = cluster.arrive(pin="a")
    waits, pinned = cluster.arrive(), cluster.arrive(pin="a")
    assert cluster.where(task) == "a"

    def over(now: float) -> list[Task]:
        return [found for found, error in cluster.queue.expired(now) if isinstance(error, NoNodes)]

    drained(cluster, True)
    assert over(1.0) == over(10.9) == []
    drained(cluster, False)
    assert over(12.0) == [], "somebody is there: it only has to wait"
    cluster.now = 13.0
    assert cluster.pump() == over(13.0) == [], "and nothing happened since"
    drained(cluster, True)
    assert over(20.0) == over(29.9) == []
    assert over(30.0) == [waits, pinned]
    assert cluster.queue.waiting == 0


# --- what answers say about a node that was found slow


@pytest.mark.parametrize(("output", "slow"), [(80, 1.0), (7, 6.0)])
def test_an_answer_at_the_usual_speed_takes_the_verdict_back_if_it_is_long_enough(output, slow):
    cluster = learned("a")
    cluster.state.apply(NodeSlow(0.0, "a", 6.0))
    task = cluster.arrive()
    cluster.end(task, counters=counters(output / 40.0 / 0.9, output=output))
    assert cluster.state.known["a"].slow.factor(0.0) == pytest.approx(slow)


# --- batches


def test_what_came_back_is_tried_by_an_idle_node_however_slow_it_is():
    board = Board()
    board.survey({"fast": Offer(speed=100.0), "slow": Offer(speed=0.001)})
    board.offer([0])
    board.end()
    (begun,) = board.begin(0.0)
    assert begun.node == "fast"
    assert board.failed(begun, 0.1, Fault.LOST, RuntimeError("broke")) == {}
    (again,) = board.begin(0.1)
    assert (again.node, again.items) == ("slow", [0])


def test_a_node_that_never_answered_is_behind_whatever_it_does():
    lane = Lane("a")
    lane.flights.append(lane.flight([0, 1], None, 0.0))
    assert lane.behind(0.0)
    assert lane.believed(9.0) is None
    known = Lane("b", 2.0)
    known.flights.append(known.flight([0, 1], None, 0.0))
    assert [known.behind(at) for at in (0.0, 1.5, 1.6)] == [False, False, True]
