"""Small things that are written for clients and nodes: changed bodies, headers of a decision, words of errors, names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_cluster import a_node, a_task

from sollol.core.types import Cost, Decision, Dialect, NodeKind
from sollol.errors import BadRequest, NoNodes, QueueFull
from sollol.wire import forms, survey
from sollol.wire.bodies import streamed
from sollol.wire.errors import as_document, error_body
from sollol.wire.names import canonical, tagged
from sollol.wire.replies import document
from sollol.wire.routing import Annotate, headers

# --- bodies

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.just('"stream": false'),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "stream"]), inner, max_size=2),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"model":"m","stream":false}', b'{"model":"m","stream":true}'),
        (b'{ "stream" : false, "model": "m" }', b'{ "stream":true, "model": "m" }'),
        (b'{"stream":false,"prompt":"\\"stream\\":false"}', b'{"stream":true,"prompt":"\\"stream\\":false"}'),
        (b'{"options":{"stream":false}, "stream":false}', b'{"options":{"stream":false},"stream":true}'),
    ],
)
def test_a_body_that_asked_for_no_stream_asks_for_one(body: bytes, changed: bytes) -> None:
    assert streamed(body) == changed


@given(st.dictionaries(st.sampled_from(["a", "b", "options"]), VALUES, max_size=3), st.booleans())
def test_nothing_but_the_stream_of_the_request_itself_changes(fields: dict[str, Any], first: bool) -> None:
    asked = {"stream": False, **fields} if first else {**fields, "stream": False}
    assert json.loads(streamed(json.dumps(asked).encode())) == {**fields, "stream": True}


# --- headers


COST = Cost("a", total=1.0, eta=2.5)


def test_the_headers_of_a_request_that_waited_say_where_it_stood_and_why() -> None:
    at_once = Decision(a_task(1), "a", (COST,))
    waited = Decision(a_task(1), "a", (COST,), queued=1.25, position=3, why="all slots are busy; büro is the first")
    short, long = (dict(headers(one, a_node("a"), NodeKind.OLLAMA)) for one in (at_once, waited))
    assert long.keys() - short.keys() == {b"x-sollol-queue-position", b"x-sollol-queue-reason"}
    assert (long[b"x-sollol-queue-ms"], long[b"x-sollol-queue-position"]) == (b"1250.0", b"3")
    assert long[b"x-sollol-queue-reason"] == b"all slots are busy; b?ro is the first"


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("stood", "told"),
    [
        ({}, {}),
        ({"queued": 0.5}, {b"x-sollol-queue-ms": b"500.0"}),
        (
            {"queued": 2.0, "position": 4, "why": "full"},
            {b"x-sollol-queue-ms": b"2000.0", b"x-sollol-queue-position": b"4", b"x-sollol-queue-reason": b"full"},
        ),
    ],
)
def test_who_is_refused_is_told_how_long_it_waited(dialect: Dialect, stood: dict[str, Any], told: dict[bytes, bytes]) -> None:
    error = QueueFull("the line is full", retry_after=7.2)
    for name, value in stood.items():
        setattr(error, name, value)
    status, found, _ = error_body(dialect, error)
    assert status == 503
    assert dict(found)[b"retry-after"] == b"8"
    assert {name: value for name, value in found if name.startswith(b"x-sollol")} == told
    # Whoever was never in the queue is told nothing of it.
    assert not [name for name, _ in error_body(dialect, NoNodes("none"))[1] if name.startswith(b"x-sollol")]


@pytest.mark.parametrize("resumed", [(), ["a", "b"]])
def test_details_name_the_nodes_that_said_the_beginning(resumed: list[str]) -> None:
    annotate = Annotate(Decision(a_task(1), "c", (COST,)), a_node("c"), NodeKind.OLLAMA, resumed)
    annotate.prepare()
    annotate.prepare()
    told = json.loads(annotate.document(b'{"done":true}', 0.0))["_sollol_routing"]
    assert told.get("resumed_from", ()) == resumed
    assert told["node"] == "c"


# --- errors


@pytest.mark.parametrize(
    ("body", "made"),
    [
        (b'{"error":"no"}\n', b'{"error":"no"}'),
        (b'data: {"error":{"message":"no"}}\n\n', b'{"error":{"message":"no"}}'),
        (b'event: error\ndata:{"error":"no"}\n\ndata: [DONE]\n\n', b'{"error":"no"}'),
        (b'error: {"message":"no"}\n\n', b'{"message":"no"}'),
    ],
)
def test_the_error_that_a_stream_began_with_is_a_document_of_its_own(body: bytes, made: bytes) -> None:
    assert as_document(body) == made


# --- names, forms, documents


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Qwen3", "Qwen3:latest"),
        (" me/Model ", "me/Model:latest"),
        ("Qwen3:8B", "Qwen3:8B"),
        ("localhost:5000/me/model", "localhost:5000/me/model:latest"),
        ("localhost:5000/me/model:1b", "localhost:5000/me/model:1b"),
    ],
)
def test_a_name_is_written_with_its_tag_and_as_it_was(name: str, written: str) -> None:
    assert tagged(name) == written
    assert canonical(written) == canonical(name)


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="language"\r\n\r\nde\r\n'
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nours\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\n\x00\xff\r\n--x--\r\n'
)


def test_one_field_of_a_form_is_changed_and_no_other_byte() -> None:
    assert forms.texts(FORM, ("model", "language", "file")) == {"language": "de", "model": "ours"}
    assert forms.with_text(FORM, "model", "theirs") == FORM.replace(b"ours", b"theirs")
    assert forms.naming(FORM, "theirs") == FORM.replace(b"ours", b"theirs")
    assert forms.with_text(FORM, "file", "x") == forms.with_text(FORM, "prompt", "x") == FORM
    with pytest.raises(BadRequest, match="must be a form"):
        forms.texts(b"no form", ("model",))


@pytest.mark.parametrize(("body", "complete"), [(b'{"text":"hello"}', True), (b"WEBVTT\n\nhello", True), (b"", False)])
def test_a_transcription_may_be_no_json(body: bytes, complete: bool) -> None:
    assert document(Dialect.OPENAI, "/v1/audio/transcriptions", body).complete is complete


@pytest.mark.parametrize(
    ("modalities", "template", "can"),
    [
        ({}, {"supports_tools": True, "supports_tool_calls": True}, set()),  # an older build: nothing is known
        ({"vision": False}, {}, {"completion"}),
        ({"vision": True}, {}, {"completion", "vision"}),
        ({"vision": False}, {"supports_tools": True, "supports_tool_calls": True}, {"completion", "tools"}),
        ({"vision": True}, {"supports_tools": True}, {"completion", "vision"}),
    ],
)
def test_what_llama_cpp_says_its_model_can(modalities: dict[str, Any], template: dict[str, Any], can: set[str]) -> None:
    props = {"build_info": "b1", "modalities": modalities, "chat_template_caps": template}
    assert survey.parse_props(json.dumps(props).encode()).capabilities == can
