"""Which requests may run on two nodes, when the second run begins, where, and how many there may be."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.core_cluster import Cluster, a_survey, a_task

from sollol.core.races import LEAST, RaceBudget, idle_for, may_race, patience
from sollol.core.types import Kind, Prompt


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({"plain": True}, True),
        ({}, False),
        ({"plain": True, "chars": 9_000}, False),
        ({"plain": True, "pin": "a"}, False),
        ({"plain": True, "load_only": True}, False),
        ({"kind": Kind.EMBED}, True),
        ({"kind": Kind.EMBED, "inputs": 17}, False),
    ],
)
def test_small_plain_requests_may_race(fields: dict[str, Any], may: bool) -> None:
    assert may_race(a_task(1, **fields)) is may


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"hedge": 2}, 0.0),
        ({"priority": 9}, 0.0),
        ({}, 3.0),
        ({"stream": False}, 15.0),
    ],
)
def test_the_second_run_begins_at_once_or_when_the_first_is_late(fields: dict[str, Any], seconds: float) -> None:
    assert patience(a_task(1, prompt=Prompt(10), **fields), 1.0, 4.0) == seconds
    assert patience(a_task(1, priority=8), 0.0, 0.0) == 2.0


def test_a_slot_is_idle_only_where_the_model_is_loaded() -> None:
    cluster = Cluster()
    cluster.add("warm", a_survey(("m",), ("m",)), slots=1)
    cluster.add("cold", a_survey(("m",)), slots=1)
    cluster.add("draining", a_survey(("m",), ("m",)), slots=1, draining=True)
    nodes, task = cluster.state.nodes, a_task(1)
    assert [name for name in nodes if idle_for(nodes[name], task, 0.0)] == ["warm"]
    assert not idle_for(nodes["warm"], a_task(2, num_ctx=512), 0.0)


def test_second_runs_stay_under_a_twentieth_of_the_work() -> None:
    budget = RaceBudget()
    taken = [budget.take(float(second), 10.0 * second, 1.0) for second in range(1, 601)]
    assert sum(taken) <= 0.05 * 6_000 + LEAST
    assert sum(taken[60:]) >= 0.8 * 0.05 * 5_400


def test_a_few_are_always_allowed_in_a_minute() -> None:
    budget = RaceBudget()
    assert [budget.take(1.0, 0.0, 5.0) for _ in range(6)] == [True] * LEAST + [False] * (6 - LEAST)
    assert not budget.take(60.9, 0.0, 5.0)
    assert budget.take(61.0, 0.0, 5.0)


def test_work_long_ago_counts_as_if_it_had_been_spread_evenly() -> None:
    budget = RaceBudget()
    for _ in range(LEAST):
        assert budget.take(1_000.0, 10_000.0, 1.0)
    assert budget.take(1_001.0, 10_000.0, 20.0)  # 600 s of work a minute allow 30 s
    assert not budget.take(1_001.0, 10_000.0, 20.0)
