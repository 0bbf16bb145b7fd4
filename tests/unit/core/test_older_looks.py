"""What a look tells was so when it was asked for: what changed at the node meanwhile is known better."""

from __future__ import annotations

import pytest
from tests.support.core_cluster import SIZE, Cluster, a_survey

from sollol.core.events import NodeSurveyed, Unloaded
from sollol.core.types import NodeKind, Resident


def look(cluster: Cluster, begun: float, answered: float, survey) -> None:
    cluster.state.apply(NodeSurveyed(answered, "a", survey, begun))


def test_a_request_that_ended_meanwhile_says_how_long_the_model_stays():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]))
    cluster.now = 10.0
    task = cluster.arrive(keep_alive=-1.0)
    cluster.now = 12.0
    cluster.end(task)
    runner = cluster.state.known["a"].runners["m"]
    short = a_survey(["m"], [Resident("m", SIZE, SIZE, context_length=4096, expires_in=20.0)])
    look(cluster, 11.0, 12.5, short)
    assert (runner.expires, runner.context) == (None, 4096)
    look(cluster, 12.5, 13.0, short)
    assert runner.expires == 33.0


@pytest.mark.parametrize(("begun", "kept"), [(11.0, True), (12.0, False)])
def test_a_model_that_was_loaded_meanwhile_stays(begun, kept):
    cluster = Cluster()
    cluster.add("a", a_survey(["m"]))
    cluster.now = 10.0
    task = cluster.arrive()
    cluster.now = 12.0
    cluster.end(task)
    look(cluster, begun, 12.5, a_survey(["m"]))
    assert ("m" in cluster.state.known["a"].runners) is kept


@pytest.mark.parametrize("how", ["unloaded", "keep_alive 0"])
def test_a_model_that_left_meanwhile_is_not_back(how):
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]))
    cluster.now = 12.0
    if how == "unloaded":
        cluster.state.apply(Unloaded(12.0, "a", "m"))
    else:
        cluster.end(cluster.arrive(keep_alive=0.0))
    node = cluster.state.known["a"]
    look(cluster, 11.0, 12.5, a_survey(["m"], ["m"]))
    assert (set(node.runners), node.resident, set(node.models)) == (set(), (), {"m"})
    look(cluster, 12.6, 12.7, a_survey(["m"], ["m"]))
    assert set(node.runners) == {"m"}


def test_a_model_that_turned_out_to_be_missing_meanwhile_is_not_back():
    cluster = Cluster()
    cluster.add("a", a_survey(["m", "x"], ["m"]))
    cluster.now = 12.0
    cluster.end(cluster.arrive(), "model-gone")
    node = cluster.state.known["a"]
    look(cluster, 11.0, 12.5, a_survey(["m", "x"], ["m"]))
    assert set(node.models) == {"x"}
    look(cluster, 12.6, 12.7, a_survey(["m", "x"], ["m"]))
    assert set(node.models) == {"m", "x"}


def test_what_was_loaded_before_a_load_with_another_context_does_not_end_that():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], [Resident("m", SIZE, SIZE, context_length=4096, expires_in=300.0)]))
    cluster.now = 12.0
    task = cluster.arrive(num_ctx=32_768)
    runner = cluster.state.known["a"].runners["m"]
    assert runner.loading
    look(cluster, 11.0, 12.5, a_survey(["m"], [Resident("m", SIZE, SIZE, context_length=4096, expires_in=300.0)]))
    assert (runner.loading, runner.context) == (True, None)
    look(cluster, 12.6, 14.0, a_survey(["m"], [Resident("m", SIZE, SIZE, context_length=32_768, expires_in=300.0)]))
    assert (runner.loading, runner.context) == (False, 32_768)
    cluster.end(task)


def test_an_engine_that_holds_its_model_always_has_it_whatever_was_asked():
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"], kind=NodeKind.LLAMACPP, slots=2))
    cluster.now = 12.0
    cluster.end(cluster.arrive(keep_alive=0.0))
    look(cluster, 11.0, 12.5, a_survey(["m"], ["m"], kind=NodeKind.LLAMACPP, slots=2))
    look(cluster, 13.0, 13.5, a_survey(["m"], kind=NodeKind.LLAMACPP, slots=2))
    assert cluster.state.known["a"].runner("m", 1e9) is not None
