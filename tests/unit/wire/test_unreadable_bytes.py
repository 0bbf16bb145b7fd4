"""Bytes that are not UTF-8, at every place of what clients and nodes send: the ordinary error, never another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sollol.core.types import Dialect, Model, NodeKind, Task
from sollol.errors import BadRequest
from sollol.wire import containers, errors, survey
from sollol.wire.replies import document, watcher
from sollol.wire.requests import read
from sollol.wire.translate import translation

MODEL = Model("m:latest", "m")
TAG = {"name": "m", "model": "m", "modified_at": "2026-11-21T05:04:00Z", "size": 5, "digest": "d", "details": {"family": "l"}}
RESIDENT = {"name": "m", "size": 5, "size_vram": 5, "expires_at": "2026-11-21T05:04:00Z", "context_length": 5}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
DELTA = {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}


def broken(value: Any) -> Iterator[bytes]:
    """The document with one byte that begins no character, at each place in turn."""
    good = value if isinstance(value, bytes) else json.dumps(value).encode()
    for place in range(len(good)):
        yield good[:place] + b"\xff" + good[place + 1 :]


ASKED = {
    "/api/chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "format": "json", "options": {"seed": 1}},
    "/api/generate": {"model": "m", "prompt": "hi", "images": ["aGk="], "keep_alive": "5m"},
    "/api/embed": {"model": "m", "input": ["a"]},
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    "/v1/embeddings": {"model": "m", "input": "a"},
    "/v1/responses": {"model": "m"},
}


@pytest.mark.parametrize("path", ASKED)
def test_a_client_is_told_so(path: str) -> None:
    for body in broken(ASKED[path]):
        with pytest.raises(BadRequest, match="UTF-8"):
            read(path, body)


LOOKS: dict[str, tuple[Callable[[bytes], Any], Any]] = {
    "version": (survey.parse_version, {"version": "0.33.0"}),
    "tags": (survey.parse_tags, {"models": [TAG]}),
    "ps": (lambda body: survey.parse_ps(body, 0.0), {"models": [RESIDENT]}),
    "show": (
        lambda body: survey.parse_show(body, MODEL),
        {"capabilities": ["completion"], "details": {"parameter_size": "7B"}, "model_info": {"l.context_length": 5}},
    ),
    "props": (survey.parse_props, {"build_info": "b1", "model_path": "/m", "total_slots": 4}),
    "models": (survey.parse_models, {"data": [{"id": "m", "owned_by": "llamacpp"}]}),
    "studio": (survey.parse_lmstudio, {"data": [{"id": "m", "type": "llm", "state": "loaded"}]}),
    "containers": (containers.parse_containers, [{"Id": "a", "Image": "ollama/ollama", "Names": ["/o"], "Ports": []}]),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_a_node_says_what_it_cannot_read(look: str) -> None:
    parse, good = LOOKS[look]
    parse(json.dumps(good).encode())
    refused = 0
    for body in broken(good):
        try:
            parse(body)  # what nobody reads may be anything
        except ValueError as error:
            refused += 1
            assert not isinstance(error, UnicodeError), body
    assert refused


REPLIES: dict[str, tuple[Dialect, Any]] = {
    "/api/chat": (Dialect.OLLAMA, {"message": {"content": "hi"}, "done": True, "done_reason": "stop", "eval_count": 3}),
    "/api/embed": (Dialect.OLLAMA, {"embeddings": [[1.0]]}),
    "/v1/chat/completions": (Dialect.OPENAI, {"choices": [CHOICE], "usage": {"prompt_tokens": 1}}),
}


@pytest.mark.parametrize("path", REPLIES)
def test_a_document_is_not_the_one_that_is_due(path: str) -> None:
    dialect, good = REPLIES[path]
    assert document(dialect, path, json.dumps(good).encode()).complete
    endings = [document(dialect, path, body) for body in broken(good)]
    assert any("not the JSON that is due" in (ending.error or "") for ending in endings)


def test_a_stream_that_begins_so_is_a_problem() -> None:
    for path, first in (
        ("/api/chat", b'{"done_reason":"\xff"}\n'),
        ("/v1/chat/completions", b'data: {"choices":[{"finish_reason":"\xff"}]}\n\n'),
    ):
        watch = watcher(Dialect.OLLAMA if path == "/api/chat" else Dialect.OPENAI, path)
        watch.feed(first)
        assert not watch.first_ok
        assert "begins with" in (watch.problem or "")
        assert not watch.finish().complete


def test_a_stream_that_goes_on_so_is_not_complete() -> None:
    lines = watcher(Dialect.OLLAMA, "/api/chat")
    lines.feed(b'{"done":false}\n')
    lines.feed(b'{"error":"\xff"}\n{"done":true,"done_reason":"\xff"}\n')
    assert not lines.finish().complete
    events = watcher(Dialect.OPENAI, "/v1/chat/completions")
    events.feed(b'data: {"choices":[{}]}\n\n')
    events.feed(b'data: {"error":{},"choices":[{"finish_reason":"\xff"}]}\n\ndata: [DONE]\n\n')
    assert not events.finish().complete


@pytest.mark.parametrize("good", [{"error": "no"}, {"error": {"message": "no"}}, {"detail": "no"}, b"no"])
def test_the_words_of_an_error_reply_are_shown_as_well_as_they_can_be(good: Any) -> None:
    for body in broken(good):
        assert errors.message(body)
        assert errors.told(Dialect.OLLAMA, 502, errors.message(body))


def ollama(path: str, **fields: Any) -> Task:
    body = json.dumps({"model": "m", **fields}).encode()
    peek = read(path, body)
    return Task(1, peek.kind, Dialect.OLLAMA, path, "m:latest", body, 0.0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_translated_reply(stream: bool) -> None:
    task = ollama("/api/chat", messages=[{"role": "user", "content": "hi"}])
    good = {"choices": [DELTA if stream else CHOICE], "usage": {"prompt_tokens": 1}, "timings": {"prompt_n": 1}}
    for body in broken(good):
        made = translation(task, "m", NodeKind.LLAMACPP)
        if stream:
            made.feed(b"data: " + body + b"\n\n", 1.0)
            made.finish(1.0)
            continue
        try:
            made.document(body, 1.0)
        except ValueError:
            continue  # what a document may raise


def test_translated_vectors() -> None:
    made = translation(ollama("/api/embed", input=["a"]), "m", NodeKind.LLAMACPP)
    for body in broken({"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}}):
        try:
            made.document(body, 1.0)
        except ValueError:
            continue
