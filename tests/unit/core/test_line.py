"""Who waits: where they stand and why, who is refused, and whom an event lets go."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.support.core_cluster import SIZE, Cluster, a_model, a_survey, a_task, counters

from sollol.core.events import AttemptEnded, NodeChanged, NodeSurveyed, ProbeFailed
from sollol.core.scheduler import Limits
from sollol.core.types import Health, Kind, Mode, NodeKind, Prompt
from sollol.errors import DeadlineExceeded


def learned(*names: str, slots: int = 1, limits: Limits | None = None, **fields) -> Cluster:
    """Nodes with model m loaded, of which everything is learned: 40 tokens a second."""
    cluster = Cluster(limits)
    for name in names:
        cluster.add(name, a_survey(["m"], ["m"]), slots=slots, **fields)
        cluster.rates(name, a=0.0)
    return cluster


def break_(cluster: Cluster, name: str) -> None:
    """Let the breaker of a node open."""
    for _ in range(5):
        cluster.end(cluster.arrive(pin=name), "failed", text="500")
    assert cluster.state.known[name].state is Health.OPEN


# --- where somebody stands


def test_position_start_and_reason():
    cluster = learned("a")
    cluster.arrive(chars=0, max_tokens=200)  # 5 s
    first, second = cluster.arrive(chars=0, max_tokens=200), cluster.arrive(chars=0, max_tokens=200)
    stands = [cluster.queue.queued(task, 0.0) for task in (first, second)]
    assert [queued.position for queued in stands] == [1, 2]
    assert stands[0].start == pytest.approx(5.0)
    assert stands[1].start == pytest.approx(5.0 + 5.0 / 0.6), "the work before it, at six tenths of the slots' capacity"
    assert stands[0].why == "all slots are busy; a is the first to have one, in 5.0 s"
    assert cluster.queue.queued(a_task(99), 0.0).position == 0
    cluster.end(next(iter(cluster.running.values())).task)
    sent = cluster.sent[-1]
    assert (sent.task, sent.position, sent.why) == (first, 1, stands[0].why)


def test_who_need_not_wait_has_no_place():
    cluster = learned("a")
    cluster.arrive()
    assert (cluster.sent[0].position, cluster.sent[0].why) == (0, "")


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        ("down", "every node that has the model is down"),
        ("drained", "a: draining"),
        ("loads", "a loads the model, ready in 6.0 s"),
        ("pinned", "no node is left that may serve it"),
        ("switch", "a: switching to x"),
    ],
)
def test_reasons_of_waiting(happens, why):
    cluster = Cluster()
    loaded = ["m"] if happens != "loads" else []
    cluster.add("a", a_survey(["m", "x"], loaded), memory=SIZE)
    if happens == "down":
        cluster.state.apply(ProbeFailed(0.0, "a", True, "refused"))
    elif happens == "drained":
        node = cluster.state.known["a"].node
        cluster.state.apply(NodeChanged(0.0, type(node)(node.id, node.endpoint, draining=True)))
    elif happens == "loads":
        cluster.arrive()
    elif happens == "switch":
        cluster.arrive()
        cluster.arrive("x")
    task = cluster.arrive(pin="gone") if happens == "pinned" else cluster.arrive()
    found = cluster.queue.queued(task, 0.0)
    assert found.why == why
    assert found.start is None or happens == "loads"


def test_reason_names_a_few_nodes_only():
    cluster = Cluster()
    for name in "abcde":
        cluster.add(name, a_survey(["m"], ["m"]), draining=True)
    text = cluster.queue.queued(cluster.arrive(), 0.0).why
    assert text == "a: draining; b: draining; c: draining; and 2 more"


# --- full


def test_a_full_line_for_one_model_refuses_nobody_whom_an_idle_node_can_take():
    cluster = learned("a", limits=Limits(waiting=2))
    cluster.add("b", a_survey(["x"], ["x"]), slots=1)
    for _ in range(3):
        cluster.arrive("m", priority=9)
    task = cluster.arrive("x", priority=1)
    assert cluster.refused == []
    assert cluster.where(task) == "b"
    late = cluster.arrive("x", priority=1)
    assert cluster.refused == [late]


def test_a_body_over_the_limit_pushes_nobody_out():
    cluster = learned("a", limits=Limits(body_bytes=100))
    cluster.arrive()
    waiter = cluster.arrive(body=b"x" * 60)
    huge = cluster.arrive(body=b"x" * 101, priority=10)
    assert cluster.refused == [huge]
    assert cluster.queue.position(waiter) == 1


def test_outlook_of_who_is_refused():
    cluster = learned("a", limits=Limits(waiting=1))
    cluster.arrive(chars=0, max_tokens=400)
    cluster.arrive(chars=0, max_tokens=400)
    refused = cluster.arrive(chars=0, max_tokens=400)
    assert cluster.refused == [refused]
    outlook = cluster.queue.outlook(refused, 0.0)
    assert (outlook.position, outlook.start) == (2, pytest.approx(5.0 + 5.0 / 0.6))


# --- deadlines


def teach(cluster: Cluster, name: str = "a", client: str = "someone", output: int = 200) -> None:
    """Three answers of that length."""
    for _ in range(3):
        task = cluster.arrive(chars=0, client=client, pin=name)
        cluster.end(task, counters=counters(output / 36.0, prompt=0, output=output))


def test_a_deadline_out_of_reach_fails_at_once():
    cluster = learned("a")
    teach(cluster)
    late, ample = a_task(800, chars=0, deadline=3.0), a_task(801, chars=0, deadline=30.0)
    error = cluster.queue.too_late(late, 0.0)
    assert isinstance(error, DeadlineExceeded)
    assert str(error).startswith("the deadline cannot be met: done in 5.")
    assert cluster.queue.too_late(ample, 0.0) is None


def test_a_deadline_is_tried_on_guesses():
    unseen = Cluster()
    unseen.add("a", a_survey(["m"], ["m"]))
    assert unseen.queue.too_late(a_task(1, deadline=0.001), 0.0) is None
    cluster = learned("a")
    assert cluster.queue.too_late(a_task(1, chars=0, deadline=3.0), 0.0) is None, (
        "nobody knows how long this client's answers are"
    )
    teach(cluster)
    assert cluster.queue.too_late(a_task(2, chars=0, deadline=3.0, client="another"), 0.0) is None
    cluster.add("b", a_survey(["m"], ["m"]))
    assert cluster.queue.too_late(a_task(3, chars=0, deadline=3.0), 0.0) is None, "nobody knows how fast the other node is"


def test_every_tenth_is_tried_all_the_same():
    cluster = learned("a")
    teach(cluster)
    errors = [cluster.queue.too_late(a_task(number, chars=0, deadline=3.0), 0.0) for number in range(20)]
    assert [number for number, error in enumerate(errors) if error is None] == [9, 19]


def test_who_waits_fails_as_soon_as_the_deadline_is_out_of_reach():
    cluster = learned("a")
    teach(cluster)
    cluster.arrive(chars=0, max_tokens=200)
    task = cluster.arrive(chars=0, deadline=cluster.now + 12.0)
    assert cluster.queue.expired(0.0) == []
    ((refused, error),) = cluster.queue.expired(6.0)  # the other still has a quarter of its answer before it
    assert refused is task
    assert isinstance(error, DeadlineExceeded)
    assert cluster.queue.waiting == 0


# --- breakers


def test_an_open_breaker_is_tried_when_the_other_node_is_down():
    cluster = learned("a", "b")
    break_(cluster, "a")
    cluster.state.apply(ProbeFailed(0.0, "b", True, "refused"))
    assert cluster.where(cluster.arrive()) == "a"
    assert cluster.where(cluster.arrive()) is None, "one at a time"


def test_an_open_breaker_is_not_tried_while_another_node_works():
    cluster = learned("a", "b")
    break_(cluster, "a")
    first, second = cluster.arrive(), cluster.arrive()
    assert (cluster.where(first), cluster.where(second)) == ("b", None)


def test_who_may_only_go_to_an_open_breaker_is_let_through():
    cluster = learned("a", "b")
    break_(cluster, "a")
    pinned, other = cluster.arrive(pin="a"), cluster.arrive(pin="a")
    assert (cluster.where(pinned), cluster.where(other)) == ("a", None)


def test_of_open_breakers_the_one_due_first_is_tried_and_a_half_open_one_that_is_busy_hides_none():
    cluster = learned("a", "b")
    break_(cluster, "b")
    cluster.now = 1.0
    break_(cluster, "a")
    cluster.now = 5.5  # the interval of b is over
    first, second = cluster.arrive(), cluster.arrive()
    assert [cluster.where(task) for task in (first, second)] == ["b", "a"]


def test_the_end_of_an_interval_wakes_who_waits():
    cluster = learned("a", "b")
    break_(cluster, "b")
    cluster.arrive()
    waits = cluster.arrive(chars=0, max_tokens=4000)
    assert cluster.where(waits) is None
    cluster.now = cluster.queue.next_wake(4.5)
    assert cluster.now == pytest.approx(5.0)


def test_an_instant_503_gets_one_attempt_an_interval():
    """Ten minutes of traffic that fills the good node, beside a node that refuses everything at once."""
    cluster = learned("a", "b", slots=4)
    refusals: list[float] = []
    ends: dict[int, float] = {}
    for step in range(2500):
        cluster.now = step * 0.24
        for decision in list(cluster.running.values()):
            if ends[decision.task.id] <= cluster.now:
                cluster.end(decision.task, counters=counters(1.0, output=36))
        cluster.arrive(client=f"c{step}")
        for decision in list(cluster.running.values()):
            while cluster.where(decision.task) == "a":
                refusals.append(cluster.now)
                cluster.end(decision.task, "busy", text="503")
                cluster.queue.again(decision.task, cluster.now, frozenset({"a"}))
                cluster.pump()
        ends |= {number: cluster.now + 1.0 for number in cluster.running if number not in ends}
    assert 5 < len(refusals) < 0.02 * 2500
    after_opening = refusals[5:]
    assert all(later - earlier > 4.0 for earlier, later in pairwise(after_opening))


# --- places, switches


def test_embeddings_and_chats_of_ollama_are_counted_apart():
    cluster = Cluster()
    embedder = a_model("e", capabilities=frozenset({"embedding"}))
    cluster.add("a", a_survey(["m", embedder], ["m", "e"]), slots=1)
    chat = cluster.arrive("m")
    embed = cluster.arrive("e", kind=Kind.EMBED, needs=frozenset({"embedding"}))
    assert (cluster.where(chat), cluster.where(embed)) == ("a", "a")
    assert cluster.where(cluster.arrive("m")) is None


def test_models_of_llama_cpp_share_its_slots():
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x"], kind=NodeKind.LLAMACPP, slots=1))
    first, second = cluster.arrive("m"), cluster.arrive("x")
    assert (cluster.where(first), cluster.where(second)) == ("a", None)
    cluster.end(first)
    assert cluster.where(second) == "a"


@pytest.mark.parametrize(("crowd", "single"), [("m", "x"), ("x", "m")])
def test_nobody_waits_for_ever_behind_a_stream_of_another_model(crowd, single):
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x"], ["m"]), memory=SIZE, slots=1)
    for _ in range(5):
        cluster.arrive(crowd, client="crowd")
    lone = cluster.arrive(single, client="lone")
    for _ in range(60):
        if cluster.where(lone) is not None:
            break
        cluster.now += 6.0
        cluster.arrive(crowd, client="crowd")
        for decision in list(cluster.running.values()):
            if not cluster.state.attempt("a", decision.task).runner.leaving_for or cluster.now > 6.0:
                cluster.end(decision.task, counters=counters(5.0))
    assert cluster.where(lone) == "a"


# --- prefixes


def talk(number: int, system: int = 3700, turn: int = 370) -> Prompt:
    """A conversation of its own behind the system prompt that all share."""
    return Prompt(system + turn, 0, ((system, 7), (system + turn, 1000 + number)))


def test_a_system_prompt_that_every_node_holds_attracts_nobody():
    cluster = learned("a", "b", "c", slots=2)
    for name in "abc":
        cluster.end(cluster.arrive(prompt=talk(ord(name)), pin=name))
    tasks = [cluster.arrive(prompt=talk(number)) for number in range(3)]
    assert {cluster.where(task) for task in tasks} == {"a", "b", "c"}


def test_a_prefix_yields_to_load():
    cluster = learned("a", "b")
    cluster.end(cluster.arrive(prompt=talk(1), pin="a"))
    cluster.arrive(chars=0, max_tokens=400, pin="a")  # ten seconds
    follow = Prompt(4440, 0, ((3700, 7), (4070, 1001), (4440, 5)))
    assert cluster.where(cluster.arrive(prompt=follow)) == "b"


def test_a_long_prefix_is_worth_a_busier_node():
    cluster = learned("a", "b", slots=2)
    huge = Prompt(370_000, 0, ((370_000, 9),))  # a hundred seconds of prefill
    cluster.end(cluster.arrive(prompt=huge, pin="a"))
    cluster.arrive(chars=0, max_tokens=40, pin="a")
    follow = Prompt(370_370, 0, ((370_000, 9), (370_370, 10)))
    assert cluster.where(cluster.arrive(prompt=follow)) == "a"


# --- a long line: only who is affected is looked at


def crowd(groups: int = 40, nodes: int = 20) -> Cluster:
    """Each model on two nodes, every slot taken, one more waiting for each model."""
    cluster = Cluster(Limits(waiting=10_000))
    for number in range(nodes):
        mine = [f"m{(number + step * nodes // 2) % groups}" for step in range(groups * 2 // nodes)]
        cluster.add(f"n{number:02}", a_survey(mine, mine), slots=1)
    for _ in range(3):
        for group in range(groups):
            cluster.arrive(f"m{group}", client=f"c{group}")
    assert cluster.queue.waiting > groups // 2
    return cluster


def test_in_a_long_line_an_end_is_noticed_by_its_group():
    cluster = crowd()
    for decision in list(cluster.running.values()):
        before = {task.id for task in cluster.queue.first(10_000) if task.model == decision.task.model}
        cluster.end(decision.task, counters=counters(2.0))
        after = {task.id for task in cluster.queue.first(10_000) if task.model == decision.task.model}
        assert not before or len(after) == len(before) - 1


def test_in_a_long_line_a_start_and_an_end_between_two_looks_are_noticed():
    cluster = crowd()
    decision = next(iter(cluster.running.values()))
    model = decision.task.model
    for _ in range(4):
        waiting = [task for task in cluster.queue.first(10_000) if task.model == model]
        running = next(d for d in cluster.running.values() if d.task.model == model and d.node == decision.node)
        del cluster.running[running.task.id]
        cluster.state.apply(AttemptEnded(cluster.now, running.task, running.node, "ok"))
        if not waiting:
            break
        assert [sent.task for sent in cluster.pump()] == waiting[:1]


def test_in_a_long_line_a_node_that_returns_is_noticed_by_all():
    cluster = crowd()
    held = cluster.state.known["n00"]
    for decision in [one for one in cluster.running.values() if one.node == "n00"]:
        del cluster.running[decision.task.id]
        cluster.state.apply(AttemptEnded(0.0, decision.task, "n00", "cancelled"))
    cluster.state.apply(ProbeFailed(0.0, "n00", True, "refused"))
    cluster.pump()
    assert held.in_flight == 0
    models = list(held.models)
    cluster.state.apply(NodeSurveyed(0.0, "n00", a_survey(models, models)))
    for _ in range(10):
        cluster.pump()
    wanting = {task.model for task in cluster.queue.first(10_000)} & set(models)
    assert wanting <= {decision.task.model for decision in cluster.running.values() if decision.node == "n00"}


def test_in_a_long_line_a_priority_of_a_late_comer_counts():
    cluster = crowd()
    urgent = cluster.arrive("m0", priority=10, mode=Mode.FAST)
    for decision in [one for one in cluster.running.values() if one.task.model == "m0"][:1]:
        cluster.end(decision.task)
    assert cluster.where(urgent) is not None
