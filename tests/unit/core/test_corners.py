"""What the larger tests do not reach by themselves."""

from __future__ import annotations

import pytest
from tests.support.core_cluster import SIZE, Cluster, a_model, a_survey, a_task, counters

from sollol.core.events import AttemptEnded, FirstToken, NodeSurveyed
from sollol.core.fairness import Tags
from sollol.core.gates import cannot
from sollol.core.node import Runner, Running
from sollol.core.routing import Load, Term, group_key
from sollol.core.scheduler import Limits
from sollol.core.shortlist import Shortlist
from sollol.core.types import Mode, NodeKind, Progress, Prompt, Resident


def many(count: int, slots: int = 1) -> Cluster:
    cluster = Cluster(Limits(waiting=5000))
    for number in range(count):
        cluster.add(f"n{number:02}", a_survey(["m"], ["m"]), slots=slots)
        cluster.rates(f"n{number:02}", decode=30.0 + number, a=0.0)
    return cluster


@pytest.mark.parametrize(
    ("tokens", "first", "last", "now", "left"),
    [
        (0, None, None, 1.0, 9.0),  # still in the prompt
        (3, 2.0, 2.5, 4.0, 6.0),  # too few to tell a pace
        (0, None, None, 60.0, 4.8),  # at least six tenths of the answer
        (31, 2.0, 5.0, 5.0, 6.9),  # ten tokens a second, 69 to come
        (99, 2.0, 11.8, 12.0, 6.0),  # at least six tenths
        (31, 2.0, None, 5.0, 6.9),
    ],
)
def test_remaining_work(tokens, first, last, now, left):
    run = Running(a_task(1), Runner("a", "m", None, False, 0.0), Progress(tokens, first, last), 0.0)
    run.prefill, run.decode, run.out = 2.0, 8.0, 100.0
    assert run.remaining(now) == pytest.approx(left)
    assert run.run == 10.0


@pytest.mark.parametrize(("limit", "left"), [(None, 6.0), (0, 6.0), (-1, 6.0), (500, 6.0), (120, 2.1), (99, 0.0), (90, 0.0)])
def test_no_more_is_to_come_than_the_request_allows(limit, left):
    run = Running(a_task(1, max_tokens=limit), Runner("a", "m", None, False, 0.0), Progress(99, 2.0, 11.8), 0.0)
    run.prefill, run.decode, run.out = 2.0, 10.0, 100.0
    assert run.remaining(12.0) == pytest.approx(left)


def test_remaining_work_of_what_still_loads():
    run = Running(a_task(1), Runner("a", "m", None, True, 6.0), Progress(), 0.0)
    run.prefill, run.decode, run.ready_at = 1.0, 4.0, 6.0
    assert run.remaining(2.0) == pytest.approx(4.0 + 5.0)


def test_accounts_of_clients_nobody_knows():
    tags = Tags()
    tags.settle("stranger", 5, 100.0)
    assert tags.start("stranger", 5, 1.0) == 0.0
    tags.sent(3.0, 2.0)
    assert tags.now == 2.0


def test_a_model_that_a_node_does_not_have():
    cluster = many(1)
    assert cannot(cluster.state.known["n00"], group_key(a_task(1, "x"))) == "model not there"


@pytest.mark.parametrize(
    ("kind", "wanted", "why"),
    [
        (NodeKind.LMSTUDIO, {"tools", "thinking"}, ""),  # it tells of no model whether it thinks
        (NodeKind.LMSTUDIO, {"vision"}, "lacks vision"),
        (NodeKind.OPENAI, {"thinking"}, "lacks thinking"),
    ],
)
def test_what_a_kind_of_node_does_not_tell_is_left_to_it(kind, wanted, why):
    cluster = Cluster()
    cluster.add("a", a_survey([a_model("m", capabilities=frozenset({"completion", "tools"}))], kind=kind))
    assert cannot(cluster.state.known["a"], group_key(a_task(1, needs=frozenset(wanted)))) == why


def test_victims_until_it_fits_and_no_more():
    cluster = Cluster()
    loaded = [Resident(name, SIZE, SIZE, expires_in=10.0 * place) for place, name in enumerate("wxyz", 1)]
    cluster.add("a", a_survey(["big", *"wxyz"], loaded), memory=4 * SIZE)
    cluster.state.known["a"].sizes.put("big", 2.5 * SIZE)
    cluster.end(cluster.arrive("big"))
    assert set(cluster.state.known["a"].runners) == {"z", "big"}
    cluster.state.known["a"].sizes.put("w", 9.0 * SIZE)
    cluster.state.known["a"].node = cluster.state.known["a"].node.__class__(
        "a", cluster.state.known["a"].node.endpoint, memory=None
    )
    cluster.end(cluster.arrive("w"))
    assert set(cluster.state.known["a"].runners) == {"w"}


def test_a_busy_model_outlives_the_load_it_was_to_leave_for():
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x"], ["x"]), memory=SIZE, slots=2)
    cluster.rates("a", "x")
    stays = cluster.arrive("x", max_tokens=100)
    switch = cluster.arrive("m")
    runner = cluster.state.known["a"].runners["x"]
    assert runner.leaving_for == "m"
    cluster.state.apply(FirstToken(9.0, switch, "a"))  # there was room after all
    assert runner.leaving_for == ""
    cluster.end(stays)
    assert cluster.state.known["a"].runners["x"] is runner


def test_who_must_leave_and_is_idle_when_the_load_is_done_is_gone():
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x"], ["x"]), memory=SIZE, slots=2)
    task, switch = cluster.arrive("x"), cluster.arrive("m")
    runner = cluster.state.known["a"].runners["x"]
    run = cluster.state.known["a"].running.pop(task.id)
    run.runner.running -= 1
    cluster.running.pop(task.id)
    cluster.state.apply(FirstToken(9.0, switch, "a"))
    assert runner not in cluster.state.known["a"].runners.values()


def test_two_wait_for_one_load_and_one_gives_up():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], []), slots=2)
    first, second = cluster.arrive(), cluster.arrive()
    cluster.end(first, "cancelled")
    assert cluster.state.known["a"].runners["m"].loading
    cluster.end(second, "failed", sent=True)
    assert not cluster.state.known["a"].runners["m"].loading


def test_in_a_large_cluster_a_prefix_is_looked_for_far_down_the_list():
    cluster = many(30)
    ends = ((4000, 1), (4100, 2))
    home = cluster.arrive(pin="n00", prompt=Prompt(4000, 0, ends[:1]))
    cluster.end(home)
    terms = [Term(node) for node in cluster.state.known.values()]
    task = a_task(70, prompt=Prompt(4100, 0, ends))
    for term in terms:
        term.renew(group_key(task), cluster.state, 0.0)
    listed = Shortlist(Load(a_task(71), cluster.state), terms, 0.0, 1.5)
    assert [term.node_id for term in listed.near(Load(a_task(71), cluster.state))] == [f"n{n}" for n in range(22, 30)]
    assert listed.near(Load(task, cluster.state))[0].node_id == "n00"


def test_in_a_large_cluster_the_line_is_served_from_the_fastest_down():
    cluster = many(30)
    for number in range(30):
        cluster.arrive(chars=0, pin=f"n{number:02}")
    tasks = [cluster.arrive(chars=0) for _ in range(20)]
    assert cluster.queue.waiting == 20
    talk = cluster.arrive(prompt=Prompt(400, 0, ((400, 9),)), mode=Mode.RELIABLE)
    for decision in list(cluster.running.values())[:15]:
        run = cluster.state.attempt(decision.node, decision.task)
        cluster.now = max(cluster.now, run.started)
        task = decision.task
        cluster.running.pop(task.id)
        cluster.state.apply(AttemptEnded(cluster.now, task, decision.node, "ok", counters=counters(4.0), native=True))
    cluster.pump()
    assert all(node.in_flight <= 1 for node in cluster.state.nodes.values())
    assert sum(cluster.where(task) is not None for task in tasks) >= 5
    assert cluster.queue.position(talk) >= 1


def test_open_breakers_with_everything_busy_or_just_handed_out():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]), slots=1)
    for _ in range(5):
        cluster.end(cluster.arrive(), "failed")
    one, other = cluster.arrive(), cluster.arrive()
    three = cluster.arrive()
    assert [cluster.where(task) for task in (one, other, three)] == ["a", None, None]
    cluster.end(one, "failed")
    assert cluster.where(other) == "a"


def test_the_last_in_order_is_found_among_all_models_and_not_among_the_moved():
    cluster = Cluster(Limits(waiting=2))
    cluster.add("a", a_survey(["m", "x"], ["m"]), slots=1)
    cluster.add("b", a_survey(["x"], ["x"]), slots=1)
    busy, moved = cluster.arrive("m"), cluster.arrive("x", pin="b")
    cluster.end(moved, "failed")
    late = cluster.arrive("x", pin="b", priority=2)
    assert cluster.where(late) == "b"
    cluster.queue.again(moved, 0.0, frozenset({"b"}))
    waiters = [cluster.arrive("x", pin="b", priority=9), cluster.arrive("m", pin="a", priority=3)]
    newcomer = cluster.arrive("x", pin="b", priority=5)
    assert cluster.refused == [waiters[1]]
    assert {task.id for task in cluster.queue.first(10)} >= {waiters[0].id, newcomer.id}
    assert cluster.where(busy) == "a"


def test_many_models_learn_without_end_of_memory():
    cluster = many(2)
    state = cluster.state
    for number in range(4100):
        state._class_best(True, f"name-{number}", 1e9, float(number))
    assert len(state._best) <= 4096


def test_loads_by_an_lm_studio_node_follow_what_it_says():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], [], kind=NodeKind.LMSTUDIO))
    assert cluster.queue.explain(a_task(1), 0.0)[0].load > 0.0
    cluster.state.apply(NodeSurveyed(1.0, "a", a_survey(["m"], ["m"], kind=NodeKind.LMSTUDIO)))
    assert cluster.queue.explain(a_task(1), 1.0)[0].load == 0.0


def test_in_a_large_cluster_a_far_slower_node_stays_idle():
    cluster = Cluster(Limits(waiting=5000))
    for number in range(30):
        cluster.add(f"n{number:02}", a_survey(["m"], ["m"]), slots=1)
        cluster.rates(f"n{number:02}", decode=200.0 if number else 2.0, a=0.0)
    for number in range(1, 30):
        cluster.arrive(chars=0, pin=f"n{number:02}")
    tasks = [cluster.arrive(chars=0) for _ in range(10)]
    pinned = cluster.arrive(chars=0, pin="n29")
    assert [cluster.where(task) for task in tasks] == [None] * 10
    assert cluster.where(pinned) is None
    assert cluster.where(cluster.arrive(chars=0, pin="n00")) == "n00"
    cluster.now = 1.0
    for decision in list(cluster.running.values())[:12]:
        cluster.end(decision.task, counters=counters(1.0, output=200))
    assert all(cluster.where(task) is not None for task in tasks)


def broken(slots: int = 2) -> Cluster:
    """One node with an open breaker that still works on a first request."""
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x"], ["m", "x"]), slots=slots)
    cluster.arrive()
    for _ in range(5):
        cluster.end(cluster.arrive(), "failed")
    return cluster


def test_open_breakers_pass_on_only_to_an_idle_node():
    cluster = broken()
    (first,) = cluster.running.values()
    waits, other = cluster.arrive(), cluster.arrive("x")
    assert cluster.where(waits) is None
    cluster.end(first.task, "cancelled")
    assert [cluster.where(task) for task in (waits, other)] == ["a", None]


def test_open_breakers_pass_on_nothing_that_goes_elsewhere():
    cluster = broken()
    cluster.end(next(iter(cluster.running.values())).task, "cancelled")
    assert cluster.where(cluster.arrive(pin="nobody")) is None
    assert cluster.where(cluster.arrive()) == "a"


def test_a_model_is_cold_again_when_its_keep_alive_is_over():
    cluster = many(1)
    task = a_task(50)
    assert cluster.where(cluster.arrive()) == "n00"
    cluster.now = 1.0
    cluster.end(next(iter(cluster.running.values())).task)
    group = cluster.queue._line.group(task)
    cluster.now = 299.0
    group.refresh(cluster.state, cluster.now)
    assert group.terms[0].warm
    group.refresh(cluster.state, 301.5)
    assert not group.terms[0].warm


def test_a_pair_of_which_only_one_rate_is_known():
    cluster = many(1)
    cluster.state.known["n00"].rates_of("m").prefill = None
    cluster.state.known["n00"].version += 1
    cost = cluster.queue.explain(a_task(1), 0.0)[0]
    assert cost.decode == pytest.approx(200 / 30.0)
    assert cost.prefill > 0.0


def test_failures_without_a_model_count_against_the_node():
    cluster = many(1)
    cluster.end(cluster.arrive(""), "failed")
    assert cluster.state.known["n00"].health.failures == 1


def test_a_round_looks_at_no_more_than_48_of_several_models():
    cluster = Cluster()
    for name in "ab":
        cluster.add(name, a_survey([f"m{name}"], [f"m{name}"]), slots=1)
        for _ in range(60):
            cluster.arrive(f"m{name}")
    for decision in list(cluster.running.values()):
        cluster.state.apply(AttemptEnded(0.0, decision.task, decision.node, "ok"))
        del cluster.running[decision.task.id]
    assert {decision.node for decision in cluster.pump()} == {"a", "b"}


def test_a_full_queue_of_several_models():
    cluster = Cluster(Limits(waiting=3))
    for name in "abc":
        cluster.add(name, a_survey([f"m{name}"], [f"m{name}"]), slots=1)
        cluster.arrive(f"m{name}")
    late = cluster.arrive("ma", priority=1)
    cluster.arrive("mb", priority=5)
    cluster.arrive("mc", priority=9)
    cluster.arrive("mb", priority=9)
    assert cluster.refused == [late]
    for task in cluster.queue.first(3):
        cluster.queue.leave(task, 0.0)
    moved = next(iter(cluster.running.values())).task
    cluster.end(moved, "failed")
    cluster.queue.again(moved, 0.0, frozenset("abc"))
    last = [cluster.arrive(model, priority=priority) for model, priority in (("mb", 2), ("mc", 9), ("mb", 9), ("mc", 9))]
    assert cluster.refused == [late, last[0]]


def test_slots_handed_out_and_reserved_are_known_by_when_they_free():
    cluster = many(1, slots=2)
    term = Term(cluster.state.known["n00"])
    term.renew(group_key(a_task(1)), cluster.state, 0.0)
    assert (term.free, term.frees) == (2, [])
    term.reserve(3.0, 1.0)
    assert term.frees == [4.0]
    term.give(True, 2.0, 1.0)
    assert (term.free, sorted(term.frees)) == (1, [3.0, 4.0])
    term.reserve(5.0, 1.0)
    assert sorted(term.frees) == [4.0, 8.0]
    assert term.pristine == []
