"""Anthropic's requests (/v1/messages), read as clients send them."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Dialect, Kind
from sollol.errors import BadRequest, Untranslatable

from ..neutral import Asked, Call, Choice, Content, Format, Image, Message, Tool, arguments_text, joined, level, paired, text_in
from ..prompts import NOTHING
from .body import Fields, cannot, form_of, has, is_number, limit_of, read_form, text, typed, value_of

MESSAGES: Final = "/v1/messages"


class _Source(Struct):
    type: str = ""
    media_type: str = ""
    data: str = ""
    content: str | list[_Block] | None = None


class _Block(Struct):
    type: str = "text"
    text: str | None = None
    source: _Source | None = None
    title: str | None = None
    id: str = ""
    name: str = ""
    input: Raw = NOTHING
    tool_use_id: str = ""
    content: str | list[_Block] | None = None
    thinking: str | None = None


class _Message(Struct):
    role: str
    content: Raw = NOTHING


class _Tool(Struct):
    type: str | None = None
    name: str = ""
    description: str | None = None
    input_schema: Raw = NOTHING
    strict: bool | None = None


class _Choice(Struct):
    type: str = "auto"
    name: str = ""
    disable_parallel_tool_use: bool = False


class _Thinking(Struct):
    type: str = "disabled"


class _Wanted(Struct):
    type: str = ""
    schema: Raw = NOTHING


class _Output(Struct):
    effort: str | None = None
    format: _Wanted | None = None


_system: Final = msgspec.json.Decoder(str | list[_Block])
_messages: Final = msgspec.json.Decoder(list[_Message])
_form: Final = form_of(MESSAGES, "messages", list[_Message])
_content: Final = msgspec.json.Decoder(str | list[_Block])
_tools: Final = msgspec.json.Decoder(list[_Tool])
_choice: Final = msgspec.json.Decoder(_Choice | None)
_thinking: Final = msgspec.json.Decoder(_Thinking | None)
_output: Final = msgspec.json.Decoder(_Output | None)
_stops: Final = msgspec.json.Decoder(list[str])
_MODES: Final = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_NUMBERS: Final = ("temperature", "top_p", "top_k")


def parse(path: str, body: bytes, stream: bool, node: Dialect) -> Asked:
    """A request of a client of Anthropic's dialect, for a node that speaks `node`. Raises `RequestError`."""
    fields, seen = read_form(_form, path, body, node, ("messages", _messages))
    system = _parts(typed(fields, "system", _system, ""))
    messages = [Message("system", system)] if system else []
    for message in seen:
        messages += _said(message)
    asked = Asked(Kind.CHAT, stream, text(fields, "model"), paired(messages), limit=limit_of(fields, "max_tokens"))
    for name in _NUMBERS:
        value = value_of(fields, name)
        if value is not None:
            if not is_number(value):
                raise BadRequest(f"{name} must be a number")
            asked.sampling[name] = value
    stops = typed(fields, "stop_sequences", _stops, [])
    if stops:
        asked.sampling["stop"] = stops
    if has(fields, "tools"):
        _add_tools(asked, fields)
    _add_thinking(asked, fields)
    return asked


def _said(seen: _Message) -> list[Message]:
    """The messages that one of Anthropic's holds: answers of tools stand before what is said after them."""
    parts = text_in(seen.content)
    if parts is not None:
        return [Message(seen.role, parts)]
    content = typed({"messages": seen.content}, "messages", _content, "") if seen.content else ""
    if isinstance(content, str):
        return [Message(seen.role)]
    blocks: list[_Block] = []
    message = Message(seen.role)
    made: list[Message] = []
    for block in content:
        if block.type == "tool_use":
            message.calls.append(Call(block.id, block.name, arguments_text(block.input)))
        elif block.type == "tool_result":
            made.append(Message("tool", _parts(block.content or ""), call_id=block.tool_use_id))
        elif block.type == "thinking":
            message.thinking += block.thinking or ""
        elif block.type != "redacted_thinking":  # nobody but its maker can read it
            blocks.append(block)
    message.parts = _parts(blocks)
    if message.parts or message.calls or message.thinking or not made:
        made.append(message)
    return made


def _parts(content: str | list[_Block]) -> list[Content]:
    if isinstance(content, str):
        return [content] if content else []
    return joined([_part(block) for block in content])


def _part(block: _Block) -> str | Image:
    if block.type == "text":
        return block.text or ""
    source = block.source or _Source()
    if block.type == "image":
        if source.type == "base64":
            return Image(source.data, source.media_type)
        raise Untranslatable("pictures are not fetched: send the picture itself, with a source of type base64")
    if block.type == "document" and source.type == "text":
        return f"{block.title}\n{source.data}" if block.title else source.data
    if block.type == "document":
        raise Untranslatable(
            f'a document of type "{source.media_type or source.type}" cannot be answered by this node: send its text'
        )
    raise Untranslatable(f'a block of type "{block.type}" cannot be answered by this node')


def _add_tools(asked: Asked, fields: Fields) -> None:
    for tool in typed(fields, "tools", _tools, []):
        if tool.type not in (None, "custom") or not tool.name:
            raise cannot("tools", f'a tool of type "{tool.type}" is run by the service, or has no schema')
        asked.tools.append(Tool(tool.name, tool.description, tool.input_schema, tool.strict))
    choice = typed(fields, "tool_choice", _choice, None)
    if choice is None:
        return
    if choice.type not in _MODES:
        raise BadRequest("tool_choice must be of type auto, any, tool or none")
    asked.choice = Choice(_MODES[choice.type], (choice.name,) if choice.type == "tool" else ())
    if choice.disable_parallel_tool_use:
        asked.parallel = False


def _add_thinking(asked: Asked, fields: Fields) -> None:
    thinking = typed(fields, "thinking", _thinking, None)
    if thinking is not None:
        asked.think = thinking.type != "disabled"
    output = typed(fields, "output_config", _output, None)
    if output is None:
        return
    if output.effort is not None and asked.think is not False:
        asked.think = level(output.effort)
    if output.format is not None:
        if output.format.type != "json_schema":
            raise cannot("output_config", f'there is no format "{output.format.type}"')
        asked.format = Format(output.format.schema)
