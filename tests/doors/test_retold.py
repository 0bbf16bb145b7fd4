"""An answer under another name: only its model changes, wherever the stream is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.gateway.naming import Retold
from sollol.pool.sinks import Whole

NDJSON = [(b"content-type", b"application/x-ndjson")]
EVENTS = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
DOCUMENT = [(b"content-type", b"application/json")]
WORDS = st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "x", "choices"]), inner, max_size=3),
    max_leaves=6,
)


def told(headers: list[tuple[bytes, bytes]], *pieces: bytes, name: str = "gpt-4o", length: int | None = None) -> Whole:
    sink = Whole()
    retold = Retold(sink, name, {"model": "qwen3:32b"})
    assert not retold.started
    retold.head(200, headers, length)
    assert retold.started
    for piece in pieces:
        retold.data(piece)
    retold.end()
    assert sink.ended
    return sink


@given(
    st.lists(st.tuples(st.dictionaries(st.sampled_from(["a", "tool", "message"]), VALUES, max_size=3), VALUES), max_size=3),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=4),
)
def test_of_every_line_only_the_models_name_changes_wherever_it_is_cut(lines, first, cuts):
    made = [{"model": "q", **before, "z": after} if first else {**before, "model": "q", "z": after} for before, after in lines]
    stream = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in made)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    sink = told(NDJSON, *(stream[a:b] for a, b in pairwise(edges)))
    assert [json.loads(line) for line in sink.body.splitlines()] == [{**line, "model": "gpt-4o"} for line in made]


@pytest.mark.parametrize(
    ("event", "where"),
    [
        ({"id": "1", "created": 5, "model": "q", "choices": [{"delta": {"content": '"model":"q"'}}]}, ("model",)),
        ({"choices": [{"delta": {"model": "q"}}], "model": "q"}, ("model",)),
        ({"type": "message_start", "message": {"id": "m", "model": "q"}}, ("message", "model")),
        ({"type": "response.created", "response": {"model": "q", "output": []}}, ("response", "model")),
    ],
)
def test_events_of_every_dialect(event: dict[str, Any], where: tuple[str, ...]):
    sink = told(EVENTS, b"event: x\ndata: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")
    head, data, gap, done, *_ = sink.body.split(b"\n")
    assert (head, gap, done) == (b"event: x", b"", b"data: [DONE]")
    expected = json.loads(json.dumps(event))
    inner = expected
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = "gpt-4o"
    assert json.loads(data.removeprefix(b"data: ")) == expected


def test_a_document_gets_its_new_length_and_keeps_its_end():
    sink = told(DOCUMENT, b'{"object":"x","mo', b'del":"q","n":1.50}\n', length=36)
    assert sink.body == b'{"object":"x","model":"gpt-4o","n":1.50}\n'
    assert (b"x-sollol-model", b"qwen3:32b") in sink.headers


@pytest.mark.parametrize(
    "body", [b"", b"no json", b'{"model":', b'["model"]', b'{"error":"\\"model\\" is odd"}', b'{"model":3}']
)
def test_what_is_no_answer_with_a_model_stays_as_it_is(body: bytes):
    assert told(DOCUMENT, body).body == (b'{"model":"gpt-4o"}' if body == b'{"model":3}' else body)


def test_without_a_new_name_a_reply_keeps_its_bytes_and_only_its_routing_is_told():
    line = b'{"model":"q", "done":true}\n'
    assert told(NDJSON, line, name="").body == line
    routed = b'{"model":"q","_sollol_routing":{"node":"a"}}\n'
    assert json.loads(told(NDJSON, routed, name="").body)["_sollol_routing"] == {"node": "a", "model": "qwen3:32b"}


def test_a_refusal_passes_as_it_is():
    sink = Whole()
    retold = Retold(sink, "gpt-4o", {"model": "q", "fallback": "why"})
    retold.head(404, DOCUMENT, 14)
    retold.data(b'{"model":"q"}\n')
    retold.end()
    assert (sink.status, sink.body) == (404, b'{"model":"q"}\n')
    assert (b"x-sollol-fallback", b"why") in sink.headers


def test_a_reply_that_breaks_off_is_broken_off():
    sink = Whole()
    retold = Retold(sink, "gpt-4o", {"model": "q"})
    retold.head(200, DOCUMENT)
    retold.data(b'{"mod')
    retold.abort()
    assert not sink.ended
    assert sink.body == b""
