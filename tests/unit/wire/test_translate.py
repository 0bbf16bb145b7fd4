import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Dialect, NodeKind, Task
from sollol.errors import BadRequest, RequestError, Untranslatable
from sollol.wire.fates import OPTIONS, RAW_REFUSES
from sollol.wire.requests import read
from sollol.wire.translate import Translation, translation

CREATED = 1_795_237_959
VALUES: dict[str, Any] = {
    "model": "m",
    "options": {"temperature": 0.5},
    "keep_alive": "5m",
    "truncate": False,
    "priority": 7,
    "stream": True,
    "format": "json",
    "think": True,
    "logprobs": True,
    "top_logprobs": 2,
    "shift": False,
    "_debug_render_only": True,
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "prompt": "hi",
    "system": "be brief",
    "images": ["iVBORw0KGgo="],
    "raw": True,
    "suffix": "end",
    "template": "{{ .Prompt }}",
    "context": [1, 2, 3],
    "input": ["a", "b"],
    "dimensions": 4,
}
NEEDED = {"/api/chat": ["messages"], "/api/generate": ["prompt"], "/api/embed": ["input"], "/api/embeddings": ["prompt"]}


def task(path: str, **fields: Any) -> Task:
    body = json.dumps({"model": "Qwen3", **fields}).encode()
    peek = read(path, body)
    return Task(1, peek.kind, Dialect.OLLAMA, path, "qwen3:latest", body, 100.0, stream=peek.stream, load_only=peek.load_only)


def made(path: str, kind: NodeKind = NodeKind.LLAMACPP, **fields: Any) -> Translation:
    return translation(task(path, **fields), "native.gguf", kind)


def sent(path: str, kind: NodeKind = NodeKind.LLAMACPP, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made(path, kind, **fields).body)
    return found


def chat(**fields: Any) -> Translation:
    return made("/api/chat", messages=[{"role": "user", "content": "hi"}], **fields)


def event(text: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return (
        b"data: "
        + json.dumps({"id": "c", "created": CREATED, "model": "native.gguf", "choices": [choice], **fields}).encode()
        + b"\n\n"
    )


USAGE = event(choices=[], usage={"prompt_tokens": 22, "completion_tokens": 2, "total_tokens": 24})
TIMINGS = {"cache_n": 2, "prompt_n": 20, "prompt_ms": 50.5, "predicted_n": 2, "predicted_ms": 80.0}
STREAM = event("") + event(" hel") + event("lo é") + event(finish="stop") + USAGE + b"data: [DONE]\n\n"


# --- options


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", [NodeKind.LLAMACPP, NodeKind.VLLM, NodeKind.OPENAI])
def test_every_option_goes_by_its_name(name: str, kind: NodeKind) -> None:
    option = OPTIONS[name]
    value = {"integer": 3, "float32": 0.25, "bool": True, "array": ["a"]}[option.kind]
    body = sent("/api/chat", kind, messages=VALUES["messages"], options={name: value})
    theirs = option.vllm if kind is NodeKind.VLLM else option.name
    plain = {"model", "messages", "stream", "stream_options"}
    assert {key: body[key] for key in body.keys() - plain} == ({theirs: value} if theirs else {})


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", ["hot", {"a": 1}])
def test_an_option_of_a_wrong_type_is_refused_in_ollamas_words(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        chat(options={name: value})
    assert (caught.value.status, str(caught.value)) == (500, f'option "{name}" must be of type {OPTIONS[name].kind}')


def test_unlimited_answers_unknown_and_null_options_set_nothing() -> None:
    for options in ({"num_predict": -1}, {"num_predict": 0}, {"unknown": "x"}, {"seed": None}, None, {}):
        assert json.loads(chat(options=options).body).keys() == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize("name", RAW_REFUSES)
def test_raw_goes_without_what_needs_a_chat(name: str) -> None:
    with pytest.raises(RequestError):
        sent("/api/generate", prompt="p", raw=True, **{name: VALUES[name]})


# --- requests


def test_a_chat_with_pictures() -> None:
    messages = [
        {"role": "system", "content": "see"},
        {"role": "user", "content": "what?", "images": ["iVBORw0KGgo=", "/9j/4AAQ"]},
        {"role": "user", "images": ["????"]},
    ]
    parts = [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}},
    ]
    found = sent("/api/chat", messages=messages)["messages"]
    assert found[0] == {"role": "system", "content": "see"}
    assert found[1] == {"role": "user", "content": parts}
    assert found[2]["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,????"}}]


def test_a_generate_is_a_chat_of_system_and_prompt() -> None:
    translated = made("/api/generate", prompt="hi", system="be brief", stream=False)
    assert translated.path == "/v1/chat/completions"
    assert json.loads(translated.body) == {
        "model": "native.gguf",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "stream": False,
    }


def test_a_raw_generate_is_a_completion() -> None:
    translated = made("/api/generate", prompt="<|user|>hi", raw=True)
    assert translated.path == "/v1/completions"
    body = json.loads(translated.body)
    assert body["prompt"] == "<|user|>hi" and "max_tokens" not in body
    assert sent("/api/generate", NodeKind.VLLM, prompt="p", raw=True)["max_tokens"] > 16
    assert sent("/api/generate", NodeKind.VLLM, prompt="p", raw=True, options={"num_predict": 5})["max_tokens"] == 5


def test_a_schema_keeps_its_bytes() -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "number"}}}
    body = json.loads(chat(format=schema).body)
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert json.loads(chat(format="json").body)["response_format"] == {"type": "json_object"}
    assert json.loads(chat(think="high").body)["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": "high"}
    assert json.loads(chat(think=False).body)["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/api/chat", {"messages": VALUES["messages"], "format": "xml"}, 'invalid format: "\\"xml\\""; expected "json"'),
        ("/api/chat", {"messages": VALUES["messages"], "think": "very"}, "invalid think value"),
        ("/api/chat", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages: Expected `str | null`"),
        ("/api/chat", {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages: a tool call names no"),
        ("/api/chat", {"messages": VALUES["messages"], "tools": [{"type": "search"}]}, '"tools" cannot be answered'),
        ("/api/chat", {"messages": VALUES["messages"], "tools": "all"}, "tools: Expected `array`"),
        ("/api/generate", {"prompt": "p", "images": [1]}, "images must be a list"),
    ],
)
def test_what_cannot_be_carried_is_refused_clearly(path: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        made(path, **fields)
    assert str(caught.value).startswith(words)


def test_other_paths_are_not_translated() -> None:
    with pytest.raises(Untranslatable):
        translation(Task(1, task("/api/embed", input="x").kind, Dialect.OLLAMA, "/api/show", "m", b"{}", 0.0), "n")


def test_numbers_that_cannot_be_read_are_refused() -> None:
    body = b'{"model":"m","messages":[{"content":"x"}],"options":{"temperature":1e999}}'
    with pytest.raises(BadRequest, match="temperature"):
        translation(Task(1, task("/api/chat").kind, Dialect.OLLAMA, "/api/chat", "m", body, 0.0), "n")
    with pytest.raises(BadRequest, match="options must be an object"):
        translation(Task(1, task("/api/chat").kind, Dialect.OLLAMA, "/api/chat", "m", b'{"options":"abcdef"}', 0.0), "n")


# --- replies


def lines(translated: Translation, *pieces: bytes) -> list[dict[str, Any]]:
    """The lines that come back; the pieces arrive at 101, 102, ... seconds."""
    out = b""
    now = 100.0
    for piece in pieces:
        now += 1.0
        out += translated.feed(piece, now)
    out += translated.finish(now + 1.0)
    assert out.endswith(b"\n") or not out
    return [json.loads(line) for line in out.splitlines()]


def test_a_chat_stream() -> None:
    translated = chat()
    found = lines(translated, event(""), event(" hel"), event("lo"), event(finish="stop"), USAGE, b"data: [DONE]\n\n")
    assert translated.problem is None
    assert [line["message"] for line in found] == [{"role": "assistant", "content": text} for text in (" hel", "lo", "")]
    assert {line["model"] for line in found} == {"Qwen3"}
    assert list(found[0]) == ["model", "created_at", "message", "done"]
    assert found[0]["created_at"] == "2026-11-21T05:12:40Z"  # a second after `created`, which came at 101
    assert list(found[-1].items())[3:] == [
        ("done", True),
        ("done_reason", "stop"),
        ("total_duration", 7_000_000_000),
        ("load_duration", 0),
        ("prompt_eval_count", 22),
        ("prompt_eval_duration", 2_000_000_000),
        ("eval_count", 2),
        ("eval_duration", 1_000_000_000),
    ]


def test_llamacpps_own_times_go_before_measured_ones() -> None:
    translated = made("/api/generate", prompt="p")
    last = lines(translated, event("a"), event(finish="length", timings=TIMINGS), b"data: [DONE]\n\n")[-1]
    assert list(last) == [
        "model", "created_at", "response", "done", "done_reason", "total_duration", "load_duration", "prompt_eval_count",
        "prompt_eval_duration", "eval_count", "eval_duration",
    ]  # fmt: skip
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("length", 22, 2)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (50_500_000, 80_000_000)


def test_a_raw_stream_and_thinking() -> None:
    raw = made("/api/generate", prompt="p", raw=True)
    piece = b'data: {"created":5,"choices":[{"text":" a","finish_reason":null}]}\n\n'
    assert [line["response"] for line in lines(raw, piece, piece, event(finish="stop"), b"data: [DONE]\n\n")] == [
        " a",
        " a",
        "",
    ]
    thought = b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'
    found = lines(chat(think=True), thought, event("a"), event(finish="stop"), b"data: [DONE]\n\n")
    assert found[0]["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert found[1]["message"] == {"role": "assistant", "content": "a"}
    assert lines(made("/api/generate", prompt="p"), thought)[0]["thinking"] == "hm"


def test_logprobs_have_the_same_items_in_both_dialects() -> None:
    items = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]
    choice = {"delta": {"content": "a"}, "logprobs": {"content": items}}
    nothing = {"delta": {"content": "b"}, "logprobs": {"content": None}}
    found = lines(chat(logprobs=True), event(choices=[choice]), event(choices=[nothing]))
    assert found[0]["logprobs"] == items and "logprobs" not in found[1]
    document = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": items}}]}
    assert json.loads(chat(logprobs=True, stream=False).document(json.dumps(document).encode(), 101.0))["logprobs"] == items


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_a_stream_translates_the_same_whatever_the_cut(places: list[int]) -> None:
    whole, cut = chat(), chat()
    expected = whole.feed(STREAM, 101.0) + whole.finish(102.0)
    ends = sorted(places)
    pieces = [STREAM[a:b] for a, b in zip([0, *ends], [*ends, len(STREAM)], strict=True)]
    assert b"".join([cut.feed(piece, 101.0) for piece in pieces]) + cut.finish(102.0) == expected
    assert b'"done":true' in expected


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([event("a")], "ended without its end"),
        ([event("a"), event(finish="stop")], "ended without its end"),
        ([event("a"), b"data: [DONE]\n\n"], "ended without its end"),
        ([event("a"), b'data: {"error":{"message":"it broke"}}\n\n'], "it broke"),
        ([event("a"), b"data: {bad\n\n"], "not what was asked for"),
        ([], "ended without its end"),
    ],
)
def test_an_incomplete_stream_is_not_made_complete(pieces: list[bytes], problem: str) -> None:
    translated = chat()
    assert not any(line["done"] for line in lines(translated, *pieces))
    assert translated.problem is not None and problem in translated.problem


def test_a_document() -> None:
    body = {
        "created": CREATED,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": " hello"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 22, "completion_tokens": 2},
        "timings": TIMINGS,
    }
    found = json.loads(chat(stream=False).document(json.dumps(body).encode(), 103.5))
    assert found == {
        "model": "Qwen3",
        "created_at": "2026-11-21T05:12:39Z",
        "message": {"role": "assistant", "content": " hello"},
        "done": True,
        "done_reason": "length",
        "total_duration": 3_500_000_000,
        "load_duration": 0,
        "prompt_eval_count": 22,
        "prompt_eval_duration": 50_500_000,
        "eval_count": 2,
        "eval_duration": 80_000_000,
    }
    text = {"choices": [{"text": "x", "finish_reason": "stop"}]}
    generated = json.loads(made("/api/generate", prompt="p", raw=True, stream=False).document(json.dumps(text).encode(), 101.0))
    assert (generated["response"], generated["done_reason"]) == ("x", "stop")
    with pytest.raises(ValueError, match="no answer"):
        chat(stream=False).document(b'{"choices":[]}', 101.0)


def test_absurd_calendars_do_no_harm() -> None:
    for created in (-1, 0, 10**30, None):
        assert lines(chat(), event("a", created=created))[0]["created_at"].endswith("Z")


def test_a_request_that_only_loads() -> None:
    translated = made("/api/generate", stream=True)
    assert json.loads(translated.body)["max_tokens"] == 1
    piece = b'data: {"created":1795237959,"choices":[{"text":" a","finish_reason":"length"}]}\n\n'
    found = lines(translated, piece, b"data: [DONE]\n\n")
    assert [list(line) for line in found] == [["model", "created_at", "response", "done", "done_reason"]]
    assert (found[0]["response"], found[0]["done_reason"]) == ("", "load")
    loaded = made("/api/chat", messages=[], stream=False)
    assert json.loads(loaded.document(b'{"choices":[{"text":"x"}]}', 101.0))["message"] == {"role": "assistant", "content": ""}


# --- embeddings


VECTORS = b'{"data":[{"index":1,"embedding":[0.250, 2e-5]},{"index":0,"embedding":[1.0,-0.5]}],"usage":{"prompt_tokens":4}}'


def test_embeddings_come_in_order_and_as_they_were_written() -> None:
    translated = made("/api/embed", input=["a", "b"], dimensions=2)
    assert json.loads(translated.body) == {
        "model": "native.gguf",
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 2,
    }
    vectors = b'"embeddings":[[1.0,-0.5],[0.250, 2e-5]]'
    counters = b'"total_duration":500000000,"load_duration":0,"prompt_eval_count":4'
    assert translated.document(VECTORS, 100.5) == b'{"model":"Qwen3",' + vectors + b"," + counters + b"}"
    assert translated.finish(101.0) == b""
    with pytest.raises(Untranslatable):
        translated.feed(b"x", 101.0)


def test_embeddings_of_the_older_path_and_of_nothing() -> None:
    assert made("/api/embeddings", prompt="x").document(VECTORS, 101.0) == b'{"embedding":[1.0,-0.5]}'
    assert made("/api/embeddings").document(VECTORS, 101.0) == b'{"embedding":[]}'
    for nothing in ("", [], None):
        empty = made("/api/embed", input=nothing)
        assert json.loads(empty.body)["input"] == " "
        assert empty.document(VECTORS, 101.0) == b'{"model":"Qwen3","embeddings":[]}'
    assert (
        made("/api/embed", input="x")
        .document(b'{"data":[{"embedding":[1]}]}', 101.0)
        .startswith(b'{"model":"Qwen3","embeddings":[[1]],')
    )


def test_too_few_vectors_are_no_reply() -> None:
    with pytest.raises(ValueError, match="2 vectors for 3 texts"):
        made("/api/embed", input=["a", "b", "c"]).document(VECTORS, 101.0)
    with pytest.raises(ValueError, match="array"):
        made("/api/embed", input=["a"]).document(b'{"data":7}', 101.0)


@pytest.mark.parametrize("path", ["/api/chat", "/api/embed"])
@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (
            400,
            b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}',
            (400, b'{"error":"too long"}'),
        ),
        (404, b'{"error":{"message":"no"}}', (404, b'{"error":"no"}')),
        (
            501,
            b'{"error":{"message":"This server does not support embeddings."}}',
            (501, b'{"error":"This server does not support embeddings."}'),
        ),
        (500, b"oops", (500, b'{"error":"oops"}')),
    ],
)
def test_errors_keep_their_words(path: str, status: int, body: bytes, told: tuple[int, bytes]) -> None:
    assert made(path, **{need: VALUES[need] for need in NEEDED[path]}).error(status, body) == told
