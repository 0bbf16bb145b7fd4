"""Changing a field of a body without touching the rest of its bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Raw

_NOT_STREAMED: Final = re.compile(rb'"stream"\s*:\s*false')
_fields: Final = msgspec.json.Decoder(dict[str, Raw])


def with_model(body: bytes, name: str) -> bytes:
    """The same body with another model name; every other value keeps its very bytes. `body` is one that `read` accepted."""
    return changed(body, {"model": name})


def strip_priority(body: bytes) -> bytes:
    """The body without our "priority", for nodes that are not Ollama (vLLM reads something else in it)."""
    return body if b'"priority"' not in body else changed(body, {}, ("priority",))


def streamed(body: bytes) -> bytes:
    """The same body with "stream" true; `body` is one that asks for no stream."""
    made, count = _NOT_STREAMED.subn(b'"stream":true', body, count=2)
    # Text cannot hold these bytes, since its quotes are escaped; something nested can.
    return made if count == 1 else changed(body, {"stream": True})


def changed(body: bytes, put: dict[str, Any], drop: Iterable[str] = ()) -> bytes:
    """A JSON object with some fields set and some left out; the others keep their very bytes, and fields their order."""
    fields: dict[str, Any] = dict(_fields.decode(body))
    for name in drop:
        fields.pop(name, None)
    fields.update(put)
    return msgspec.json.encode(fields)
