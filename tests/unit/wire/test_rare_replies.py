"""What nodes seldom answer, as a client of another dialect reads it: what was said arrives, what broke has no end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol.core.types import NodeKind, Task
from sollol.wire.dialects.calls import Name
from sollol.wire.dialects.openai_write import ChatWriter
from sollol.wire.neutral import CallPiece, Piece
from sollol.wire.replies import watcher
from sollol.wire.requests import dialect_of, read
from sollol.wire.sse import Event, Events
from sollol.wire.translate import Translation, translation

CHAT = [{"role": "user", "content": "hi"}]
OLLAMA, LLAMACPP = NodeKind.OLLAMA, NodeKind.LLAMACPP
COMPLETIONS, MESSAGES, RESPONSES, TEXT = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"
FIELDS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": CHAT},
    COMPLETIONS: {"messages": CHAT},
    TEXT: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
    MESSAGES: {"messages": CHAT, "max_tokens": 9},
    "/v1/embeddings": {"input": "hi"},
    "/api/embed": {"input": "hi"},
}


def made(path: str, kind: NodeKind, stream: bool = True, **more: Any) -> Translation:
    body = json.dumps({"model": "Qwen3", "stream": stream, **FIELDS[path], **more}).encode()
    task = Task(1, read(path, body).kind, dialect_of(path), path, "qwen3:latest", body, 100.0, stream=stream)
    return translation(task, "native", kind)


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, choice: dict[str, Any] | None = None) -> bytes:
    said = {"index": 0, "delta": delta or {}, "finish_reason": finish, **(choice or {})}
    return b"data: " + json.dumps({"created": 1_795_237_959, "choices": [said]}).encode() + b"\n\n"


def called(index: int, arguments: str, name: str = "") -> bytes:
    named = {"id": f"id{index}", "function": {"name": name, "arguments": arguments}}
    return chunk({"tool_calls": [{"index": index, **(named if name else {"function": {"arguments": arguments}})}]})


DONE = b"data: [DONE]\n\n"


def line(content: str = "", **more: Any) -> bytes:
    return json.dumps({"message": {"role": "assistant", "content": content}, "done": False, **more}).encode() + b"\n"


LAST = line(done=True, done_reason="stop", prompt_eval_count=3, eval_count=2)


def data(out: bytes) -> list[dict[str, Any]]:
    """The data of the events."""
    lines = [one.removeprefix(b"data: ") for one in out.split(b"\n") if one.startswith(b"data: ")]
    return [json.loads(one) for one in lines if one != b"[DONE]"]


def document(path: str, kind: NodeKind, reply: dict[str, Any], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made(path, kind, stream=False, **more).document(json.dumps(reply).encode(), 101.0))
    return found


def of_node(kind: NodeKind, **message: Any) -> dict[str, Any]:
    """A whole reply of a node that says this."""
    if kind is OLLAMA:
        return {"message": message, "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


# --- streams that break


@pytest.mark.parametrize("path", [COMPLETIONS, MESSAGES, RESPONSES, TEXT])
@pytest.mark.parametrize("told", [{"error": "the runner died"}, {"error": {"message": "the runner died"}}])
def test_an_error_of_an_ollama_node_in_the_middle_ends_the_stream_without_its_end(path: str, told: dict[str, Any]) -> None:
    one = made(path, OLLAMA)
    said = line("so") if path != TEXT else json.dumps({"response": "so", "done": False}).encode() + b"\n"
    out = one.feed(said + json.dumps(told).encode() + b"\n", 101.0) + one.finish(102.0)
    assert one.problem == "the runner died"
    assert b"so" in out
    watch = watcher(dialect_of(path), path)
    watch.feed(out)
    assert not watch.finish().complete


@pytest.mark.parametrize(
    "between",
    [
        chunk({"content": "text"}),  # a block cannot be opened again once another one was
        called(1, "{}", "g"),
    ],
)
def test_a_call_that_goes_on_after_it_was_over_cannot_be_told_to_a_client_of_blocks(between: bytes) -> None:
    one = made(MESSAGES, LLAMACPP)
    before = one.feed(called(0, '{"a":1}', "f") + between, 101.0)
    assert before
    broken = one.feed(called(0, " "), 101.0)
    (error,) = data(broken)
    assert (error["type"], one.problem) == ("error", "the node went back to a tool call that was over")
    assert error["error"]["message"] == one.problem
    assert one.feed(chunk({"content": "more"}), 101.0) == b"", "nothing follows an error"
    assert one.finish(102.0) == b""


def test_calls_that_come_after_each_other_are_told_as_they_come() -> None:
    one = made(MESSAGES, LLAMACPP)
    out = one.feed(called(0, '{"a":1}', "f") + called(1, '{"b":', "g") + called(1, "2}"), 101.0)
    started = [told["content_block"]["name"] for told in data(out) if told["type"] == "content_block_start"]
    assert started == ["f", "g"], "the second is not kept back: the first has all its arguments"


# --- what only some engines say


def test_of_several_answers_the_first_is_told() -> None:
    one = made("/api/chat", LLAMACPP)
    other = chunk({"content": "other"}, choice={"index": 1})
    both = json.loads(chunk({"content": "first"})[6:])
    both["choices"].insert(0, {"index": 1, "delta": {"content": "other"}})
    out = one.feed(other + b"data: " + json.dumps(both).encode() + b"\n\n" + chunk(finish="stop") + DONE, 101.0)
    said = [json.loads(told)["message"]["content"] for told in (out + one.finish(102.0)).splitlines()]
    assert "".join(said) == "first"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("reason", "told"),
    [("END", {"stop_reason": "stop_sequence", "stop_sequence": "END"}), (128_009, {"stop_reason": "end_turn"})],
)
def test_a_client_is_told_which_stop_sequence_ended_an_answer(stream: bool, reason: Any, told: dict[str, Any]) -> None:
    choice = {"index": 0, "finish_reason": "stop", "stop_reason": reason}  # a number is a token of the engine's own
    if stream:
        one = made(MESSAGES, NodeKind.VLLM)
        out = one.feed(chunk({"content": "a"}) + chunk(choice=choice) + DONE, 101.0) + one.finish(102.0)
        (found,) = [event["delta"] for event in data(out) if event["type"] == "message_delta"]
    else:
        found = document(MESSAGES, NodeKind.VLLM, {"choices": [{**choice, "message": {"content": "a"}}]})
    assert {name: found[name] for name in told} == told


@pytest.mark.parametrize(("arguments", "told"), [({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("", {}), (None, {}), ({}, {})])
def test_arguments_may_come_as_text_or_as_the_object_itself(arguments: Any, told: dict[str, Any]) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    reply = of_node(LLAMACPP, content="", tool_calls=[call])
    (block,) = document(MESSAGES, LLAMACPP, reply)["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "f", told)


def test_tokens_of_thoughts_are_counted_apart() -> None:
    usage = document(RESPONSES, LLAMACPP, of_node(LLAMACPP, content="a"))["usage"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 1}
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (3, 2, 5)


def test_tokens_that_were_in_the_cache_are_told() -> None:
    reply = {"content": "b", "stop": True, "stop_type": "eos", "tokens_evaluated": 9, "tokens_predicted": 2}
    told = document(TEXT, LLAMACPP, {**reply, "timings": {"cache_n": 3}}, suffix="c")["usage"]
    assert told == {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert "prompt_tokens_details" not in document(TEXT, LLAMACPP, reply, suffix="c")["usage"]


# --- documents


CALL = {"id": "i", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize("kind", [OLLAMA, LLAMACPP])
@pytest.mark.parametrize(
    ("message", "messages", "responses"),
    [
        ({"content": "a"}, ["text"], ["message"]),
        ({"content": ""}, [], ["message"]),
        ({"content": "", "tool_calls": [CALL]}, ["tool_use"], ["function_call"]),
        ({"content": "a", "tool_calls": [CALL]}, ["text", "tool_use"], ["message", "function_call"]),
        ({"content": "", "thinking": "hm", "reasoning": "hm"}, ["thinking"], ["reasoning"]),
    ],
)
def test_a_document_holds_what_was_said_and_nothing_else(kind, message, messages, responses):
    reply = of_node(kind, **message)
    assert [block["type"] for block in document(MESSAGES, kind, reply)["content"]] == messages
    assert [item["type"] for item in document(RESPONSES, kind, reply)["output"]] == responses


@pytest.mark.parametrize(
    ("message", "keys"),
    [
        ({"content": "a"}, {"role", "content"}),
        ({"content": "", "thinking": "hm"}, {"role", "content", "reasoning"}),
        ({"content": "", "tool_calls": [CALL]}, {"role", "content", "tool_calls"}),
    ],
)
def test_a_chat_completion_names_only_what_there_is(message, keys):
    (choice,) = document(COMPLETIONS, OLLAMA, of_node(OLLAMA, **message))["choices"]
    assert choice["message"].keys() == keys
    assert "logprobs" not in choice


LOGPROBS = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]


def test_logprobs_of_a_chat_arrive_as_they_are() -> None:
    (choice,) = document(COMPLETIONS, OLLAMA, {**of_node(OLLAMA, content="a"), "logprobs": LOGPROBS})["choices"]
    assert choice["logprobs"] == {"content": LOGPROBS}
    one = made(COMPLETIONS, OLLAMA, logprobs=True)
    first = data(one.feed(line("a", logprobs=LOGPROBS) + line("b"), 101.0))
    assert [told["choices"][0].get("logprobs") for told in first] == [{"content": LOGPROBS}, None]


def test_logprobs_of_a_response_are_told_with_the_text_and_again_at_its_end() -> None:
    one = made(RESPONSES, LLAMACPP, include=["message.output_text.logprobs"])
    pieces = [chunk({"content": text}, choice={"logprobs": {"content": LOGPROBS}}) for text in "ab"]
    out = data(one.feed(b"".join(pieces) + chunk(finish="stop") + DONE, 101.0) + one.finish(102.0))
    by_type = {told["type"]: told for told in out}
    assert by_type["response.output_text.delta"]["logprobs"] == LOGPROBS
    assert by_type["response.output_text.done"]["logprobs"] == LOGPROBS * 2
    (item,) = by_type["response.completed"]["response"]["output"]
    assert item["content"][0]["logprobs"] == LOGPROBS * 2
    whole = document(RESPONSES, LLAMACPP, {"choices": [{"message": {"content": "a"}, "logprobs": {"content": LOGPROBS}}]})
    assert whole["output"][0]["content"][0]["logprobs"] == LOGPROBS


def test_a_chat_names_each_call_once_however_many_pieces_it_comes_in() -> None:
    writer = ChatWriter(Name("7", "m", 0.0), usage=False)
    told = []
    said = [(0, "", "f", '{"a":'), (0, "", "", "1"), (1, "x", "g", "{}"), (0, "", "", "}")]
    for piece in [CallPiece(*call) for call in said]:
        (event,) = data(writer.piece(Piece(calls=[piece]), 1.0))
        told += event["choices"][0]["delta"]["tool_calls"]
    first, *rest = told
    assert first == {"index": 0, "id": "call_7_0", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
    assert rest == [
        {"index": 0, "function": {"arguments": "1"}},
        {"index": 1, "id": "x", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": "}"}},
    ]


# --- how a stream ends


@pytest.mark.parametrize("path", [COMPLETIONS, TEXT])
@pytest.mark.parametrize(("options", "counted"), [({}, False), ({"stream_options": {"include_usage": True}}, True)])
def test_counts_end_a_stream_only_for_who_asks(path: str, options: dict[str, Any], counted: bool) -> None:
    one = made(path, OLLAMA, **options)
    out = one.feed(LAST, 101.0) + one.finish(102.0)
    assert out.endswith(DONE)
    usage = [told["usage"] for told in data(out) if told.get("usage")]
    assert usage == ([{"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}] if counted else [])


def test_an_answer_without_a_word_has_its_beginning_all_the_same() -> None:
    for path, first in ((COMPLETIONS, "chat.completion.chunk"), (MESSAGES, "message_start"), (RESPONSES, "response.created")):
        one = made(path, OLLAMA)
        told = data(one.feed(LAST, 101.0) + one.finish(102.0))[0]
        assert told.get("type", told.get("object")) == first


def test_vectors_that_fail_are_told_in_the_clients_words() -> None:
    assert json.loads(made("/v1/embeddings", OLLAMA).failure("it broke"))["error"]["message"] == "it broke"
    assert json.loads(made("/api/embed", LLAMACPP).failure("it broke")) == {"error": "it broke"}


# --- events


def test_an_event_has_its_name_and_all_of_its_lines() -> None:
    events = Events()
    found = events.feed(b": a comment\nid: 7\nevent: ping\ndata: a\r\ndata:b\n\n")
    assert found == [Event(b"a\nb", "ping")]
    assert events.feed(b"event: left\n\ndata: c\n\n") == [Event(b"c")], "a name without data is no event, and names no other"
    assert events.feed(b"data: d") == []
    assert events.finish() == [Event(b"d")]
    assert events.finish() == []
