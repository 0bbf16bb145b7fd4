"""What counts against a node, and what it is believed to have after it broke or was looked at."""

from __future__ import annotations

import pytest
from tests.support.core_cluster import Cluster, a_survey, counters

from sollol.core.events import AttemptEnded, NodeSurveyed, ProbeFailed
from sollol.core.health import FAILURES
from sollol.core.types import Health, NodeKind, Prompt


def busy(count: int) -> tuple[Cluster, list]:
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]), slots=count)
    return cluster, [cluster.arrive() for _ in range(count)]


def cut(cluster: Cluster, tasks: list) -> None:
    for task in tasks:
        cluster.running.pop(task.id)
        cluster.state.apply(AttemptEnded(cluster.now, task, "a", "failed", text="cut off", cut=True))


def test_connections_that_are_cut_together_are_one_death_of_the_node() -> None:
    cluster, tasks = busy(FAILURES + 2)
    health = cluster.state.known["a"].health
    cluster.now = 1.0
    cut(cluster, tasks)
    assert (health.failures, health.state) == (1, Health.UP)
    assert cluster.state.known["a"].failed == len(tasks), "each of them is told to whoever asks"


def test_what_is_cut_after_it_was_sent_anew_is_another_failure() -> None:
    cluster, tasks = busy(2)
    health = cluster.state.known["a"].health
    cluster.now = 1.0
    cut(cluster, tasks)
    for number in range(2, FAILURES + 1):
        cluster.now += 1.0
        again = cluster.arrive()
        cluster.now += 1.0
        cut(cluster, [again])
        assert health.failures == number
    assert health.state is Health.OPEN


def test_refusals_of_a_node_that_is_known_to_be_down_are_not_counted() -> None:
    cluster, tasks = busy(3)
    health = cluster.state.known["a"].health
    cluster.state.apply(ProbeFailed(1.0, "a", True, "refused"))
    for task in tasks:
        cluster.running.pop(task.id)
        cluster.state.apply(AttemptEnded(2.0, task, "a", "failed", text="refused", unreachable=True))
    assert (health.failures, health.state, health.last_error) == (0, Health.DOWN, "refused")


def test_the_first_refusal_takes_a_node_down() -> None:
    cluster, (task,) = busy(1)
    cluster.end(task, "failed", text="refused", unreachable=True)
    assert cluster.state.known["a"].state is Health.DOWN
    assert cluster.state.known["a"].runners == {}, "it may have been restarted"


def test_the_model_of_a_node_that_always_has_it_stays_when_it_goes_down() -> None:
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], kind=NodeKind.LLAMACPP))
    cluster.state.apply(ProbeFailed(1.0, "a", True, "refused"))
    assert cluster.state.known["a"].runners.keys() == {"m"}


PATHS = frozenset({"/v1/messages"})


@pytest.mark.parametrize(("loading", "believed"), [(False, PATHS), (True, frozenset())])
def test_what_a_node_speaks_is_believed_once_it_can_be_asked(loading: bool, believed: frozenset[str]) -> None:
    cluster = Cluster()
    cluster.add("a", a_survey())
    node, layout = cluster.state.known["a"], cluster.state.layout
    cluster.state.apply(NodeSurveyed(1.0, "a", a_survey(speaks=PATHS, loading=loading)))
    assert node.speaks == believed
    assert cluster.state.layout > layout, "who waits looks at it anew"
    layout = cluster.state.layout
    cluster.state.apply(NodeSurveyed(2.0, "a", a_survey(speaks=PATHS, loading=loading)))
    assert cluster.state.layout == layout


def test_a_prefix_that_two_conversations_share_is_there_until_both_are_gone() -> None:
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"], kind=NodeKind.LLAMACPP), slots=2)
    first, second = Prompt(500, 0, ((400, 1), (500, 2))), Prompt(600, 0, ((400, 1), (600, 3)))
    tasks = [cluster.arrive(prompt=first), cluster.arrive(prompt=second)]
    for task in tasks:
        cluster.end(task, counters=counters())
    mirror, held = cluster.state.mirror, cluster.state.known["a"].runners["m"].kv
    asked = Prompt(900, 0, ((400, 1), (900, 4)))
    for slot in list(held):
        assert set(mirror.find(asked, "m")) == {"a"}
        mirror.forget(slot)
    assert not mirror.find(asked, "m")
