"""Replies from nodes of both dialects, told to clients of every dialect: recorded ones, cut ones, broken ones, long ones."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol.core.types import Dialect, NodeKind, Task
from sollol.wire.replies import document, watcher
from sollol.wire.requests import dialect_of, read
from sollol.wire.translate import Translation, translation

RECORDED = {case["name"]: case for case in json.loads((Path(__file__).parents[2] / "data/wire/replies.json").read_text())}
FIELDS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "hi", "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
}
OPENAI_CLIENTS = ("/api/chat", "/v1/responses", "/v1/messages")
OLLAMA_CLIENTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
PAIRS = [*((path, NodeKind.LLAMACPP) for path in OPENAI_CLIENTS), *((path, NodeKind.OLLAMA) for path in OLLAMA_CLIENTS)]


def made(path: str, kind: NodeKind, *, stream: bool = True, **more: Any) -> Translation:
    body = json.dumps({"model": "Qwen3", "stream": stream, **FIELDS[path], **more}).encode()
    peek = read(path, body)
    task = Task(1, peek.kind, dialect_of(path), path, "qwen3:latest", body, 100.0, stream=stream)
    return translation(task, "native", kind)


def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"created": 1_795_237_959, "choices": [choice], **more}).encode() + b"\n\n"


def line(message: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"created_at": "2026-11-21T05:12:39.5Z", "message": message, "done": False, **more}).encode() + b"\n"


def call_event(index: int, arguments: str, name: str = "") -> bytes:
    first = {"id": f"id{index}", "type": "function"} if name else {}
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return event({"tool_calls": [{"index": index, **first, "function": function}]})


USAGE = {"prompt_tokens": 22, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2}}
DONE = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
OPENAI_STREAM = (
    event({"role": "assistant", "reasoning_content": "hm"})
    + event({"content": "hé"})
    + event({"content": "llo"})
    + call_event(0, "", "f")
    + call_event(0, '{"a":')
    + call_event(0, "1}")
    + call_event(1, '{"b":2}', "g")
    + event({}, "tool_calls")
    + DONE
)
CALLS = [
    {"function": {"index": 0, "name": "f", "arguments": {"a": 1}}},
    {"id": "id1", "function": {"name": "g", "arguments": {"b": 2}}},
]
COUNTS = {"done_reason": "stop", "prompt_eval_count": 22, "eval_count": 9, "eval_duration": 5_000_000}
OLLAMA_STREAM = (
    line({"role": "assistant", "content": "", "thinking": "hm"})
    + line({"role": "assistant", "content": "hé"})
    + line({"role": "assistant", "content": "llo"})
    + line({"role": "assistant", "content": "", "tool_calls": CALLS})
    + line({"role": "assistant", "content": ""}, **{**COUNTS, "done": True})
)


def stream_of(kind: NodeKind) -> bytes:
    return OLLAMA_STREAM if kind is NodeKind.OLLAMA else OPENAI_STREAM


def events(out: bytes) -> list[dict[str, Any]]:
    """The data of the events, which must be named by their type where they are named."""
    found = []
    for one in out.decode().strip().split("\n\n"):
        *names, data = one.split("\n")
        assert data.startswith("data: ")
        if data == "data: [DONE]":
            continue
        value = json.loads(data[6:])
        assert not names or names == [f"event: {value['type']}"]
        found.append(value)
    return found


def translated(path: str, kind: NodeKind, body: bytes, **more: Any) -> bytes:
    one = made(path, kind, **more)
    return one.feed(body, 101.0) + one.finish(102.0)


def told(path: str, out: bytes) -> dict[str, Any]:
    """What a client understands: the texts, the thoughts, and the calls."""
    if path == "/api/chat":
        lines = [json.loads(one)["message"] for one in out.splitlines()]
        calls = [call["function"] for one in lines for call in one.get("tool_calls", [])]
        found = [(call["name"], call["arguments"]) for call in calls]
        return {
            "text": "".join(x["content"] for x in lines),
            "thinking": "".join(x.get("thinking", "") for x in lines),
            "calls": found,
        }
    seen = events(out)
    if path == "/v1/completions":
        return {"text": "".join(one["choices"][0]["text"] for one in seen if one["choices"])}
    return {"/v1/messages": of_messages, "/v1/responses": of_responses, "/v1/chat/completions": of_chat}[path](seen)


def of_chat(seen: list[dict[str, Any]]) -> dict[str, Any]:
    deltas = [one["choices"][0]["delta"] for one in seen if one["choices"]]
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", []):
            entry = calls.setdefault(call["index"], [call["function"].get("name", ""), ""])
            entry[1] += call["function"]["arguments"]
    return {
        "text": "".join(delta.get("content", "") for delta in deltas),
        "thinking": "".join(delta.get("reasoning", "") for delta in deltas),
        "calls": [(name, json.loads(arguments)) for name, arguments in calls.values()],
    }


def of_messages(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """As the client's package puts it together: blocks one after another, each begun and ended."""
    assert seen[0]["type"] == "message_start" and seen[-1]["type"] == "message_stop" and seen[-2]["type"] == "message_delta"
    blocks: list[dict[str, Any]] = []
    opened = False
    for one in seen[1:-2]:
        if one["type"] == "content_block_start":
            assert not opened and one["index"] == len(blocks)
            opened = True
            blocks.append({**one["content_block"], "json": ""})
            continue
        assert opened and one["index"] == len(blocks) - 1
        if one["type"] == "content_block_stop":
            opened = False
            continue
        delta = one["delta"]
        key = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}[delta["type"]]
        blocks[-1]["json" if key == "partial_json" else key] += delta[key]
    assert not opened
    return {
        "text": "".join(block.get("text", "") for block in blocks),
        "thinking": "".join(block.get("thinking", "") for block in blocks),
        "calls": [(block["name"], json.loads(block["json"] or "{}")) for block in blocks if block["type"] == "tool_use"],
    }


def of_responses(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Every item begun is ended, as what its pieces came to, and stands in the last event."""
    assert [one["sequence_number"] for one in seen] == list(range(len(seen)))
    assert [one["type"] for one in seen[:2]] == ["response.created", "response.in_progress"]
    last = seen[-1]["response"]
    pieces: dict[int, str] = {}
    for one in seen:
        if one["type"].endswith(".delta"):
            assert last["output"][one["output_index"]]["id"] == one["item_id"]
            pieces[one["output_index"]] = pieces.get(one["output_index"], "") + one["delta"]
    added = [one["output_index"] for one in seen if one["type"] == "response.output_item.added"]
    ended = {one["output_index"]: one["item"] for one in seen if one["type"] == "response.output_item.done"}
    assert added == list(range(len(last["output"]))) and [ended[at] for at in added] == last["output"]
    return of_output(last, pieces)


def of_output(response: dict[str, Any], pieces: dict[int, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"text": "", "thinking": "", "calls": []}
    for at, item in enumerate(response["output"]):
        if item["type"] == "message":
            value = "".join(part["text"] for part in item["content"])
            found["text"] += value
        elif item["type"] == "reasoning":
            value = "".join(part["text"] for part in item["summary"])
            found["thinking"] += value
        else:
            value = item["arguments"]
            found["calls"].append((item["name"], json.loads(value)))
        assert pieces is None or pieces.get(at, "") == value
    return found


EXPECTED = {"text": "héllo", "thinking": "hm", "calls": [("f", {"a": 1}), ("g", {"b": 2})]}


@pytest.mark.parametrize(("path", "kind"), PAIRS)
def test_a_stream_says_the_same_in_every_dialect(path: str, kind: NodeKind) -> None:
    out = translated(path, kind, stream_of(kind))
    assert told(path, out) == ({"text": "héllo"} if path == "/v1/completions" else EXPECTED)
    watch = watcher(dialect_of(path), path)
    watch.feed(out)
    ending = watch.finish()
    assert ending.complete and ending.counters is not None
    assert ending.counters.output_tokens == 9


@pytest.mark.parametrize(("path", "kind"), PAIRS)
@given(data=st.data())
def test_a_stream_is_translated_the_same_whatever_the_cut(path: str, kind: NodeKind, data: st.DataObject) -> None:
    body = stream_of(kind)
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    one = made(path, kind)
    cut = b"".join([one.feed(body[a:b], 101.0) for a, b in zip([0, *places], [*places, len(body)], strict=True)])
    assert cut + one.finish(102.0) == translated(path, kind, body)


@pytest.mark.parametrize(("path", "kind"), PAIRS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_stream_that_stops_early_gets_no_end(path: str, kind: NodeKind, share: float) -> None:
    body = stream_of(kind)
    one = made(path, kind)
    out = one.feed(body[: int(len(body) * share)], 101.0) + one.finish(102.0)
    assert one.problem is not None
    out += one.failure("it broke")
    watch = watcher(dialect_of(path), path)
    watch.feed(out)
    ending = watch.finish()
    assert not ending.complete and "it broke" in (ending.error or "")
    if path == "/v1/responses":
        assert [one["sequence_number"] for one in events(out)] == list(range(len(events(out))))


@pytest.mark.parametrize(("path", "kind"), PAIRS)
def test_documents_say_the_same(path: str, kind: NodeKind) -> None:
    calls = [{"id": "i", "function": {"name": "f", "arguments": '{"a":1}'}}]
    message = {"content": "héllo", "reasoning": "hm", "tool_calls": calls}
    body: dict[str, Any] = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    if kind is NodeKind.OLLAMA:
        body = {"message": {"content": "héllo", "thinking": "hm", "tool_calls": CALLS[:1]}, **{**COUNTS, "done": True}}
    out = made(path, kind, stream=False).document(json.dumps(body).encode(), 101.0)
    assert document(dialect_of(path), path, out).complete
    found = json.loads(out)
    if path == "/v1/messages":
        assert [block["type"] for block in found["content"]] == ["thinking", "text", "tool_use"]
        assert found["content"][2]["input"] == {"a": 1} and found["stop_reason"] == "tool_use"
    elif path == "/v1/responses":
        assert of_output(found) == {**EXPECTED, "calls": EXPECTED["calls"][:1]} and found["status"] == "completed"
    elif path == "/v1/chat/completions":
        choice = found["choices"][0]
        assert (choice["message"]["content"], choice["message"]["reasoning"], choice["finish_reason"]) == (
            "héllo",
            "hm",
            "tool_calls",
        )
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    elif path == "/v1/completions":
        assert found["choices"][0]["text"] == "héllo"
    else:
        assert found["message"]["tool_calls"][0]["function"] == {"index": 0, "name": "f", "arguments": {"a": 1}}
    with pytest.raises(ValueError, match="no answer"):
        made(path, kind, stream=False).document(b'{"choices":[]}', 101.0)


@pytest.mark.parametrize("path", OPENAI_CLIENTS)
def test_calls_that_overlap_come_out_whole(path: str) -> None:
    body = (
        call_event(0, '{"a"', "f") + call_event(1, '{"b"', "g") + call_event(0, ":1}") + call_event(1, ":2}")
        + event({"content": "héllo"}) + event({}, "tool_calls") + DONE
    )  # fmt: skip
    assert told(path, translated(path, NodeKind.VLLM, body)) == {**EXPECTED, "thinking": ""}


def test_a_plain_question_has_the_role_of_its_asker() -> None:
    for path, fields in FIELDS.items():
        for kind in (NodeKind.OLLAMA, NodeKind.VLLM):
            if (path, kind) in PAIRS and path != "/v1/completions":
                messages = json.loads(made(path, kind, **fields).body)["messages"]
                assert messages == [{"role": "user", "content": "hi"}], (path, kind)


@pytest.mark.parametrize("path", OPENAI_CLIENTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_arguments_that_a_model_sets_out_over_lines_stay_on_one(path: str, newline: str) -> None:
    body = (
        call_event(0, newline.join(["{", '  "a": 1', "}"]), "f") + call_event(1, '{"b"', "g") + call_event(1, f":{newline} 2}}")
        + event({"content": "héllo"}) + event({}, "tool_calls") + DONE
    )  # fmt: skip
    assert told(path, translated(path, NodeKind.VLLM, body)) == {**EXPECTED, "thinking": ""}


@pytest.mark.parametrize("kind", [NodeKind.VLLM, NodeKind.OLLAMA])
def test_what_a_reply_repeats_of_a_request_that_is_set_out_over_lines_stays_on_one(kind: NodeKind) -> None:
    path = "/v1/responses"
    asked = {
        "model": "m", "stream": True, "input": "hi", "metadata": {"a": "b"}, "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}}}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
    }  # fmt: skip
    body = json.dumps(asked, indent=2).encode()
    task = Task(1, read(path, body).kind, dialect_of(path), path, "m", body, 100.0, stream=True)
    one = translation(task, "native", kind)
    assert told(path, one.feed(stream_of(kind), 101.0) + one.finish(102.0)) == EXPECTED


@pytest.mark.parametrize("path", ["/api/chat", "/v1/messages"])
def test_arguments_that_are_no_json_end_the_stream_with_an_error(path: str) -> None:
    one = made(path, NodeKind.LLAMACPP)
    out = one.feed(call_event(0, "{nonsense", "f") + event({}, "tool_calls") + DONE, 101.0) + one.finish(102.0)
    assert b"no JSON object" in out and one.problem is not None
    watch = watcher(dialect_of(path), path)
    watch.feed(out)
    assert not watch.finish().complete


def test_only_the_first_call_where_one_is_allowed() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    out = translated("/v1/chat/completions", NodeKind.OLLAMA, OLLAMA_STREAM, tools=tools, parallel_tool_calls=False)
    assert told("/v1/chat/completions", out)["calls"] == [("f", {"a": 1})]


@pytest.mark.parametrize(("path", "kind"), PAIRS)
def test_an_answer_that_was_cut_off_by_its_limit_says_so(path: str, kind: NodeKind) -> None:
    body = line({"content": "a"}) + line({"content": ""}, **{**COUNTS, "done": True, "done_reason": "length"})
    if kind is not NodeKind.OLLAMA:
        body = event({"content": "a"}) + event({}, "length") + DONE
    out = translated(path, kind, body).decode()
    word = {"/v1/messages": '"stop_reason":"max_tokens"', "/v1/responses": '"reason":"max_output_tokens"'}
    assert word.get(path, '"done_reason":"length"' if path == "/api/chat" else '"finish_reason":"length"') in out


STREAMS = [
    (case["name"], case["body"].encode(), NodeKind.OLLAMA if case["path"] == "/api/chat" else NodeKind.LLAMACPP)
    for case in RECORDED.values()
    if case["path"] in ("/api/chat", "/v1/chat/completions") and case["type"] != "json" and case["complete"]
]


@pytest.mark.parametrize(("name", "body", "kind"), STREAMS)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_recorded_streams(path: str, name: str, body: bytes, kind: NodeKind) -> None:
    out = translated(path, kind, body)
    source = "/api/chat" if kind is NodeKind.OLLAMA else "/v1/chat/completions"
    said = told(source, body) if kind is NodeKind.OLLAMA else of_chat(events(body))
    assert told(path, out) == said


@pytest.mark.parametrize(("path", "kind"), PAIRS)
@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_arrives(path: str, kind: NodeKind, text: str) -> None:
    body = line({"content": text}) + line({"content": ""}, **{**COUNTS, "done": True})
    if kind is not NodeKind.OLLAMA:
        body = event({"content": text}) + event({}, "stop") + DONE
    assert told(path, translated(path, kind, body))["text"] == text


@pytest.mark.parametrize(("path", "kind"), PAIRS)
def test_thousands_of_chunks_stay_linear(path: str, kind: NodeKind) -> None:
    chunk = line({"content": "word "}) if kind is NodeKind.OLLAMA else event({"content": "word "})

    def seconds(number: int) -> float:
        one = made(path, kind)
        start = time.process_time()
        for _ in range(number):
            one.feed(chunk, 101.0)
        return time.process_time() - start

    seconds(500)
    assert min(seconds(4000) for _ in range(3)) < 12 * min(seconds(1000) for _ in range(3))


@pytest.mark.parametrize(("path", "kind"), PAIRS)
def test_errors_have_the_shape_of_the_client(path: str, kind: NodeKind) -> None:
    status, body = made(path, kind).error(404, b'{"error":{"message":"no such thing"}}')
    assert status == 404
    found = json.loads(body)
    assert (found["error"] if path == "/api/chat" else found["error"]["message"]) == "no such thing"
    assert (found.get("type") == "error") is (path == "/v1/messages")


VECTORS = b'{"embeddings":[[1.0,-0.5],[0.25,2]],"prompt_eval_count":7}'


def test_vectors_of_an_ollama_node() -> None:
    def asked(**more: Any) -> Translation:
        body = json.dumps({"model": "Qwen3", "input": ["a", "b"], **more}).encode()
        task = Task(1, read("/v1/embeddings", body).kind, Dialect.OPENAI, "/v1/embeddings", "q", body, 100.0, stream=False)
        return translation(task, "native", NodeKind.OLLAMA)

    plain = json.loads(asked().document(VECTORS, 101.0))
    assert [item["embedding"] for item in plain["data"]] == [[1.0, -0.5], [0.25, 2]]
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7} and plain["model"] == "Qwen3"
    packed = json.loads(asked(encoding_format="base64").document(VECTORS, 101.0))
    assert packed["data"][0]["embedding"] == "AACAPwAAAL8="
    with pytest.raises(ValueError, match="vectors"):
        asked().document(b'{"embeddings":[]}', 101.0)
