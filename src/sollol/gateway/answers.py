"""Short complete answers."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol.core.ports import Headers, Sink

JSON = (b"content-type", b"application/json; charset=utf-8")
NDJSON = (b"content-type", b"application/x-ndjson")
TEXT = (b"content-type", b"text/plain; charset=utf-8")


def send(sink: Sink, status: int, body: bytes, headers: Headers = ()) -> None:
    """Answer with one complete body."""
    sink.head(status, headers, length=len(body))
    if body:
        sink.data(body)
    sink.end()


def send_json(sink: Sink, value: Any, status: int = 200, headers: Headers = ()) -> None:
    """Answer with `value` as JSON (`value` may be a msgspec struct, a dict, or `msgspec.Raw`)."""
    send(sink, status, msgspec.json.encode(value), (JSON, *headers))


def send_text(sink: Sink, text: str, status: int = 200, headers: Headers = ()) -> None:
    """Answer with plain text."""
    send(sink, status, text.encode(), (TEXT, *headers))
