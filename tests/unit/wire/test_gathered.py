"""Documents of messages and responses that are put together from a stream, and what the parts of going on tell."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Dialect, Kind, NodeKind, Task
from sollol.wire import translate
from sollol.wire.continuation import said_at, wants_counts
from sollol.wire.errors import following, stream_ending
from sollol.wire.requests import dialect_of, read
from sollol.wire.said_events import SaidEvents
from sollol.wire.translate import translation

TEXTS = st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), max_size=12)
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
ASKED: dict[str, dict[str, Any]] = {
    MESSAGES: {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]},
    RESPONSES: {"model": "m", "input": "Hello"},
}
KINDS = (NodeKind.OLLAMA, NodeKind.LLAMACPP)


def task_of(path: str, **fields: Any) -> Task:
    body = json.dumps({**ASKED[path], **fields}).encode()
    return Task(1, Kind.CHAT, dialect_of(path), path, "m", body, 0.0, stream=bool(fields.get("stream")))


def line(said: dict[str, Any], **more: Any) -> bytes:
    message = {"role": "assistant", "content": "", **said}
    told = {"model": "m", "created_at": "2026-11-21T05:12:34.5Z", "message": message, "done": False, **more}
    return json.dumps(told).encode() + b"\n"


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c", "created": 1763700000, "choices": choices, **more}).encode() + b"\n\n"


def stream_of(kind: NodeKind, said: list[dict[str, Any]]) -> bytes:
    """A whole stream of such a node, which says pieces in its own words."""
    if kind is NodeKind.OLLAMA:
        return b"".join(map(line, said)) + line({}, done=True, done_reason="stop", prompt_eval_count=7, eval_count=5)
    usage = {"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}
    return b"".join(map(event, said)) + event({}, "stop") + event({}, None, **usage) + b"data: [DONE]\n\n"


def document_of(kind: NodeKind, said: dict[str, Any]) -> bytes:
    """The same as a document."""
    if kind is NodeKind.OLLAMA:
        return line(said, done=True, done_reason="stop", prompt_eval_count=7, eval_count=5)
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    message = {"role": "assistant", **said}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"id": "c", "created": 1763700000, "choices": choices, "usage": usage}).encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@given(texts=TEXTS, at=st.lists(st.integers(0, 3_000), max_size=4))
def test_a_gathered_document_is_the_one_that_the_node_would_give(path: str, kind: NodeKind, texts: list[str], at: list[int]):
    made = translation(task_of(path), "m", kind, gathered=True)
    assert json.loads(made.body)["stream"] is True
    assert made.content_type == b"application/json"
    whole = stream_of(kind, [{"content": text} for text in texts])
    bounds = [0, *sorted(min(one, len(whole)) for one in at), len(whole)]
    for start, end in pairwise(bounds):
        assert made.feed(whole[start:end], 3.0) == b""
    alone = translation(task_of(path), "m", kind)
    truth = alone.document(document_of(kind, {"content": "".join(texts)}), 3.0)
    assert json.loads(made.finish(3.0)) == json.loads(truth)
    assert made.problem is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_thoughts_and_calls_are_gathered_too(path: str, kind: NodeKind) -> None:
    made = translation(task_of(path), "m", kind, gathered=True)
    thoughts = "thinking" if kind is NodeKind.OLLAMA else "reasoning_content"
    arguments: Any = {"a": 1} if kind is NodeKind.OLLAMA else '{"a":1}'
    call = {"id": "x", "index": 0, "function": {"name": "f", "arguments": arguments}}
    said = [{thoughts: "So "}, {thoughts: "be it."}, {"content": "Well"}, {"content": "."}, {"tool_calls": [call]}]
    made.feed(stream_of(kind, said), 1.0)
    told = json.dumps(json.loads(made.finish(2.0)))
    for text in ("So be it.", "Well.", '"f"'):
        assert text in told
    assert str(arguments).replace("'", '"').replace(" ", "") in told.replace("\\", "").replace(" ", "")


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_what_cannot_become_a_document_is_said_to_be_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stream_of(NodeKind.OLLAMA, [{"content": "Hello"}])
    for broken, why in ((whole[: whole.index(b"\n") + 1], "without its end"), (b"{nonsense\n" + whole, "not what was asked")):
        made = translation(task_of(path), "m", NodeKind.OLLAMA, gathered=True)
        made.feed(broken, 1.0)
        assert made.finish(1.0) == b""
        assert why in (made.problem or "")
    monkeypatch.setattr(translate, "GATHERED_BYTES", len(whole) + 9)
    made = translation(task_of(path), "m", NodeKind.OLLAMA, gathered=True)
    made.feed(whole, 1.0)
    assert made.problem is None
    made.feed(whole, 1.0)
    made.feed(whole, 1.0)
    assert "cannot be kept" in (made.problem or "")
    assert made.finish(1.0) == b""


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
def test_who_said_the_beginning_is_told_where_the_answer_ends(path: str, stream: bool) -> None:
    made = translation(task_of(path, stream=stream), "m", NodeKind.OLLAMA, gathered=not stream)
    whole = stream_of(NodeKind.OLLAMA, [{"content": "Hello"}, {"content": " you"}])
    cut = whole.index(b"\n") + 1
    shown = made.feed(whole[:cut], 1.0)
    assert b"_sollol_routing" not in shown
    made.resumed(["a", "b"])
    end = made.feed(whole[cut:], 2.0) + made.finish(2.0)
    assert end.count(b'"_sollol_routing":{"resumed_from":["a","b"]}') == 1


@pytest.mark.parametrize(
    ("path", "fields", "plain"),
    [
        (MESSAGES, {}, True),
        (MESSAGES, {"thinking": {"type": "disabled"}}, True),
        (MESSAGES, {"stop_sequences": ["x"], "system": "Be brief", "temperature": 0}, True),
        (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, False),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": {}}}}, False),
        (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}]}, False),
        (RESPONSES, {}, True),
        (RESPONSES, {"text": {"format": {"type": "text"}}}, True),
        (RESPONSES, {"text": {"verbosity": "low"}, "tools": [], "include": []}, True),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}, False),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}}, False),
        (RESPONSES, {"text": "loud"}, False),
        (RESPONSES, {"reasoning": {"effort": "low"}}, False),
        (RESPONSES, {"include": ["message.output_text.logprobs"]}, False),
        (RESPONSES, {"top_logprobs": 2}, False),
        (RESPONSES, {"previous_response_id": "resp_1"}, False),
        (RESPONSES, {"tools": [{"type": "function", "name": "f"}]}, False),
    ],
)
def test_what_is_plain_text(path: str, fields: dict[str, Any], plain: bool) -> None:
    assert read(path, json.dumps({**ASKED[path], **fields}).encode()).plain is plain


@pytest.mark.parametrize(
    ("events", "number"),
    [
        (b"", 0),
        (b"data: {}\n\n", 0),
        (stream_ending(Dialect.RESPONSES, "x"), 1),
        (stream_ending(Dialect.RESPONSES, "x", number=41), 42),
        (b'data: {"sequence_number": 7, "a":1}\n\ndata: {"sequence_number":8}\n\ndata: {"sequ', 9),
        (b'data: {"delta":"\\"sequence_number\\":99","sequence_number":3}\n\n', 4),
    ],
)
def test_the_number_that_follows(events: bytes, number: int) -> None:
    assert following(events) == number


def asking(path: str, text: str) -> Task:
    return Task(1, Kind.CHAT, dialect_of(path), path, "m", text.encode(), 0.0)


@pytest.mark.parametrize(
    ("path", "options", "wanted"),
    [
        ("/v1/chat/completions", '{"include_usage":true}', True),
        ("/v1/completions", '{"include_usage": true}', True),
        ("/v1/chat/completions", '{"include_usage":false}', False),
        ("/v1/chat/completions", '{"include_usage":null}', False),
        ("/v1/chat/completions", "null", False),
        (MESSAGES, '{"include_usage":true}', False),
    ],
)
def test_who_wants_counts(path: str, options: str, wanted: bool) -> None:
    assert wants_counts(asking(path, '{"model":"m","stream_options":' + options + "}")) is wanted


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.mark.parametrize(
    ("told", "due"),
    [
        ({}, True),
        ({"usage": None}, True),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}, True),  # Ollama's, with every piece
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}, False),
    ],
)
def test_counts_are_told_once(told: dict[str, Any], due: bool) -> None:
    said = SaidEvents()
    said.add(event({"content": "Hello"}) + event({}, "stop", **told))
    rest = said.rest(USAGE)
    assert rest.endswith(b"data: [DONE]\n\n")
    assert (b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}' in rest) is due
    assert said.rest() == b"data: [DONE]\n\n"
    said.add(b"data: [DONE]\n\n")
    assert said.rest(USAGE) == b""


@pytest.mark.parametrize("dialect", [Dialect.OLLAMA, Dialect.OPENAI])
def test_the_end_that_is_written_for_a_node_tells_how_long_the_prompt_was(dialect: Dialect) -> None:
    said = said_at(dialect, task_of(MESSAGES, stream=True))
    said.add(line({"content": "Hello"}) if dialect is Dialect.OLLAMA else event({"content": "Hello"}))
    told = said.closing("length", {"eval_count": 2}, USAGE)
    assert (b'"prompt_eval_count":3' if dialect is Dialect.OLLAMA else b'"prompt_tokens":3') in told
    assert b"length" in told
