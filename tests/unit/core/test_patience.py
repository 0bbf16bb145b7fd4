"""How long an answer may take before its node counts as stuck: by what is known of the node, and generously where little is."""

from __future__ import annotations

from math import inf

import pytest
from tests.support.core_cluster import Cluster, a_model, a_survey

from sollol.core.node import Running
from sollol.core.stall import FIRST, GAPS, MOST_TOKENS, QUIET, UNLEARNED, quiet_allowed, whole_allowed
from sollol.core.types import Kind, Resident, Task


def one(context: int | None = None, seen: int | None = None, learned: bool = True) -> Cluster:
    """A node whose model allows for ``context`` tokens, and was seen loaded with ``seen``."""
    cluster = Cluster()
    loaded = [Resident("m", 1, 1, context_length=seen)]
    cluster.add("a", a_survey([a_model("m", context_length=context)], loaded), slots=4)
    if learned:
        cluster.rates("a", prefill=1000.0, decode=10.0, a=0.0)
    return cluster


def running(cluster: Cluster, **fields: object) -> tuple[Task, Running]:
    task = cluster.arrive(**({"chars": 0} | fields))
    run = cluster.state.attempt("a", task)
    assert run is not None
    return task, run


def allowed(cluster: Cluster, run: Running) -> float:
    return whole_allowed(cluster.state, cluster.state.known["a"], run, cluster.now, 1.0)


@pytest.mark.parametrize(
    ("limit", "context", "seen", "tokens"),
    [
        (100, 4096, 4096, 100),
        (50_000, None, None, MOST_TOKENS),
        (None, 2048, None, 2048),
        (None, 2048, 1024, 1024),  # what it is loaded with goes before what it could have
        (None, 1 << 20, None, MOST_TOKENS),
        (None, None, None, MOST_TOKENS),
    ],
)
def test_an_answer_in_one_piece_may_have_as_many_tokens_as_fit(limit, context, seen, tokens) -> None:
    cluster = one(context, seen)
    _, run = running(cluster, max_tokens=limit)
    assert allowed(cluster, run) == pytest.approx(run.wait + FIRST + tokens / 10.0)


def test_a_prompt_that_fills_the_context_leaves_room_for_one_token() -> None:
    cluster = one(seen=100)
    _, run = running(cluster, chars=3700)
    assert run.prompt > 100
    assert allowed(cluster, run) == pytest.approx(run.wait + FIRST + run.prompt / 1000.0 + 1 / 10.0)


def test_vectors_take_as_long_as_reading() -> None:
    cluster = one()
    _, run = running(cluster, kind=Kind.EMBED, chars=3700)
    assert allowed(cluster, run) == pytest.approx(run.wait + FIRST + run.prompt / 1000.0)


def test_what_is_a_guess_gets_more_time() -> None:
    guessed = one(learned=False)
    _, run = running(guessed, max_tokens=100)
    prefill, decode = guessed.state.unseen_rates(guessed.state.known["a"], "m", 0.0)
    assert allowed(guessed, run) == pytest.approx(FIRST + UNLEARNED * (run.prompt / prefill + 100 / decode))


@pytest.mark.parametrize(("ago", "waits"), [(0.0, inf), (QUIET - 0.1, inf), (QUIET + 0.1, FIRST + 10.0)])
def test_as_long_as_anything_else_there_moves_it_may_wait_behind_that(ago: float, waits: float) -> None:
    cluster = one()
    _, run = running(cluster, max_tokens=100)
    _, other = running(cluster)
    cluster.now = 100.0
    assert allowed(cluster, run) == pytest.approx(FIRST + 10.0)
    other.progress.first_at = 100.0 - ago
    assert allowed(cluster, run) == pytest.approx(waits)


def test_a_node_of_which_only_the_writing_was_learned_reads_25_times_as_fast() -> None:
    cluster = one()
    cluster.state.known["a"].rates_of("m").prefill = None
    _, run = running(cluster, max_tokens=100, chars=3700)
    assert allowed(cluster, run) == pytest.approx(run.wait + FIRST + run.prompt / 250.0 + 10.0)


def test_the_gaps_that_it_made_so_far_are_usual() -> None:
    cluster = one()
    _, run = running(cluster)
    node = cluster.state.known["a"]
    run.progress.first_at, run.progress.last_at, run.progress.tokens = 1.0, 7.0, 4
    assert quiet_allowed(cluster.state, node, run, 7.0) == pytest.approx(GAPS * 2.0)
    run.progress.last_at = 1.3
    assert quiet_allowed(cluster.state, node, run, 7.0) == pytest.approx(QUIET)
