"""Which nodes may be used where one name stands for different models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_cluster import Cluster, a_survey, a_task

from sollol.core.digests import Digests, differing, modified
from sollol.core.events import NodeRemoved, NodeSurveyed, ProbeFailed
from sollol.core.types import Health, Model
from sollol.errors import Conflict

OLD, NEW = "2026-11-01T05:04:00.052483272Z", "2026-11-02T05:04:00Z"


def holding(digest: str, when: str = OLD) -> Model:
    return Model("m:latest", "m:latest", 10**9, digest=digest, modified_at=when)


def cluster(rule: Digests, **models: Model) -> Cluster:
    made = Cluster()
    made.state.take_digests(rule)
    for name, model in models.items():
        made.add(name, a_survey([model]), name=name)
    return made


def blocked(made: Cluster) -> dict[str, str]:
    return {cost.node: cost.blocked for cost in made.queue.explain(a_task(1, "m:latest"), 0.0)}


def test_taken_for_one_every_node_is_used():
    made = cluster(Digests.ONE, a=holding("a" * 64), b=holding("b" * 64, NEW))
    assert blocked(made) == {"a": "", "b": ""}


def test_only_nodes_with_the_newest_are_used():
    made = cluster(Digests.NEWEST, a=holding("a" * 64), b=holding("b" * 64, NEW), c=holding("b" * 64))
    assert blocked(made) == {"b": "", "c": "", "a": "older than the newest of that name (bbbbbbbbbbbb)"}
    assert made.queue.hopeless(a_task(1, "m:latest"), 0.0) is None


def test_while_the_newest_is_down_the_next_one_is_used():
    made = cluster(Digests.NEWEST, a=holding("a" * 64), b=holding("b" * 64, NEW))
    made.state.apply(ProbeFailed(1.0, "b", refused=True, text="refused"))
    assert made.state.nodes["b"].state is Health.DOWN
    assert blocked(made)["a"] == ""
    made.state.apply(NodeSurveyed(2.0, "b", a_survey([holding("b" * 64, NEW)])))
    assert blocked(made)["a"].startswith("older")
    made.state.apply(NodeRemoved(3.0, "b"))
    assert blocked(made) == {"a": ""}


def test_where_differences_are_refused_nobody_answers_and_the_error_names_all():
    made = cluster(Digests.REFUSE, a=holding("a" * 64), b=holding("sha256:" + "b" * 64, NEW))
    assert set(blocked(made).values()) == {"differs between nodes (a aaaaaaaaaaaa, b bbbbbbbbbbbb)"}
    error = made.queue.hopeless(a_task(1, "m:latest"), 0.0)
    assert isinstance(error, Conflict)
    assert str(error).startswith(
        "model 'm' differs between nodes (a aaaaaaaaaaaa, b bbbbbbbbbbbb): pull it again on all of them"
    )
    made.state.apply(NodeSurveyed(2.0, "b", a_survey([holding("a" * 64, NEW)])))
    assert made.queue.hopeless(a_task(1, "m:latest"), 2.0) is None
    assert blocked(made) == {"a": "", "b": ""}


def test_a_node_that_tells_no_digest_may_always_be_used():
    made = cluster(Digests.REFUSE, a=holding("a" * 64), b=holding(""))
    assert set(blocked(made).values()) == {""}


def test_a_new_rule_holds_at_once():
    made = cluster(Digests.ONE, a=holding("a" * 64), b=holding("b" * 64, NEW))
    made.state.take_digests(Digests.NEWEST)
    assert blocked(made)["a"].startswith("older")
    made.state.take_digests(Digests.ONE)
    assert blocked(made) == {"a": "", "b": ""}


@given(st.lists(st.sampled_from(["", "a" * 64, "b" * 64]), min_size=1, max_size=5), st.sampled_from(list(Digests)))
def test_somebody_may_be_used_unless_differences_are_refused(digests, rule):
    made = cluster(rule, **{f"n{index}": holding(digest) for index, digest in enumerate(digests)})
    different = len(set(digests) - {""}) > 1
    assert bool(differing(made.state.nodes.values())) is different
    free = [node for node, why in blocked(made).items() if not why]
    assert free or (rule is Digests.REFUSE and different)
    assert len(free) == len(digests) or different


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0.0), ("yesterday", 0.0), ("1970-01-01T00:00:02.123456789Z", 2.123456), ("1970-01-01T01:00:00+01:00", 0.0)],
)
def test_when_a_model_was_changed(text, seconds):
    assert modified(Model("m", "m", modified_at=text)) == pytest.approx(seconds)
