"""The fields of a request's body, looked at one by one. Errors are `RequestError`: they go to the client as they are."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Dialect
from sollol.errors import BadRequest, Untranslatable

from ..fates import OPTIONS, SAMPLERS, TABLES, Fate
from ..fields import present
from ..neutral import Asked, Choice, Tool
from ..prompts import NOTHING
from ..unreadable import UNREADABLE

Fields = dict[str, Raw]
T = TypeVar("T")
D = TypeVar("D")
_fields: Final = msgspec.json.Decoder(Fields)
_WORDS: Final = {"integer": "a whole number", "float32": "a number", "array": "a list of strings"}


def fields_of(path: str, body: bytes, node: Dialect) -> Fields:
    """The fields of a body, after a look at what a node that speaks `node` cannot be told at all. Raises `Untranslatable`."""
    fields = _fields.decode(body)
    _refuse(fields, path, node)
    return fields


def _refuse(fields: Fields, path: str, node: Dialect) -> None:
    table = TABLES[path]
    for name in fields:
        row = table.get(name)
        if row is not None and row.at(node) is Fate.REFUSED and present(fields[name]):
            raise cannot(name, row.note)


def form_of(path: str, name: str, kind: Any) -> msgspec.json.Decoder[Any]:
    """A decoder for bodies whose field ``name`` is of that type; all others stay as they are. One pass over a long body."""
    others = [(field, Raw, NOTHING) for field in TABLES[path] if field != name]
    return msgspec.json.Decoder(msgspec.defstruct("Form", [*others, (name, kind | None, None)]))


def read_form(
    form: msgspec.json.Decoder[Any], path: str, body: bytes, node: Dialect, field: tuple[str, msgspec.json.Decoder[list[T]]]
) -> tuple[Fields, list[T]]:
    """The fields of a body, and the list in the one that the form gives a type. Raises as `fields_of` and `typed` do."""
    name, decoder = field
    try:
        seen = form.decode(body)
    except UNREADABLE:
        fields = fields_of(path, body, node)
        return fields, typed(fields, name, decoder, [])
    found = msgspec.structs.asdict(seen)
    value: list[T] = found.pop(name) or []
    fields = {key: raw for key, raw in found.items() if raw is not NOTHING}
    _refuse(fields, path, node)
    return fields, value


def cannot(name: str, why: str) -> Untranslatable:
    """The error for a field that cannot be carried."""
    return Untranslatable(f'"{name}" cannot be answered by this node: {why}')


def has(fields: Fields, name: str) -> bool:
    """Whether a field says something: not absent, null, false, empty or 0."""
    raw = fields.get(name)
    return raw is not None and present(raw)


def value_of(fields: Fields, name: str) -> Any:
    """A field of any type; None if absent."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        raise BadRequest(f"{name} has a value that cannot be read") from None


def typed(fields: Fields, name: str, decoder: msgspec.json.Decoder[T], default: D) -> T | D:
    """A field that must be what `decoder` reads; `default` if it is absent or null."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return default
    try:
        return decoder.decode(raw)
    except UNREADABLE as error:
        raise BadRequest(f"{name}: {error}") from None


def text(fields: Fields, name: str) -> str:
    """A field that must be a string; empty if absent or null."""
    value = value_of(fields, name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name} must be a string")
    return value or ""


def whole(fields: Fields, name: str) -> int | None:
    """A field that must be a number, made whole; None if absent or null."""
    value = value_of(fields, name)
    if value is not None and not is_number(value):
        raise BadRequest(f"{name} must be a number")
    return None if value is None else int(value)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number (true and false are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def sampling(fields: Fields) -> dict[str, Any]:
    """The samplers of OpenAI's dialect, under Ollama's names."""
    told: dict[str, Any] = {}
    for name in fields:
        ours = SAMPLERS.get(name)
        if ours is None or bytes(fields[name]) == b"null":
            continue
        kind, value = OPTIONS[ours].kind, value_of(fields, name)
        if ours == "stop" and isinstance(value, str):
            value = [value]
        if not (_is_texts(value) if kind == "array" else is_number(value)):
            raise BadRequest(f"{name} must be {_WORDS[kind]}")
        told[ours] = int(value) if kind == "integer" else value
    return told


def limit_of(fields: Fields, *names: str) -> int | None:
    """The most tokens of an answer, from the first of the fields that says something."""
    for name in names:
        value = whole(fields, name)
        if value is not None:
            return value if value > 0 else None
    return None


class _Named(Struct):
    name: str = ""


class ToolChoice(Struct):
    """A choice that is an object; `function` and `allowed_tools` are where chat completions put what responses have flat."""

    type: str = ""
    name: str = ""
    mode: str = "auto"
    function: _Named | None = None
    tools: list[ToolChoice] = []
    allowed_tools: ToolChoice | None = None


_choice: Final = msgspec.json.Decoder(str | ToolChoice | None)


def tool_choice(fields: Fields) -> Choice:
    """The "tool_choice" of chat completions and of responses."""
    asked = typed(fields, "tool_choice", _choice, None)
    if asked is None or isinstance(asked, str):
        if asked not in (None, "", "auto", "none", "required"):
            raise BadRequest("tool_choice must be auto, none, required, or an object that names a function")
        return Choice(asked or "auto")
    if asked.type == "function":
        return Choice("required", (_name(asked),))
    if asked.type == "allowed_tools":
        inner = asked.allowed_tools or asked
        return Choice(inner.mode, tuple(_name(tool) for tool in inner.tools))
    raise Untranslatable(f'a tool_choice of type "{asked.type}" cannot be answered by this node: only functions can be chosen')


def _name(asked: ToolChoice) -> str:
    return asked.function.name if asked.function is not None else asked.name


def chosen(asked: Asked) -> list[Tool]:
    """The tools that may be called: all, those that are chosen, or none. Raises `BadRequest` for a choice that is not there."""
    choice = asked.choice
    if choice.mode == "none":
        return []
    if not choice.only:
        return asked.tools
    tools = [tool for tool in asked.tools if tool.name in choice.only]
    if not tools:
        raise BadRequest(f"tool_choice names no tool of this request: {', '.join(choice.only)}")
    return tools
