"""Forms, and what a look at the newer paths finds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Dialect, Kind, Task
from sollol.errors import BadRequest
from sollol.wire import forms
from sollol.wire.dialects.infill_read import InfillReader
from sollol.wire.errors import in_dialect
from sollol.wire.requests import dialect_of, read
from sollol.wire.survey import speaks
from sollol.wire.translate import translation


def form(*fields: tuple[str, bytes, str], between: bytes = b"xYz") -> bytes:
    """Of (name, value, file name)."""
    parts = b""
    for name, value, file in fields:
        shown = f'; filename="{file}"' if file else ""
        parts += (
            b"--" + between + f'\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'.encode() + value + b"\r\n"
        )
    return parts + b"--" + between + b"--\r\n"


NAMES = ("model", "stream")


def test_texts_of_a_form_are_found_wherever_they_stand() -> None:
    sound = ("file", b"\r\n\r\nRIFF\xff\r\n--other\r\n", "a.wav")
    body = form(sound, ("language", b"de", ""), ("model", b"whisper:1", ""), ("stream", b"true", ""))
    assert forms.texts(body, NAMES) == {"model": "whisper:1", "stream": "true"}
    assert forms.texts(form(("model", b"", "")), NAMES) == {"model": ""}
    assert forms.texts(form(("model", b"a file", "model.txt")), NAMES) == {}
    assert forms.texts(form(("model", b"x" * 5000, "")), NAMES) == {}
    assert forms.texts(body[: body.index(b"whisper") + 3], NAMES) == {}, "it breaks off"
    assert forms.texts(b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--\r\n", NAMES) == {}


@pytest.mark.parametrize("body", [b"", b"{}", b"--", b"--x", b"--\r\n\r\n"])
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="must be a form"):
        forms.texts(body, NAMES)


@given(st.binary(max_size=200), st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=30))
def test_another_model_changes_nothing_else(sound: bytes, name: str) -> None:
    fields = [("file", sound.replace(b"xYz", b""), "a.wav"), ("model", b"m", ""), ("language", b"de", "")]
    body = form(*fields)
    fields[1] = ("model", name.encode(), "")
    assert forms.naming(body, name) == form(*fields)
    assert forms.with_text(body, "nope", name) == body


def test_a_look_at_a_form() -> None:
    body = form(("file", b"\xff\xfe", "a.wav"), ("model", b"Whisper", ""), ("stream", b"True", ""))
    peek = read("/v1/audio/transcriptions", body)
    assert (peek.kind, peek.model, peek.stream, peek.needs) == (Kind.OTHER, "Whisper", True, {"transcription"})
    assert peek.body is body
    with pytest.raises(BadRequest, match="model is required"):
        read("/v1/audio/transcriptions", form(("file", b"x", "a.wav")))


TEXT = "some words " * 20
CALL = {"type": "tool_use", "id": "t", "name": "f", "input": {"at": TEXT}}
THOUGHT = {"type": "thinking", "thinking": TEXT}
SEEN = [{"type": "input_text", "text": TEXT}, {"type": "input_image", "image_url": "x"}]
PICTURE = {"type": "image", "source": {"type": "base64", "data": "x" * 5000}}


@pytest.mark.parametrize(
    ("path", "fields", "chars", "images"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": TEXT}]}, 1, 0),
        ("/v1/messages", {"system": TEXT, "messages": [{"role": "user", "content": TEXT}]}, 2, 0),
        ("/v1/messages", {"system": [{"type": "text", "text": TEXT}], "messages": [{"role": "user", "content": "x"}]}, 1, 0),
        (
            "/v1/messages",
            {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": TEXT}, CALL]}]},
            2,
            0,
        ),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [PICTURE, {"text": TEXT}]}]}]},
            1,
            1,
        ),
        ("/v1/messages", {"tools": [{"name": TEXT}], "messages": [{"role": "user", "content": "x"}]}, 1, 0),
        ("/v1/responses", {"input": TEXT, "instructions": TEXT}, 2, 0),
        (
            "/v1/responses",
            {
                "instructions": TEXT,
                "input": [
                    {
                        "role": "user",
                        "content": [{"type": "input_text", "text": TEXT}, {"type": "input_image", "image_url": "x"}],
                    },
                    {"type": "function_call", "name": "f", "arguments": TEXT},
                    {"type": "function_call_output", "output": TEXT},
                ],
            },
            4,
            1,
        ),
        ("/v1/rerank", {"query": TEXT, "documents": [TEXT, TEXT]}, 3, 0),
    ],
)
def test_how_long_a_prompt_is(path: str, fields: dict[str, Any], chars: int, images: int) -> None:
    peek = read(path, json.dumps({"model": "m", **fields}).encode())
    assert peek.prompt.images == images
    assert abs(peek.prompt.chars - chars * len(TEXT)) < 60
    assert peek.prompt.boundaries[-1][0] == peek.prompt.chars


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/v1/messages", {}, "messages is required"),
        ("/v1/messages", {"messages": []}, "messages is required"),
        ("/v1/responses", {}, "input is required"),
        ("/v1/responses", {"input": [5]}, "json: cannot unmarshal"),
    ],
)
def test_what_is_missing_is_said(path: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read(path, json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        ("/api/chat", [{"role": "user", "content": 5}]),
        ("/api/chat", [{"role": 5}]),
        ("/v1/messages", [{"role": "user", "content": 5}]),
        ("/v1/messages", [{"role": "user", "content": [5]}]),
        ("/v1/messages", [{}]),
    ],
)
def test_messages_of_a_wrong_type_are_the_requests_fault(path: str, messages: list[Any]) -> None:
    body = json.dumps({"model": "m", "messages": messages}).encode()
    with pytest.raises(BadRequest, match="messages"):
        translation(Task(1, Kind.CHAT, dialect_of(path), path, "m:latest", body, 0.0), "native")


def test_texts_go_over_as_they_stood() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a\\u00e9\\/ \\ud83d\\ude00"},{"role":"user","content":""}]}'
    made = translation(Task(1, Kind.CHAT, Dialect.OLLAMA, "/api/chat", "m:latest", body, 0.0), "native")
    assert b'"content":"a\\u00e9\\/ \\ud83d\\ude00"' in made.body
    assert json.loads(made.body)["messages"][1] == {"role": "user", "content": ""}


def test_an_insertion_that_is_no_stream_of_events() -> None:
    reader = InfillReader()
    reader.feed(b"data: oops\n\ndata: [DONE]\n\n")
    assert reader.problem == "the node's stream is not what was asked for"
    reader = InfillReader()
    assert [piece.text for piece in reader.feed(b'data: {"content":"x","stop":true}')] == []
    assert [piece.text for piece in reader.finish()] == ["x"]
    assert (reader.problem, reader.end.finish) == (None, "stop")


ANTHROPIC = b'{"type":"error","error":{"type":"x","message":"no"}}'


@pytest.mark.parametrize(
    ("dialect", "body", "same"),
    [
        (Dialect.OLLAMA, b'{"error":"no"}', True),
        (Dialect.OLLAMA, b'{"error":{"message":"no"}}', False),
        (Dialect.OPENAI, b'{"error":{"message":"no"}}', True),
        (Dialect.OPENAI, b'{"error":"no"}', False),
        (Dialect.RESPONSES, b"no", False),
        (Dialect.ANTHROPIC, ANTHROPIC, True),
        (Dialect.ANTHROPIC, b'{"error":{"message":"no"}}', False),
        (Dialect.ANTHROPIC, b'{"detail":"no"}', False),
    ],
)
def test_an_error_of_a_node_in_the_clients_dialect(dialect: Dialect, body: bytes, same: bool) -> None:
    status, told = in_dialect(dialect, 400, body)
    assert status == 400
    assert (told is body) is same
    assert b'"no"' in told
    assert in_dialect(dialect, 400, told)[1] is told


@pytest.mark.parametrize(
    ("status", "body", "has"),
    [
        (400, b"{}", True),
        (422, b"{}", True),
        (500, b'{"error":{"message":"\'messages\' is required"}}', True),
        (500, b"oops", False),
        (200, b'{"error":"Unexpected endpoint"}', False),
        (401, b"{}", False),
        (404, b"404 page not found", False),
        (501, b'{"error":{"message":"This server does not support reranking."}}', False),
    ],
)
def test_what_the_reply_to_an_empty_request_says(status: int, body: bytes, has: bool) -> None:
    assert speaks(status, body) is has
