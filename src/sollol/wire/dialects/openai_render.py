"""OpenAI's requests (chat completions, completions, embeddings), made for nodes that speak its dialect."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from sollol.core.types import Kind, NodeKind

from ..fates import OPTIONS
from ..fields import present
from ..neutral import Asked, Call, Content, Format, Image, Message, Tool, text_of
from .body import cannot, chosen
from .infill_read import INFILL
from .openai_request import CHAT, EMBED, TEXT

# vLLM and others stop a plain completion after 16 tokens where nothing is said; Ollama goes on.
PLAIN_LIMIT: Final = 2048
# Engines that take a named tool_choice for "auto" without a word: they are given that one tool, and must use it.
_NAMES_NO_TOOL: Final = frozenset({NodeKind.LLAMACPP, NodeKind.LMSTUDIO})
_TEMPLATED: Final = frozenset({NodeKind.LLAMACPP, NodeKind.VLLM})


def render(asked: Asked, native: str, kind: NodeKind) -> tuple[str, bytes]:
    """(path, body) for a node of OpenAI's dialect that calls the model `native`. Raises `RequestError`."""
    if asked.kind is Kind.EMBED:
        return EMBED, _embed(asked, native)
    if asked.suffix:
        return INFILL, _infill(asked, native, kind)
    if asked.kind is Kind.GENERATE:
        return TEXT, _text(asked, native, kind)
    body: dict[str, Any] = {"model": native, "messages": _told(asked.messages), **_samplers(asked, kind)}
    if asked.tools:
        _add_tools(body, asked, kind)
    if asked.format is not None:
        body["response_format"] = _format_of(asked.format)
    if asked.think is not None:
        _add_thinking(body, asked.think, kind)
    if asked.logprobs:
        body["logprobs"] = True
    if asked.top_logprobs:
        body["top_logprobs"] = asked.top_logprobs
    if kind is NodeKind.VLLM and asked.messages and asked.messages[-1].role == "assistant":
        body.update(add_generation_prompt=False, continue_final_message=True)
    return CHAT, msgspec.json.encode({**body, **_stream(asked.stream)})


def _told(messages: list[Message]) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    seen: list[Content] = []  # pictures that tools gave: their messages hold text only, so the next one shows them
    for message in messages:
        if seen and message.role != "tool":
            told.append({"role": "user", "content": _content(seen)})
            seen = []
        if message.role == "tool":
            told.append({"role": "tool", "tool_call_id": message.call_id, "content": text_of(message)})
            seen += [part for part in message.parts if isinstance(part, Image)]
            continue
        said: dict[str, Any] = {"role": message.role, "content": _content(message.parts)}
        if message.thinking:
            said["reasoning_content"] = message.thinking
        if message.calls:
            said["tool_calls"] = [_call_of(call) for call in message.calls]
        told.append(said)
    if seen:
        told.append({"role": "user", "content": _content(seen)})
    return told


def _content(parts: list[Content]) -> str | Raw | list[dict[str, Any]]:
    if not parts:
        return ""
    if len(parts) == 1 and not isinstance(parts[0], Image):
        return parts[0]
    return [
        {"type": "image_url", "image_url": {"url": f"data:{part.mime};base64,{part.data}"}}
        if isinstance(part, Image)
        else {"type": "text", "text": part}
        for part in parts
    ]


def _call_of(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _samplers(asked: Asked, kind: NodeKind) -> dict[str, Any]:
    """The samplers and the limit, under the engine's names; those that it does not have are left out."""
    told: dict[str, Any] = {}
    for name, value in asked.sampling.items():
        option = OPTIONS[name]
        theirs = option.vllm if kind is NodeKind.VLLM else option.name
        if theirs:
            told[theirs] = value
    if asked.limit is not None:
        told["max_tokens"] = asked.limit
    return told


def _stream(stream: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {"stream": False}


def _add_tools(body: dict[str, Any], asked: Asked, kind: NodeKind) -> None:
    choice = asked.choice
    tools = chosen(asked)
    if not tools:
        return
    if choice.mode == "required" and len(choice.only) == 1 and kind not in _NAMES_NO_TOOL:
        tools = asked.tools
        body["tool_choice"] = {"type": "function", "function": {"name": choice.only[0]}}
    elif choice.mode == "required":
        body["tool_choice"] = "required"
    body["tools"] = [_described(tool) for tool in tools]
    if asked.parallel is not None:
        body["parallel_tool_calls"] = asked.parallel


def _described(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if present(tool.parameters):
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _format_of(wanted: Format) -> dict[str, Any]:
    if not present(wanted.schema):
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": wanted.name}
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": {**schema, "schema": wanted.schema}}


def _add_thinking(body: dict[str, Any], think: bool | str, kind: NodeKind) -> None:
    if kind in _TEMPLATED:
        body["chat_template_kwargs"] = {
            "enable_thinking": bool(think),
            **({"reasoning_effort": think} if isinstance(think, str) else {}),
        }
    elif think is False:
        body["reasoning_effort"] = "none"
    elif think is not True:
        body["reasoning_effort"] = think


def _text(asked: Asked, native: str, kind: NodeKind) -> bytes:
    body: dict[str, Any] = {"model": native, "prompt": asked.prompt, **_samplers(asked, kind)}
    if kind is not NodeKind.LLAMACPP:
        body.setdefault("max_tokens", PLAIN_LIMIT)
    return msgspec.json.encode({**body, **_stream(asked.stream)})


def _infill(asked: Asked, native: str, kind: NodeKind) -> bytes:
    """llama.cpp puts the words of the model for an insertion around both texts."""
    if kind is not NodeKind.LLAMACPP:
        raise cannot("suffix", "engines of this dialect ignore a suffix, or have no insertion")
    told = _samplers(asked, kind)
    if "max_tokens" in told:
        told["n_predict"] = told.pop("max_tokens")
    texts = {"input_prefix": asked.prompt, "input_suffix": asked.suffix, "prompt": ""}
    return msgspec.json.encode({"model": native, **texts, **told, "stream": asked.stream})


def load_body(native: str, stream: bool) -> bytes:
    """The body for `TEXT` that only loads: one token is the least that makes every engine load its model."""
    return msgspec.json.encode({"model": native, "prompt": " ", "max_tokens": 1, **_stream(stream)})


def _embed(asked: Asked, native: str) -> bytes:
    """Engines refuse to embed nothing, where Ollama answers with an empty list: one blank is sent, and its vector left out."""
    body: dict[str, Any] = {
        "model": native,
        "input": asked.inputs if asked.number else " ",
        "encoding_format": "float",
    }
    if asked.dimensions:
        body["dimensions"] = asked.dimensions
    return msgspec.json.encode(body)
