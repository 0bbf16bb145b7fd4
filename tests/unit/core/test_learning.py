from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_cluster import GB, SIZE, Cluster, a_model, a_node, a_survey, a_task, counters

from sollol.core.estimates import Contention, Mean, ModelStats, Recent, SlowVerdict, Speed, Success, scaled_prior
from sollol.core.events import (
    AttemptEnded,
    AttemptStarted,
    FailureWithdrawn,
    FirstToken,
    HealthChanged,
    ModelLearned,
    NodeAdded,
    NodeChanged,
    NodeRemoved,
    NodeSlow,
    NodeSurveyed,
    ProbeFailed,
    TaskEnded,
    TaskRefused,
    Unloaded,
)
from sollol.core.types import Counters, Health, Kind, NodeKind, Progress, Prompt, Resident


def warm(kind: NodeKind = NodeKind.OLLAMA, **fields) -> Cluster:
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "other"], ["m"], kind=kind), **fields)
    return cluster


def finish(cluster: Cluster, said: Counters | None, after: float = 2.0, **fields):
    task = cluster.arrive(**fields)
    cluster.now += after
    cluster.end(task, counters=said)
    return cluster.state.known["a"].rates.get("m")


# --- figures alone


def test_speed_is_an_average_that_drifts_to_the_best_when_nobody_confirms_it():
    speed = Speed(100.0, 0.0)
    speed.learn(20.0, 1.0)
    assert speed.rate(1.0) == 80.0
    assert not speed.moving(31.0)
    assert speed.rate(31.0) == 80.0
    assert speed.moving(32.0)
    assert speed.rate(61.0) == pytest.approx(90.0)
    speed.learn(90.0, 61.0)
    assert speed.rate(61.0) == pytest.approx(90.0)


@pytest.mark.parametrize("a", [0.0, 0.3, 0.9])
def test_contention_is_the_slope_over_others(a):
    learned = Contention(0.5)
    for number in range(60):
        b = number % 4
        learned.learn(b, 0.02 * (1.0 + a * b))
    assert learned.a == pytest.approx(a, abs=0.02)


def test_contention_cannot_be_told_from_replies_that_were_all_alike():
    learned = Contention(0.3)
    for _ in range(50):
        learned.learn(3.0, 0.1)
    assert learned.a == 0.3


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.0001, 5)), max_size=60))
def test_contention_stays_between_0_and_1(samples):
    learned = Contention(0.3)
    for b, seconds in samples:
        learned.learn(b, seconds)
        assert 0.0 <= learned.a <= 1.0


def test_success_is_forgotten_and_withdrawn():
    success = Success()
    success.learn(False, 0.0)
    assert success.rate(0.0) == pytest.approx(0.9)
    success.withdraw(0.0)
    assert success.rate(0.0) == pytest.approx(1.0)
    success.learn(False, 0.0)
    for number in range(200):
        success.learn(True, float(number))
    assert success.value == 1.0


def test_slow_verdict_fades_and_only_rises():
    slow = SlowVerdict()
    slow.raise_to(5.0, 0.0)
    slow.raise_to(2.0, 0.0)
    assert slow.factor(0.0) == 5.0
    assert slow.factor(45.0) == pytest.approx(3.0)
    assert slow.factor(2000.0) == 1.0
    slow.raise_to(1e9, 0.0)
    assert slow.factor(0.0) == 100.0


def test_mean_and_use():
    mean = Mean()
    for sample in (10.0, 20.0, 30.0):
        mean.learn(sample)
    assert mean.value == 20.0
    for _ in range(100):
        mean.learn(100.0)
    assert mean.value == pytest.approx(100.0, abs=1.0)
    stats = ModelStats()
    assert stats.rate(0.0) == 0.0
    for second in range(3000):
        stats.count(float(second))
    assert stats.rate(3000.0) == pytest.approx(1.0, rel=0.01)


def test_recent_forgets_what_was_written_longest_ago():
    recent: Recent[int, str] = Recent(2)
    recent.put(1, "a")
    recent.put(2, "b")
    recent.put(1, "c")
    recent.put(3, "d")
    assert dict(recent) == {1: "c", 3: "d"}


@pytest.mark.parametrize(("gpu", "size", "rates"), [(True, 0, (1000, 40)), (False, 0, (50, 6)), (True, 9.8 * GB, (500, 20))])
def test_prior(gpu, size, rates):
    assert scaled_prior(gpu, size) == pytest.approx(rates)


# --- from replies


def test_native_counters_teach_rates_and_lengths():
    cluster = warm()
    rates = finish(cluster, Counters(400, 90, None, 3.11, 0.01, 0.5, 2.6, "stop"), chars=1480, client="c", app="x")
    assert rates.prefill.value == pytest.approx(800.0)
    assert rates.decode.value == pytest.approx(90 / 2.6)
    state = cluster.state
    assert state.answer_tokens(a_task(9, client="c", app="x")) == pytest.approx(90.0)
    assert state.answer_tokens(a_task(9, client="c", app="x", max_tokens=50)) == 50.0
    assert state.answer_tokens(a_task(9, client="c", app="x", max_tokens=-1)) == pytest.approx(90.0)
    assert state.answer_tokens(a_task(9, client="else")) == pytest.approx(90.0)
    assert state.answer_tokens(a_task(9, "new")) == 200.0
    assert state.answer_tokens(a_task(9, load_only=True)) == 0.0
    assert state.answer_tokens(a_task(9, kind=Kind.EMBED)) == 0.0


def test_an_answer_cut_by_its_limit_tells_no_length():
    cluster = warm()
    finish(cluster, Counters(100, 5, None, 0.2, 0.01, 0.1, 0.1, "length"))
    assert cluster.state.answer_tokens(a_task(9)) == 200.0


def test_rates_are_those_of_a_request_alone():
    cluster = warm(slots=4)
    cluster.rates("a", a=0.5)
    first, second = cluster.arrive(), cluster.arrive()
    cluster.now = 2.0
    cluster.end(first, counters=Counters(100, 40, None, 2.0, 0.0, 0.2, 1.8, "stop"))
    rates = cluster.state.known["a"].rates["m"]
    assert rates.decode.value == pytest.approx(0.75 * 40 + 0.25 * 1.5 * 40 / 1.8)
    cluster.end(second)


def test_reused_tokens_do_not_make_a_node_look_fast():
    prompt = Prompt(4000, 0, ((4000, 1),))
    longer = Prompt(4400, 0, ((4000, 1), (4200, 2), (4400, 3)))
    said = {
        "says nothing": (Counters(1190, 20, None, 0.6, 0.0, 0.1, 0.5, "stop"), 1000.0),
        "says what": (Counters(1190, 20, 1090, 0.6, 0.0, 0.2, 0.5, "stop"), 0.75 * 1000 + 0.25 * 500),
        "counts the rest": (Counters(100, 20, None, 0.6, 0.0, 0.2, 0.5, "stop"), 0.75 * 1000 + 0.25 * 500),
    }
    for reply, prefill in said.values():
        cluster = warm()
        finish(cluster, Counters(1081, 20, None, 1.6, 0.0, 1.081, 0.5, "stop"), prompt=prompt)
        rates = finish(cluster, reply, prompt=longer)
        assert rates.prefill.value == pytest.approx(prefill, rel=0.01)


def test_characters_per_token_and_pictures():
    cluster = warm()
    for _ in range(60):
        finish(cluster, counters(prompt=500), chars=1000)
    assert cluster.state.prompt_tokens(a_task(9, chars=1000)) == pytest.approx(500.0, rel=0.02)
    assert cluster.state.prompt_tokens(a_task(9, "never", chars=370)) == pytest.approx(100.0)
    assert cluster.state.prompt_tokens(a_task(9, prompt=Prompt(0, 2))) == pytest.approx(1200.0)
    for _ in range(80):
        finish(cluster, counters(prompt=756), prompt=Prompt(0, 1))
    assert cluster.state.prompt_tokens(a_task(9, prompt=Prompt(0, 2))) == pytest.approx(1512.0, rel=0.02)


def test_pace_of_chunks_teaches_where_replies_tell_no_durations():
    cluster = warm(NodeKind.VLLM)
    task = cluster.arrive(chars=370)
    run = cluster.state.attempt("a", task)
    run.progress.tokens, run.progress.first_at, run.progress.last_at = 51, 0.5, 3.0
    cluster.now = 3.0
    cluster.state.apply(AttemptEnded(3.0, task, "a", "ok", counters=Counters(100, 51)))
    rates = cluster.state.known["a"].rates["m"]
    assert rates.decode.value == pytest.approx(20.0, rel=0.03)
    assert rates.prefill.value == pytest.approx(200.0)


def test_one_piece_replies_teach_decode_by_what_the_prompt_should_not_have_taken():
    cluster = warm(NodeKind.VLLM)
    task = cluster.arrive(chars=370)
    cluster.now = 5.1
    cluster.end(task, counters=Counters(100, 100), native=False)
    assert cluster.state.known["a"].rates["m"].decode.value == pytest.approx(20.0, rel=0.02)
    nothing = cluster.arrive()
    cluster.end(nothing)
    assert cluster.state.known["a"].rates["m"].decode.value == pytest.approx(20.0, rel=0.02)


def test_load_speed():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], []))
    finish(cluster, counters(load=3.5), after=6.0)
    assert cluster.state.known["a"].load_rate == pytest.approx(5.0 / 2.5)
    cluster.state.apply(Unloaded(cluster.now, "a", "m"))
    finish(cluster, counters(load=2.0), after=6.0)
    assert cluster.state.known["a"].load_rate == pytest.approx(0.5 * (2.0 + 5.0))
    cluster.state.apply(Unloaded(cluster.now, "a", "m"))
    finish(cluster, counters(load=0.1), after=6.0)
    finish(cluster, counters(load=9.0), after=12.0)
    assert cluster.state.known["a"].load_rate == pytest.approx(3.5)


def test_load_of_unknown_size_and_loads_by_empty_prompts():
    cluster = Cluster()
    cluster.add("a", a_survey([a_model("m", 0)], []))
    finish(cluster, counters(load=3.5), after=6.0)
    assert cluster.state.known["a"].load_rate is None
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], []))
    finish(cluster, Counters(load=6.0, total=6.0), after=6.0, load_only=True)
    assert cluster.state.known["a"].load_rate == pytest.approx(1.0)
    assert "m" not in cluster.state.known["a"].rates


def test_replies_with_a_load_teach_no_slots():
    cluster = warm()
    tasks = [cluster.arrive() for _ in range(3)]
    cluster.now = 9.0
    for task in tasks:
        cluster.end(task, counters=counters(2.0, wait=3.0, load=1.0))
    assert not cluster.state.known["a"].slots.known


# --- pairs never seen


def test_never_seen_other_models_of_the_node_by_size():
    cluster = Cluster()
    cluster.add("a", a_survey([a_model("m", SIZE), a_model("half", SIZE // 2)], ["m"]))
    cluster.rates("a", "m", prefill=600.0, decode=30.0)
    node = cluster.state.known["a"]
    assert cluster.state.unseen_rates(node, "half", 0.0) == pytest.approx((1200.0, 60.0))


def test_never_seen_best_node_of_its_class_then_the_prior():
    cluster = Cluster()
    for name, vram in (("a", True), ("b", True), ("c", True), ("cpu", False)):
        cluster.add(name, a_survey(["m", "x"], ["m"], vram=vram))
    state = cluster.state
    assert state.unseen_rates(state.known["c"], "m", 0.0) == pytest.approx(scaled_prior(True, SIZE))
    assert state.unseen_rates(state.known["cpu"], "m", 0.0) == pytest.approx(scaled_prior(False, SIZE))
    cluster.rates("a", prefill=700.0, decode=30.0)
    cluster.rates("b", prefill=900.0, decode=50.0)
    assert state.unseen_rates(state.known["c"], "m", 0.5) == pytest.approx(scaled_prior(True, SIZE))
    assert state.unseen_rates(state.known["c"], "m", 2.0) == pytest.approx((900.0, 50.0))
    assert state.unseen_rates(state.known["cpu"], "m", 2.0) == pytest.approx(scaled_prior(False, SIZE))


# --- slow nodes


def test_a_request_far_behind_its_forecast_makes_its_node_slow():
    cluster = warm()
    cluster.rates("a", decode=40.0)
    task = cluster.arrive(chars=0)
    run = cluster.state.attempt("a", task)
    cluster.state.apply(FirstToken(3.0, task, "a"))  # it waited inside the node; only what came since tells its pace
    run.progress.first_at, run.progress.last_at, run.progress.tokens = 3.0, 6.9, 40
    assert cluster.state.behind(4.4) == []
    (verdict,) = cluster.state.behind(7.0)
    assert verdict.node == "a"
    assert verdict.ratio == pytest.approx(4.0)
    cluster.state.apply(verdict)
    assert cluster.state.known["a"].slow.factor(7.0) == pytest.approx(4.0)
    assert cluster.state.behind(7.0) == []


def test_an_answer_in_one_piece_is_late_only_when_the_whole_of_it_is():
    cluster = warm()
    cluster.rates("a", decode=40.0)
    task = cluster.arrive(chars=0, stream=False, max_tokens=160)  # 4 s foreseen
    cluster.state.attempt("a", task)
    assert cluster.state.behind(25.9) == []  # a streamed one without a token would long be late; a load may take 6 s
    (verdict,) = cluster.state.behind(28.0)
    assert verdict.ratio == pytest.approx(7.0)


def test_no_verdict_on_guesses_nor_on_few_tokens():
    cluster = warm()
    task = cluster.arrive()
    assert cluster.state.behind(1e6) == []
    cluster.end(task)
    cluster.rates("a")
    task = cluster.arrive(chars=0)
    run = cluster.state.attempt("a", task)
    assert cluster.state.behind(13.9) == []  # the time of two loads: what was believed loaded may not be
    (verdict,) = cluster.state.behind(60.0)
    assert verdict.ratio == 20.0
    cluster.state.apply(FirstToken(60.0, task, "a"))
    run.progress.tokens = 3
    assert cluster.state.behind(90.0) == []


def test_who_may_be_waiting_for_a_slot_inside_the_node_says_nothing_about_its_pace():
    cluster = warm()
    cluster.rates("a")
    first, second = cluster.arrive(chars=0), cluster.arrive(chars=0)
    cluster.now = 1.0
    cluster.end(first)
    assert cluster.state.attempt("a", second).k == 1
    assert cluster.state.behind(60.0) == []


def test_overdue_nodes_are_looked_at_more_often():
    cluster = warm()
    cluster.rates("a")
    node = cluster.state.known["a"]
    assert node.health.probe_at(1.0, node.overdue(1.0)) == 60.0
    cluster.arrive(chars=0)
    assert not node.overdue(10.0)
    assert node.overdue(30.0)
    assert node.health.probe_at(30.0, node.overdue(30.0)) == 5.0
    cluster.add("new")
    assert cluster.state.known["new"].health.probe_at(30.0) == 30.0


# --- events


def test_health_changes_are_handed_out():
    cluster = warm()
    state = cluster.state
    (down,) = state.apply(ProbeFailed(1.0, "a", True, "refused"))
    assert down == HealthChanged(1.0, "a", Health.UP, Health.DOWN, "refused")
    assert state.apply(ProbeFailed(2.0, "a", True, "refused")) == []
    (up,) = state.apply(NodeSurveyed(3.0, "a", a_survey()))
    assert (up.old, up.new) == (Health.DOWN, Health.UP)
    (drained,) = state.apply(NodeChanged(4.0, a_node("a", draining=True)))
    assert drained.new is Health.DRAINING
    assert state.apply(TaskRefused(5.0, a_task(1), 503, "full")) == []


def test_events_about_nodes_nobody_knows_are_ignored():
    state = Cluster().state
    task = a_task(1)
    for event in (
        NodeChanged(0.0, a_node("x")),
        NodeRemoved(0.0, "x"),
        NodeSurveyed(0.0, "x", a_survey()),
        ProbeFailed(0.0, "x", True, ""),
        ModelLearned(0.0, "x", a_model("m")),
        NodeSlow(0.0, "x", 2.0),
        FirstToken(0.0, task, "x"),
        AttemptEnded(0.0, task, "x", "ok"),
        FailureWithdrawn(0.0, "x", task),
        Unloaded(0.0, "x", "m"),
    ):
        assert state.apply(event) == []
    assert state.nodes == {}
    assert state.attempt("x", task) is None
    cluster = warm()
    cluster.state.apply(FirstToken(0.0, task, "a"))
    cluster.state.apply(Unloaded(0.0, "a", "not loaded"))
    cluster.state.apply(ModelLearned(0.0, "a", a_model("not there")))
    assert "not there" not in cluster.state.nodes["a"].models


def test_an_attempt_on_a_node_that_went_in_between_is_not_counted():
    cluster = warm()
    (decision,) = (cluster.queue.arrive(a_task(1), 0.0), cluster.queue.pump(0.0))[1]
    cluster.state.apply(NodeRemoved(0.0, "a"))
    cluster.state.apply(AttemptStarted(0.0, decision, Progress()))
    assert cluster.state.nodes == {}


def test_adding_a_known_node_changes_it():
    cluster = warm()
    cluster.state.apply(NodeAdded(1.0, a_node("a", slots=7)))
    assert cluster.state.nodes["a"].slots.count == 7
    assert "m" in cluster.state.nodes["a"].models


def test_what_show_told_survives_the_next_look():
    cluster = warm()
    told = a_model("m", capabilities=frozenset({"completion", "tools"}), context_length=8192)
    cluster.state.apply(ModelLearned(0.0, "a", told))
    cluster.state.apply(NodeSurveyed(1.0, "a", a_survey(["m"], ["m"])))
    model = cluster.state.nodes["a"].models["m"]
    assert (model.capabilities, model.context_length) == (told.capabilities, 8192)
    assert isinstance(cluster.queue.hopeless(a_task(1, needs=frozenset({"vision"})), 1.0), Exception)
    cluster.state.apply(NodeSurveyed(2.0, "a", a_survey([a_model("m", digest="another")], ["m"])))
    assert cluster.state.nodes["a"].models["m"].capabilities == frozenset()


def test_a_survey_tells_kind_slots_and_class():
    cluster = Cluster()
    cluster.add("a")
    cluster.state.apply(NodeSurveyed(0.0, "a", a_survey(["m"], ["m"], kind=NodeKind.LLAMACPP, vram=False, slots=6)))
    node = cluster.state.nodes["a"]
    assert (node.kind, node.slots.window, node.gpu, node.version_text) == (NodeKind.LLAMACPP, 6, False, "1.0")
    assert node.contention("m") == 0.9
    assert node.label == "a"
    assert node.last_error == ""
    assert [model for model in node.residents(0.0)] == [node.runners["m"]]


def test_ps_adds_and_removes_what_is_loaded_but_not_what_is_loading_or_busy():
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x", "y"], ["x"]))
    node = cluster.state.known["a"]
    assert set(node.runners) == {"x"}
    loading = cluster.arrive("m")
    cluster.state.apply(NodeSurveyed(1.0, "a", a_survey(["m", "x", "y"], ["y"])))
    assert set(node.runners) == {"m", "y"}
    assert node.runners["m"].loading
    cluster.state.apply(NodeSurveyed(2.0, "a", a_survey(["m", "x", "y"], ["m"])))
    assert not node.runners["m"].loading
    cluster.state.apply(NodeSurveyed(3.0, "a", a_survey(["m", "x", "y"], [])))
    assert set(node.runners) == {"m"}
    cluster.end(loading)
    cluster.state.apply(NodeSurveyed(4.0, "a", a_survey(["m", "x", "y"], [])))
    assert set(node.runners) == set()
    assert node.memory_seen == SIZE


@pytest.mark.parametrize(("keep_alive", "loaded_for"), [(None, 300.0), (60.0, 60.0), (0.0, 0.0), (-1.0, float("inf"))])
def test_keep_alive(keep_alive, loaded_for):
    cluster = warm()
    cluster.end(cluster.arrive(keep_alive=keep_alive))
    node = cluster.state.known["a"]
    assert (node.runner("m", min(loaded_for, 1e9) - 0.1) is not None) is (loaded_for > 0.0)
    if loaded_for < 1e9:
        assert node.runner("m", loaded_for + 0.1) is None


def test_a_longer_default_keep_alive_is_noticed():
    cluster = warm()
    listed = (Resident("m", SIZE, SIZE, expires_in=3600.0),)
    cluster.state.apply(NodeSurveyed(0.0, "a", a_survey(["m"], listed)))
    cluster.end(cluster.arrive())
    assert cluster.state.known["a"].runner("m", 3500.0) is not None


def test_unloaded_at_once_when_idle_else_after_its_requests():
    cluster = warm()
    task = cluster.arrive()
    cluster.state.apply(Unloaded(0.0, "a", "m"))
    assert "m" in cluster.state.known["a"].runners
    cluster.end(task)
    assert "m" not in cluster.state.known["a"].runners
    cluster = warm()
    cluster.state.apply(Unloaded(0.0, "a", "m"))
    assert "m" not in cluster.state.known["a"].runners


@pytest.mark.parametrize(
    ("outcome", "failures", "success", "failed"),
    [
        ("ok", 0, 1.0, 0),
        ("failed", 1, 0.9, 1),
        ("busy", 1, 0.9, 1),
        ("client-error", 0, 1.0, 0),
        ("cancelled", 0, 1.0, 0),
        ("withdrawn", 0, 1.0, 0),
        ("load-failed", 0, 0.9, 1),
        ("model-gone", 0, 1.0, 0),
        ("loading", 0, 1.0, 0),
    ],
)
def test_outcomes(outcome, failures, success, failed):
    cluster = warm()
    cluster.rates("a")
    cluster.end(cluster.arrive(), outcome, text="why")
    node = cluster.state.known["a"]
    assert node.health.failures == failures
    assert node.rates["m"].success.rate(0.0) == pytest.approx(success)
    assert node.failed == failed
    assert node.last_error == ("why" if failed else "")
    assert ("m" in node.models) is (outcome != "model-gone")
    assert node.loading is (outcome == "loading")


def test_model_gone_until_the_next_look():
    cluster = warm()
    cluster.end(cluster.arrive(), "model-gone")
    assert cluster.queue.explain(a_task(9), 0.0)[0].blocked == "model not there"
    cluster.state.apply(NodeSurveyed(1.0, "a", a_survey(["m"], ["m"])))
    assert cluster.queue.explain(a_task(9), 1.0)[0].blocked == ""


def test_a_failed_load_is_given_up_and_looked_into():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], []))
    cluster.end(cluster.arrive(), "load-failed")
    node = cluster.state.known["a"]
    assert node.runners == {}
    assert node.health.probe_interval(0.0) == 1.0
    assert node.health.failures == 0


def test_a_withdrawn_failure_is_taken_back_everywhere():
    cluster = warm()
    task = cluster.arrive()
    cluster.end(task, "failed", text="500")
    cluster.state.apply(FailureWithdrawn(0.0, "a", task))
    node = cluster.state.known["a"]
    assert (node.failed, node.health.failures) == (0, 0)
    assert node.rates["m"].success.rate(0.0) == pytest.approx(1.0)
    cluster.state.apply(FailureWithdrawn(0.0, "a", a_task(8, "other")))


def test_a_stream_that_moves_keeps_a_silent_node_up():
    cluster = warm()
    run = cluster.state.attempt("a", cluster.arrive())
    run.progress.last_at = 9.0
    for _ in range(3):
        cluster.state.apply(ProbeFailed(10.0, "a", False, "no answer"))
    assert cluster.state.known["a"].state is Health.UP
    assert cluster.state.known["a"].health.probe_at(10.0) == 11.0  # a look that told nothing is soon repeated
    for _ in range(2):
        cluster.state.apply(ProbeFailed(20.0, "a", False, "no answer"))
    assert cluster.state.known["a"].state is Health.DOWN


def test_work_that_just_ends_does_not_put_off_the_look_after_a_silent_one():
    cluster = warm()
    task = cluster.arrive()
    cluster.state.apply(ProbeFailed(10.0, "a", False, "closed"))
    cluster.end(task)
    health = cluster.state.known["a"].health
    assert (health.silent, health.probe_at(10.0)) == (0, 11.0)


def test_a_node_that_was_down_has_nothing_loaded():
    cluster = warm()
    cluster.end(cluster.arrive(prompt=Prompt(4000, 0, ((4000, 5),))))
    cluster.state.apply(ProbeFailed(1.0, "a", True, "refused"))
    assert cluster.state.known["a"].runners == {}
    assert cluster.state.mirror.find(Prompt(4000, 0, ((4000, 5),)), "m") == {}


def test_followups_that_find_their_prefix_are_counted():
    cluster = warm(slots=1)
    one, two = ((4000, 5),), ((4000, 5), (4300, 6), (4400, 7))
    cluster.end(cluster.arrive(prompt=Prompt(4000, 0, one)))
    before = cluster.state.mirror.alive
    cluster.end(cluster.arrive(prompt=Prompt(4400, 0, two)))
    assert cluster.state.mirror.alive > before
    cluster.end(cluster.arrive(prompt=Prompt(9000, 0, ((9000, 77),))))
    before = cluster.state.mirror.alive
    cluster.end(cluster.arrive(prompt=Prompt(4800, 0, (*two, (4800, 9)))))
    assert cluster.state.mirror.alive < before


def test_long_conversations_are_remembered_by_both_ends():
    ends = tuple((100 * turn, turn) for turn in range(1, 200))
    cluster = warm(slots=2)
    cluster.end(cluster.arrive(prompt=Prompt(19_900, 0, ends)))
    mirror = cluster.state.mirror
    assert mirror.find(Prompt(20_100, 0, (*ends, (20_100, 999))), "m")["a"][0] >= 19_900
    assert mirror.find(Prompt(20_100, 0, (*ends, (20_100, 999))), "other") == {}
    system = mirror.find(Prompt(300, 0, ((100, 1), (200, 2), (300, 998))), "m")
    assert system["a"][0] == 200
    assert len(mirror._index) <= 10


def test_an_end_without_an_attempt_and_the_end_of_a_request_are_settled():
    cluster = warm()
    cluster.state.apply(AttemptEnded(0.0, a_task(4), "a", "failed"))
    cluster.state.apply(TaskEnded(0.0, a_task(4), 502, "failed", (), 0.0, 0.0, None))
    assert [end.over for end in cluster.state.settled] == [False, True]
    cluster.arrive()
    assert not cluster.state.settled


def test_holders():
    cluster = warm()
    cluster.add("b", a_survey(["x"]))
    assert [node.id for node in cluster.state.holders("m")] == ["a"]


# --- what others there have to do with it


def test_only_others_at_work_while_tokens_came_count_as_contention():
    cluster = warm(slots=4)
    cluster.rates("a", a=0.5, decode=40.0)
    first = cluster.arrive()
    cluster.now = 2.0
    cluster.state.apply(FirstToken(2.0, first, "a"))
    second = cluster.arrive()
    loading = cluster.arrive(model="other")
    assert cluster.state.known["a"].at_work() == 2
    cluster.now = 6.0
    said = Counters(100, 80, None, 6.0, 0.0, 2.0, 4.0, "stop")
    cluster.state.apply(AttemptEnded(6.0, first, "a", "ok", counters=said, native=True))
    rates = cluster.state.known["a"].rates["m"]
    assert rates.prefill.value == pytest.approx(0.75 * 1000 + 0.25 * 100 / 2.0)
    assert rates.decode.value == pytest.approx(0.75 * 40 + 0.25 * 1.5 * 80 / 4.0)
    assert {run.task for run in cluster.state.known["a"].running.values()} == {second, loading}


def test_answers_under_way_together_show_slots():
    cluster = warm()
    node = cluster.state.known["a"]
    tasks = [cluster.arrive() for _ in range(8)]
    for number, task in enumerate(tasks, start=1):
        assert cluster.where(task) == "a", number
        cluster.state.apply(FirstToken(0.0, task, "a"))
        cluster.pump()
        assert node.slots.count == max(2, number)
    assert not node.slots.known


def test_configured_slots_stay_whatever_is_seen():
    cluster = warm(slots=2)
    for _ in range(2):
        cluster.state.apply(FirstToken(0.0, cluster.arrive(), "a"))
    assert cluster.state.known["a"].slots.count == 2


def test_a_node_that_loads_is_looked_at_until_the_load_is_over_and_once_more():
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "n"], ["n"]))
    health = cluster.state.known["a"].health
    assert not health.urgent
    task = cluster.arrive()
    assert health.urgent
    cluster.state.apply(NodeSurveyed(2.0, "a", a_survey(["m", "n"])))
    assert health.urgent
    cluster.state.apply(FirstToken(7.0, task, "a"))
    assert health.urgent
    cluster.state.apply(NodeSurveyed(7.5, "a", a_survey(["m", "n"], ["m"])))
    assert not health.urgent
