"""A document that is put together from a stream: what breaks, or cannot be told to its client, is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol.core.types import NodeKind, Task
from sollol.errors import Untranslatable
from sollol.wire.requests import dialect_of, read
from sollol.wire.translate import Translation, translation


def made(path: str, **fields: Any) -> Translation:
    body = json.dumps({"model": "m", "stream": False, **fields}).encode()
    task = Task(1, read(path, body).kind, dialect_of(path), path, "m", body, 100.0, stream=False)
    return translation(task, "native", NodeKind.LLAMACPP, gathered=True)


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"created": 1_795_237_959, "choices": [choice]}).encode() + b"\n\n"


CALL = {"index": 0, "id": "i", "function": {"name": "f", "arguments": "nonsense"}}
END = chunk({}, "tool_calls") + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (b"", "the node's stream ended without its end"),
        (chunk({"content": "a"}) + b'data: {"error":{"message":"it broke"}}\n\n', "it broke"),
        (chunk({"content": "a"}) + chunk({"tool_calls": [CALL]}) + END, "no JSON object"),
    ],
)
def test_what_broke_or_cannot_be_told_is_no_document(stream: bytes, problem: str) -> None:
    one = made("/v1/messages", messages=[{"role": "user", "content": "hi"}], max_tokens=9)
    assert json.loads(one.body)["stream"] is True, "the node is asked for a stream"
    assert one.content_type.startswith(b"application/json"), "the client asked for none"
    assert one.feed(stream, 101.0) == one.finish(102.0) == b""
    assert problem in (one.problem or "")


def test_vectors_are_no_stream() -> None:
    one = made("/api/embed", input="a")
    with pytest.raises(Untranslatable, match="not streamed"):
        one.feed(b"data: {}\n\n", 1.0)
    with pytest.raises(Untranslatable, match="not streamed"):
        one.resumed(["a"])
    assert one.finish(1.0) == b""
