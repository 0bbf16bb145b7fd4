"""Reading single fields of a request's body: raw JSON values that may be absent, of any type, or absurd."""

from __future__ import annotations

import math
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Prompt
from sollol.errors import BadRequest

from .gojson import complaint, duration, repair_surrogates
from .prompts import NOTHING, starts
from .unreadable import UNREADABLE

MAX_TOKENS: Final = 2**31 - 1
RANDOM_SEED: Final = 2**32 - 1
_ABSENT: Final = frozenset({b"", b"null", b"false", b'""', b"[]", b"{}", b"0"})
_DIGITS: Final = frozenset(bytes((c,)) for c in b"-0123456789")
T = TypeVar("T")


class _Type(Struct):
    type: str = ""


def decode(decoder: msgspec.json.Decoder[T], body: bytes, struct: str, openai: bool = False) -> tuple[T, bytes]:
    """The struct, and the body that it was read from (repaired where that was needed)."""
    try:
        return decoder.decode(body), body
    except UNREADABLE as error:
        if not body.strip():
            raise BadRequest("EOF" if openai or struct.startswith(("ChatC", "Compl")) else "missing request body") from None
        repaired = repair_surrogates(body)
        if repaired != body:
            return decode(decoder, repaired, struct, openai)
        raise BadRequest(complaint(error, body, struct)) from None


def check_utf8(body: bytes) -> None:
    """Raise `BadRequest` for bytes that are not UTF-8: some engines answer 500 to them, which would look like their failure."""
    try:
        str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"invalid UTF-8 in request body at byte {error.start}") from None


def any_value(raw: Raw) -> Any:
    """A small value of any type; numbers that Python cannot hold and nested rubbish become an object that nothing accepts."""
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        return NOTHING


def option(raw: Raw) -> int | None:
    """A positive whole number, else None: what it means to the engine is the engine's to refuse."""
    if raw is NOTHING or len(raw) > 40:
        return None
    value = any_value(raw)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= MAX_TOKENS:
        return int(value)
    return None


def settled(temperature: Raw, seed: Raw) -> bool:
    """Whether the choice of words is fixed: temperature 0, or a seed. -1 and 2**32 - 1 ask engines for a random seed."""
    if temperature is NOTHING and seed is NOTHING:
        return False
    if temperature is not NOTHING and len(temperature) <= 40:
        value = any_value(temperature)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0:
            return True
    if seed is NOTHING or len(seed) > 20:
        return False
    value = any_value(seed)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0 and value != RANDOM_SEED


def keep_alive(raw: Raw) -> float | None:
    """Seconds of a keep_alive (a number or a duration); inf for a negative one, None if absent. Raises `BadRequest`."""
    if raw is NOTHING:
        return None
    value = any_value(raw)
    if isinstance(value, str):
        try:
            value = duration(value)
        except ValueError as error:
            raise BadRequest(str(error)) from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value > 2**63 / 1e9:
        raise BadRequest('keep_alive must be a number of seconds or a duration such as "5m"')
    return math.inf if value < 0 else float(value)


def must_be_text(raw: Raw, field: str) -> None:
    """Refuse anything but a string, null or nothing, in Go's words; `field` is Go's name of it."""
    first = starts(raw)
    if first not in (b"", b'"', b"n"):
        got = {b"[": "array", b"{": "object", b"t": "bool", b"f": "bool"}.get(first, "number")
        raise BadRequest(f"json: cannot unmarshal {got} into Go struct field {field} of type string")


def present(raw: Raw) -> bool:
    """Whether a field says something: not absent, null, false, empty or 0."""
    return raw is not NOTHING and (len(raw) > 5 or bytes(raw) not in _ABSENT)


def none_present(*fields: Raw) -> bool:
    """Whether all of the fields are absent or say nothing."""
    for raw in fields:  # noqa: SIM110 - once or twice a request, and any() takes three times as long
        if raw is not NOTHING and present(raw):
            return False
    return True


def single(n: Raw) -> bool:
    """Whether one answer is asked for."""
    return n is NOTHING or bytes(n) in (b"1", b"null")


def type_of(raw: Raw) -> str:
    """The "type" of an object; empty for anything else."""
    try:
        return msgspec.json.decode(raw, type=_Type).type
    except UNREADABLE:
        return ""


def inputs(raw: Raw, tokens: bool) -> tuple[int, Prompt]:
    """How many texts there are to embed, and their measure. `tokens`: lists of numbers count as one text each."""
    if not present(raw):
        return (1 if bytes(raw) == b'""' else 0), Prompt()
    first = starts(raw)
    if first == b'"':
        return 1, Prompt(chars=len(raw) - 2)
    if first != b"[":
        raise BadRequest("invalid input type")
    items = msgspec.json.decode(raw, type=list[Raw])
    firsts = {starts(item) for item in items}
    if firsts == {b'"'} or (tokens and firsts == {b"["}):
        return len(items), Prompt(chars=sum(len(item) - 2 for item in items))
    if tokens and firsts <= _DIGITS:
        return 1, Prompt(chars=len(items) * 4)
    raise BadRequest("invalid input type")
