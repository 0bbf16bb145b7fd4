"""Ollama's requests, read as clients send them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Dialect, Kind
from sollol.errors import BadRequest, Untranslatable

from ..fates import OPTIONS, RAW_REFUSES
from ..fields import present
from ..neutral import (
    Asked,
    Call,
    Format,
    Image,
    Message,
    OptionType,
    Tool,
    arguments_text,
    mime_of,
    paired,
    text_in,
)
from ..prompts import NOTHING, count, starts
from ..unreadable import UNREADABLE
from .body import Fields, cannot, fields_of, form_of, has, read_form, text, typed, value_of

CHAT: Final = "/api/chat"
GENERATE: Final = "/api/generate"
EMBED: Final = "/api/embed"
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "integer": (int, float),
    "float32": (int, float),
    "bool": (bool,),
    "array": (list,),
}
_LEVELS: Final = frozenset({"low", "medium", "high"})


class OllamaFunction(Struct, omit_defaults=True):
    """A function that may be called, or is; arguments are an object there."""

    name: str = ""
    arguments: Raw = NOTHING
    description: str | None = None
    parameters: Raw = NOTHING


class OllamaToolCall(Struct, omit_defaults=True):
    """A call of a tool; older clients know no ids."""

    id: str | None = None
    function: OllamaFunction | None = None


class OllamaMessage(Struct, omit_defaults=True):
    """One message of a chat. Without a role, it is the user's; the default is not "user", for what equals it is not written."""

    role: str = ""
    content: Raw = NOTHING
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Tool(Struct):
    type: str = "function"
    function: OllamaFunction | None = None


_messages: Final = msgspec.json.Decoder(list[OllamaMessage])
_form: Final = form_of(CHAT, "messages", list[OllamaMessage])
_tools: Final = msgspec.json.Decoder(list[_Tool])
_images: Final = msgspec.json.Decoder(list[str])


def parse(path: str, body: bytes, stream: bool) -> Asked:
    """A request of a client of Ollama, for a node that speaks OpenAI's dialect. Raises `RequestError`."""
    if path == CHAT:
        fields, messages = read_form(_form, path, body, Dialect.OPENAI, ("messages", _messages))
        asked = _extras(fields, Asked(Kind.CHAT, stream, messages=paired([_message(seen) for seen in messages])))
        asked.model = text(fields, "model")
        return asked
    fields = fields_of(path, body, Dialect.OPENAI)
    if path == GENERATE:
        asked = _parse_generate(fields, stream)
    else:
        asked = _parse_embed(fields, "input" if path == EMBED else "prompt")
    asked.model = text(fields, "model")
    return asked


def _message(seen: OllamaMessage) -> Message:
    parts = text_in(seen.content)
    if parts is None:
        if seen.content and bytes(seen.content) != b"null":
            raise BadRequest("messages: Expected `str | null` as content")
        parts = []
    if seen.images:
        parts += [Image(data, mime_of(data)) for data in seen.images]
    message = Message(seen.role or "user", parts, seen.thinking or "")
    if seen.tool_calls:
        message.calls = [_call(call) for call in seen.tool_calls]
    if seen.role == "tool":
        message.call_id, message.tool = seen.tool_call_id or "", seen.tool_name or ""
    return message


def _call(seen: OllamaToolCall) -> Call:
    if seen.function is None or not seen.function.name:
        raise BadRequest("messages: a tool call names no function")
    return Call(seen.id or "", seen.function.name, arguments_text(seen.function.arguments))


def _parse_generate(fields: Fields, stream: bool) -> Asked:
    prompt, suffix = value_of(fields, "prompt") or "", text(fields, "suffix")
    raw = value_of(fields, "raw") is True
    if raw or suffix:
        for name, why in RAW_REFUSES.items():
            if has(fields, name) and not raw:
                raise cannot(name, "not with a suffix")
            if has(fields, name):
                raise (BadRequest if name == "system" else Untranslatable)(why)
        asked = Asked(Kind.GENERATE, stream, prompt=prompt, suffix=suffix)
        _options(fields, asked)
        return asked
    try:
        images: list[str] = typed(fields, "images", _images, [])
    except BadRequest:
        raise BadRequest("images must be a list of base64 strings") from None
    system = value_of(fields, "system") or ""
    messages = [Message("system", [system])] if system else []
    messages.append(Message("user", [*([prompt] if prompt else []), *(Image(data, mime_of(data)) for data in images)]))
    return _extras(fields, Asked(Kind.CHAT, stream, messages=messages))


def _parse_embed(fields: Fields, name: str) -> Asked:
    raw = fields.get(name, NOTHING)
    asked = Asked(Kind.EMBED, stream=False)
    if present(raw):
        asked.inputs, asked.number = raw, count(raw) if starts(raw) == b"[" else 1
    if has(fields, "dimensions"):
        asked.dimensions = value_of(fields, "dimensions")
    return asked


def _extras(fields: Fields, asked: Asked) -> Asked:
    """What chat and generate have in common."""
    _options(fields, asked)
    if has(fields, "format"):
        asked.format = _format(fields["format"])
    think = value_of(fields, "think")
    if think is not None:
        if not isinstance(think, bool) and think not in _LEVELS:
            said = msgspec.json.encode(think).decode()
            raise BadRequest(f'invalid think value: {said} (must be "high", "medium", "low", true, or false)')
        asked.think = think
    if has(fields, "tools"):
        asked.tools = [_tool(seen) for seen in typed(fields, "tools", _tools, [])]
    asked.logprobs = value_of(fields, "logprobs") is True
    if has(fields, "top_logprobs"):
        asked.top_logprobs = value_of(fields, "top_logprobs")
    return asked


def _tool(seen: _Tool) -> Tool:
    if seen.function is None or not seen.function.name:
        raise cannot("tools", f'a tool of type "{seen.type}" is no function')
    return Tool(seen.function.name, seen.function.description, seen.function.parameters)


def _format(raw: Raw) -> Format:
    if bytes(raw) == b'"json"':
        return Format()
    if starts(raw) != b"{":
        said = msgspec.json.encode(bytes(raw).decode()).decode()
        raise OptionType(f'invalid format: {said}; expected "json" or a valid JSON Schema object')
    return Format(raw)


def _options(fields: Fields, asked: Asked) -> None:
    """The options that some engine knows; a wrong type is refused in Ollama's words."""
    if not has(fields, "options"):
        return
    try:
        options = msgspec.json.decode(fields["options"], type=Fields)
    except UNREADABLE:
        raise BadRequest("options must be an object") from None
    told: dict[str, Any] = {}
    for name, raw in options.items():
        option = OPTIONS.get(name)
        if option is None or bytes(raw) == b"null":
            continue
        value = _checked(name, option.kind, options)
        if name == "num_predict":
            asked.limit = value if value > 0 else None
        elif option.name or option.vllm:
            told[name] = value
    asked.sampling = told


def _checked(name: str, kind: str, options: Fields) -> Any:
    value = value_of(options, name)
    good = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
    if kind == "array":
        good = good and all(isinstance(item, str) for item in value)
    if not good:
        raise OptionType(f'option "{name}" must be of type {kind}')
    return int(value) if kind == "integer" else value
