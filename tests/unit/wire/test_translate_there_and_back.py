"""A request that is said in another dialect, and read there, means what it meant."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Dialect, NodeKind
from sollol.wire.dialects import (
    anthropic_request,
    ollama_render,
    ollama_request,
    openai_render,
    openai_request,
    responses_request,
)
from sollol.wire.neutral import Asked, Image, text_of

PICTURE = "iVBORw0KGgo="
URL = f"data:image/png;base64,{PICTURE}"
NAMES = st.sampled_from(["f", "get_weather"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
OBJECTS = st.dictionaries(st.sampled_from("abc"), st.integers(-9, 9) | TEXTS | st.booleans(), max_size=2)
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "number"}}}
TURNS = st.lists(
    st.one_of(
        st.tuples(st.just("user"), TEXTS, st.booleans()),
        st.tuples(st.just("assistant"), TEXTS, TEXTS | st.just("")),
        st.tuples(st.just("call"), st.lists(st.tuples(NAMES, OBJECTS), min_size=1, max_size=3), TEXTS),
    ),
    min_size=1,
    max_size=5,
)
COMMON = {"temperature": st.floats(0, 2, width=32), "top_p": st.floats(0, 1, width=32)}
ids = iter(range(10**9))


def optional(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def of_ollama(system: str, turns: list[Any]) -> dict[str, Any]:
    said: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for role, one, two in turns:
        if role == "user":
            said.append({"role": role, "content": one, **({"images": [PICTURE]} if two else {})})
        elif role == "assistant":
            said.append({"role": role, "content": one, "thinking": two})
        else:
            calls = [{"function": {"name": name, "arguments": arguments}} for name, arguments in one]
            said.append({"role": "assistant", "content": "", "tool_calls": calls})
            said += [{"role": "tool", "tool_name": name, "content": two} for name, _ in one]
    return {"messages": said}


def of_openai(system: str, turns: list[Any]) -> dict[str, Any]:
    said: list[dict[str, Any]] = [{"role": "developer", "content": system}] if system else []
    for role, one, two in turns:
        if role == "user":
            parts = [{"type": "text", "text": one}, {"type": "image_url", "image_url": {"url": URL}}]
            said.append({"role": role, "content": parts if two else one})
        elif role == "assistant":
            said.append({"role": role, "content": one, "reasoning_content": two})
        else:
            named = [(f"c{next(ids)}", name, arguments) for name, arguments in one]
            functions = [{"name": name, "arguments": json.dumps(arguments)} for _, name, arguments in named]
            calls = [{"id": named[at][0], "type": "function", "function": each} for at, each in enumerate(functions)]
            said.append({"role": "assistant", "content": None, "tool_calls": calls})
            said += [{"role": "tool", "tool_call_id": call, "content": two} for call, _, _ in named]
    return {"messages": said}


def of_anthropic(system: str, turns: list[Any]) -> dict[str, Any]:
    said: list[dict[str, Any]] = []
    for role, one, two in turns:
        if role == "user":
            picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}
            said.append({"role": role, "content": [{"type": "text", "text": one}, picture] if two else one})
        elif role == "assistant":
            thoughts = [{"type": "thinking", "thinking": two, "signature": "s"}] if two else []
            said.append({"role": role, "content": [*thoughts, {"type": "text", "text": one}]})
        else:
            uses = [{"type": "tool_use", "id": f"c{next(ids)}", "name": name, "input": arguments} for name, arguments in one]
            said.append({"role": "assistant", "content": uses})
            results = [{"type": "tool_result", "tool_use_id": use["id"], "content": two} for use in uses]
            said.append({"role": "user", "content": results})
    blocks = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
    return {"messages": said, "max_tokens": 99, **({"system": blocks} if system else {})}


def of_responses(system: str, turns: list[Any]) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for role, one, two in turns:
        if role == "user":
            parts = [{"type": "input_text", "text": one}, *([{"type": "input_image", "image_url": URL}] if two else [])]
            items.append({"type": "message", "role": role, "content": parts})
        elif role == "assistant":
            if two:
                items.append({"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": two}]})
            items.append({"type": "message", "role": role, "content": [{"type": "output_text", "text": one}]})
        else:
            named = [(f"c{next(ids)}", name, json.dumps(arguments)) for name, arguments in one]
            items += [{"type": "function_call", "call_id": call, "name": name, "arguments": text} for call, name, text in named]
            items += [{"type": "function_call_output", "call_id": call, "output": two} for call, _, _ in named]
    return {"input": items, **({"instructions": system} if system else {})}


FUNCTION = {"name": "f", "description": "does f", "parameters": SCHEMA}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
FLAT = {"type": "json_schema", "name": "answer", "schema": SCHEMA}
STOPS = st.lists(TEXTS, min_size=1, max_size=2)
LEVELS = st.sampled_from(["low", "medium", "high"])
OPTIONS = optional(
    {**COMMON, "seed": st.integers(0, 99), "stop": STOPS, "top_k": st.integers(1, 99), "num_predict": st.integers(1, 9)}
)
CLIENTS: dict[str, tuple[Any, st.SearchStrategy[dict[str, Any]]]] = {
    "/api/chat": (
        of_ollama,
        optional(
            {"options": OPTIONS, "think": LEVELS | st.booleans(), "format": st.sampled_from(["json", SCHEMA]),
             "tools": st.just([{"type": "function", "function": FUNCTION}]), "logprobs": st.just(True)}
        ),
    ),
    "/v1/chat/completions": (
        of_openai,
        optional(
            {**COMMON, "seed": st.integers(0, 99), "stop": STOPS | TEXTS, "presence_penalty": st.floats(-2, 2, width=32),
             "max_completion_tokens": st.integers(1, 99), "reasoning_effort": LEVELS, "response_format":
             st.sampled_from([FORM, {"type": "json_object"}, {"type": "text"}]), "logprobs": st.just(True),
             "tools": st.just([{"type": "function", "function": FUNCTION}])}
        ),
    ),
    "/v1/messages": (
        of_anthropic,
        optional(
            {**COMMON, "top_k": st.integers(1, 99), "stop_sequences": STOPS, "thinking": st.just({"type": "disabled"}),
             "tools": st.just([{"name": "f", "description": "does f", "input_schema": SCHEMA}]),
             "output_config": st.just({"format": {"type": "json_schema", "schema": SCHEMA}})}
        ),
    ),
    "/v1/responses": (
        of_responses,
        optional(
            {**COMMON, "max_output_tokens": st.integers(1, 99), "reasoning": st.just({"effort": "high"}),
             "tools": st.just([{"type": "function", **FUNCTION}]), "text": st.just({"format": FLAT})}
        ),
    ),
}  # fmt: skip
WAYS = [
    *((path, Dialect.OPENAI) for path in ("/api/chat", "/v1/messages", "/v1/responses")),
    *((path, Dialect.OLLAMA) for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses")),
]


def parsed(path: str, body: bytes, node: Dialect) -> Asked:
    if path == "/v1/messages":
        return anthropic_request.parse(path, body, True, node)
    if path == "/v1/responses":
        return responses_request.parse(path, body, True, node)
    return (ollama_request if path.startswith("/api/") else openai_request).parse(path, body, True)


def meaning(asked: Asked) -> dict[str, Any]:
    """Without the names of a schema, ids of calls, and what concerns the reply alone. Ollama has pictures after the text."""
    numbers: dict[str, int] = {}
    messages = []
    for message in asked.messages:
        pictures = [part.data for part in message.parts if isinstance(part, Image)]
        calls = [(numbers.setdefault(call.id, len(numbers)), call.name, json.loads(call.arguments)) for call in message.calls]
        answers = numbers.get(message.call_id)
        text = msgspec.json.decode(msgspec.json.encode(text_of(message)))
        messages.append((message.role, text, pictures, message.thinking, calls, answers, message.tool))
    tools = [(tool.name, tool.description, json.loads(bytes(tool.parameters))) for tool in asked.tools]
    wanted = None if asked.format is None else json.loads(bytes(asked.format.schema) or b"{}")
    plain = ("kind", "stream", "limit", "sampling", "choice", "think", "logprobs", "top_logprobs")
    return {name: getattr(asked, name) for name in plain} | {"messages": messages, "tools": tools, "format": wanted}


@pytest.mark.parametrize(("path", "node"), WAYS)
@given(data=st.data())
def test_a_request_means_the_same_there_and_back(path: str, node: Dialect, data: st.DataObject) -> None:
    shape, fields = CLIENTS[path]
    said = shape(data.draw(TEXTS | st.just("")), data.draw(TURNS))
    asked = parsed(path, json.dumps({"model": "m", **said, **data.draw(fields)}).encode(), node)
    there, back = (render(asked, node), Dialect.OLLAMA if node is Dialect.OPENAI else Dialect.OPENAI)
    again = parsed(*there, back)
    assert meaning(again) == meaning(asked)
    assert meaning(parsed(*render(again, back), node)) == meaning(asked)


def render(asked: Asked, node: Dialect) -> tuple[str, bytes]:
    return ollama_render.render(asked, "n") if node is Dialect.OLLAMA else openai_render.render(asked, "n", NodeKind.LLAMACPP)
