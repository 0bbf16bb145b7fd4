"""What a client may ask of the gateway itself: the `X-SOLLOL-*` headers and the body's "priority"."""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

from sollol.core.ports import Headers
from sollol.core.types import Mode, Priority
from sollol.errors import BadRequest

MAX_TIMEOUT: Final = 86_400.0
MAX_TEXT: Final = 256
MAX_HEDGE: Final = 4
_PREFIX: Final = b"x-sollol-"


class Control(Struct, frozen=True):
    """The control headers of one request; None and "" where a header is absent.

    ``priority`` is 1–10, ``timeout`` seconds (over 0, at most a day), ``node`` the node that the client insists on,
    ``details`` true when ``X-SOLLOL-Details: body`` asks for `_sollol_routing` in the body, ``hops`` how many gateways the
    request has passed already. ``cache`` true asks that an answer may be kept and given again though it might have differed,
    false that it may not. ``hedge`` is on how many nodes the request may run at once until one of them answers (1–4).
    """

    priority: int | None = None
    mode: Mode | None = None
    timeout: float | None = None
    app: str = ""
    node: str | None = None
    details: bool = False
    hops: int = 0
    cache: bool | None = None
    hedge: int | None = None


_NOTHING: Final = Control()


def control(headers: Headers) -> Control:
    """Read the control headers (names in any case). Raises `BadRequest` for a value out of range; unknown ones are ignored."""
    found = {}
    for name, value in headers:
        if name[:2] in (b"x-", b"X-"):
            key = name.lower()
            if key.startswith(_PREFIX):
                found[key[len(_PREFIX) :]] = value.decode("utf-8", "replace").strip()
    if not found:
        return _NOTHING
    node = found.get(b"node")
    return Control(
        priority=_header_priority(found[b"priority"]) if b"priority" in found else None,
        mode=_mode(found[b"mode"]) if b"mode" in found else None,
        timeout=_timeout(found[b"timeout"]) if b"timeout" in found else None,
        app=_text("App", found.get(b"app", "")),
        node=_text("Node", node) if node else None,
        details=_details(found.get(b"details", "")),
        hops=_hops(found.get(b"hops", "0")),
        cache=_yes_or_no("Cache", found[b"cache"]) if b"cache" in found else None,
        hedge=_hedge(found[b"hedge"]) if b"hedge" in found else None,
    )


def oldest(value: bytes) -> float | None:
    """How old an answer may be, in seconds, by a request's Cache-Control: inf where it says nothing of that, 0 for a fresh
    one, None if the answer may not be kept at all."""
    age = math.inf
    for part in value.lower().split(b","):
        name, _, given = part.strip().partition(b"=")
        if name == b"no-store":
            return None
        if name == b"no-cache":
            age = 0.0
        elif name == b"max-age" and given.isdigit() and len(given) <= 12:
            age = min(age, float(given))
    return age


def priority(value: object) -> int:
    """A priority as people and programs write it: 1–10, or the name of one ("high"). Raises `BadRequest`."""
    if isinstance(value, str):
        name = value.strip().upper()
        if name in Priority.__members__:
            return int(Priority[name])
        if name.isascii() and name.isdigit() and len(name) <= 2:
            value = int(name)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10:
        return int(value)
    names = ", ".join(f"{p.name.lower()} {p.value}" for p in Priority)
    raise BadRequest(f"priority must be an integer from 1 to 10 or one of: {names}")


def _header_priority(value: str) -> int:
    try:
        return priority(value)
    except BadRequest as error:
        raise BadRequest(f"X-SOLLOL-Priority: {error}") from None


def _mode(value: str) -> Mode:
    try:
        return Mode(value.lower())
    except ValueError:
        raise BadRequest(f"X-SOLLOL-Mode must be one of {', '.join(Mode)}") from None


def _timeout(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:
        raise BadRequest(f"X-SOLLOL-Timeout must be a number of seconds over 0 and up to {MAX_TIMEOUT:.0f}")
    return seconds


def _text(header: str, value: str) -> str:
    if len(value) > MAX_TEXT or not value.isprintable():
        raise BadRequest(f"X-SOLLOL-{header} must be at most {MAX_TEXT} printable characters")
    return value


def _details(value: str) -> bool:
    word = value.lower()
    if word in ("", "header", "headers", "0", "false", "no"):
        return False
    if word in ("body", "1", "true", "yes"):
        return True
    raise BadRequest('X-SOLLOL-Details must be "body" or "header"')


_WORDS: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _yes_or_no(header: str, value: str) -> bool:
    try:
        return _WORDS[value.lower()]
    except KeyError:
        raise BadRequest(f'X-SOLLOL-{header} must be "yes" or "no"') from None


def _hedge(value: str) -> int:
    if len(value) == 1 and "1" <= value <= str(MAX_HEDGE):
        return int(value)
    raise BadRequest(f"X-SOLLOL-Hedge must be a number of nodes from 1 to {MAX_HEDGE}")


def _hops(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 4):
        raise BadRequest("X-SOLLOL-Hops must be a small number")
    return int(value)
