"""A document that is put together from a stream of a node of another dialect, and events that are counted on."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import NodeKind, Task
from sollol.errors import Untranslatable
from sollol.wire import translate
from sollol.wire.errors import following
from sollol.wire.requests import dialect_of, read
from sollol.wire.translate import Translation, translation

CHAT = [{"role": "user", "content": "hi"}]
CLIENTS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": CHAT},
    "/v1/messages": {"messages": CHAT, "max_tokens": 9},
    "/v1/responses": {"input": "hi"},
}


def made(path: str, gathered: bool) -> Translation:
    body = json.dumps({"model": "m", "stream": False, **CLIENTS[path]}).encode()
    task = Task(1, read(path, body).kind, dialect_of(path), path, "m", body, 100.0, stream=False)
    return translation(task, "native", NodeKind.LLAMACPP, gathered=gathered)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"created": 1_795_237_959, "choices": [choice], **more}).encode() + b"\n\n"


def called(index: int, arguments: str, name: str = "") -> bytes:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return chunk({"tool_calls": [{"index": index, **({"id": f"id{index}"} if name else {}), "function": function}]})


USAGE = {"prompt_tokens": 22, "completion_tokens": 9}
DONE = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
STREAM = (
    chunk({"reasoning_content": "h"}) + chunk({"reasoning_content": "m"}) + chunk({"content": "hé"}) + chunk({"content": "llo"})
    + called(0, '{"a":', "f") + called(0, "1}") + called(1, "{}", "g") + chunk({}, "tool_calls") + DONE
)  # fmt: skip
MESSAGE = {
    "content": "héllo",
    "reasoning_content": "hm",
    "tool_calls": [
        {"id": "id0", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "id1", "function": {"name": "g", "arguments": "{}"}},
    ],
}
WHOLE = {"created": 1_795_237_959, "choices": [{"message": MESSAGE, "finish_reason": "tool_calls"}], "usage": USAGE}
TIMES = {"created_at", "total_duration", "completed_at"}


@pytest.mark.parametrize("path", CLIENTS)
@given(places=st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_it_is_the_document_that_the_node_would_have_given(path: str, places: list[int]) -> None:
    one = made(path, gathered=True)
    assert json.loads(one.body)["stream"] is True, "the node is asked for a stream"
    assert one.content_type.startswith(b"application/json"), "the client is not"
    bounds = [0, *sorted(places), len(STREAM)]
    for start, end in pairwise(bounds):
        assert one.feed(STREAM[start:end], 101.0) == b""
    found = json.loads(one.finish(101.0))
    whole = json.loads(made(path, gathered=False).document(json.dumps(WHOLE).encode(), 101.0))
    assert one.problem is None
    assert {name: value for name, value in found.items() if name not in TIMES} == {
        name: value for name, value in whole.items() if name not in TIMES
    }


@pytest.mark.parametrize("path", CLIENTS)
def test_who_said_the_beginning_is_told_with_the_end(path: str) -> None:
    one = made(path, gathered=True)
    one.feed(chunk({"content": "a"}), 101.0)
    one.resumed(["node-1", "node-2"])
    one.feed(chunk({"content": "b"}) + chunk({}, "stop") + DONE, 102.0)
    told = json.loads(one.finish(103.0))
    named = (
        None if path == "/api/chat" else {"resumed_from": ["node-1", "node-2"]}
    )  # there the last line is summed up elsewhere
    assert told.get("_sollol_routing") == named


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (chunk({"content": "a"}), "the node's stream ended without its end"),
        (chunk({"content": "a"}) + b'data: {"error":{"message":"it broke"}}\n\n', "it broke"),
        (called(0, "nonsense", "f") + chunk({}, "tool_calls") + DONE, "no JSON object"),
    ],
)
def test_what_has_no_end_or_cannot_be_told_is_no_document(stream: bytes, problem: str) -> None:
    one = made("/v1/messages", gathered=True)
    assert one.feed(stream, 101.0) == one.finish(102.0) == b""
    assert problem in (one.problem or "")


def test_a_stream_that_has_no_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "GATHERED_BYTES", 1 << 20)
    one = made("/v1/messages", gathered=True)
    piece = chunk({"content": "x" * 1_000})
    fed = 0
    while one.problem is None:
        assert one.feed(piece, 101.0) == b""
        fed += len(piece)
        assert fed < 3 << 20
    assert one.problem == "a reply of over 1 MB cannot be kept"
    assert fed > 1 << 20
    assert one.feed(chunk({}, "stop") + DONE, 101.0) == one.finish(102.0) == b""


def test_vectors_are_no_stream() -> None:
    body = b'{"model":"m","input":"a"}'
    task = Task(1, read("/api/embed", body).kind, dialect_of("/api/embed"), "/api/embed", "m", body, 0.0, stream=False)
    one = translation(task, "native", NodeKind.VLLM, gathered=True)
    for stream in (lambda: one.feed(b"data: {}\n\n", 1.0), lambda: one.resumed(["a"])):
        with pytest.raises(Untranslatable, match="not streamed"):
            stream()
    assert one.finish(1.0) == b""


@pytest.mark.parametrize(
    ("events", "number"),
    [
        (b"", 0),
        (b'data: {"type":"response.created","sequence_number":0}\n\n', 1),
        (b'data: {"sequence_number":7}\n\ndata: {"sequence_number": 8}\n\n', 9),
        (b'data: {"delta":"\\"sequence_number\\":99","sequence_number":3}\n\n', 4),
        (b'data: {"type":"error"}\n\n', 0),
    ],
)
def test_events_are_counted_on(events: bytes, number: int) -> None:
    assert following(events) == number
