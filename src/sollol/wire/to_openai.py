"""Ollama's requests as OpenAI's: the bodies that a llama.cpp server, vLLM or any other OpenAI-only node understands."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import NodeKind
from sollol.errors import BadRequest, RequestError, Unsupported

from .fates import OPTIONS, RAW_REFUSES, TABLES, Fate
from .fields import none_present, present
from .prompts import NOTHING, count, starts
from .unreadable import UNREADABLE

# vLLM and others stop a plain completion after 16 tokens where nothing is said; Ollama goes on.
PLAIN_LIMIT: Final = 2048
_MIMES: Final = (("iVBOR", "png"), ("/9j/", "jpeg"), ("R0lGOD", "gif"), ("UklGR", "webp"), ("Qk0", "bmp"))
_LEVELS: Final = frozenset({"low", "medium", "high"})
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "integer": (int, float),
    "float32": (int, float),
    "bool": (bool,),
    "array": (list,),
}
Fields = dict[str, Raw]


class Message(Struct, omit_defaults=True):
    """One message of an Ollama chat."""

    role: str = "user"
    content: str | None = None
    images: list[str] | None = None
    tool_calls: Raw = NOTHING
    tool_name: str | None = None


def fields_of(path: str, body: bytes) -> Fields:
    """The fields of a body, after a look at what cannot be carried. Raises `Unsupported`, or `BadRequest` for wrong types."""
    fields = msgspec.json.decode(body, type=Fields)
    for name, field in TABLES[path].items():
        if field.fate is Fate.REFUSED and name in fields and present(fields[name]):
            raise Unsupported(f'"{name}" cannot be answered by this node: {field.note}')
    return fields


def text_of(fields: Fields, name: str) -> str:
    """A field that the door has seen to be a string; empty if absent."""
    return value_of(fields, name) or ""


def value_of(fields: Fields, name: str) -> Any:
    """A field of any type; None if absent."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        raise BadRequest(f"{name} has a value that cannot be read") from None


def chat_body(fields: Fields, native: str, kind: NodeKind, stream: bool) -> bytes:
    """/v1/chat/completions for an /api/chat."""
    try:
        messages = msgspec.json.decode(fields.get("messages") or b"[]", type=list[Message])
    except UNREADABLE as error:
        raise BadRequest(f"messages: {error}") from None
    told = [_message(message) for message in messages]
    return msgspec.json.encode(
        {"model": native, "messages": told, **_sampling(fields, kind), **_chat_extras(fields), **_stream(stream)}
    )


def generate_body(fields: Fields, native: str, kind: NodeKind, stream: bool) -> bytes:
    """/v1/chat/completions for an /api/generate: what its template would have made of system and prompt."""
    system, prompt = text_of(fields, "system"), text_of(fields, "prompt")
    try:
        images = msgspec.json.decode(fields.get("images") or b"null", type=list[str] | None)
    except UNREADABLE:
        raise BadRequest("images must be a list of base64 strings") from None
    told = [{"role": "system", "content": system}] if system else []
    told.append(_message(Message("user", prompt, images)))
    return msgspec.json.encode(
        {"model": native, "messages": told, **_sampling(fields, kind), **_chat_extras(fields), **_stream(stream)}
    )


def raw_body(fields: Fields, native: str, kind: NodeKind, stream: bool) -> bytes:
    """/v1/completions for an /api/generate with raw."""
    for name, why in RAW_REFUSES.items():
        if name in fields and present(fields[name]):
            raise (BadRequest if name == "system" else Unsupported)(why)
    sampling = _sampling(fields, kind)
    if kind is not NodeKind.LLAMACPP:
        sampling.setdefault("max_tokens", PLAIN_LIMIT)
    return msgspec.json.encode({"model": native, "prompt": text_of(fields, "prompt"), **sampling, **_stream(stream)})


def load_body(native: str, stream: bool) -> bytes:
    """/v1/completions for a request that only loads: one token is the least that makes every engine load its model."""
    return msgspec.json.encode({"model": native, "prompt": " ", "max_tokens": 1, **_stream(stream)})


def embed_body(fields: Fields, native: str, name: str) -> tuple[bytes, int]:
    """/v1/embeddings for /api/embed or /api/embeddings, and the number of texts. `name` is the field that holds them.

    Engines refuse to embed nothing, where Ollama answers with an empty list: one blank is sent then, and its vector left out.
    """
    raw = fields.get(name, NOTHING)
    texts: Any = raw
    number = 1
    if none_present(raw):
        texts, number = " ", 0
    elif starts(raw) == b"[":
        number = count(raw)
    body: dict[str, Any] = {"model": native, "input": texts, "encoding_format": "float"}
    if present(fields.get("dimensions", NOTHING)):
        body["dimensions"] = fields["dimensions"]
    return msgspec.json.encode(body), number


def _stream(stream: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if stream else {"stream": False}


def _message(message: Message) -> dict[str, Any]:
    if present(message.tool_calls) or message.role == "tool":
        raise Unsupported("tool calls in messages cannot be answered by this node: tools are not translated for it")
    content: Any = message.content or ""
    if message.images:
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if content else []
        content = parts + [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in message.images]
    return {"role": message.role, "content": content}


def data_url(image: str) -> str:
    """A base64 picture as a data URL; its kind is told by its first bytes, PNG if they say nothing."""
    mime = next((name for start, name in _MIMES if image.startswith(start)), "png")
    return f"data:image/{mime};base64,{image}"


def _sampling(fields: Fields, kind: NodeKind) -> dict[str, Any]:
    """The options that the engine knows, under its names; a wrong type is refused in Ollama's words."""
    if not present(fields.get("options", NOTHING)):
        return {}
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
        theirs = option.vllm if kind is NodeKind.VLLM else option.name
        if theirs and not (name == "num_predict" and value <= 0):
            told[theirs] = value
    return told


def _checked(name: str, kind: str, options: Fields) -> Any:
    value = value_of(options, name)
    good = isinstance(value, _KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))
    if kind == "array":
        good = good and all(isinstance(item, str) for item in value)
    if not good:
        raise _OptionType(f'option "{name}" must be of type {kind}')
    return int(value) if kind == "integer" else value


class _OptionType(RequestError):
    """Ollama's own status for an option of a wrong type."""

    status = 500


def _chat_extras(fields: Fields) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if present(fields.get("format", NOTHING)):
        extras["response_format"] = _format(fields)
    think = value_of(fields, "think")
    if think is not None:
        if not isinstance(think, bool) and think not in _LEVELS:
            raise BadRequest(
                f'invalid think value: {msgspec.json.encode(think).decode()} (must be "high", "medium", "low", true, or false)'
            )
        extras["chat_template_kwargs"] = {
            "enable_thinking": bool(think),
            **({"reasoning_effort": think} if isinstance(think, str) else {}),
        }
    for name in ("logprobs", "top_logprobs"):
        if present(fields.get(name, NOTHING)):
            extras[name] = fields[name]
    return extras


def _format(fields: Fields) -> dict[str, Any]:
    raw = fields["format"]
    if bytes(raw) == b'"json"':
        return {"type": "json_object"}
    if starts(raw) != b"{":
        text = msgspec.json.encode(bytes(raw).decode()).decode()
        raise _OptionType(f'invalid format: {text}; expected "json" or a valid JSON Schema object')
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": raw}}
