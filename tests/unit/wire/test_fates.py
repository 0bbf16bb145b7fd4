"""Every field of every path, in each direction, meets the fate that its table gives it."""

import json
from typing import Any

import pytest

from sollol.core.types import Dialect, NodeKind, Task
from sollol.errors import RequestError, Untranslatable
from sollol.wire.fates import TABLES, Fate
from sollol.wire.requests import dialect_of, read
from sollol.wire.translate import translation

FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
CHAT = [{"role": "user", "content": "hi"}]
BASES: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": CHAT},
    "/api/generate": {"prompt": "hi"},
    "/api/embed": {"input": ["a", "b"]},
    "/api/embeddings": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": CHAT, "stream": True},
    "/v1/completions": {"prompt": "hi", "stream": True},
    "/v1/embeddings": {"input": ["a", "b"]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": CHAT, "max_tokens": 9},
}
VALUES: dict[str, Any] = {
    "model": "m", "options": {"temperature": 0.5}, "keep_alive": "5m", "truncate": False, "priority": 7, "stream": True,
    "format": "json", "think": True, "logprobs": True, "top_logprobs": 2, "shift": False, "_debug_render_only": True,
    "messages": CHAT, "prompt": "hi", "system": "be brief", "images": ["iVBORw0KGgo="], "raw": True, "suffix": "end",
    "template": "{{ .Prompt }}", "context": [1, 2, 3], "input": ["a", "b"], "dimensions": 4, "stream_options":
    {"include_usage": True}, "max_tokens": 7, "max_completion_tokens": 7, "max_output_tokens": 7, "n": 1, "best_of": 1,
    "logit_bias": {"5": 1}, "modalities": ["text"], "response_format": {"type": "json_object"}, "reasoning_effort": "low",
    "reasoning": {"effort": "low"}, "chat_template_kwargs": {"enable_thinking": False}, "encoding_format": "base64",
    "instructions": "be brief", "include": ["message.output_text.logprobs"], "text": {"format": {"type": "json_object"}},
    "stop": ["a"], "stop_sequences": ["a"], "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low"}, "parallel_tool_calls": False, "tools": [TOOL],
}  # fmt: skip
TOOLS = {"/v1/responses": {"type": "function", **FUNCTION}, "/v1/messages": {"name": "f", "input_schema": {"type": "object"}}}
CHOICES = {"/v1/messages": {"type": "none"}}
# What changes nothing in the request to the node, since the reply is where it is seen, or it is what holds anyhow.
SEEN_IN_THE_REPLY = {"stream_options", "encoding_format", "parallel_tool_calls", "n", "best_of", "modalities"}
REFUSALS: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}],
    "tools": [{"type": "web_search"}], "tool_choice": "required", "n": 2, "best_of": 2, "modalities": ["text", "audio"],
    "chat_template_kwargs": {"language": "de"}, "input": [{"type": "computer_call"}], "include": ["file_search_call.results"],
    "text": {"format": {"type": "grammar"}}, "prompt": ["a", "b"],
}  # fmt: skip
SPECIAL: dict[tuple[str, str], Any] = {
    ("/v1/embeddings", "input"): [[1, 2]],
    ("/v1/messages", "tools"): [{"type": "web_search_20250305", "name": "web_search"}],
    ("/v1/messages", "tool_choice"): {"type": "any"},
    ("/v1/messages", "messages"): [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}],
}
ROWS = [
    (path, name, node)
    for path, table in TABLES.items()
    for name, row in table.items()
    for node in (Dialect.OPENAI, Dialect.OLLAMA)
    if row.at(node) is not None
]


def sent(path: str, node: Dialect, fields: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"model": "Qwen3", **fields}).encode()
    stream = fields.get("stream", path in ("/api/chat", "/api/generate")) is True
    kind = read(path, body).kind
    task = Task(1, kind, dialect_of(path), path, "qwen3:latest", body, 100.0, stream=stream)
    made = translation(task, "native", NodeKind.OLLAMA if node is Dialect.OLLAMA else NodeKind.LLAMACPP)
    assert made.dialect is node
    found: dict[str, Any] = json.loads(made.body)
    return {"path": made.path, **found}


def value_for(path: str, name: str) -> Any:
    if name == "tools":
        return [TOOLS.get(path, TOOL)]
    if name == "tool_choice":
        return CHOICES.get(path, "none")
    if path == "/v1/completions" and name == "logprobs":
        return 2
    return VALUES.get(name, 3)


@pytest.mark.parametrize(("path", "name", "node"), ROWS)
def test_every_field_has_its_fate(path: str, name: str, node: Dialect) -> None:
    base = dict(BASES[path])
    if name in ("tool_choice", "parallel_tool_calls"):
        base["tools"] = [TOOLS.get(path, TOOL)]
    row = TABLES[path][name]
    fate, value = row.at(node), value_for(path, name)
    without = sent(path, node, base)
    if fate is Fate.REFUSED:
        with pytest.raises(Untranslatable, match=f'"{name}" cannot be answered by this node'):
            sent(path, node, {**base, name: value})
    elif fate is Fate.DROPPED:
        assert sent(path, node, {**base, name: value}) == without
    elif name == "model":
        assert without["model"] == "native"
    elif name in base and name != "max_tokens":
        assert name == "stream" or str(value if isinstance(value, str) else "hi") in str(without) or "a" in str(without)
    elif name in SEEN_IN_THE_REPLY or (path.startswith("/api/embed") and name == "options"):
        sent(path, node, {**base, name: value})
    elif name == "stream":
        assert sent(path, node, {**base, "stream": True})["stream"] is True
        assert sent(path, node, {**base, "stream": False})["stream"] is False
    else:
        assert sent(path, node, {**base, name: value}) != without


PARTLY = [(path, name, node) for path, name, node in ROWS if TABLES[path][name].at(node) is Fate.PARTLY]


@pytest.mark.parametrize(("path", "name", "node"), PARTLY)
def test_what_is_carried_in_part_is_refused_in_part(path: str, name: str, node: Dialect) -> None:
    base = dict(BASES[path])
    if name == "tool_choice":
        base["tools"] = [TOOLS.get(path, TOOL)]
    with pytest.raises(RequestError, match="cannot be answered by this node"):
        sent(path, node, {**base, name: SPECIAL.get((path, name), REFUSALS[name])})


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/chat/completions", [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]),
        ("/v1/responses", [{"type": "input_image", "image_url": "https://example.com/a.png"}]),
        ("/v1/messages", [{"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]),
    ],
)
def test_pictures_are_not_fetched(path: str, content: Any) -> None:
    name = "input" if path == "/v1/responses" else "messages"
    with pytest.raises(Untranslatable, match="pictures are not fetched"):
        sent(path, Dialect.OLLAMA, {**BASES[path], name: [{"role": "user", "content": content}]})
