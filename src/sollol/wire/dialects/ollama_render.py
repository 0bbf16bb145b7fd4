"""Ollama's requests, made for nodes that speak its dialect."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from sollol.core.types import Kind
from sollol.errors import BadRequest

from ..fields import present
from ..neutral import Asked, Call, Image, Message, Tool, arguments_object, text_of
from .body import cannot, chosen
from .ollama_request import CHAT, EMBED, GENERATE, OllamaFunction, OllamaMessage, OllamaToolCall


def render(asked: Asked, native: str) -> tuple[str, bytes]:
    """(path, body) for an Ollama node that calls the model `native`. Raises `RequestError` for what it cannot be asked."""
    if asked.kind is Kind.EMBED:
        return EMBED, _embed(asked, native)
    body: dict[str, Any] = {"model": native, "stream": asked.stream}
    if asked.kind is Kind.GENERATE:
        body["prompt"] = asked.prompt
        if asked.suffix:
            body["suffix"] = asked.suffix
        else:
            body["raw"] = True
    else:
        body["messages"] = [_told(message) for message in asked.messages]
        if asked.tools:
            _add_tools(body, asked)
    if asked.format is not None:
        body["format"] = asked.format.schema if present(asked.format.schema) else "json"
    if asked.think is not None:
        body["think"] = asked.think
    if asked.logprobs:
        body["logprobs"] = True
    if asked.top_logprobs:
        body["top_logprobs"] = asked.top_logprobs
    if asked.sampling or asked.limit is not None:
        body["options"] = asked.sampling if asked.limit is None else {**asked.sampling, "num_predict": asked.limit}
    return GENERATE if asked.kind is Kind.GENERATE else CHAT, msgspec.json.encode(body)


def _add_tools(body: dict[str, Any], asked: Asked) -> None:
    if asked.choice.mode == "required":
        raise cannot("tool_choice", "Ollama cannot make a model call a tool")
    tools = [_described(tool) for tool in chosen(asked)]
    if tools:
        body["tools"] = tools


def _described(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if present(tool.parameters):
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


def _told(message: Message) -> OllamaMessage:
    said = text_of(message)
    content = said if isinstance(said, Raw) else Raw(msgspec.json.encode(said))
    told = OllamaMessage(message.role, content, message.thinking or None)
    images = [part.data for part in message.parts if isinstance(part, Image)]
    if images:
        told.images = images
    if message.calls:
        told.tool_calls = [OllamaToolCall(call.id, OllamaFunction(call.name, _arguments(call))) for call in message.calls]
    if message.role == "tool":
        told.tool_name, told.tool_call_id = message.tool or None, message.call_id
    return told


def _arguments(call: Call) -> Raw:
    try:
        return arguments_object(call.arguments)
    except ValueError as error:
        raise BadRequest(str(error)) from None


def _embed(asked: Asked, native: str) -> bytes:
    body: dict[str, Any] = {"model": native, "input": asked.inputs if asked.number else []}
    if asked.dimensions:
        body["dimensions"] = asked.dimensions
    return msgspec.json.encode(body)
