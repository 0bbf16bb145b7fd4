"""Which running requests are stuck: silence counts only where a word is due; slow, loading and waiting are not stuck."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.support.core_cluster import Cluster, a_model, a_survey

from sollol.core.events import NodeSurveyed
from sollol.core.stall import CONFIRM_SECONDS, FIRST, QUIET, Stalled, StallWatch, Watched, quiet_allowed, whole_allowed
from sollol.core.types import NodeKind, Task

STREAMED = Watched(streamed=True, paused=False)
WHOLE = Watched(streamed=False, paused=False)


class Watching:
    """A node with a loaded model, looked at second by second."""

    def __init__(self, how: Watched = STREAMED, loaded: tuple[str, ...] = ("m",), kind: NodeKind = NodeKind.OLLAMA) -> None:
        self.cluster = Cluster()
        self.survey = a_survey(models=(a_model("m"), a_model("n")), loaded=loaded, kind=kind)
        self.cluster.add("a", self.survey, slots=8)
        self.cluster.rates("a")
        self.cluster.now = 1.0  # that look was before anything below
        self.how = how
        self.asked: list[str] = []
        self.watch = StallWatch(self.asked.append)

    def start(self, **fields: object) -> Task:
        task = self.cluster.arrive(**({"plain": True} | fields))
        assert self.cluster.where(task) == "a"
        return task

    def says(self, task: Task, tokens: int) -> None:
        """More tokens of it have come, just now."""
        run = self.cluster.state.attempt("a", task)
        assert run is not None
        run.progress.first_at = run.progress.first_at or self.cluster.now
        run.progress.last_at = self.cluster.now
        run.progress.tokens += tokens

    def looked(self) -> None:
        """The node answers a look."""
        self.cluster.state.apply(NodeSurveyed(self.cluster.now, "a", self.survey))

    def until(self, moment: float, step: float = 1.0) -> list[Stalled]:
        """Look each second until something is stuck, or the moment has come."""
        while self.cluster.now < moment:
            self.cluster.now += step
            found = self.watch.look(self.cluster.state, self.cluster.now, lambda node, task: self.how)
            if found:
                return found
        return []


def test_no_token_for_eight_seconds_is_too_long() -> None:
    here = Watching()
    task = here.start()
    here.says(task, 3)
    (stuck,) = here.until(30.0)
    assert (stuck.node, stuck.task, stuck.text) == ("a", task, f"no token for {QUIET + 1:.0f} s")
    assert here.cluster.now == 1.0 + QUIET + 1.0


def test_a_slow_machine_is_not_stuck() -> None:
    here = Watching()
    here.cluster.rates("a", decode=0.5)
    for _ in range(20):
        here.cluster.rates("a", decode=0.5)
    task = here.start()
    for _ in range(6):
        here.says(task, 1)
        assert here.until(here.cluster.now + 15.0) == []
    run = here.cluster.state.attempt("a", task)
    assert run is not None
    assert quiet_allowed(here.cluster.state, here.cluster.state.known["a"], run, here.cluster.now) > 15.0


def test_others_that_read_long_prompts_there_excuse_a_pause() -> None:
    here = Watching()
    task = here.start()
    here.says(task, 100)
    run, node = here.cluster.state.attempt("a", task), here.cluster.state.known["a"]
    assert run is not None
    alone = quiet_allowed(here.cluster.state, node, run, 0.0)
    for _ in range(20):
        here.cluster.rates("a", prefill=20.0)
    here.start()
    assert quiet_allowed(here.cluster.state, node, run, 0.0) > 3 * alone


def test_before_the_first_token_nothing_counts_until_the_node_says_that_the_model_is_loaded() -> None:
    here = Watching()
    here.start()
    assert here.until(120.0) == []
    assert set(here.asked) == {"a"}
    here.looked()
    begun = here.cluster.now
    (stuck,) = here.until(begun + 60.0)
    assert stuck.text.startswith("no first token for ")
    assert begun + FIRST < here.cluster.now < begun + FIRST + 5.0


def test_it_asks_for_a_look_only_when_one_is_late() -> None:
    here = Watching()
    here.start()
    here.until(1.0 + CONFIRM_SECONDS)
    assert here.asked == []
    here.until(2.0 + CONFIRM_SECONDS)
    assert here.asked == ["a"]


def test_a_model_that_loads_is_not_stuck_however_long_it_takes() -> None:
    here = Watching(loaded=())
    here.start()
    for _ in range(60):
        here.looked()
        assert here.until(here.cluster.now + 10.0) == []


def test_llama_cpp_has_its_model_always_loaded() -> None:
    here = Watching(kind=NodeKind.LLAMACPP)
    here.start()
    assert here.until(60.0) != []
    assert here.cluster.now < 1.0 + FIRST + 5.0
    assert here.asked == []


def test_who_waits_inside_the_node_for_those_before_is_not_stuck() -> None:
    here = Watching()
    before, after = here.start(), here.start()
    here.looked()
    for _ in range(40):
        here.says(before, 40)
        assert here.until(here.cluster.now + 1.0) == []
    here.says(before, 1)
    stuck = here.until(here.cluster.now + 60.0)
    assert before in [one.task for one in stuck]
    assert after not in [one.task for one in stuck]  # its own time begins now


def test_a_client_that_does_not_read_excuses_its_node() -> None:
    here = Watching(how=Watched(streamed=True, paused=True))
    task = here.start()
    here.says(task, 3)
    assert here.until(100.0) == []
    here.how = STREAMED
    assert here.until(100.0 + QUIET) == []
    assert here.until(103.0 + QUIET) != []


def test_a_loop_that_stood_still_excuses_everybody() -> None:
    here = Watching()
    task = here.start()
    here.says(task, 3)
    assert here.until(2.0) == []
    assert here.until(32.0, step=30.0) == []
    assert here.until(60.0) != []
    assert here.cluster.now > 32.0 + QUIET


def test_an_answer_in_one_piece_may_take_as_long_as_its_tokens() -> None:
    here = Watching(how=WHOLE)
    short, long = here.start(max_tokens=40, plain=False), here.start(max_tokens=4000, plain=False)
    node = here.cluster.state.known["a"]
    allowed = []
    for task in (short, long):
        run = here.cluster.state.attempt("a", task)
        assert run is not None
        allowed.append(whole_allowed(here.cluster.state, node, run, 0.0))
    assert FIRST < allowed[0] < FIRST + 20.0
    assert allowed[1] > 400.0
    here.looked()
    stuck = here.until(allowed[0] + 5.0)
    assert [one.task for one in stuck] == [short]
    assert stuck[0].text.startswith("no answer for ")


def test_work_that_is_done_there_excuses_answers_in_one_piece() -> None:
    here = Watching(how=WHOLE)
    here.start(max_tokens=40, plain=False)
    here.looked()
    for _ in range(20):
        here.watch.worked("a", here.cluster.now)
        assert here.until(here.cluster.now + 10.0) == []
    assert here.until(here.cluster.now + 60.0) != []


@pytest.mark.parametrize(("beside", "seconds"), [(False, 68.0), (True, 29.0)])
def test_a_node_that_stands_still_for_streams_gets_no_long_patience_for_other_answers(beside: bool, seconds: float) -> None:
    here = Watching()
    whole, stream = here.start(max_tokens=400, plain=False), here.start()
    carried = {whole.id: WHOLE} | ({stream.id: STREAMED} if beside else {})
    here.looked()
    stuck: set[int] = set()
    while whole.id not in stuck:
        here.cluster.now += 1.0
        found = here.watch.look(here.cluster.state, here.cluster.now, lambda _, task: carried.get(task))
        stuck |= {one.task.id for one in found}
    assert seconds < here.cluster.now < seconds + 5.0


def test_loads_and_attempts_that_are_not_carried_are_passed_over() -> None:
    here = Watching()
    task = here.start()
    here.says(task, 1)
    assert here.watch.look(here.cluster.state, 100.0, lambda node, task: None) == []
    run = here.cluster.state.attempt("a", task)
    assert run is not None
    run.task = replace(task, load_only=True)
    assert here.until(100.0) == []


def test_the_silence_of_one_node_is_not_held_against_the_next() -> None:
    here = Watching()
    task = here.start()
    here.until(2.0)
    here.looked()
    (stuck,) = here.until(100.0)
    assert stuck.node == "a"
    here.cluster.add("b", here.survey, slots=8)
    here.cluster.rates("b")
    here.cluster.end(task, "failed")
    here.cluster.queue.again(task, here.cluster.now, frozenset({"a"}))
    here.cluster.pump()  # before the next look
    assert here.cluster.where(task) == "b"
    moved = here.cluster.now
    here.cluster.now += 1.0
    here.cluster.state.apply(NodeSurveyed(here.cluster.now, "b", here.survey))
    (stuck,) = here.until(moved + 100.0)
    assert stuck.node == "b"
    assert here.cluster.now - moved > FIRST


def test_a_long_prompt_has_the_time_that_the_node_was_found_to_need() -> None:
    here = Watching()
    task = here.start(chars=37_000)
    here.until(2.0)
    here.looked()
    prefill = here.cluster.state.known["a"].rates["m"].prefill
    assert prefill is not None
    prefill.value = prefill.best = 50.0
    assert here.until(500.0) == []
    (stuck,) = here.until(1_500.0)
    assert stuck.task is task
