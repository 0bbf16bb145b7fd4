"""The shape of a reply: what stays the same however often the same thing is asked.

Keys and their order, types and fixed words stay; names, texts, numbers and times do not.
"""

from __future__ import annotations

import json
import re
from typing import Any

_FIXED = frozenset(
    {"error", "done_reason", "object", "finish_reason", "role", "owned_by", "type", "status", "param", "code", "stop_reason"}
    | {"system_fingerprint", "format", "general.architecture"}
)
_ANY = frozenset({"model_info", "tensors", "arguments", "input", "parameters", "metadata"})
_HEX = re.compile(r"[0-9a-f]{12,}|\b\d{3,}\b")


def _shape(value: Any, key: str = "") -> Any:
    if key in _ANY and not isinstance(value, str | None):
        return "any"
    if isinstance(value, dict):
        return {k: _shape(v, "error" if (key, k) == ("error", "message") else k) for k, v in value.items()}
    if isinstance(value, list):
        return [_shape(entry) for entry in value[:1]]
    if isinstance(value, str):
        return _HEX.sub("#", value) if key in _FIXED else "string"
    if isinstance(value, bool) or value is None:
        return value
    return "number"


def _runs(shapes: list[Any]) -> list[Any]:
    return [s for i, s in enumerate(shapes) if i == 0 or s != shapes[i - 1]]


def shape(body: str, content_type: str) -> Any:
    """The shape of a body; of a stream the shapes of its parts, equal neighbours once."""
    if content_type == "application/x-ndjson":
        return _runs([_shape(json.loads(line)) for line in body.splitlines()])
    if content_type == "text/event-stream":
        parts = []
        for event in body.strip().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in event.splitlines())
            data = lines["data"]
            parts.append([lines.get("event"), data if data == "[DONE]" else _shape(json.loads(data))])
        return _runs(parts)
    if content_type.startswith("application/json") and body:
        return _shape(json.loads(body))
    return body


def headers_of(pairs: list[list[str]]) -> list[str]:
    """Header lines in order, without what differs each time."""
    volatile = {"Date", "Content-Length"}
    return [name if name in volatile else f"{name}: {value}" for name, value in pairs if name != "X-SOLLOL-Emulated"]
