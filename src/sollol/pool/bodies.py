"""Arguments of calls as the JSON that goes to a node: models of other packages, images and Python functions included."""

from __future__ import annotations

import base64
import binascii
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sollol.errors import BadValue

_IMAGE_FIELDS: Final = "images"
_JSON_TYPES: Final[dict[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    tuple: "array",
    set: "array",
    dict: "object",
    type(None): "null",
}
_ARGUMENT: Final = re.compile(r"(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)")


def encoded(fields: Mapping[str, Any]) -> bytes:
    """The body of a request; fields that are None are left out. Raises `BadValue` for what has no place in JSON."""
    try:
        return _encoder.encode({key: value for key, value in fields.items() if value is not None})
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, BadValue):
            raise
        raise BadValue(f"this call cannot be written as JSON: {error}") from None


def messages(given: Iterable[Any] | None) -> list[Any] | None:
    """Messages of a chat. Images in them may be bytes, paths or base64 text."""
    if given is None:
        return None
    if isinstance(given, str | bytes | Mapping):
        raise BadValue('messages has to be a list: [{"role": "user", "content": "..."}]')
    return [_message(one) for one in given]


def images(given: Iterable[Any] | None) -> list[str] | None:
    """Images as base64 text. Raises `BadValue` for a path that is not there or text that is no base64."""
    if given is None:
        return None
    return [_image(one) for one in ([given] if isinstance(given, str | bytes | Path) else given)]


def tools(given: Iterable[Any] | None) -> list[Any] | None:
    """Tools, of which those that are Python functions are described by their signature and docstring."""
    return None if given is None else [described(one) if inspect.isroutine(one) else one for one in given]


def described(function: Callable[..., Any]) -> dict[str, Any]:
    """A Python function as a tool: types from its annotations, words from its docstring (``Args:`` in Google's style)."""
    summary, arguments = _docstring(inspect.getdoc(function) or "")
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        hints = {}
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = _kinds(hints.get(name, str))
        if parameter.default is parameter.empty and "null" not in kinds:
            required.append(name)
        shown = [kind for kind in kinds if kind != "null"] or ["string"]
        properties[name] = {"type": shown[0] if len(shown) == 1 else shown, "description": arguments.get(name, "")}
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": function.__name__, "description": summary, "parameters": parameters}}


def _message(given: Any) -> Any:
    if not isinstance(given, Mapping):
        given = _plain(given)
    if not isinstance(given, Mapping):
        raise BadValue(f"a message has to be a mapping with role and content, not {type(given).__name__}")
    if given.get(_IMAGE_FIELDS):
        return {**given, _IMAGE_FIELDS: images(given[_IMAGE_FIELDS])}
    return given


def _image(given: Any) -> str:
    given = getattr(given, "value", given)
    if isinstance(given, bytes | bytearray | memoryview):
        return base64.b64encode(given).decode()
    path = given if isinstance(given, Path) else _path(given)
    if path is not None:
        try:
            return base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            raise BadValue(f"image {path}: {error.strerror}") from None
    try:
        base64.b64decode(given, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadValue("an image has to be bytes, a path to a file, or base64 text") from None
    return str(given)


def _path(given: Any) -> Path | None:
    """The file that a text names, if there is one; base64 text is far longer than a path may be."""
    if not isinstance(given, str) or len(given) > 1_000:
        return None
    try:
        return Path(given) if Path(given).is_file() else None
    except (OSError, ValueError):
        return None


def _plain(value: Any) -> Any:
    """Values of other packages: pydantic models, mappings that are no dicts, anything that can be iterated over."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(exclude_none=True)
    if isinstance(value, Mapping):
        return dict(value)
    to_list = getattr(value, "tolist", None)  # NumPy
    if to_list is not None:
        return to_list()
    if isinstance(value, Iterable):
        return list(value)
    raise BadValue(f"a {type(value).__name__} has no place in a request")


def _kinds(hint: Any) -> list[str]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return list(dict.fromkeys(kind for one in typing.get_args(hint) for kind in _kinds(one)))
    if origin is typing.Literal:
        return list(dict.fromkeys(_JSON_TYPES.get(type(one), "string") for one in typing.get_args(hint)))
    if origin is typing.Annotated:
        return _kinds(typing.get_args(hint)[0])
    plain = origin or hint
    if plain in _JSON_TYPES:
        return [_JSON_TYPES[plain]]
    if isinstance(plain, type) and issubclass(plain, Mapping):
        return ["object"]
    return ["array"] if isinstance(plain, type) and issubclass(plain, Iterable) and plain is not str else ["string"]


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The words before the sections, and what ``Args:`` says about each argument."""
    summary: list[str] = []
    arguments: dict[str, str] = {}
    section, last = "", ""
    for line in text.splitlines():
        stripped = line.strip()
        if re.fullmatch(r"(?i)(args|arguments|parameters|returns|yields|raises):.*", stripped):
            section = stripped.partition(":")[0].lower()
        elif not section:
            summary.append(stripped)
        elif section in ("args", "arguments", "parameters") and stripped:
            found = _ARGUMENT.match(stripped)
            if found:
                last = found[1]
                arguments[last] = found[2]
            elif last:
                arguments[last] += " " + stripped
    return " ".join(summary).strip(), arguments


_encoder: Final = msgspec.json.Encoder(enc_hook=_plain)
