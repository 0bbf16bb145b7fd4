from __future__ import annotations

import pytest
from tests.support.core_cluster import GB, SIZE, Cluster, a_model, a_survey, a_task

from sollol.core.explain import reason
from sollol.core.routing import Load, Term, best, explained, group_key, seconds, weight
from sollol.core.types import Cost, Decision, Kind, Mode, NodeKind, Prompt, Resident


def two(loaded=(True, True), kinds=(NodeKind.OLLAMA, NodeKind.OLLAMA), **fields) -> Cluster:
    """Nodes a and b with model m (5 GB, so a load takes 6 s), one slot each."""
    cluster = Cluster()
    for name, warm, kind in zip("ab", loaded, kinds, strict=True):
        cluster.add(name, a_survey(["m"], ["m"] if warm else [], kind=kind), slots=1, **fields)
        cluster.rates(name)
    return cluster


def occupy(cluster: Cluster, name: str, tokens: int) -> None:
    """Something that will hold the node's slot for ``tokens`` / 40 s."""
    decision = cluster.arrive(pin=name, chars=0, max_tokens=tokens)
    assert cluster.where(decision) == name


@pytest.mark.parametrize(
    ("loaded", "busy", "winner"),
    [
        ((True, False), (0, 0), "a"),  # warm beats cold
        ((True, False), (60, 0), "a"),  # also if that means a short wait: 1.5 × 1.5 s against a load of 6 s
        ((True, False), (170, 0), "b"),  # until waiting costs more than loading: 1.5 × 4.3 s
        ((True, True), (40, 0), "b"),
        ((True, True), (0, 40), "a"),
        ((False, False), (0, 0), "a"),  # nothing to choose between: the first
    ],
)
def test_residency_against_waiting(loaded, busy, winner):
    cluster = two(loaded)
    for name, tokens in zip("ab", busy, strict=True):
        if tokens:
            occupy(cluster, name, tokens)
    assert cluster.queue.explain(a_task(99, chars=0, max_tokens=40), cluster.now)[0].node == winner


@pytest.mark.parametrize(
    ("mode", "wait_weight"), [(Mode.BALANCED, 1.5), (Mode.FAST, 2.0), (Mode.RELIABLE, 1.5), (Mode.ASYNC, 1.5)]
)
def test_weight_of_waiting(mode, wait_weight):
    assert weight(mode) == wait_weight
    cluster = two()
    occupy(cluster, "a", 80)
    cost = next(cost for cost in cluster.queue.explain(a_task(9, chars=0, max_tokens=40, mode=mode), 0.0) if cost.node == "a")
    assert cost.wait == pytest.approx(2.0)
    assert cost.total == pytest.approx(wait_weight * 2.0 + 1.0)
    assert cost.eta == pytest.approx(3.0)


def test_prefill_and_decode_are_learned_rates_and_contention():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]), slots=4)
    cluster.rates("a", prefill=500.0, decode=20.0, a=0.5)
    occupy(cluster, "a", 200)
    cost = cluster.queue.explain(a_task(9, chars=3700, max_tokens=100), 0.0)[0]
    assert cost.prompt_tokens == pytest.approx(1000.0)
    assert cost.prefill == pytest.approx(1.5 * 2.0)
    assert cost.decode == pytest.approx(1.5 * 5.0)
    assert cost.total == cost.eta == pytest.approx(10.5)


def test_slow_and_failing_nodes_cost_more():
    cluster = two()
    state = cluster.state
    state.known["a"].slow.raise_to(3.0, 0.0)
    state.known["b"].rates_of("m").success.learn(False, 0.0)
    costs = {cost.node: cost for cost in cluster.queue.explain(a_task(9, chars=0, max_tokens=40), 0.0)}
    assert costs["a"].total == pytest.approx(3.0)
    assert costs["b"].total == pytest.approx(1.0 / 0.9)
    reliable = {cost.node: cost for cost in cluster.queue.explain(a_task(9, chars=0, max_tokens=40, mode=Mode.RELIABLE), 0.0)}
    assert reliable["b"].total == pytest.approx(1.0 / 0.81)


def test_success_never_counts_for_nothing():
    cluster = two()
    for _ in range(100):
        cluster.state.known["a"].rates_of("m").success.learn(False, 0.0)
    assert cluster.queue.explain(a_task(9), 0.0)[-1].success == 0.05


def test_async_takes_the_slowest_within_four_times_the_best():
    cluster = Cluster()
    for name, decode in (("fast", 80.0), ("middle", 25.0), ("slow", 10.0)):
        cluster.add(name, a_survey(["m"], ["m"]))
        cluster.rates(name, decode=decode)
    assert cluster.where(cluster.arrive(chars=0, max_tokens=40, mode=Mode.ASYNC)) == "middle"
    assert cluster.where(cluster.arrive(chars=0, max_tokens=40)) == "fast"


@pytest.mark.parametrize(
    ("decode_of_b", "winner"),
    [(40.0, "b"), (30.0, "b"), (20.0, "a")],  # 1 s, 1.33 s (within half a second), 2 s
)
def test_priority_of_nodes_decides_among_equals(decode_of_b, winner):
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]), priority=5)
    cluster.add("b", a_survey(["m"], ["m"]), priority=8)
    cluster.rates("a")
    cluster.rates("b", decode=decode_of_b)
    assert cluster.where(cluster.arrive(chars=0, max_tokens=40)) == winner


def test_last_resort_only_when_nobody_else_could_start_within_half_a_minute():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]), slots=1)
    cluster.add("spare", a_survey(["m"], ["m"]), slots=1, priority=1)
    cluster.rates("a")
    cluster.rates("spare", decode=400.0)
    assert cluster.where(cluster.arrive(chars=0, max_tokens=800)) == "a"
    waits = cluster.arrive(chars=0, max_tokens=40)
    assert cluster.where(waits) is None
    cluster.now = 12.0  # it has waited 12 s and would wait 8 more
    cluster.pump()
    assert cluster.where(waits) is None
    cluster.state.known["a"].slow.raise_to(20.0, 12.0)
    occupied = next(iter(cluster.state.known["a"].running.values()))
    occupied.out = 4000.0
    occupied.decode = 100.0
    cluster.state.known["a"].version += 1
    cluster.pump()
    assert cluster.where(waits) == "spare"


def test_last_resort_serves_when_it_is_alone():
    cluster = Cluster()
    cluster.add("spare", a_survey(["m"], ["m"]), priority=1)
    assert cluster.where(cluster.arrive()) == "spare"


# --- loads, drains, evictions


def test_load_is_one_second_and_its_size_over_the_learned_speed():
    cluster = two((False, False))
    cluster.state.known["b"].load_rate = 5.0
    costs = {cost.node: cost for cost in cluster.queue.explain(a_task(9), 0.0)}
    assert costs["a"].load == pytest.approx(6.0)
    assert costs["b"].load == pytest.approx(2.0)
    assert costs["a"].evict == 0.0


def test_unknown_size_counts_ten_seconds():
    cluster = Cluster()
    cluster.add("a", a_survey([a_model("m", 0)], [], kind=NodeKind.LMSTUDIO))
    assert cluster.queue.explain(a_task(9), 0.0)[0].load == 10.0


def test_a_load_under_way_is_joined_not_repeated():
    cluster = two((False, False))
    first, second = cluster.arrive(), cluster.arrive()
    assert {cluster.where(first), cluster.where(second)} == {"a", "b"}
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], []), slots=4)
    cluster.add("b", a_survey(["m"], []), slots=4)
    cluster.rates("a", decode=400.0, a=0.0)
    cluster.rates("b", decode=400.0, a=0.0)
    tasks = [cluster.arrive() for _ in range(4)]
    cluster.now = 3.0
    tasks.append(cluster.arrive(chars=0))
    assert cluster.queue.explain(a_task(99), 3.0)[0].load == pytest.approx(3.0)
    assert cluster.where(tasks[0]) == "a"


def full(memory: int = 10 * GB) -> Cluster:
    """One node with place for two of three models."""
    cluster = Cluster()
    loaded = [Resident("x", SIZE, SIZE, expires_in=100.0), Resident("y", SIZE, SIZE, expires_in=50.0)]
    cluster.add("a", a_survey(["m", "x", "y"], loaded), memory=memory, slots=2)
    for model in "mxy":
        cluster.rates("a", model)
    return cluster


def test_the_idle_model_with_least_keep_alive_left_goes():
    cluster = full()
    task = cluster.arrive("m")
    assert cluster.where(task) == "a"
    assert set(cluster.state.known["a"].runners) == {"x", "m"}


def test_price_of_an_eviction_is_the_chance_that_it_is_loaded_again():
    cluster = full()
    assert cluster.queue.explain(a_task(9), 0.0)[0].evict == 0.0
    stats = cluster.state.stats("y")
    for _ in range(300):
        stats.count(0.0)
    cost = cluster.queue.explain(a_task(9), 0.0)[0]
    assert cost.evict == pytest.approx(2.0 * 6.0, rel=0.01)
    assert cost.total == pytest.approx(cost.eta + cost.evict)


@pytest.mark.parametrize(
    ("decode", "loaded", "draining", "price"),
    [
        (40.0, ["y"], False, 0.0),
        (39.0, ["y"], False, 12.0),  # slower: whoever wants it will want it back
        (None, ["y"], False, 12.0),  # nobody knows
        (80.0, [], False, 12.0),
        (80.0, ["y"], True, 12.0),
    ],
)
def test_a_model_that_a_node_as_fast_has_too_is_not_missed(decode, loaded, draining, price):
    cluster = full()
    for _ in range(300):
        cluster.state.stats("y").count(0.0)
    cluster.rates("a", "y", decode=40.0)
    cluster.add("b", a_survey(["y"], loaded))
    if decode is not None:
        cluster.rates("b", "y", decode=decode)
    cluster.state.known["b"].health.draining = draining
    (cost,) = (cost for cost in cluster.queue.explain(a_task(9), 0.0) if cost.node == "a")
    assert cost.evict == pytest.approx(price, rel=0.01)


def test_busy_models_must_drain_and_get_nothing_more_until_the_switch_is_over():
    cluster = full()
    first = cluster.arrive("x", chars=0, max_tokens=400)
    second = cluster.arrive("y", chars=0, max_tokens=400)
    cost = cluster.queue.explain(a_task(9), 0.0)[0]
    assert cost.load == pytest.approx(6.0 + 5.0)
    assert cost.evict == pytest.approx(12.0)
    switch = cluster.arrive("m")
    assert cluster.where(switch) == "a"
    leaving = next(runner for runner in cluster.state.known["a"].runners.values() if runner.leaving_for)
    victim = cluster.arrive(leaving.model)
    assert cluster.where(victim) is None
    assert cluster.queue.explain(victim, 0.0)[0].blocked == "switching to m"
    cluster.now = 10.0
    cluster.end(first)
    cluster.end(second)
    assert cluster.where(victim) == "a" or cluster.where(victim) is None
    cluster.now = 17.0
    cluster.end(switch)
    assert cluster.where(victim) == "a"


def test_a_switch_that_nobody_waits_for_is_given_up():
    cluster = full()
    running = [cluster.arrive("x", max_tokens=400), cluster.arrive("y", max_tokens=400)]
    switch = cluster.arrive("m")
    cluster.end(switch, "cancelled")
    assert not any(runner.leaving_for for runner in cluster.state.known["a"].runners.values())
    assert "m" not in cluster.state.known["a"].runners
    assert cluster.where(cluster.arrive("x")) == cluster.where(running[0]) == "a"


def test_without_known_memory_three_models_fit():
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x", "y", "z"], []))
    for model in "xyz":
        cluster.end(cluster.arrive(model))
    assert set(cluster.state.known["a"].runners) == {"x", "y", "z"}
    cluster.end(cluster.arrive("m"))
    assert set(cluster.state.known["a"].runners) == {"y", "z", "m"}


def test_another_context_is_another_runner():
    cluster = two((True, False))
    cost = {cost.node: cost for cost in cluster.queue.explain(a_task(9, num_ctx=8192), 0.0)}
    assert cost["a"].load == cost["b"].load == pytest.approx(6.0)
    task = cluster.arrive(num_ctx=8192)
    cluster.end(task)
    assert cluster.state.known[cluster.sent[0].node].runners["m"].num_ctx == 8192
    again = cluster.arrive(num_ctx=8192)
    assert cluster.where(again) == cluster.sent[0].node
    assert cluster.sent[-1].cost.load == 0.0


# --- prefixes


def test_a_conversation_returns_to_where_its_prefix_is():
    cluster = two()
    first = cluster.arrive(chars=4000, prompt=Prompt(4000, 0, ((4000, 11),)))
    home = cluster.where(first)
    cluster.end(first)
    other = cluster.arrive(chars=4000, prompt=Prompt(4000, 0, ((4000, 77),)), pin="b" if home == "a" else "a")
    cluster.end(other)
    cluster.now = 5.0
    turn = cluster.arrive(prompt=Prompt(4400, 0, ((4000, 11), (4200, 12), (4400, 13))))
    assert cluster.where(turn) == home
    cost = cluster.sent[-1].cost
    assert cost.cached_tokens >= 4000 / 3.7
    assert cost.lost == 0.0
    assert cost.prefill < 0.12


def test_overwriting_a_prefix_has_a_price_that_fades():
    cluster = two()
    cluster.end(cluster.arrive(prompt=Prompt(37_000, 0, ((37_000, 11),))))
    fresh = {cost.node: cost for cost in cluster.queue.explain(a_task(9), 0.0)}
    assert fresh["a"].lost == pytest.approx(0.25 * 10.0, rel=0.05)
    assert fresh["b"].lost == 0.0
    cluster.now = 60.0
    later = {cost.node: cost for cost in cluster.queue.explain(a_task(9), 60.0)}
    assert later["a"].lost == pytest.approx(fresh["a"].lost / 2.718, rel=0.05)


# --- the quick sum and the written-out one


def test_the_quick_loop_ranks_by_the_same_sum():
    cluster = two((True, False))
    cluster.add("c", a_survey(["m"], ["m"]), slots=2)
    cluster.end(cluster.arrive(prompt=Prompt(4000, 0, ((3000, 5), (4000, 6)))))
    occupy(cluster, "a", 90)
    task = a_task(50, prompt=Prompt(4100, 0, ((3000, 5), (4100, 7))))
    terms = [Term(node) for node in cluster.state.known.values()]
    for term in terms:
        term.renew(group_key(task), cluster.state, 1.0)
    load = Load(task, cluster.state)
    for reliable in (False, True):
        costs, first, second = best(load, terms, 1.0, 1.5, reliable)
        assert costs == pytest.approx([seconds(load, term, 1.0, 1.5, reliable) for term in terms])
        assert costs == pytest.approx([explained(load, term, 1.0, 1.5, reliable).total for term in terms])
        assert costs[first] == min(costs)
        assert costs[second] == sorted(costs)[1]


# --- words


def test_reason_as_people_read_it():
    ranked = (
        Cost("gpu-1", prefill=0.4, decode=3.0, eta=3.4, total=3.4, prompt_tokens=2000, cached_tokens=1200),
        Cost("gpu-2", load=5.5, prefill=0.6, decode=3.0, eta=9.1, total=9.1),
    )
    text = "gpu-1 eta 3.4s = prefill 0.4 (1200 of 2000 tok cached) + decode 3.0; next gpu-2 9.1s (load +5.5)"
    assert reason(ranked) == text
    assert reason(Decision(a_task(1), "gpu-1", ranked)) == text


@pytest.mark.parametrize(
    ("ranked", "text"),
    [
        ((), ""),
        ((Cost("a", blocked="down"),), ""),
        ((Cost("a", eta=0.01),), "a eta 0.0s"),
        ((Cost("a", wait=1.0, load=2.0, eta=120.4),), "a eta 120s = wait 1.0 + load 2.0"),
        (
            (Cost("a", wait=1.0, eta=1.0), Cost("x", blocked="down"), Cost("b", eta=2.0)),
            "a eta 1.0s = wait 1.0; next b 2.0s (wait -1.0)",
        ),
        ((Cost("a", eta=1.0), Cost("b", eta=1.0)), "a eta 1.0s; next b 1.0s"),
        ((Cost("a", decode=1.0, slow=3.0, eta=3.0),), "a eta 3.0s = decode 3.0"),
        ((Cost("10.0.0.1:1", eta=1.0, name="gpu"), Cost("10.0.0.2:1", eta=1.0, name="cpu")), "gpu eta 1.0s; next cpu 1.0s"),
    ],
)
def test_reasons(ranked, text):
    assert reason(ranked) == text


def test_embeddings_of_ollama_run_one_at_a_time():
    cluster = Cluster()
    cluster.add("a", a_survey([a_model("e", capabilities=frozenset({"embedding"}))], ["e"]), slots=4)
    first = cluster.arrive("e", kind=Kind.EMBED, needs=frozenset({"embedding"}))
    second = cluster.arrive("e", kind=Kind.EMBED, needs=frozenset({"embedding"}))
    assert (cluster.where(first), cluster.where(second)) == ("a", None)
    cluster.end(first)
    assert cluster.where(second) == "a"
