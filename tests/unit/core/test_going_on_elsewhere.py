"""Which nodes may go on with an answer that broke off, and what an attempt that goes on teaches."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.support.core_cluster import Cluster, a_model, a_survey, a_task, counters

from sollol.core.resuming import continues, same, unfit
from sollol.core.types import NodeKind


@pytest.mark.parametrize("kind", NodeKind)
def test_only_where_a_node_tells_the_prompt_as_its_model_sees_it(kind: NodeKind) -> None:
    assert continues(kind) is (kind in {NodeKind.OLLAMA, NodeKind.LLAMACPP})


MODEL = a_model("m", 100, digest="abc")
NAMELESS = a_model("m", 100)


@pytest.mark.parametrize(
    ("began", "has", "kind", "may"),
    [
        (MODEL, MODEL, NodeKind.OLLAMA, True),
        (MODEL, replace(MODEL, size=999), NodeKind.OLLAMA, True),  # the digest says that it is the same
        (MODEL, replace(MODEL, digest="def"), NodeKind.OLLAMA, False),
        (MODEL, NAMELESS, NodeKind.OLLAMA, False),
        (NAMELESS, MODEL, NodeKind.OLLAMA, False),
        (MODEL, a_model("other", 100, digest="abc"), NodeKind.OLLAMA, False),
        (MODEL, MODEL, NodeKind.LLAMACPP, False),  # it renders prompts in another way
        (NAMELESS, NAMELESS, NodeKind.OLLAMA, True),
        (NAMELESS, replace(NAMELESS, size=999), NodeKind.OLLAMA, False),
    ],
)
def test_only_the_very_model_goes_on(began, has, kind, may) -> None:
    cluster = Cluster()
    cluster.add("a", a_survey([has], kind=kind))
    node = cluster.state.known["a"]
    assert same(NodeKind.OLLAMA, began, node) is may
    assert unfit(NodeKind.OLLAMA, began, [node]) == (frozenset() if may else {"a"})


@pytest.mark.parametrize("part", [False, True])
def test_the_length_of_a_part_says_nothing_about_answers(part: bool) -> None:
    cluster = Cluster()
    cluster.add("a", a_survey(["m"], ["m"]))
    cluster.rates("a")
    before = cluster.state.answer_tokens(a_task(9))
    cluster.now = 2.0
    task = cluster.arrive()
    cluster.now = 4.0
    cluster.end(task, counters=counters(output=7), part=part)
    learned = cluster.state.known["a"].rates["m"].decode
    assert learned is not None
    assert learned.at == 4.0, "its speed does"
    assert cluster.state.answer_tokens(a_task(9)) == (before if part else 7.0)
