"""The model of a node: what was seen on real nodes, and properties that hold for any sequence of requests."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from sollol.core.types import NodeKind
from sollol.emulator import (
    Finished,
    FirstToken,
    Happening,
    Loaded,
    ModelSpec,
    NodeModel,
    NodeSpec,
    Refused,
    Unloaded,
    Work,
    embedder,
)

# Rates that make round numbers: 100 tokens of prompt in 1 s, 10 tokens of answer in 1 s, a load in 3 s.
BIG = ModelSpec("big", size=2_000_000_000, prefill=100, decode=10)
SMALL = ModelSpec("small", size=2_000_000_000, prefill=100, decode=10)
EMBED = replace(embedder("embed"), prefill=100)
NODE = NodeSpec(models=(BIG, SMALL, EMBED), max_loaded=1, contention=0.5)


def drain(node: NodeModel) -> list[Happening]:
    """Everything until nothing is in flight."""
    seen = node.advance(0.0) if node.next_time() is None else []
    while node.in_flight or node.next_time() is not None:
        when = node.next_time()
        assert when is not None, "requests wait for ever"
        seen += node.advance(when)
        if not node.in_flight and not any(isinstance(h, Refused) for h in node.advance(when)):
            break
    return seen


def finished(seen: list[Happening]) -> dict[int, Finished]:
    return {h.handle: h for h in seen if isinstance(h, Finished)}


def warm(spec: NodeSpec = NODE, model: str = "big") -> NodeModel:
    """A node that has `model` loaded at second 100."""
    node = NodeModel(spec)
    node.submit(Work(model, load_only=True), 0.0)
    node.advance(100.0)
    return node


def test_a_cold_request_pays_the_load_and_says_so():
    node = NodeModel(NODE)
    handle = node.submit(Work("big", 100, 20), 0.0)
    seen = drain(node)
    assert [type(h) for h in seen] == [Loaded, FirstToken, Finished]
    assert [h.time for h in seen] == pytest.approx([3.0, 4.0, 6.0])
    counters = finished(seen)[handle].counters
    assert (counters.load, counters.prefill, counters.decode, counters.total) == pytest.approx((3.0, 1.0, 2.0, 6.0))
    assert (counters.prompt_tokens, counters.output_tokens, counters.done_reason) == (100, 20, "stop")


def test_requests_wait_for_a_slot_in_order_and_only_the_total_shows_it():
    node = warm()
    handles = [node.submit(Work("big", 100, 20), 100.0) for _ in range(3)]
    done = finished(drain(node))
    assert [done[h].time for h in handles] == pytest.approx([103.0, 106.0, 109.0])
    assert done[handles[2]].counters.load == 0
    assert done[handles[2]].counters.total == pytest.approx(9.0)


def test_contention_slows_everything_that_runs():
    node = warm(replace(NODE, slots=2))
    a = node.submit(Work("big", 0, 20), 100.0)
    b = node.submit(Work("big", 0, 20), 100.0)
    done = finished(drain(node))
    assert done[a].time == done[b].time == pytest.approx(103.0)  # 2 s alone, 1.5 times as long beside another


def test_an_embedding_model_has_one_slot():
    node = warm(replace(NODE, slots=4), "embed")
    handles = [node.submit(Work("embed", 100), 100.0) for _ in range(3)]
    done = finished(drain(node))
    assert [done[h].time for h in handles] == pytest.approx([101.0, 102.0, 103.0])


def test_a_switch_waits_for_the_running_request_and_load_duration_counts_the_wait():
    node = warm()
    node.submit(Work("big", 0, 50), 100.0)
    other = node.submit(Work("small", 0, 10), 101.0)
    seen = drain(node)
    assert [(type(h), h.time) for h in seen if isinstance(h, Loaded | Unloaded)] == [
        (Unloaded, pytest.approx(105.0)),
        (Loaded, pytest.approx(108.0)),
    ]
    assert finished(seen)[other].counters.load == pytest.approx(7.0)


def test_new_requests_for_the_loaded_model_starve_the_other():
    node = warm()
    node.submit(Work("big", 0, 20), 100.0)
    other = node.submit(Work("small", 0, 10), 100.5)
    for step in range(1, 11):
        node.submit(Work("big", 0, 20), 100.0 + 1.5 * step)
    assert finished(drain(node))[other].time == pytest.approx(122.0 + 3.0 + 1.0)


def test_a_model_that_must_leave_leaves_whatever_its_last_request_wished():
    node = warm()
    node.submit(Work("big", 0, 20), 100.0)
    other = node.submit(Work("small", 0, 10), 100.5)
    node.submit(Work("big", 0, 20, keep_alive=-1), 101.0)
    assert finished(drain(node))[other].time == pytest.approx(104.0 + 3.0 + 1.0)


def test_another_context_size_is_another_runner():
    node = warm()
    handle = node.submit(Work("big", 0, 10, num_ctx=512), 100.0)
    seen = drain(node)
    assert [type(h) for h in seen] == [Unloaded, Loaded, FirstToken, Finished]
    assert finished(seen)[handle].counters.load == pytest.approx(3.0)
    assert node.resident(105.0)[0].num_ctx == 512


def test_a_context_over_the_models_own_is_capped():
    node = NodeModel(replace(NODE, models=(replace(BIG, context_length=1000),)))
    node.submit(Work("big", 0, 10, num_ctx=10**9), 0.0)
    drain(node)
    assert node.resident(10.0)[0].num_ctx == 1000


def test_only_the_queue_for_loads_is_ever_full():
    node = warm(replace(NODE, max_queue=2))
    running = [node.submit(Work("big", 0, 50), 100.0) for _ in range(9)]
    waiting = [node.submit(Work("small", 0, 10), 101.0) for _ in range(5)]
    seen = drain(node)
    refused = [h.handle for h in seen if isinstance(h, Refused)]
    assert refused == waiting[3:]  # one in hand and two waiting
    assert set(finished(seen)) == {*running, *waiting[:3]}


def test_the_idle_runner_with_the_shortest_keep_alive_leaves():
    node = NodeModel(replace(NODE, max_loaded=2))
    node.submit(Work("big", load_only=True, keep_alive=60), 0.0)
    node.submit(Work("embed", load_only=True, keep_alive=900), 0.0)
    node.advance(20.0)
    node.submit(Work("big", 0, 1), 20.0)  # used last, and still the first to go
    node.advance(30.0)
    node.submit(Work("small", load_only=True), 30.0)
    node.advance(40.0)
    assert {r.model.name for r in node.resident(40.0)} == {"embed", "small"}


def test_memory_decides_too():
    node = NodeModel(replace(NODE, max_loaded=3, memory=3_000_000_000))
    node.submit(Work("big", load_only=True), 0.0)
    node.submit(Work("small", load_only=True), 10.0)
    node.advance(20.0)
    assert [r.model.name for r in node.resident(20.0)] == ["small"]


def test_keep_alive_runs_from_the_end_of_a_request():
    node = warm()
    node.submit(Work("big", 0, 100, keep_alive=5), 100.0)
    assert not node.resident(109.0)[0].expires_at < inf or node.resident(109.0)[0].running == 1
    node.advance(110.5)
    assert node.resident(110.5)[0].expires_at == pytest.approx(115.0)
    assert [type(h) for h in node.advance(115.0)] == [Unloaded]
    assert node.resident(115.0) == []


def test_keep_alive_zero_and_for_ever():
    node = warm()
    node.submit(Work("big", 0, 10, keep_alive=-1), 100.0)
    node.advance(10_000.0)
    assert node.resident(10_000.0)[0].expires_at == inf
    node.submit(Work("big", 0, 10, keep_alive=0), 10_000.0)
    assert node.advance(10_001.0)[-1] == Unloaded(10_001.0, "big", 4096)


def test_unload_lets_running_requests_end_and_new_ones_in():
    node = warm()
    node.submit(Work("big", 0, 50), 100.0)
    node.unload("big", 101.0)
    late = node.submit(Work("big", 0, 10), 102.0)
    assert len(node.resident(103.0)) == 1
    seen = node.advance(106.0)
    assert finished(seen)[late].counters.load == 0
    assert isinstance(seen[-1], Unloaded)


def test_unload_of_an_idle_model_is_at_once_and_of_an_absent_one_nothing():
    node = warm()
    node.unload("big", 100.0)
    node.unload("small", 100.0)
    assert node.resident(100.0) == []


def test_a_client_that_leaves_frees_its_slot_at_once():
    node = warm()
    first = node.submit(Work("big", 0, 1000), 100.0)
    second = node.submit(Work("big", 0, 10), 100.0)
    third = node.submit(Work("big", 0, 10), 100.0)
    node.cancel(second, 101.0)
    node.cancel(first, 102.0)
    assert finished(drain(node))[third].time == pytest.approx(103.0)


def test_a_request_that_waited_for_a_switch_still_evicts_when_its_client_left():
    node = warm()
    node.submit(Work("big", 0, 50), 100.0)
    gone = node.submit(Work("small", 0, 10), 100.5)
    node.cancel(gone, 101.0)
    seen = drain(node)
    seen += node.advance(200.0)
    assert [type(h) for h in seen if isinstance(h, Loaded | Unloaded)] == [Unloaded]
    assert node.resident(200.0) == []


def test_a_load_that_nobody_waits_for_is_given_up_and_the_next_one_begins():
    node = NodeModel(NODE)
    gone = node.submit(Work("big", 0, 10), 0.0)
    also_gone = node.submit(Work("big", 0, 10), 0.5)
    other = node.submit(Work("small", 0, 10), 0.5)
    assert node.loading == BIG
    node.cancel(also_gone, 0.8)
    node.cancel(gone, 1.0)
    assert node.loading == SMALL
    assert finished(drain(node))[other].time == pytest.approx(5.0)


def test_loads_happen_one_after_another():
    node = NodeModel(replace(NODE, max_loaded=3))
    node.submit(Work("big", load_only=True), 0.0)
    node.submit(Work("small", load_only=True), 0.0)
    assert [h.time for h in drain(node) if isinstance(h, Loaded)] == pytest.approx([3.0, 6.0])


def test_aliases_of_one_digest_share_a_runner():
    alias = replace(BIG, name="alias")
    node = warm(replace(NODE, models=(BIG, alias)))
    handle = node.submit(Work("alias", 0, 10), 100.0)
    assert finished(drain(node))[handle].counters.load == 0
    assert [r.model.name for r in node.resident(102.0)] == ["big"]
    node.unload("alias", 102.0)
    assert node.resident(102.0) == []


def test_a_slot_that_holds_the_beginning_of_the_prompt_saves_reading_it():
    node = warm(replace(NODE, slots=2))
    node.submit(Work("big", 100, 10, boundaries=((100, 1),), after=(110, 2)), 100.0)
    node.advance(150.0)
    turn = node.submit(Work("big", 200, 10, boundaries=((100, 1), (110, 2), (200, 3)), after=(210, 4)), 150.0)
    counters = finished(drain(node))[turn].counters
    assert counters.cached_tokens == 110
    assert counters.prompt_tokens == 200
    assert counters.prefill == pytest.approx(0.9)


def test_another_conversation_overwrites_the_slot_unused_for_longest():
    node = warm(replace(NODE, slots=2))
    for conversation, at in ((1, 100.0), (2, 200.0), (3, 300.0)):
        node.submit(Work("big", 100, 1, boundaries=((100, conversation),)), at)
        node.advance(at + 50)
    cached = []
    for conversation, at in ((1, 400.0), (3, 500.0)):
        handle = node.submit(Work("big", 200, 1, boundaries=((100, conversation), (200, 10 + conversation))), at)
        cached.append(finished(node.advance(at + 50))[handle].counters.cached_tokens)
    assert cached == [0, 100]


def test_tokens_follow_the_contention():
    node = warm(replace(NODE, slots=2))
    a = node.submit(Work("big", 100, 50), 100.0)
    assert node.tokens(a, 100.9) == 0
    assert node.time_of_token(a, 1) == pytest.approx(101.0)
    assert node.tokens(a, 101.0) == 1
    assert node.tokens(a, 102.0) == 11
    b = node.submit(Work("big", 0, 10), 102.0)
    assert node.time_of_token(a, 21) == pytest.approx(103.5)
    assert node.tokens(a, 103.5) == 21
    node.cancel(b, 103.5)
    assert node.tokens(a, 104.0) == 26
    assert node.time_of_token(a, 51) is None
    assert node.tokens(b, 104.0) == 0


def test_a_slow_node_and_one_that_stands_still():
    node = warm()
    handle = node.submit(Work("big", 0, 20), 100.0)
    node.set_slow(10, 101.0)
    assert node.tokens(handle, 102.0) == 12
    node.set_slow(inf, 102.0)
    assert node.time_of_token(handle, 20) is None
    assert node.advance(1000.0) == [FirstToken(100.0, handle)]
    assert node.resident(1000.0)[0].running == 1
    node.set_slow(1, 1000.0)
    assert finished(drain(node))[handle].time == pytest.approx(1000.9)


def test_a_crash_loses_everything():
    node = warm()
    handles = [node.submit(Work("big", 0, 50), 100.0), node.submit(Work("small", 0, 50), 100.0)]
    node.advance(101.0)
    assert node.crash(101.0) == handles
    assert (node.in_flight, node.running, node.next_time(), node.resident(101.0)) == (0, 0, None, [])
    handle = node.submit(Work("big", 0, 10), 110.0)
    assert finished(drain(node))[handle].counters.load == pytest.approx(3.0)


def test_servers_of_one_model_have_it_loaded_for_ever():
    node = NodeModel(replace(NODE, kind=NodeKind.LLAMACPP, models=(BIG,)))
    handle = node.submit(Work("big", 0, 10, num_ctx=512), 0.0)
    assert finished(drain(node))[handle].time == pytest.approx(1.0)
    node.unload("big", 1.0)
    node.submit(Work("big", 0, 10, keep_alive=0), 1.0)
    node.advance(10_000.0)
    assert len(node.resident(10_000.0)) == 1
    node.crash(10_000.0)
    assert len(node.resident(10_000.0)) == 1


def test_a_fixed_delay_replaces_rates_and_loads():
    node = NodeModel(replace(NODE, fixed_delay=0.1, contention=0.0, slots=8))
    done = [node.submit(Work("big", n * 1000, n * 10), 5.0) for n in range(4)]
    seen = finished(drain(node))
    assert [seen[h].time for h in done] == pytest.approx([5.1] * 4)


def test_an_unknown_model_is_the_callers_mistake():
    with pytest.raises(KeyError):
        NodeModel(NODE).submit(Work("nothing"), 0.0)


def test_size_based_rates_and_speed_factor():
    spec = NodeSpec(prefill=1000, decode=40, load_gbps=2)
    half = ModelSpec("half", size=2_350_000_000)
    assert (spec.prefill_rate(half), spec.decode_rate(half)) == pytest.approx((2000, 80))
    assert spec.load_seconds(half) == pytest.approx(2.175)
    fast = spec.faster(10)
    assert (fast.decode_rate(half), fast.load_gbps) == pytest.approx((800, 20))
