import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Dialect, Kind, Mode
from sollol.errors import BadRequest, NoNodeForModel, RequestError
from sollol.wire.errors import error_body
from sollol.wire.requests import dialect_of, read, strip_priority, with_model

RECORDED = json.loads((Path(__file__).parents[2] / "data/wire/errors.json").read_text())
PATHS = (
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/api/show",
    "/v1/responses",
)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def chat(*contents: Any, **fields: Any) -> bytes:
    return body(messages=[{"role": "user", "content": content} for content in contents], **fields)


@pytest.mark.parametrize("case", RECORDED["at_the_door"], ids=lambda case: case["name"])
def test_what_ollama_refuses_is_refused_in_its_words(case: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        read(case["path"], case["body"].encode())
    status, _, told = error_body(dialect_of(case["path"]), caught.value, case["path"])
    assert (status, told.decode()) == (case["status"], case["reply"])


@pytest.mark.parametrize("case", RECORDED["unknown_model"], ids=lambda case: case["name"])
def test_an_unknown_model_is_told_in_the_words_of_the_path(case: dict[str, Any]) -> None:
    peek = read(case["path"], case["body"].encode())
    status, _, told = error_body(peek.dialect, NoNodeForModel(peek.model), case["path"])
    assert (status, told.decode()) == (case["status"], case["reply"])


@pytest.mark.parametrize(
    ("path", "sent", "expected"),
    [
        ("/api/chat", chat("hi"), {"kind": Kind.CHAT, "stream": True, "plain": True, "needs": frozenset(), "model": "m"}),
        ("/api/chat", chat("hi", stream=False, priority=8), {"stream": False, "priority": 8}),
        ("/api/chat", chat("hi", priority="high"), {"priority": 7}),
        ("/api/chat", chat("hi", priority=None), {"priority": None}),
        ("/api/chat", chat("hi", options={"num_ctx": 8192, "num_predict": 64.0}), {"num_ctx": 8192, "max_tokens": 64}),
        ("/api/chat", chat("hi", options={"num_ctx": "big", "num_predict": -1}), {"num_ctx": None, "max_tokens": None}),
        ("/api/chat", chat("hi", options=None), {"num_ctx": None}),
        ("/api/chat", chat("hi", tools=[{"type": "function"}]), {"needs": frozenset({"tools"}), "plain": False}),
        ("/api/chat", chat("hi", tools=[]), {"needs": frozenset(), "plain": True}),
        ("/api/chat", chat("hi", think=True), {"needs": frozenset({"thinking"}), "plain": False}),
        ("/api/chat", chat("hi", think="high"), {"needs": frozenset({"thinking"})}),
        ("/api/chat", chat("hi", think=False), {"needs": frozenset(), "plain": True}),
        ("/api/chat", chat("hi", format="json"), {"plain": False, "needs": frozenset()}),
        ("/api/chat", chat("hi", format=""), {"plain": True}),
        ("/api/chat", chat("hi", logprobs=True), {"plain": False}),
        ("/api/chat", chat("hi", _debug_render_only=True), {"plain": False}),
        ("/api/chat", body(messages=[]), {"load_only": True, "unload": False, "plain": False}),
        ("/api/chat", body(), {"load_only": True}),
        ("/api/chat", body(messages=[], keep_alive=0), {"load_only": True, "unload": True, "keep_alive": 0.0}),
        ("/api/chat", chat("hi", keep_alive=0), {"load_only": False, "unload": False}),
        ("/api/generate", body(prompt="p"), {"kind": Kind.GENERATE, "plain": True, "load_only": False}),
        ("/api/generate", body(), {"load_only": True}),
        ("/api/generate", body(prompt=""), {"load_only": True}),
        ("/api/generate", body(prompt=None, keep_alive="0s"), {"load_only": True, "unload": True}),
        ("/api/generate", body(prompt="p", suffix="s"), {"needs": frozenset({"insert"}), "plain": False}),
        ("/api/generate", body(prompt="p", images=["aa"]), {"needs": frozenset({"vision"}), "plain": False}),
        ("/api/generate", body(prompt="p", context=[1, 2]), {"plain": False}),
        ("/api/generate", body(prompt="p", raw=True), {"plain": True}),
        ("/api/embed", body(input="x"), {"kind": Kind.EMBED, "inputs": 1, "stream": False, "needs": frozenset({"embedding"})}),
        ("/api/embed", body(input=["a", "b", "c"]), {"inputs": 3}),
        ("/api/embed", body(input=[]), {"inputs": 0}),
        ("/api/embed", body(input=""), {"inputs": 1}),
        ("/api/embed", body(), {"inputs": 0}),
        ("/api/embeddings", body(prompt="x"), {"kind": Kind.EMBED, "inputs": 1}),
        ("/v1/chat/completions", chat("hi"), {"dialect": Dialect.OPENAI, "stream": False, "plain": True, "usage": False}),
        (
            "/v1/chat/completions",
            chat("hi", stream=True, stream_options={"include_usage": True}),
            {"stream": True, "usage": True},
        ),
        ("/v1/chat/completions", chat("hi", max_tokens=5, max_completion_tokens=7), {"max_tokens": 7}),
        ("/v1/chat/completions", chat("hi", max_tokens=5), {"max_tokens": 5}),
        ("/v1/chat/completions", chat("hi", n=2), {"plain": False}),
        ("/v1/chat/completions", chat("hi", functions=[{"name": "f"}]), {"needs": frozenset({"tools"})}),
        ("/v1/chat/completions", chat("hi", response_format={"type": "text"}), {"plain": True}),
        ("/v1/chat/completions", chat("hi", response_format={"type": "json_object"}), {"plain": False}),
        ("/v1/chat/completions", chat("hi", response_format=7), {"plain": False}),
        ("/v1/completions", body(prompt="p"), {"kind": Kind.GENERATE, "plain": True}),
        ("/v1/completions", body(prompt=["a", "b"]), {"plain": False}),
        ("/v1/completions", body(prompt="p", echo=True), {"plain": False}),
        ("/v1/completions", body(prompt="p", suffix="s"), {"needs": frozenset({"insert"})}),
        ("/v1/embeddings", body(input=["a", "b"]), {"inputs": 2, "dialect": Dialect.OPENAI}),
        ("/v1/embeddings", body(input=[1, 2, 3]), {"inputs": 1}),
        ("/v1/embeddings", body(input=[[1], [2, 3]]), {"inputs": 2}),
        ("/api/show", body(), {"kind": Kind.OTHER, "model": "m", "stream": True}),
        ("/api/pull", b'{"name":"old","stream":false}', {"model": "old", "stream": False}),
        ("/v1/messages", chat("hi", stream=True), {"kind": Kind.CHAT, "dialect": Dialect.ANTHROPIC, "stream": True}),
        ("/v1/messages", chat("hi", max_tokens=5, temperature=0), {"stream": False, "max_tokens": 5, "repeatable": True}),
        ("/v1/messages", chat("hi", tools=[{"name": "f"}]), {"needs": frozenset({"tools"}), "plain": False}),
        ("/v1/responses", body(input="hi", max_output_tokens=5), {"dialect": Dialect.RESPONSES, "max_tokens": 5}),
        ("/v1/rerank", body(query="q", documents=["a", "b"]), {"needs": frozenset({"rerank"}), "inputs": 2, "stream": False}),
    ],
)
def test_peek(path: str, sent: bytes, expected: dict[str, Any]) -> None:
    peek = read(path, sent)
    assert {name: getattr(peek, name) for name in expected} == expected
    assert peek.body is sent


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("0", 0.0),
        (0, 0.0),
        (-1, math.inf),
        ("-1s", math.inf),
        (None, None),
    ],
)
def test_keep_alive(value: Any, seconds: float | None) -> None:
    assert read("/api/chat", chat("hi", keep_alive=value)).keep_alive == seconds


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("s", 'time: invalid duration "s"'),
        ("1e400s", 'time: unknown unit "e" in duration "1e400s"'),
        ("9" * 400 + "h", "time: invalid duration"),
        (True, "keep_alive must be"),
        ([], "keep_alive must be"),
    ],
)
def test_a_bad_keep_alive_is_refused(value: Any, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read("/api/chat", chat("hi", keep_alive=value))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("value", [0, 11, -1, 5.5, True, "urgentest", [], {}])
def test_a_priority_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest, match="priority must be an integer from 1 to 10"):
        read("/api/chat", chat("hi", priority=value))


def test_a_header_goes_before_the_body() -> None:
    headers = [(b"x-sollol-priority", b"critical"), (b"x-sollol-mode", b"ASYNC"), (b"content-type", b"text/plain")]
    peek = read("/api/chat", chat("hi", priority=2), headers)
    assert (peek.priority, peek.control.mode) == (10, Mode.ASYNC)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b'"x"', "json: cannot unmarshal string into Go value of type api.ChatRequest"),
        (b'{"model":"m","stream":"yes"}', "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool"),
        (
            b'{"model":"m","messages":[1]}',
            "json: cannot unmarshal number into Go struct field ChatRequest.messages of type api.Message",
        ),
        (
            b'{"model":"m","messages":[{"role":1}]}',
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.role of type string",
        ),
        (
            b'{"model":"m","options":[]}',
            "json: cannot unmarshal array into Go struct field ChatRequest.options of type map[string]interface {}",
        ),
        (b'{"stream":1e999}', "json: cannot unmarshal number into Go struct field ChatRequest.stream of type bool"),
        (b'{"model" 1}', "invalid character '1' after object key"),
        (b'{"model":"m" "x"}', "invalid character '\"' after object key:value pair"),
        (b'{"model":"m","x":[1 2]}', "invalid character '2' after array element"),
        (b'{"model":"m"} x', "invalid character 'x' after top-level value"),
        (b'{"model":"m",}', "invalid character '}' looking for beginning of object key string"),
        (b'{"model":"m","x":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'{"model":"a\nb"}', "invalid character '\\n' in string literal"),
        (b'{"model":"\\x"}', "invalid character 'x' in string escape code"),
        (b'{"x":"\\x"}', "invalid character 'x' in string escape code"),
        (b"'", "invalid character '\\'' looking for beginning of value"),
        (b"\xc3\xa9", "invalid character 'é' looking for beginning of value"),
        (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid character '[' exceeded max depth"),
        (b'{"model":"m","messages":[{"content":"\xff"}]}', "invalid UTF-8 in request body at byte 37"),
        (b'{"model":"m","messages":', "unexpected EOF"),
        (b'{"model":"m","messages":[{"role":"a\\ud83d', "unexpected EOF"),
        (b" \n", "missing request body"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_bodies_that_do_not_decode(sent: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read("/api/chat", sent)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("value", "kind"), [(5, "number"), (-0.5, "number"), ([], "array"), ({}, "object"), (True, "bool"), (False, "bool")]
)
@pytest.mark.parametrize(
    ("path", "struct", "field"),
    [
        ("/api/generate", "GenerateRequest", "prompt"),
        ("/api/generate", "GenerateRequest", "system"),
        ("/api/embeddings", "EmbeddingRequest", "prompt"),
    ],
)
def test_a_prompt_is_a_text(path: str, struct: str, field: str, value: Any, kind: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(path, body(**{field: value}))
    assert str(caught.value) == f"json: cannot unmarshal {kind} into Go struct field {struct}.{field} of type string"


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 400, "9" * 5000, "1e308", "-0"])
def test_absurd_numbers_do_no_harm(number: str) -> None:
    options = f'{{"num_ctx":{number},"num_predict":{number}}}'
    sent = f'{{"model":"m","messages":[],"options":{options},"x":{number}}}'.encode()
    assert read("/api/chat", sent).num_ctx is None
    with pytest.raises(BadRequest):
        read("/api/chat", f'{{"model":"m","priority":{number}}}'.encode())


def test_the_last_of_two_equal_fields_counts() -> None:
    assert read("/api/chat", b'{"model":"a","model":"b"}').model == "b"


def test_half_a_surrogate_pair_is_repaired_as_ollama_reads_it() -> None:
    sent = rb'{"model":"m","messages":[{"content":"a \ud83d b \ud83d\ude00 c \\ud83d"}]}'
    assert read("/api/chat", sent).body == sent.replace(rb"a \ud83d", rb"a \ufffd")
    whole = rb'{"model":"m","messages":[{"content":"\ud83d\ude00"}]}'
    assert read("/api/chat", whole).body is whole


def test_each_message_ends_at_a_boundary_that_later_turns_share() -> None:
    first = read("/api/chat", chat("one", "two")).prompt
    second = read("/api/chat", chat("one", "two", "three")).prompt
    other = read("/api/chat", chat("one", "2wo", "three")).prompt
    assert first.boundaries == second.boundaries[:2]
    assert (second.chars, [chars for chars, _ in second.boundaries]) == (11, [3, 6, 11])
    assert other.boundaries[0] == first.boundaries[0]
    assert other.boundaries[1][1] != second.boundaries[1][1] and other.boundaries[2][1] != second.boundaries[2][1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (body(messages=[{"role": "user", "content": "x"}]), body(messages=[{"role": "system", "content": "x"}])),
        (chat("x"), chat("x", tools=[{"type": "function"}])),
        (
            body(messages=[{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]),
            body(messages=[{"role": "assistant", "content": "", "tool_calls": [{"id": "2"}]}]),
        ),
        (body(messages=[{"content": "x", "images": ["aaaa"]}]), body(messages=[{"content": "x", "images": ["bbbb"]}])),
    ],
)
def test_what_makes_another_prompt_makes_another_hash(one: bytes, other: bytes) -> None:
    assert read("/api/chat", one).prompt.boundaries[-1][1] != read("/api/chat", other).prompt.boundaries[-1][1]


def test_pictures_are_counted_but_not_as_text() -> None:
    native = body(messages=[{"role": "user", "content": "what?", "images": ["A" * 5000, "B" * 5000]}])
    peek = read("/api/chat", native)
    assert (peek.prompt.chars, peek.prompt.images, peek.needs) == (5, 2, frozenset({"vision"}))
    parts = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}},
    ]
    peek = read("/v1/chat/completions", chat(parts))
    assert (peek.prompt.chars, peek.prompt.images, peek.needs) == (5, 1, frozenset({"vision"}))
    assert read("/v1/chat/completions", chat([{"type": 7}])).prompt.images == 0


def test_system_and_prompt_are_two_boundaries() -> None:
    peek = read("/api/generate", body(system="be brief", prompt="hello"))
    assert [chars for chars, _ in peek.prompt.boundaries] == [8, 13]
    assert read("/api/generate", body(system="be brief", prompt="other")).prompt.boundaries[0] == peek.prompt.boundaries[0]


def test_hashes_are_the_same_in_another_process() -> None:
    sent = chat("one", "two")
    code = f"from sollol.wire.requests import read; print(read('/api/chat', {sent!r}).prompt.boundaries)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout
    assert told.strip() == repr(read("/api/chat", sent).prompt.boundaries)


def test_changing_a_body_keeps_the_rest_as_it_was() -> None:
    sent = b'{ "model": "a",  "x": [1,  2.50, "\\u00e9"], "priority": 3 }'
    assert with_model(sent, 'b"c') == b'{"model":"b\\"c","x":[1,  2.50, "\\u00e9"],"priority":3}'
    assert strip_priority(sent) == b'{"model":"a","x":[1,  2.50, "\\u00e9"]}'
    plain = b'{"model":"a"}'
    assert strip_priority(plain) is plain


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
# fmt: off
NAMES = st.sampled_from([
    "model", "stream", "messages", "prompt", "input", "options", "keep_alive", "think", "format", "tools", "images",
    "suffix", "priority", "max_tokens", "n", "name", "raw", "stream_options", "response_format", "logprobs", "context",
    "system",
])
# fmt: on


@pytest.mark.parametrize(
    "field", ["messages", "options", "tools", "format", "keep_alive", "priority", "input", "prompt", "think"]
)
@pytest.mark.parametrize("path", PATHS)
def test_deep_nesting_is_read_or_refused(path: str, field: str) -> None:
    try:
        read(path, b'{"model":"m","%s":%s%s}' % (field.encode(), b"[" * 10_000, b"]" * 10_000))
    except RequestError as error:
        assert str(error)


@given(st.sampled_from(PATHS), st.dictionaries(NAMES, anything, max_size=5).map(lambda value: json.dumps(value).encode()))
def test_fields_of_any_type_are_read_or_refused(path: str, sent: bytes) -> None:
    try:
        read(path, sent)
    except RequestError as error:
        assert str(error)


@given(
    st.sampled_from(PATHS), st.binary(max_size=60) | st.text(alphabet='{}[]",:01e-\\untrfal \n', max_size=60).map(str.encode)
)
def test_rubbish_is_refused_and_nothing_else(path: str, sent: bytes) -> None:
    try:
        read(path, sent)
    except RequestError as error:
        assert str(error)


@given(st.data())
def test_a_body_cut_anywhere_is_refused(data: st.DataObject) -> None:
    sent = chat("hello", options={"num_ctx": 5}, keep_alive="5m", stream=False)
    cut = data.draw(st.integers(0, len(sent) - 1))
    with pytest.raises(BadRequest):
        read("/api/chat", sent[:cut])
