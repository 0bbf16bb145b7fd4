"""Request bodies read as Go reads them, down to the words of its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from sollol.emulator.calls import Refusal

Body = dict[str, Any]

_KINDS: dict[type, str] = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
_FITS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "bool": (bool,),
    "int": (int,),
    "number": (int, float),
    "list": (list,),
    "map": (dict,),
}

_GO_TYPES = {"int": "int", "number": "float64", "list": "[]string", "map": "map[string]interface {}"}

_DURATION = re.compile(r"^([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+$")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_LITERALS = {"n": "null", "t": "true", "f": "false"}
_SHOWN = {"'": "'\\''", '"': "'\"'", "\\": "'\\\\'", "\n": "'\\n'", "\t": "'\\t'", "\r": "'\\r'"}
_PYTHON_ERRORS = (
    ("Expecting property name", "looking for beginning of object key string"),
    ("Illegal trailing comma", "looking for beginning of object key string"),
    ("Expecting ':'", "after object key"),
    ("Expecting ','", "after object key:value pair"),
    ("Invalid control character", "in string literal"),
    ("Invalid \\", "in string escape code"),
)


def decode(raw: bytes) -> Any:
    """The first JSON value of `raw`; raises a `Refusal` with Go's words."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_slowly(raw.decode("utf-8", "replace"))


def _decode_slowly(text: str) -> Any:
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except RecursionError:
        raise Refusal(400, "exceeded max depth", early=True) from None
    except json.JSONDecodeError as error:
        raise Refusal(400, _go_words(error, text), early=True) from None


def _go_words(error: json.JSONDecodeError, text: str) -> str:
    at = error.pos
    if error.msg.startswith("Invalid \\"):
        at += 1  # Go names what follows the backslash
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    if at >= len(text) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    where = next((go for python, go in _PYTHON_ERRORS if error.msg.startswith(python)), "looking for beginning of value")
    literal = _LITERALS.get(text[at]) if where == "looking for beginning of value" else None
    if literal is not None:
        wrong = next((i for i, c in enumerate(literal) if text[at + i : at + i + 1] != c), 0)
        if at + wrong >= len(text):
            return "unexpected EOF"
        at, where = at + wrong, f"in literal {literal} (expecting '{literal[wrong]}')"
    return f"invalid character {_quoted(text[at])} {where}"


def _quoted(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    return f"'{character}'" if character.isprintable() else f"'\\x{ord(character):02x}'"


def read(raw: bytes, struct: str, fields: Mapping[str, str], *, empty: str = "missing request body") -> Body:
    """The body as an object whose `fields` have their types ("any" is any); `struct` is Go's name of it."""
    if not raw.strip():
        raise Refusal(400, empty, early=True)
    body = decode(raw)
    if not isinstance(body, dict):
        raise Refusal(
            400, f"json: cannot unmarshal {_KINDS.get(type(body), 'null')} into Go value of type api.{struct}", early=True
        )
    for name, kind in fields.items():
        value = body.get(name)
        if value is None or kind == "any":
            continue
        wanted, _, go = kind.partition(":")
        if not isinstance(value, _FITS[wanted]) or (isinstance(value, bool) and wanted != "bool"):
            shown = go or _GO_TYPES.get(wanted, wanted)
            found = _KINDS.get(type(value), "null")
            raise Refusal(
                400, f"json: cannot unmarshal {found} into Go struct field {struct}.{name} of type {shown}", early=True
            )
    return body


def keep_alive(body: Body) -> float | None:
    """Seconds of `keep_alive` (below 0: for ever), None where the request has none."""
    value = body.get("keep_alive")
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise Refusal(400, f"Unsupported type: '{_KINDS.get(type(value), 'null')}'", early=True)
    if value in ("0", "-0", "+0"):
        return 0.0
    if re.fullmatch(r"[+-]?\d+(\.\d*)?", value):
        raise Refusal(400, f'time: missing unit in duration "{value}"', early=True)
    if not _DURATION.match(value):
        raise Refusal(400, f'time: invalid duration "{value}"', early=True)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    return -seconds if value.startswith("-") else seconds


_OPTIONS = {
    **dict.fromkeys(
        (
            "num_ctx",
            "num_predict",
            "num_keep",
            "seed",
            "top_k",
            "repeat_last_n",
            "num_batch",
            "num_gpu",
            "main_gpu",
            "num_thread",
        ),
        "integer",
    ),
    **dict.fromkeys(
        ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"), "float32"
    ),
    "use_mmap": "boolean",
    "stop": "array",
}
_OPTION_FITS: dict[str, tuple[type, ...]] = {
    "integer": (int, float),
    "float32": (int, float),
    "boolean": (bool,),
    "array": (list,),
}


def options(body: Body) -> Body:
    """The options of a request; a wrong type is a 500, as Ollama has it."""
    given = body.get("options") or {}
    for name, kind in _OPTIONS.items():
        value = given.get(name)
        if value is not None and (not isinstance(value, _OPTION_FITS[kind]) or (isinstance(value, bool) and kind != "boolean")):
            raise Refusal(500, f'option "{name}" must be of type {kind}')
    return dict(given)


_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")
_HOST_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}\Z")


def short_name(name: str) -> str | None:
    """The canonical form of a model name (`model:tag`, with host and namespace unless they are the usual ones), or None."""
    for scheme in ("http://", "https://"):
        name = name.removeprefix(scheme)
    path, slash, last = name.rpartition("/")
    model, colon, tag = last.partition(":")
    parts = path.split("/") if slash else []
    if len(parts) > 2 or (colon and not tag):
        return None
    if not all(_NAME_PART.match(p) for p in [model, tag or "latest", *parts[-1:]]):
        return None
    if len(parts) == 2 and not _HOST_PART.match(parts[0]):
        return None
    if parts in ([], ["library"], ["registry.ollama.ai", "library"]):
        parts = []
    elif parts[0] == "registry.ollama.ai":
        parts = parts[1:]
    return "/".join([*parts, f"{model}:{tag or 'latest'}"])
