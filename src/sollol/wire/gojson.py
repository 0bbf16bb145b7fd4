"""The words and numbers of Ollama's JSON: Go's error texts for bodies that do not decode, and Go's durations."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_SYNTAX: Final = (
    ("object keys must be strings", "looking for beginning of object key string"),
    ("trailing comma in object", "looking for beginning of object key string"),
    ("expected ':'", "after object key"),
    ("expected ',' or '}'", "after object key:value pair"),
    ("expected ',' or ']'", "after array element"),
    ("trailing characters", "after top-level value"),
    ("invalid number", "in numeric literal"),
    ("invalid escape character", "in string escape code"),
    ("invalid escaped character", "in string escape code"),
)
_ONE_LATE: Final = ("trailing characters", "invalid escape character")
_KINDS: Final = {
    "int": "number",
    "float": "number",
    "number": "number",
    "str": "string",
    "bool": "bool",
    "object": "object",
    "array": "array",
    "null": "null",
}
_TYPES: Final = {
    "model": "string",
    "name": "string",
    "prompt": "string",
    "suffix": "string",
    "system": "string",
    "stream": "bool",
    "raw": "bool",
    "messages": "[]api.Message",
    "messages.role": "string",
    "options": "map[string]interface {}",
}
_WRONG_TYPE: Final = re.compile(r"^(?:Expected `([^`]*)`, got `([^`]*)`|[^`]*?)(?: - at `\$\.?([^`]*)`)?$")
_BYTE: Final = re.compile(r"\(byte (\d+)\)")
_INDEX: Final = re.compile(r"\[[^\]]*\]")
_SURROGATE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def complaint(error: Exception, body: bytes, struct: str) -> str:
    """What Ollama would say about a body that msgspec refused with `error`; `struct` is Go's name of the request's type."""
    text = str(error)
    if isinstance(error, RecursionError):
        return "invalid character '[' exceeded max depth"
    if isinstance(error, msgspec.ValidationError):
        return _wrong_type(text, struct)
    if "truncated" in text:
        return "unexpected EOF"
    found = _BYTE.search(text)
    at = int(found.group(1)) if found else len(body)
    if any(name in text for name in _ONE_LATE):  # msgspec counts these from the byte after
        at -= 1
    where = "in string literal" if body[at : at + 1] < b" " else "looking for beginning of value"
    for ours, go in _SYNTAX:
        if ours in text:
            where = go
            break
    return f"invalid character {_quoted(body[at : at + 8])} {where}"


def _wrong_type(text: str, struct: str) -> str:
    """The other texts of msgspec speak of numbers out of range."""
    match = _WRONG_TYPE.match(text)
    wanted, got, path = (part or "" for part in match.groups()) if match else ("", "", "")
    got = _KINDS.get(got, "number")
    field = _INDEX.sub("", path).strip(".")
    if not field:
        return f"json: cannot unmarshal {got} into Go value of type api.{struct}"
    kind = _TYPES.get(field, wanted.removesuffix(" | null"))
    if path.endswith("]"):
        kind = kind.removeprefix("[]")
    return f"json: cannot unmarshal {got} into Go struct field {struct}.{field} of type {kind}"


def _quoted(rest: bytes) -> str:
    """One character as Go quotes it: ' stands escaped, control characters as \\n or \\x00."""
    char = rest.decode("utf-8", "replace")[:1]
    if char == "'":
        return r"'\''"
    if char.isprintable():
        return f"'{char}'"
    return repr(char)


def repair_surrogates(body: bytes) -> bytes:
    """Replace escaped halves of surrogate pairs by U+FFFD, as Go does when it decodes; the same object if there are none.

    JavaScript clients that cut a text in the middle of an emoji send them; other engines answer 500 to them.
    """
    if b"\\u" not in body:
        return body
    return _SURROGATE.sub(lambda match: b"\\ufffd" if match.group(1) else match.group(0), body)


_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PIECE: Final = re.compile(r"([0-9]*\.?[0-9]*)([^0-9.]*)")


def duration(text: str) -> float:
    """Seconds of a Go duration such as "5m", "1h30m", "-1s" or "0". Raises ValueError with Go's words."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    total = 0.0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    at = 0
    while at < len(rest):
        piece = _PIECE.match(rest, at)
        number = piece.group(1) if piece else ""
        if piece is None or number in ("", ".") or not number.isascii():
            raise ValueError(f'time: invalid duration "{text}"')
        unit = piece.group(2)
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNITS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _UNITS[unit]
        at = piece.end()
    if total > 2**63 / 1e9:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text[0] == "-" else total
