from __future__ import annotations

import pytest
from tests.support.core_cluster import GB, Cluster, a_model, a_node, a_survey, a_task, counters

from sollol.core.events import AttemptEnded, FirstToken, NodeChanged, NodeRemoved, NodeSurveyed, ProbeFailed
from sollol.core.scheduler import Limits
from sollol.core.types import Mode, Model, NodeKind
from sollol.errors import BadRequest, DeadlineExceeded, NoNodeForModel, NoNodes, Unsupported


def one_slot(limits: Limits | None = None) -> Cluster:
    cluster = Cluster(limits)
    cluster.add("a", a_survey(["m"], ["m"]), slots=1)
    cluster.rates("a")
    return cluster


def order_of_service(cluster: Cluster, tasks: list) -> list[int]:
    """Let everything run, one after the other; the numbers of the tasks in the order they were sent."""
    while cluster.running:
        cluster.now += 1.0
        task = next(iter(cluster.running.values())).task
        cluster.end(task, counters=counters(5.0, output=200))
    assert cluster.queue.waiting == 0
    return [tasks.index(decision.task) for decision in cluster.sent if decision.task in tasks]


def test_first_come_first_served_among_equals():
    cluster = one_slot()
    tasks = [cluster.arrive() for _ in range(6)]
    assert [cluster.queue.position(task) for task in tasks] == [0, 1, 2, 3, 4, 5]
    assert order_of_service(cluster, tasks) == [0, 1, 2, 3, 4, 5]


def test_priority_goes_first_even_for_one_client():
    cluster = one_slot()
    tasks = [cluster.arrive(priority=priority) for priority in (5, 1, 5, 9, 3, 10)]
    assert order_of_service(cluster, tasks) == [0, 5, 3, 2, 4, 1]


def test_priorities_off_the_scale_are_taken_for_its_ends():
    cluster = one_slot()
    tasks = [cluster.arrive(priority=priority) for priority in (5, 0, 99)]
    assert order_of_service(cluster, tasks) == [0, 2, 1]


def test_a_flood_does_not_hold_up_others():
    cluster = one_slot()
    flood = [cluster.arrive(client="flood") for _ in range(50)]
    light = [cluster.arrive(client=f"light-{number}") for number in range(3)]
    everything = flood + light
    order = order_of_service(cluster, everything)
    assert sorted(order.index(50 + number) for number in range(3)) <= [2, 3, 4, 5]
    assert max(order.index(50 + number) for number in range(3)) <= 6


def test_time_used_counts_not_time_foreseen():
    cluster = one_slot()
    for _ in range(3):  # `long` says 5 s and takes 60
        task = cluster.arrive(client="long")
        cluster.end(task, counters=counters(60.0, output=10))
    busy = cluster.arrive(client="third")
    late, early = cluster.arrive(client="long"), cluster.arrive(client="short")
    cluster.end(busy)
    assert cluster.where(early) == "a"
    assert cluster.where(late) is None


def test_full_refuses_the_last_in_order_be_it_a_waiter():
    cluster = one_slot(Limits(waiting=2))
    cluster.arrive()
    first, second = cluster.arrive(), cluster.arrive()
    third = cluster.arrive()
    assert cluster.refused == [third]
    urgent = cluster.arrive(priority=10)
    assert cluster.refused == [third, second]
    assert cluster.queue.position(urgent) == 1
    assert cluster.queue.position(first) == 2


def test_bodies_of_waiters_are_bounded():
    cluster = one_slot(Limits(body_bytes=100))
    cluster.arrive(body=b"x" * 90)
    waiter = cluster.arrive(body=b"x" * 60)
    big = cluster.arrive(body=b"x" * 90, priority=9)
    assert cluster.refused == [waiter]
    cluster.queue.leave(big, 0.0)
    cluster.arrive(body=b"x" * 100)
    assert cluster.refused == [waiter]


def test_moved_requests_are_outside_the_limit_and_keep_their_place():
    cluster = one_slot(Limits(waiting=1))
    cluster.add("b", a_survey(["m"], ["m"]), slots=1)
    cluster.rates("b")
    first, second = cluster.arrive(), cluster.arrive()
    waiter = cluster.arrive()
    failed = cluster.where(first)
    decision = cluster.running.pop(first.id)
    assert decision.attempt == 1
    cluster.running[first.id] = decision
    cluster.end(first, "failed", text="500")
    cluster.queue.again(first, cluster.now, frozenset({failed}))
    cluster.pump()
    assert cluster.refused == []
    assert cluster.where(waiter) == failed
    assert cluster.where(first) is None
    assert cluster.queue.position(first) == 1
    assert {cost.node: cost.blocked for cost in cluster.queue.explain(first, 0.0)}[failed] == "failed there before"
    cluster.end(second)
    assert cluster.where(first) not in {None, failed}
    assert cluster.sent[-1].attempt == 2
    assert (
        "failed there before" in [cost.blocked for cost in cluster.queue.explain(a_task(1), 0.0)] or cluster.queue.waiting == 0
    )


def test_a_moved_request_that_nobody_knows_is_taken_in():
    cluster = one_slot()
    task = a_task(77)
    cluster.queue.again(task, 0.0, frozenset())
    assert [decision.task for decision in cluster.queue.pump(0.0)] == [task]


def test_a_node_that_was_down_and_came_back_is_no_longer_avoided():
    cluster = one_slot()
    task = cluster.arrive()
    cluster.end(task, "failed", unreachable=True)
    cluster.queue.again(task, cluster.now, frozenset({"a"}))
    assert cluster.pump() == []
    cluster.now = 2.0
    cluster.state.apply(NodeSurveyed(2.0, "a", a_survey(["m"], ["m"])))
    cluster.pump()
    assert cluster.where(task) == "a"


def test_who_leaves_is_never_sent():
    cluster = one_slot()
    cluster.arrive()
    gone, stays = cluster.arrive(), cluster.arrive()
    cluster.queue.leave(gone, cluster.now)
    cluster.queue.leave(gone, cluster.now)
    assert cluster.queue.waiting == 1
    cluster.end(next(iter(cluster.running.values())).task)
    assert cluster.where(stays) == "a"
    fresh = a_task(500)
    cluster.queue.arrive(fresh, 0.0)
    cluster.queue.leave(fresh, 0.0)
    assert cluster.queue.pump(0.0) == []


def test_arrivals_between_pumps_all_wait():
    cluster = one_slot()
    for number in (101, 102):
        cluster.queue.arrive(a_task(number), 0.0)
    cluster.queue.again(a_task(103), 0.0, frozenset())
    assert cluster.queue.waiting == 3
    assert [decision.task.id for decision in cluster.pump()] == [101]


def test_next_wake():
    cluster = one_slot()
    assert cluster.queue.next_wake(5.0) is None
    cluster.arrive()
    assert cluster.queue.next_wake(5.0) is None
    cluster.arrive()
    assert cluster.queue.next_wake(5.0) == 6.0
    for number in range(5):
        cluster.add(f"x{number}", a_survey(["other"], ["other"]))
        for _ in range(5):
            cluster.end(cluster.arrive("other", pin=f"x{number}"), "failed")
    cluster.now = 4.5
    assert cluster.queue.next_wake(4.5) == 5.0


# --- models behind models


def test_a_backlog_for_one_model_does_not_hide_another():
    cluster = Cluster(Limits(waiting=1000))
    cluster.add("a", a_survey(["m"], ["m"]), slots=1)
    cluster.add("b", a_survey(["x"], ["x"]), slots=1)
    busy = cluster.arrive("x")
    for _ in range(100):
        cluster.arrive("m")
    other = cluster.arrive("x", priority=1)
    cluster.end(busy)
    assert cluster.where(other) == "b"


def test_a_slow_node_stays_idle_while_waiting_is_cheaper_and_serves_who_comes_later():
    cluster = Cluster()
    cluster.add("fast", a_survey(["m"], ["m"]), slots=1)
    cluster.add("slow", a_survey(["m"], ["m"]), slots=1)
    cluster.rates("fast", decode=100.0)
    cluster.rates("slow", decode=12.0)
    tasks = [cluster.arrive(chars=0, max_tokens=200) for _ in range(6)]
    # 2 s each on the fast node; 16.7 s on the slow one: reservations push the sixth there
    assert [cluster.where(task) for task in tasks[:2]] == ["fast", None]
    assert [cluster.where(task) for task in tasks].count("slow") == 1


def test_slots_handed_out_in_one_round_are_seen_in_it():
    cluster = Cluster()
    cluster.add("a", None, slots=3)
    tasks = [cluster.arrive() for _ in range(5)]
    assert cluster.sent == []
    cluster.state.apply(NodeSurveyed(0.0, "a", a_survey(["m"], ["m"])))
    assert len(cluster.pump()) == 3
    assert [cluster.where(task) for task in tasks] == ["a"] * 3 + [None] * 2


def test_a_load_decided_in_one_round_is_joined_by_its_model_and_waited_for_by_others():
    cluster = Cluster()
    cluster.add("a", None, slots=2)
    first, second = cluster.arrive("m"), cluster.arrive("m")
    other = cluster.arrive("x")
    cluster.state.apply(NodeSurveyed(0.0, "a", a_survey(["m", "x"], [])))
    cluster.pump()
    assert cluster.where(first) == cluster.where(second) == "a"
    assert cluster.where(other) is None
    assert 0.0 < cluster.queue.next_wake(0.0) < 0.1, "others may be sent after this one"
    cluster.pump()
    assert cluster.where(other) == "a"


def test_a_large_cluster_uses_slow_nodes_when_the_line_is_long():
    cluster = Cluster(Limits(waiting=5000))
    for number in range(40):
        name = f"n{number:02}"
        cluster.add(name, a_survey(["m"], ["m"]), slots=2)
        cluster.rates(name, decode=100.0 if number < 20 else 60.0, a=0.0)
    tasks = [cluster.arrive(chars=0) for _ in range(300)]
    assert len(cluster.running) == 80
    for task in tasks[:60]:
        cluster.now += 0.02
        if task.id in cluster.running:
            cluster.end(task, counters=counters(2.0, output=200))
    assert all(node.in_flight <= 2 for node in cluster.state.nodes.values())
    assert len(cluster.running) == 80
    pinned = cluster.arrive(pin="n39", mode=Mode.FAST, priority=10)
    assert cluster.queue.position(pinned) == 1


def test_a_request_that_waited_ten_minutes_takes_every_second_slot():
    cluster = one_slot(Limits(priority_step_seconds=1e6))
    running = cluster.arrive(priority=10)
    low = cluster.arrive(priority=1, client="low")
    cluster.now = 601.0
    urgent = [cluster.arrive(priority=10, client=f"new-{number}") for number in range(4)]
    cluster.end(running)
    served = 1
    while cluster.where(low) is None:
        cluster.end(next(iter(cluster.running.values())).task)
        served += 1
    assert served <= 2
    assert sum(cluster.where(task) is None for task in urgent) >= 2


# --- nobody usable


def test_open_breakers_everywhere_pass_one_request_at_a_time():
    cluster = one_slot()
    for _ in range(5):
        cluster.end(cluster.arrive(), "failed", text="500")
    assert cluster.state.known["a"].state == "open"
    first, second = cluster.arrive(), cluster.arrive()
    assert cluster.where(first) == "a"
    assert cluster.where(second) is None
    cluster.end(first)
    assert cluster.state.known["a"].state == "up"
    assert cluster.where(second) == "a"


def test_open_breakers_pass_nothing_to_those_who_failed_there():
    cluster = one_slot()
    for _ in range(5):
        task = cluster.arrive()
        cluster.end(task, "failed", text="500")
    cluster.queue.again(task, cluster.now, frozenset({"a"}))
    assert cluster.pump() == []


def test_half_open_passes_one_request():
    cluster = one_slot()
    cluster.add("b", a_survey(["m"], ["m"]), slots=1)
    for _ in range(5):
        cluster.end(cluster.arrive(pin="a"), "failed", text="500")
    cluster.state.apply(NodeChanged(0.0, a_node("a", slots=4)))
    blocked = {cost.node: cost.blocked for cost in cluster.queue.explain(a_task(1), 0.0)}
    assert blocked["a"].startswith("circuit open")
    cluster.now = 6.0
    pinned = [cluster.arrive(pin="a") for _ in range(2)]
    assert [cluster.where(task) for task in pinned] == ["a", None]
    assert cluster.state.known["a"].state == "half-open"
    cluster.end(pinned[0])
    assert cluster.where(pinned[1]) == "a"


def test_all_down_waits_ten_seconds_then_503():
    cluster = one_slot()
    cluster.state.apply(ProbeFailed(0.0, "a", True, "refused"))
    task = cluster.arrive()
    assert cluster.queue.hopeless(task, 0.0) is None
    assert cluster.queue.expired(9.0) == []
    ((refused, error),) = cluster.queue.expired(10.0)
    assert refused is task
    assert isinstance(error, NoNodes)
    assert (error.status, error.retry_after) == (503, 10.0)
    assert cluster.queue.waiting == 0


def test_the_ten_seconds_begin_when_the_last_node_goes():
    cluster = one_slot()
    cluster.arrive()
    cluster.arrive()
    cluster.now = 100.0
    assert cluster.queue.expired(100.0) == []
    cluster.state.apply(ProbeFailed(100.0, "a", True, "refused"))
    assert cluster.queue.expired(101.0) == []
    assert cluster.queue.expired(110.0) == []
    assert len(cluster.queue.expired(111.5)) == 1


def test_a_pinned_request_waits_for_its_node_only():
    cluster = one_slot()
    cluster.add("b", a_survey(["m"], ["m"]), slots=1)
    cluster.state.apply(ProbeFailed(0.0, "a", True, "refused"))
    pinned = cluster.arrive(pin="a")
    assert cluster.queue.expired(1.0) == []
    assert [task for task, _ in cluster.queue.expired(12.0)] == [pinned]


def test_deadline():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]), slots=1)  # nothing is learned of it: whatever is foreseen is a guess
    cluster.arrive()
    task = cluster.arrive(deadline=3.0)
    fresh = a_task(900, deadline=2.0)
    cluster.queue.arrive(fresh, 0.0)
    assert cluster.queue.expired(1.0) == []
    over = cluster.queue.expired(3.0)
    assert {one for one, _ in over} == {task, fresh}
    assert all(isinstance(error, DeadlineExceeded) for _, error in over)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "unknown"}, NoNodeForModel),
        ({"model": "m"}, None),
        ({"model": ""}, None),
        ({"model": "m", "pin": "nobody"}, BadRequest),
        ({"model": "m", "pin": "named"}, None),
        ({"model": "m", "needs": frozenset({"tools"})}, BadRequest),
        ({"model": "m", "needs": frozenset({"completion"})}, None),
        ({"model": "m", "needs": frozenset({"embedding"})}, Unsupported),
        ({"model": "huge"}, Unsupported),
        ({"model": "short", "num_ctx": 4096}, BadRequest),
        ({"model": "short", "chars": 100_000}, BadRequest),
        ({"model": "short", "chars": 1_000}, None),
    ],
)
def test_hopeless(fields, error):
    cluster = Cluster()
    model = Model("m", "m", 5 * GB, capabilities=frozenset({"completion"}))
    short = a_model("short", context_length=2048)
    cluster.add("a", a_survey([model, short], kind=NodeKind.OPENAI), name="named")
    cluster.add("b", a_survey([a_model("huge", 99 * GB)]), memory=10 * GB)
    found = cluster.queue.hopeless(a_task(1, **fields), 0.0)
    assert type(found) is (error if error is not None else type(None))


def test_hopeless_without_nodes_and_with_nodes_nobody_looked_at():
    cluster = Cluster()
    assert isinstance(cluster.queue.hopeless(a_task(1), 0.0), NoNodes)
    cluster.add("a")
    assert cluster.queue.hopeless(a_task(1), 0.0) is None
    cluster.state.apply(NodeSurveyed(0.0, "a", a_survey([], kind=NodeKind.LLAMACPP, loading=True)))
    assert isinstance(cluster.queue.hopeless(a_task(1), 0.0), NoNodeForModel)
    cluster.state.apply(NodeSurveyed(0.0, "a", a_survey(["m"], kind=NodeKind.LLAMACPP)))
    cluster.state.apply(NodeSurveyed(0.0, "a", a_survey([], kind=NodeKind.LLAMACPP, loading=True)))
    assert cluster.queue.hopeless(a_task(1), 0.0) is None
    assert cluster.queue.explain(a_task(1), 0.0)[0].blocked == "loading its model"


def test_explain_ranks_all_nodes_and_changes_nothing():
    cluster = one_slot()
    cluster.add("cold", a_survey(["m"], []))
    cluster.add("without", a_survey(["x"], []))
    cluster.add("gone", a_survey(["m"], ["m"]))
    cluster.add("drained", a_survey(["m"], ["m"]), draining=True)
    cluster.state.apply(ProbeFailed(0.0, "gone", True, "refused"))
    task = a_task(5)
    before = cluster.queue.waiting, cluster.state.known["a"].version
    costs = cluster.queue.explain(task, 0.0)
    assert [cost.node for cost in costs[:2]] == ["a", "cold"]
    assert {cost.node: cost.blocked for cost in costs[2:]} == {
        "without": "model not there",
        "gone": "down",
        "drained": "draining",
    }
    assert (cluster.queue.waiting, cluster.state.known["a"].version) == before
    assert cluster.queue.usable(task, 0.0) == 2
    assert cluster.queue.usable(task, 0.0, frozenset({"a"})) == 1
    assert cluster.queue.explain(a_task(6, pin="cold"), 0.0)[1].blocked == "pinned elsewhere"


def test_explain_of_a_prompt_too_long_for_one_node():
    cluster = one_slot()
    cluster.add("short", a_survey([a_model("m", context_length=512)], kind=NodeKind.VLLM))
    blocked = {cost.node: cost.blocked for cost in cluster.queue.explain(a_task(1, chars=10_000), 0.0)}
    assert blocked == {"a": "", "short": "prompt too long for its context"}
    assert cluster.where(cluster.arrive(chars=10_000)) == "a"
    assert cluster.where(cluster.arrive(chars=10_000)) is None


def test_requests_without_a_model_go_to_any_usable_node():
    cluster = one_slot()
    tasks = [cluster.arrive("") for _ in range(70)]
    assert sum(cluster.where(task) == "a" for task in tasks) == 64
    cluster.end(tasks[0], "client-error")
    assert sum(cluster.where(task) == "a" for task in tasks) == 64


def test_a_node_that_goes_while_requests_run_and_wait():
    cluster = one_slot()
    running, waiter = cluster.arrive(), cluster.arrive()
    cluster.state.apply(NodeRemoved(0.0, "a"))
    cluster.running.clear()
    assert cluster.pump() == []
    assert isinstance(cluster.queue.hopeless(waiter, 0.0), NoNodes)
    cluster.add("a", a_survey(["m"], ["m"]), slots=1)
    cluster.pump()
    assert cluster.where(waiter) == "a"
    cluster.state.apply(AttemptEnded(0.0, running, "a", "failed"))
    assert cluster.state.known["a"].in_flight == 1


def test_strangers_models_do_not_fill_memory():
    cluster = one_slot()
    for number in range(400):
        task = cluster.arrive(f"stranger-{number}")
        cluster.queue.leave(task, 0.0)
    assert len(cluster.queue._line._groups) <= 256


# --- nodes that load


def test_a_loading_node_of_unknown_slots_takes_one_request_until_it_is_loaded():
    cluster = Cluster()
    cluster.add("a", a_survey())
    first, second, third = (cluster.arrive() for _ in range(3))
    assert [cluster.where(task) for task in (first, second, third)] == ["a", None, None]
    cluster.state.apply(FirstToken(6.5, first, "a"))
    cluster.now = 6.5
    cluster.pump()
    assert [cluster.where(task) for task in (second, third)] == ["a", "a"]


def test_a_loading_node_whose_slots_are_known_takes_as_many():
    cluster = Cluster()
    cluster.add("a", a_survey(), slots=2)
    tasks = [cluster.arrive() for _ in range(3)]
    assert [cluster.where(task) for task in tasks] == ["a", "a", None]
