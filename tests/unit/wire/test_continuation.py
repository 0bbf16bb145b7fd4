"""Going on with an answer in its middle: what is asked of the next node, and how its reply reads as the rest of the first."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Dialect, Kind, NodeKind, Task
from sollol.wire import continuation as wire
from sollol.wire.requests import dialect_of
from sollol.wire.said import SaidLines
from sollol.wire.said_events import SaidEvents

OLLAMA, LLAMACPP = NodeKind.OLLAMA, NodeKind.LLAMACPP
CHAT = "/v1/chat/completions"
BEFORE = wire.Before(tokens=3, prefill=0.25, decode=1.5, elapsed=2.0)
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=8)


def task(path: str, stream: bool = True, **fields: Any) -> Task:
    return Task(1, Kind.CHAT, dialect_of(path), path, "m", json.dumps(fields).encode(), 0.0, stream=stream)


def lines(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def events(out: bytes) -> list[Any]:
    """The data of the events; the last of all as it is."""
    assert out == b"" or out.endswith(b"\n\n")
    data = [one.removeprefix("data: ") for one in out.decode().split("\n\n") if one]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def pieces(body: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(bounds)]


def passed(change: Any, parts: list[bytes]) -> bytes:
    out = b"".join([change.feed(part, 0.0) for part in parts])
    return out + change.finish(0.0)


# --- which answers


@pytest.mark.parametrize(
    ("path", "stream", "record"),
    [
        ("/api/chat", True, SaidLines),
        ("/api/chat", False, SaidLines),
        ("/api/generate", True, SaidLines),
        ("/api/embed", False, None),
        (CHAT, True, SaidEvents),
        (CHAT, False, None),
        ("/v1/completions", True, SaidEvents),
        ("/v1/completions", False, None),
        ("/v1/embeddings", True, None),
        ("/v1/messages", True, None),
        ("/v1/responses", True, None),
    ],
)
def test_what_an_answer_says_is_kept_in_its_own_words(path: str, stream: bool, record: type | None) -> None:
    said = wire.said_by(task(path, stream))
    assert said is None if record is None else type(said) is record


@pytest.mark.parametrize("stream", [True, False])
def test_the_words_of_a_node_are_kept_in_its_dialect(stream: bool) -> None:
    asked = task("/v1/messages", stream)
    assert isinstance(wire.said_at(Dialect.OLLAMA, asked), SaidLines)
    theirs = wire.said_at(Dialect.OPENAI, asked)
    assert isinstance(theirs, SaidEvents)
    nameless = b'data: {"model":"","choices":[]}\n\n'
    assert theirs.cut(nameless) == (nameless, b""), "no event of theirs ends a stream that broke by having no name"


# --- what is asked of the next node


@pytest.mark.parametrize(
    ("path", "fields", "ollama", "others"),
    [
        ("/api/generate", {"prompt": "a", "raw": True}, "a", "a"),
        ("/api/generate", {"raw": True}, "", ""),
        ("/api/generate", {"prompt": "a"}, None, None),
        ("/api/generate", {"prompt": "a", "raw": False}, None, None),
        ("/v1/completions", {"prompt": "a"}, None, "a"),  # Ollama puts it through its template
        ("/v1/completions", {}, None, ""),
        ("/api/chat", {"messages": []}, None, None),
        (CHAT, {"messages": []}, None, None),
    ],
)
def test_a_prompt_that_no_template_touches_is_the_clients_own(path: str, fields: Any, ollama: Any, others: Any) -> None:
    assert wire.raw_prompt(task(path, **fields), OLLAMA) == ollama
    assert wire.raw_prompt(task(path, **fields), LLAMACPP) == others


@pytest.mark.parametrize("options", [{}, {"options": {}}, {"options": {"top_p": 0.5, "seed": 1}}])
def test_what_a_client_of_openais_leaves_out_is_what_ollama_takes_for_it(options: dict[str, Any]) -> None:
    made = json.loads(wire.as_native(json.dumps({"model": "m", "prompt": "a", "raw": True, **options}).encode()))
    assert made == {"model": "m", "prompt": "a", "options": {"temperature": 1.0, "top_p": 1.0, **options.get("options", {})}}


def test_the_node_renders_the_prompt_and_does_not_cut_it() -> None:
    body = json.dumps({"model": "m", "messages": [1], "stream": True, "priority": 3, "options": {"seed": 1}}).encode()
    flags = {"_debug_render_only": True, "stream": False, "truncate": False}
    assert json.loads(wire.rendering(body)) == {"model": "m", "messages": [1], "options": {"seed": 1}, **flags}
    assert wire.rendered(b'{"model":"m","_debug_info":{"rendered_template":"<a>","image_count":0}}') == "<a>"
    assert wire.templated(b'{"prompt":"<a>"}') == "<a>"
    for reading in (wire.rendered, wire.templated):
        with pytest.raises(msgspec.DecodeError):
            reading(b'{"model":"m"}')


@pytest.mark.parametrize(
    ("left", "options", "asked"),
    [
        (None, {"num_predict": 9, "seed": 1}, {"num_predict": 9, "seed": 1}),
        (4, {"num_predict": 9, "seed": 1}, {"num_predict": 4, "seed": 1}),
        (4, None, {"num_predict": 4}),
        (None, None, None),
    ],
)
def test_a_raw_completion_goes_on_and_nothing_shapes_its_prompt_again(left: int | None, options: Any, asked: Any) -> None:
    shapes = {"system": "s", "template": "t", "context": [1], "suffix": "x", "images": ["i"], "messages": [1], "priority": 3}
    body = {"model": "m", "keep_alive": "5m", **shapes, **({} if options is None else {"options": options})}
    made = json.loads(wire.going_on(json.dumps(body).encode(), "prompt and more", left))
    assert made.pop("options", None) == asked
    kept = {"model": "m", "keep_alive": "5m"}
    assert made == {**kept, "prompt": "prompt and more", "raw": True, "stream": True, "truncate": False}


def test_llama_cpp_is_asked_on_its_own_paths() -> None:
    chat = {"model": "m", "messages": [1], "temperature": 0.5, "reasoning_effort": "low", "chat_template_kwargs": {"a": 1}}
    body = json.dumps({**chat, "max_completion_tokens": 9}).encode()
    assert json.loads(wire.template_body(body)) == {
        "messages": [1],
        "reasoning_effort": "low",
        "chat_template_kwargs": {"a": 1},
    }
    made = {"model": "m", "temperature": 0.5, "prompt": "p", "stream": True}
    assert json.loads(wire.completing(body, "p", 4)) == {**made, "max_tokens": 4}
    assert json.loads(wire.completing(body, "p", None)) == made


# --- the counts of a stream of OpenAI's


@pytest.mark.parametrize(
    ("path", "fields", "wants"),
    [
        (CHAT, {"stream_options": {"include_usage": True}}, True),
        ("/v1/completions", {"stream_options": {"include_usage": True}}, True),
        (CHAT, {"stream_options": {"include_usage": False}}, False),
        (CHAT, {"stream_options": None, "user": "include_usage"}, False),
        (CHAT, {}, False),
        ("/api/chat", {"stream_options": {"include_usage": True}}, False),
    ],
)
def test_who_wants_counts_says_so(path: str, fields: dict[str, Any], wants: bool) -> None:
    assert wire.wants_counts(task(path, **fields)) is wants


@pytest.mark.parametrize(("prompt", "told"), [(0.0, 1), (12.4, 12), (12.6, 13)])
def test_a_guess_of_the_prompt_is_a_whole_number(prompt: float, told: int) -> None:
    assert wire.counts(prompt, 5) == {"prompt_tokens": told, "completion_tokens": 5}


# --- lines


def generate_line(said: str, **more: Any) -> bytes:
    return json.dumps({"model": "m", "response": said, "done": False, **more}, separators=(",", ":")).encode() + b"\n"


LAST: dict[str, Any] = {"done": True, "done_reason": "stop", "prompt_eval_count": 10, "eval_count": 4, "eval_duration": 10**9}


@given(texts=TEXTS, places=st.lists(st.integers(0, 10**6), max_size=6))
def test_a_generate_reads_as_a_chat_however_it_is_cut(texts: list[str], places: list[int]) -> None:
    body = b"".join([generate_line(text) for text in texts]) + generate_line("", **LAST)
    told = lines(passed(wire.AsChat(), pieces(body, places)))
    assert [line["message"] for line in told] == [{"role": "assistant", "content": text} for text in (*texts, "")]
    assert told[-1] == {"model": "m", "message": {"role": "assistant", "content": ""}, **LAST}
    assert "response" not in told[0]


def test_thoughts_errors_and_rubbish_among_the_lines() -> None:
    (thought,) = lines(wire.AsChat().feed(generate_line("a", thinking="hm"), 0.0))
    assert thought == {"model": "m", "message": {"role": "assistant", "content": "a", "thinking": "hm"}, "done": False}
    error = b'{"error":"it broke"}'
    assert wire.AsChat().feed(error + b"\nrubbish\n\n", 0.0) == error + b"\n"
    unended = generate_line("a").rstrip()
    assert passed(wire.AsChat(), [unended]) == wire.AsChat().document(unended, 0.0) == wire.AsChat().feed(unended + b"\n", 0.0)


@pytest.mark.parametrize(("translated", "elapsed"), [(False, 2 * wire.NS), (True, 0)])
@given(places=st.lists(st.integers(0, 10**6), max_size=6))
def test_the_last_line_tells_the_sum_of_all_parts(translated: bool, elapsed: int, places: list[int]) -> None:
    body = generate_line('said "done":true') + generate_line("", **LAST, total_duration=3 * wire.NS)
    first, last = lines(passed(wire.Sum(BEFORE, translated, ["a", "b"]), pieces(body, places)))
    assert first == {"model": "m", "response": 'said "done":true', "done": False}
    assert last == {
        **{"model": "m", "response": "", **LAST},
        "total_duration": 3 * wire.NS + elapsed,
        "prompt_eval_count": 10 - 3,
        "prompt_eval_duration": wire.NS // 4,
        "eval_count": 4 + 3,
        "eval_duration": wire.NS * 5 // 2,
        "_sollol_routing": {"resumed_from": ["a", "b"]},
    }


def test_no_counter_falls_under_one_and_who_has_details_is_not_told_twice() -> None:
    told = json.loads(wire.Sum(BEFORE, False).document(b'{"response":"","done":true,"prompt_eval_count":2}', 0.0))
    assert (told["prompt_eval_count"], told["eval_count"]) == (1, 3)
    assert "_sollol_routing" not in told
    nothing = json.loads(wire.Sum(wire.Before(), True).document(b'{"response":"","done":true}', 0.0))
    assert nothing["total_duration"] == 1


# --- events


def chunk(choices: list[Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({"id": "theirs", "model": "native", "choices": choices, **more}).encode() + b"\n\n"


def text_chunk(text: str, finish: str | None = None) -> bytes:
    return chunk([{"index": 0, "text": text, "finish_reason": finish}], object="text_completion")


def begun(chat: bool) -> SaidEvents:
    """What a client was told before: its id, its shape."""
    said = SaidEvents()
    kind = "chat.completion.chunk" if chat else "text_completion"
    said.add(
        b"data: " + json.dumps({"id": "ours", "object": kind, "created": 7, "model": "m", "choices": []}).encode() + b"\n\n"
    )
    said.read()
    return said


HEAD = {"id": "ours", "created": 7, "model": "m"}
USAGE = chunk([], usage={"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14})
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("chat", [True, False])
@given(texts=TEXTS, places=st.lists(st.integers(0, 10**6), max_size=6))
def test_a_completion_reads_as_the_rest_of_the_stream_that_broke_off(chat: bool, texts: list[str], places: list[int]) -> None:
    body = b"".join([text_chunk(text) for text in texts]) + text_chunk("", "stop") + USAGE + DONE
    *told, end, usage, done = events(passed(wire.AsChunks(begun(chat), BEFORE, ["a"]), pieces(body, places)))
    choices = [one["choices"][0] for one in told]
    assert [choice["delta"]["content"] if chat else choice["text"] for choice in choices] == texts
    assert all(one.items() >= HEAD.items() for one in (*told, end, usage))
    kind = "chat.completion.chunk" if chat else "text_completion"
    assert {one["object"] for one in (*told, end)} == {kind}
    (last,) = end["choices"]
    assert last["finish_reason"] == "stop"
    assert last.get("delta", {}) == {}
    assert [one.get("_sollol_routing") for one in (*told, end, usage)] == [None] * len(texts) + [{"resumed_from": ["a"]}, None]
    assert usage["usage"] == {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14}
    assert done == "[DONE]"


def test_a_chat_has_no_second_beginning() -> None:
    first = chunk([{"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}, "rubbish"])
    (told,) = events(wire.AsChunks(begun(True), BEFORE).feed(first, 0.0))
    assert told["choices"] == [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]
    (end,) = events(wire.AsChunks(begun(True), BEFORE).feed(chunk([{"delta": {}, "finish_reason": "stop"}]), 0.0))
    assert "_sollol_routing" not in end, "nobody is named where nobody should be"


def test_what_is_no_event_of_an_answer_is_left_out_or_passed_on() -> None:
    change = wire.AsChunks(begun(True), wire.Before(), ["a"])
    assert change.feed(b": comment\n\ndata: rubbish\n\nevent: x\n\n", 0.0) == b""
    assert change.feed(b'data: {"usage":{"prompt_tokens":null}}', 0.0) == b""
    (told,) = events(change.finish(0.0))
    assert told["usage"] == {"prompt_tokens": None}
    assert change.finish(0.0) == b""
    assert change.document(b"as it is", 0.0) == b"as it is"
    few = wire.AsChunks(begun(True), BEFORE)
    (one,) = events(few.feed(chunk([], usage={"prompt_tokens": 2, "completion_tokens": 0}), 0.0))
    assert one["usage"] == {"prompt_tokens": 1, "completion_tokens": 3}
