"""How a decision is told to the client."""

from __future__ import annotations

import json

import pytest
from tests.support.core_cluster import a_node, a_task

from sollol.core.types import Cost, Decision, NodeKind
from sollol.wire.routing import Annotate, ascii_value, headers

DECISION = Decision(a_task(1), "a", (Cost("a", total=1.0, eta=2.5),), queued=0.25)


@pytest.mark.parametrize(
    ("name", "shown"), [("gpu 1", b"gpu 1"), ("Büro", b"B?ro"), ("a\r\nX-Evil: 1", b"a??X-Evil: 1"), ("\x7f", b"?"), ("", b"")]
)
def test_a_header_value_is_plain_ascii_whatever_a_node_is_called(name: str, shown: bytes) -> None:
    assert ascii_value(name) == shown
    told = dict(headers(DECISION, a_node("a", name=name), NodeKind.OLLAMA))
    assert told[b"x-sollol-node"] == (shown or b"a")


@pytest.mark.parametrize(
    ("body", "changed"),
    [(b'{"done":true}\n', True), (b"{}", True), (b"[1]", False), (b'{"done":true} and more', False), (b"", False)],
)
def test_only_an_object_takes_details(body: bytes, changed: bool) -> None:
    made = Annotate(DECISION, a_node("a"), NodeKind.OLLAMA).document(body, 0.0)
    assert ("_sollol_routing" in json.loads(made)) if changed else made == body


def test_a_last_line_without_its_end_takes_them_too() -> None:
    annotate = Annotate(DECISION, a_node("a"), NodeKind.OLLAMA)
    assert annotate.feed(b'{"done":false}\n{"done"', 0.0) == b'{"done":false}\n'
    assert annotate.feed(b":true}", 0.0) == b""
    last = json.loads(annotate.finish(0.0))
    assert last["_sollol_routing"]["expected_seconds"] == 2.5
    assert annotate.finish(0.0) == b""


def test_a_node_is_shown_without_its_key() -> None:
    assert "secret" not in repr(a_node("a", api_key="secret"))
