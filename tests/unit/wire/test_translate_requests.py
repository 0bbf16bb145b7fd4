"""Single fields of requests, as each kind of node is given them."""

import json
from typing import Any

import pytest

from sollol.core.types import Kind, NodeKind, Task
from sollol.errors import BadRequest, RequestError, Untranslatable
from sollol.wire.replies import document, watcher
from sollol.wire.requests import dialect_of, read
from sollol.wire.translate import Translation, translation

CHAT = [{"role": "user", "content": "hi"}]
FUNCTIONS: list[dict[str, Any]] = [{"name": "f", "input_schema": {"type": "object"}}, {"name": "g"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in "fg"]


def made(path: str, kind: NodeKind, **fields: Any) -> Translation:
    body = json.dumps({"model": "m", **fields}).encode()
    task = Task(1, read(path, body).kind, dialect_of(path), path, "m:latest", body, 0.0, stream=False)
    return translation(task, "native", kind)


def sent(path: str, kind: NodeKind, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made(path, kind, **fields).body)
    return found


def messages(kind: NodeKind, **fields: Any) -> dict[str, Any]:
    return sent("/v1/messages", kind, **{"messages": CHAT, "max_tokens": 9, **fields})


def names(body: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in body.get("tools", [])]


@pytest.mark.parametrize(
    ("kind", "choice", "told", "tools"),
    [
        (NodeKind.VLLM, {"type": "auto"}, None, ["f", "g"]),
        (NodeKind.VLLM, {"type": "any"}, "required", ["f", "g"]),
        (NodeKind.VLLM, {"type": "tool", "name": "g"}, {"type": "function", "function": {"name": "g"}}, ["f", "g"]),
        (NodeKind.LLAMACPP, {"type": "tool", "name": "g"}, "required", ["g"]),  # which takes a name for "auto"
        (NodeKind.LLAMACPP, {"type": "none"}, None, []),
        (NodeKind.OLLAMA, {"type": "none"}, None, []),
        (NodeKind.OLLAMA, {"type": "auto"}, None, ["f", "g"]),
    ],
)
def test_a_choice_of_tools(kind: NodeKind, choice: Any, told: Any, tools: list[str]) -> None:
    body = messages(kind, tools=FUNCTIONS, tool_choice=choice)
    assert (body.get("tool_choice"), names(body)) == (told, tools)


def test_allowed_tools_and_one_call_at_a_time() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS[1:]}}
    chat = {"messages": CHAT, "tools": TOOLS}
    assert names(sent("/v1/chat/completions", NodeKind.OLLAMA, **chat, tool_choice=allowed)) == ["g"]
    flat = [{"type": "function", "name": name} for name in "fg"]
    body = sent(
        "/v1/responses",
        NodeKind.VLLM,
        input="x",
        tools=flat,
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": flat},
    )
    assert (body["tool_choice"], names(body)) == ("required", ["f", "g"])
    one = {"type": "auto", "disable_parallel_tool_use": True}
    assert messages(NodeKind.VLLM, tools=FUNCTIONS, tool_choice=one)["parallel_tool_calls"] is False
    assert names(messages(NodeKind.OLLAMA, tools=FUNCTIONS, tool_choice=one)) == ["f", "g"]


@pytest.mark.parametrize(
    ("kind", "think", "told"),
    [
        (NodeKind.VLLM, "high", {"chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high"}}),
        (NodeKind.OPENAI, "high", {"reasoning_effort": "high"}),
        (NodeKind.OPENAI, False, {"reasoning_effort": "none"}),
        (NodeKind.LMSTUDIO, True, {}),
    ],
)
def test_thinking_as_each_engine_takes_it(kind: NodeKind, think: Any, told: dict[str, Any]) -> None:
    body = sent("/api/chat", kind, messages=CHAT, think=think, stream=False)
    assert body == {"model": "native", "messages": CHAT, "stream": False, **told}


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning": {"effort": "xhigh"}}, "high"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"reasoning_effort": "low"}}, "low"),
    ],
)
def test_efforts_are_levels_of_thinking(fields: dict[str, Any], think: Any) -> None:
    assert sent("/v1/chat/completions", NodeKind.OLLAMA, messages=CHAT, **fields)["think"] == think


def test_what_tools_answered() -> None:
    """Answers stand before what is said after them; pictures of theirs are shown by a message of their own."""
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    uses = [{"type": "tool_use", "id": name, "name": name, "input": {"a": 1}} for name in "fg"]
    answers = [
        {"type": "tool_result", "tool_use_id": "f", "content": [{"type": "text", "text": "one"}, picture]},
        {"type": "tool_result", "tool_use_id": "g", "content": "two", "is_error": True},
        {"type": "text", "text": "go on"},
    ]
    turns = [{"role": "assistant", "content": uses}, {"role": "user", "content": answers}]
    found = messages(NodeKind.LLAMACPP, messages=turns)["messages"]
    assert [one["role"] for one in found] == ["assistant", "tool", "tool", "user", "user"]
    assert [one["content"] for one in found[1:3]] == ["one", "two"] and found[4]["content"] == "go on"
    assert found[3]["content"][0]["image_url"] == {"url": "data:image/png;base64,aGk="}
    told = messages(NodeKind.OLLAMA, messages=turns)["messages"]
    assert [one["role"] for one in told] == ["assistant", "tool", "tool", "user"]
    assert told[1] == {"role": "tool", "content": "one", "images": ["aGk="], "tool_name": "f", "tool_call_id": "f"}
    assert (
        messages(NodeKind.LLAMACPP, messages=[*CHAT, *turns[:1], {"role": "user", "content": answers[:1]}])["messages"][-1][
            "role"
        ]
        == "user"
    )


def test_an_answer_that_was_begun_goes_on_at_vllm() -> None:
    begun = [*CHAT, {"role": "assistant", "content": "Well,"}]
    assert messages(NodeKind.VLLM, messages=begun)["continue_final_message"] is True
    assert "continue_final_message" not in messages(NodeKind.LLAMACPP, messages=begun)


def test_plain_completions_on_ollama() -> None:
    body = sent("/v1/completions", NodeKind.OLLAMA, prompt=["a"], max_tokens=4)
    assert body == {"model": "native", "stream": False, "prompt": "a", "raw": True, "options": {"num_predict": 4}}
    assert sent("/v1/completions", NodeKind.OLLAMA, prompt="a", suffix="b") == {
        "model": "native", "stream": False, "prompt": "a", "suffix": "b",
    }  # fmt: skip
    items = [{"token": t, "logprob": -1.0, "bytes": [97], "top_logprobs": [{"token": t, "logprob": -1.0}]} for t in ("ab", "c")]
    reply = {"response": "abc", "done": True, "done_reason": "stop", "logprobs": items}
    document = made("/v1/completions", NodeKind.OLLAMA, prompt="a", logprobs=1).document(json.dumps(reply).encode(), 1.0)
    assert json.loads(document)["choices"][0]["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1.0, -1.0],
        "top_logprobs": [{"ab": -1.0}, {"c": -1.0}],
        "text_offset": [0, 2],
    }


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": CHAT, "temperature": "hot"}),
        ("/v1/chat/completions", {"messages": CHAT, "stop": [1]}),
        ("/v1/chat/completions", {"messages": CHAT, "max_tokens": "many"}),
        ("/v1/chat/completions", {"messages": CHAT, "tools": TOOLS, "tool_choice": "some"}),
        ("/v1/chat/completions", {"messages": CHAT, "tools": TOOLS, "tool_choice": {"type": "custom"}}),
        ("/v1/chat/completions", {"messages": CHAT, "reasoning_effort": "utmost"}),
        ("/v1/chat/completions", {"messages": CHAT, "response_format": {"type": "xml"}}),
        ("/v1/chat/completions", {"messages": [{"role": "function", "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:x"}]}]}),
        ("/v1/completions", {"prompt": "x", "suffix": 5}),
        ("/v1/messages", {"messages": CHAT, "top_k": "few"}),
        ("/v1/messages", {"messages": CHAT, "tools": FUNCTIONS, "tool_choice": {"type": "some"}}),
        ("/v1/messages", {"messages": CHAT, "tools": FUNCTIONS, "tool_choice": {"type": "tool", "name": "h"}}),
        ("/v1/messages", {"messages": CHAT, "output_config": {"format": {"type": "xml"}}}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("/v1/responses", {"input": "x", "instructions": 5}),
    ],
)
def test_wrong_values_are_errors_of_the_request(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        sent(path, NodeKind.OLLAMA, **fields)


def test_calls_whose_arguments_are_no_object_cannot_be_told_to_ollama() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "nonsense"}}
    with pytest.raises(BadRequest, match="no JSON object"):
        sent("/v1/chat/completions", NodeKind.OLLAMA, messages=[{"role": "assistant", "tool_calls": [call]}])


# --- what belongs between a beginning and an end

PIECES = (
    b'data: {"index":0,"content":"mid","tokens":[],"stop":false}\n\n',
    b'data: {"index":0,"content":"dle","stop":false}\n\n',
    b'data: {"content":"","stop":true,"stop_type":"limit","tokens_evaluated":9,"tokens_predicted":2,'
    b'"timings":{"cache_n":3,"prompt_ms":10.0,"predicted_ms":20.0}}\n\n',
)


def inserting(path: str, kind: NodeKind = NodeKind.LLAMACPP, **fields: Any) -> Translation:
    stream = fields.get("stream", path.startswith("/api/")) is True
    body = json.dumps({"model": "Qwen3", "prompt": "a", "suffix": "b", **fields}).encode()
    return translation(Task(1, Kind.GENERATE, dialect_of(path), path, "m", body, 1.0, stream=stream), "native", kind)


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/api/generate", {"options": {"num_predict": 5, "seed": 1}}), ("/v1/completions", {"max_tokens": 5, "seed": 1})],
)
def test_an_insertion_is_asked_of_llama_cpp_on_its_own_path(path: str, fields: dict[str, Any]) -> None:
    made = inserting(path, **fields, stream=False)
    assert (made.path, json.loads(made.body)) == (
        "/infill",
        {"model": "native", "input_prefix": "a", "input_suffix": "b", "prompt": "", "n_predict": 5, "seed": 1, "stream": False},
    )
    answer = b'{"content":"middle","stop":true,"stop_type":"eos","tokens_evaluated":9,"tokens_predicted":2}'
    told = json.loads(made.document(answer, 2.0))
    assert "middle" in (told.get("response"), told.get("choices", [{}])[0].get("text"))
    assert document(made.dialect, made.path, answer).complete
    with pytest.raises(ValueError, match="holds no answer"):
        made.document(b"{}", 2.0)
    words = b'{"error":{"code":501,"message":"Infill is not supported by this model: prefix token is missing."}}'
    assert made.error(501, words)[0] == 400


@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_streamed_insertion_is_the_same_however_it_is_cut(path: str, size: int) -> None:
    made, data = inserting(path, stream=True), b"".join(PIECES)
    watch = watcher(made.dialect, made.path)
    out = b""
    for at in range(0, len(data), size):
        watch.feed(data[at : at + size])
        out += made.feed(data[at : at + size], 2.0)
    assert watch.finish().complete
    out += made.finish(3.0)
    assert made.problem is None
    lines = [json.loads(line.removeprefix(b"data: ")) for line in out.split(b"\n") if line and b"[DONE]" not in line]
    if path == "/api/generate":
        assert "".join(line["response"] for line in lines) == "middle"
        assert (lines[-1]["done_reason"], lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == ("length", 9, 2)
    else:
        assert "".join(line["choices"][0]["text"] for line in lines) == "middle"
        assert (lines[-1]["choices"][0]["finish_reason"], out.endswith(b"data: [DONE]\n\n")) == ("length", True)


@pytest.mark.parametrize("broken", [PIECES[:2], (PIECES[0], b'data: {"error":{"message":"gone"}}\n\n'), (b"data: oops\n\n",)])
def test_an_insertion_without_its_end_is_a_failure(broken: tuple[bytes, ...]) -> None:
    made = inserting("/v1/completions", stream=True)
    watch = watcher(made.dialect, made.path)
    for data in broken:
        watch.feed(data)
        made.feed(data, 2.0)
    assert not watch.finish().complete
    assert b"[DONE]" not in made.finish(3.0)
    assert made.problem


def test_what_an_insertion_cannot_have_is_refused() -> None:
    for fields in ({"system": "s"}, {"images": ["iVBORw0KGgo="]}, {"format": "json"}):
        with pytest.raises(Untranslatable, match="not with a suffix"):
            inserting("/api/generate", **fields)
    for kind in (NodeKind.VLLM, NodeKind.LMSTUDIO, NodeKind.OPENAI):
        with pytest.raises(Untranslatable, match='"suffix" cannot be answered by this node'):
            inserting("/api/generate", kind)
