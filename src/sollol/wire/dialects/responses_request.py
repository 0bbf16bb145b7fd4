"""OpenAI's requests for responses (/v1/responses), read as clients send them. The input is the conversation."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Dialect, Kind
from sollol.errors import Untranslatable

from ..neutral import Asked, Call, Format, Message, Tool, arguments_text, joined, level, on_one_line, paired
from ..prompts import NOTHING
from .body import Fields, cannot, fields_of, has, limit_of, sampling, text, tool_choice, typed, value_of, whole
from .openai_request import Part, parts_of

RESPONSES: Final = "/v1/responses"
# What the reply repeats as it was asked.
ECHOED: Final = ("instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "temperature", "text")
_MORE_ECHOED: Final = ("tool_choice", "tools", "top_logprobs", "top_p", "user", "prompt_cache_key", "safety_identifier")
_LOGPROBS: Final = "message.output_text.logprobs"
_NEEDLESS: Final = frozenset({_LOGPROBS, "reasoning.encrypted_content"})


class _Item(Struct):
    type: str | None = None
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    id: str | None = None
    name: str = ""
    arguments: Raw = NOTHING
    output: str | list[Part] | None = None
    summary: list[Part] | None = None


class _Tool(Struct):
    type: str = ""
    name: str = ""
    description: str | None = None
    parameters: Raw = NOTHING
    strict: bool | None = None


class _Format(Struct):
    type: str = "text"
    name: str = "answer"
    schema: Raw = NOTHING
    strict: bool | None = None


class _Text(Struct):
    format: _Format | None = None


class _Reasoning(Struct):
    effort: str | None = None


_input: Final = msgspec.json.Decoder(str | list[_Item])
_tools: Final = msgspec.json.Decoder(list[_Tool])
_text: Final = msgspec.json.Decoder(_Text)
_reasoning: Final = msgspec.json.Decoder(_Reasoning)
_include: Final = msgspec.json.Decoder(list[str])


def parse(path: str, body: bytes, stream: bool, node: Dialect) -> Asked:
    """A request of a client of responses, for a node that speaks `node`. Raises `RequestError`."""
    fields = fields_of(path, body, node)
    asked = Asked(Kind.CHAT, stream, text(fields, "model"), _messages(fields))
    asked.limit = limit_of(fields, "max_output_tokens")
    asked.sampling = sampling(fields)
    if has(fields, "tools"):
        asked.tools = [_tool(seen) for seen in typed(fields, "tools", _tools, [])]
        asked.choice = tool_choice(fields)
        asked.parallel = value_of(fields, "parallel_tool_calls")
    asked.format = _format(typed(fields, "text", _text, _Text()).format)
    effort = typed(fields, "reasoning", _reasoning, _Reasoning()).effort
    asked.think = None if effort is None else level(effort)
    asked.top_logprobs = whole(fields, "top_logprobs") or None
    included = typed(fields, "include", _include, [])
    for name in included:
        if name not in _NEEDLESS:
            raise cannot("include", f'there is no "{name}"')
    asked.logprobs = _LOGPROBS in included or asked.top_logprobs is not None
    asked.echo = {name: on_one_line(fields[name]) for name in (*ECHOED, *_MORE_ECHOED) if name in fields}
    return asked


def _messages(fields: Fields) -> list[Message]:
    system = text(fields, "instructions")
    items = typed(fields, "input", _input, "")
    messages = [Message("system", [system])] if system else []
    if isinstance(items, str):
        return [*messages, Message("user", [items])] if items else messages
    for item in items:
        _add(messages, item)
    return paired(messages)


def _add(messages: list[Message], item: _Item) -> None:
    """Put one item to the conversation. What the model thought, said and called in one turn is one message there."""
    if item.type == "function_call_output":
        messages.append(Message("tool", parts_of(item.output), call_id=item.call_id or "", tool=item.name))
    elif item.type == "function_call":
        _turn(messages, calls=True).calls.append(Call(item.call_id or item.id or "", item.name, arguments_text(item.arguments)))
    elif item.type == "reasoning":
        content = item.content if isinstance(item.content, list) else []
        thoughts = "\n".join([part.text or "" for part in content or item.summary or []])
        if thoughts:
            messages.append(Message("assistant", thinking=thoughts))
    elif item.type in (None, "message") and item.role:
        role = "system" if item.role == "developer" else item.role
        parts = parts_of(item.content)
        last = messages[-1] if messages else None
        if role == "assistant":
            _turn(messages, calls=False).parts = parts
        elif role == "system" and last is not None and last.role == "system" and len(messages) == 1:
            last.parts = joined([*last.parts, *parts])  # templates want one system message, and first
        else:
            messages.append(Message(role, parts))
    else:
        raise Untranslatable(f'an item of type "{item.type}" cannot be answered by this node')


def _turn(messages: list[Message], *, calls: bool) -> Message:
    """The model's message that goes on: calls come after what was said, text only after thoughts."""
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or (not calls and (last.parts or last.calls)):
        messages.append(last := Message("assistant"))
    return last


def _tool(seen: _Tool) -> Tool:
    if seen.type != "function" or not seen.name:
        raise cannot("tools", f'a tool of type "{seen.type}" is run by the service, or is no function')
    return Tool(seen.name, seen.description, seen.parameters, seen.strict)


def _format(seen: _Format | None) -> Format | None:
    if seen is None or seen.type == "text":
        return None
    if seen.type == "json_object":
        return Format()
    if seen.type == "json_schema":
        return Format(seen.schema, seen.name, seen.strict)
    raise cannot("text", f'there is no format "{seen.type}"')


def echo(asked: Asked) -> dict[str, Any]:
    """The fields of a reply that repeat the request, with what holds where it said nothing."""
    return {**DEFAULTS, **asked.echo}


DEFAULTS: Final[dict[str, Any]] = {
    "instructions": None,
    "tools": [],
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_logprobs": 0,
    "temperature": 1,
    "reasoning": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": False,
    "background": False,
    "service_tier": "default",
    "metadata": {},
    "safety_identifier": None,
    "prompt_cache_key": None,
}
