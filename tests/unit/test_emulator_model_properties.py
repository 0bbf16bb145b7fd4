"""The model of a node: what holds for any sequence of requests."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sollol.emulator import Finished, ModelSpec, NodeModel, NodeSpec, Refused, Work, embedder

BIG = ModelSpec("big", size=2_000_000_000, prefill=100, decode=10)
SMALL = ModelSpec("small", size=2_000_000_000, prefill=100, decode=10)
EMBED = replace(embedder("embed"), prefill=100)

works = st.builds(
    Work,
    model=st.sampled_from(["big", "small", "embed"]),
    prompt_tokens=st.integers(0, 300),
    output_tokens=st.integers(0, 60),
    num_ctx=st.sampled_from([None, 512]),
    boundaries=st.sampled_from([(), ((50, 1),), ((50, 1), (90, 2))]),
    keep_alive=st.sampled_from([None, 0, 1, 30, -1]),
    load_only=st.booleans(),
)
steps = st.lists(
    st.tuples(
        st.floats(0, 20),
        st.one_of(works, st.integers(0, 8), st.sampled_from(["unload big", "slow", "normal"])),
    ),
    max_size=40,
)
specs = st.builds(
    NodeSpec,
    slots=st.integers(1, 3),
    max_loaded=st.integers(1, 3),
    max_queue=st.integers(0, 4),
    contention=st.sampled_from([0.0, 0.3, 0.9]),
    memory=st.sampled_from([3_000_000_000, 24_000_000_000]),
    models=st.just((BIG, SMALL, EMBED)),
)


@settings(max_examples=150, deadline=None)
@given(specs, steps)
def test_every_request_ends_exactly_once_and_slots_are_never_exceeded(spec, script):
    watched = Watched(spec)
    for pause, step in script:
        watched.look(watched.now + pause)
        watched.do(step)
        watched.look(watched.now)
    watched.look(watched.now + 1e6)
    assert watched.node.in_flight == watched.node.running == 0
    assert sorted([*watched.ended, *watched.gone]) == sorted(watched.asked)


class Watched:
    """A node whose happenings are checked as they come."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.node = NodeModel(spec)
        self.asked: dict[int, Work] = {}
        self.ended: list[int] = []
        self.gone: set[int] = set()
        self.now = self.last = 0.0

    def do(self, step: Work | int | str) -> None:
        if isinstance(step, Work):
            self.asked[self.node.submit(step, self.now)] = step
            return
        if step == "unload big":
            self.node.unload("big", self.now)
        elif isinstance(step, str):
            self.node.set_slow(4.0 if step == "slow" else 1.0, self.now)
        else:
            if step in self.asked and step not in self.ended:
                self.gone.add(step)
            self.node.cancel(step, self.now)

    def look(self, until: float) -> None:
        self.now = until
        for happening in self.node.advance(until):
            assert self.last - 1e-9 <= happening.time <= until + 1e-9
            self.last = happening.time
            if isinstance(happening, Finished | Refused):
                self.ended.append(happening.handle)
            if isinstance(happening, Finished):
                check_counters(self.asked[happening.handle], happening)
        resident = self.node.resident(until)
        assert len(resident) <= self.spec.max_loaded
        for r in resident:
            assert 0 <= r.running <= (1 if r.model.embeds else self.spec.slots)
            assert not r.waiting or r.running


def check_counters(work: Work, happening: Finished) -> None:
    counters = happening.counters
    parts = (counters.load or 0) + (counters.prefill or 0) + (counters.decode or 0)
    assert parts <= (counters.total or 0) + 1e-6
    if not work.load_only:
        assert (counters.prompt_tokens, counters.output_tokens) == (work.prompt_tokens, work.output_tokens)


@settings(max_examples=100, deadline=None)
@given(specs, st.lists(st.tuples(st.floats(0, 3), st.integers(0, 100), st.integers(1, 50)), min_size=1, max_size=12))
def test_the_time_of_a_token_is_when_it_counts(spec, script):
    node, now, asked = NodeModel(spec), 0.0, {}
    for pause, prompt, output in script:
        now += pause
        asked[node.submit(Work("big", prompt, output), now)] = output
    node.advance(now)
    for handle, output in asked.items():
        for k in {1, output // 2, output} - {0}:
            when = node.time_of_token(handle, k)
            if when is not None and when > now:
                before = min([when, *([node.next_time()] if node.next_time() else [])])
                assert node.tokens(handle, before - 1e-3) < k
                if before == when:
                    assert node.tokens(handle, when + 1e-6) >= k
