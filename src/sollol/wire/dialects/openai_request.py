"""OpenAI's requests (chat completions, completions, embeddings), read as clients send them."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Dialect, Kind
from sollol.errors import BadRequest, Untranslatable

from ..fields import inputs
from ..neutral import (
    Asked,
    Call,
    Content,
    Format,
    Image,
    Message,
    Tool,
    arguments_text,
    joined,
    level,
    paired,
    picture,
    text_in,
)
from ..prompts import NOTHING, starts
from .body import (
    Fields,
    cannot,
    fields_of,
    form_of,
    has,
    limit_of,
    read_form,
    sampling,
    text,
    tool_choice,
    typed,
    value_of,
    whole,
)

CHAT: Final = "/v1/chat/completions"
TEXT: Final = "/v1/completions"
EMBED: Final = "/v1/embeddings"


class Url(Struct):
    """Where a picture is, as chat completions say it."""

    url: str = ""


class Part(Struct):
    """One part of a content, of chat completions or of responses."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    image_url: str | Url | None = None


class _Function(Struct):
    name: str = ""
    description: str | None = None
    parameters: Raw = NOTHING
    strict: bool | None = None
    arguments: Raw = NOTHING


class _ToolCall(Struct):
    id: str | None = None
    type: str = "function"
    function: _Function | None = None


class _Message(Struct):
    role: str = "user"
    content: Raw = NOTHING
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _Schema(Struct):
    name: str = "answer"
    schema: Raw = NOTHING
    strict: bool | None = None


class _Format(Struct):
    type: str = "text"
    json_schema: _Schema | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Kwargs(Struct, forbid_unknown_fields=True):
    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: str | None = None


class _Reasoning(Struct):
    effort: str | None = None


_messages: Final = msgspec.json.Decoder(list[_Message])
_form: Final = form_of(CHAT, "messages", list[_Message])
_content: Final = msgspec.json.Decoder(str | list[Part] | None)
_tools: Final = msgspec.json.Decoder(list[_ToolCall])
_format: Final = msgspec.json.Decoder(_Format)
_stream_options: Final = msgspec.json.Decoder(_StreamOptions)
_kwargs: Final = msgspec.json.Decoder(_Kwargs)
_reasoning: Final = msgspec.json.Decoder(_Reasoning)
_modalities: Final = msgspec.json.Decoder(list[str])


def parse(path: str, body: bytes, stream: bool) -> Asked:
    """A request of a client of OpenAI's dialect, for an Ollama node. Raises `RequestError`."""
    if path == CHAT:
        fields, messages = read_form(_form, path, body, Dialect.OLLAMA, ("messages", _messages))
        asked = _parse_chat(fields, messages, stream)
    else:
        fields = fields_of(path, body, Dialect.OLLAMA)
        if path == EMBED:
            return _parse_embed(fields)
        asked = _parse_text(fields, stream)
    asked.model = text(fields, "model")
    if whole(fields, "n") not in (None, 1):
        raise cannot("n", "Ollama gives one answer")
    asked.sampling = sampling(fields)
    asked.limit = limit_of(fields, "max_completion_tokens", "max_tokens")
    if stream and has(fields, "stream_options"):
        asked.usage = typed(fields, "stream_options", _stream_options, _StreamOptions()).include_usage is True
    return asked


def _parse_chat(fields: Fields, messages: list[_Message], stream: bool) -> Asked:
    asked = Asked(Kind.CHAT, stream, messages=paired([_message(seen) for seen in messages]))
    if has(fields, "tools"):
        asked.tools = [_tool(seen) for seen in typed(fields, "tools", _tools, [])]
        asked.choice = tool_choice(fields)
        asked.parallel = value_of(fields, "parallel_tool_calls")
    if has(fields, "response_format"):
        asked.format = _wanted(typed(fields, "response_format", _format, _Format()))
    if any(modality != "text" for modality in typed(fields, "modalities", _modalities, [])):
        raise cannot("modalities", "there is no sound")
    asked.think = _think(fields)
    asked.logprobs = value_of(fields, "logprobs") is True
    asked.top_logprobs = whole(fields, "top_logprobs")
    return asked


def _message(seen: _Message) -> Message:
    role = "system" if seen.role == "developer" else seen.role
    if role == "function":
        raise Untranslatable('messages of the role "function" cannot be answered by this node: use "tool"')
    message = Message(role, _parts_in(seen.content), seen.reasoning_content or seen.reasoning or "")
    if seen.tool_calls:
        message.calls = [_call(call) for call in seen.tool_calls]
    message.call_id = seen.tool_call_id or ""
    return message


def _parts_in(content: Raw) -> list[Content]:
    parts = text_in(content)
    if parts is not None:
        return parts
    return parts_of(typed({"messages": content}, "messages", _content, None)) if content else []


def parts_of(content: str | list[Part] | None) -> list[Content]:
    """The parts of a content. Raises `Untranslatable` for sound, files, and whatever else is neither text nor picture."""
    if content is None or isinstance(content, str):
        return [content] if content else []
    return joined([_part(part) for part in content])


def _part(part: Part) -> str | Image:
    if part.image_url is not None:
        return picture(part.image_url if isinstance(part.image_url, str) else part.image_url.url)
    if part.text is not None:
        return part.text
    if part.refusal is not None:
        return part.refusal
    raise Untranslatable(f'a content of type "{part.type}" cannot be answered by this node: only text and pictures can')


def _call(seen: _ToolCall) -> Call:
    if seen.function is None or not seen.function.name:
        raise Untranslatable(f'a tool call of type "{seen.type}" cannot be answered by this node: only functions can')
    return Call(seen.id or "", seen.function.name, arguments_text(seen.function.arguments))


def _tool(seen: _ToolCall) -> Tool:
    function = seen.function
    if function is None or not function.name:
        raise cannot("tools", f'a tool of type "{seen.type}" is no function')
    return Tool(function.name, function.description, function.parameters, function.strict)


def _wanted(seen: _Format) -> Format | None:
    if seen.type == "json_object":
        return Format()
    if seen.type == "json_schema":
        schema = seen.json_schema or _Schema()
        return Format(schema.schema, schema.name, schema.strict)
    if seen.type == "text":
        return None
    raise cannot("response_format", f'there is no "{seen.type}"')


def _think(fields: Fields) -> bool | str | None:
    effort = value_of(fields, "reasoning_effort")
    if effort is None and has(fields, "reasoning"):
        effort = typed(fields, "reasoning", _reasoning, _Reasoning()).effort
    if has(fields, "chat_template_kwargs"):
        try:
            kwargs = typed(fields, "chat_template_kwargs", _kwargs, _Kwargs())
        except BadRequest:
            raise cannot("chat_template_kwargs", "only enable_thinking and reasoning_effort are carried over") from None
        on = kwargs.thinking if kwargs.enable_thinking is None else kwargs.enable_thinking
        if on is False:
            return False
        effort = kwargs.reasoning_effort or effort
        return on if effort is None else level(effort)
    return None if effort is None else level(str(effort))


def _parse_text(fields: Fields, stream: bool) -> Asked:
    prompt = value_of(fields, "prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if prompt is not None and not isinstance(prompt, str):
        raise cannot("prompt", "Ollama takes one text, not a list and not token numbers")
    asked = Asked(Kind.GENERATE, stream, prompt=prompt or "", suffix=text(fields, "suffix"))
    if whole(fields, "best_of") not in (None, 1):
        raise cannot("best_of", "Ollama gives one answer")
    number = whole(fields, "logprobs")
    if number is not None:
        asked.logprobs, asked.top_logprobs = True, number
    return asked


def _parse_embed(fields: Fields) -> Asked:
    raw = fields.get("input", NOTHING)
    if starts(raw) == b"[" and bytes(memoryview(raw)[1:64]).lstrip()[:1] not in (b'"', b"]"):
        raise cannot("input", "token numbers of one engine mean nothing to another")
    number, _ = inputs(raw, tokens=False)
    asked = Asked(Kind.EMBED, stream=False, inputs=raw, number=number)
    asked.dimensions = whole(fields, "dimensions")
    asked.base64 = text(fields, "encoding_format") == "base64"
    asked.model = text(fields, "model")
    return asked
