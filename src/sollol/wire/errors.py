"""Errors on the wire: the shape in which each dialect tells them, and what a node's error reply means."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.ports import Header
from sollol.core.types import Dialect
from sollol.errors import CannotServe, NoNodeForModel, SollolError

from .routing import waited
from .unreadable import UNREADABLE

MAX_TEXT: Final = 4096
_OPENAI_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}
_ANTHROPIC_TYPES: Final = {**_OPENAI_TYPES, 413: "request_too_large", 503: "overloaded_error", 504: "timeout_error"}
_NUMBER: Final = re.compile(rb'"sequence_number":\s*(\d{1,18})')  # never in a text, whose quotes are escaped
_EMBED_PATHS: Final = ("/api/embed", "/api/embeddings", "/v1/embeddings")
_OLLAMA_NAME: Final = re.compile(
    r"(?:[a-z]+://)?(?:[\w.:-]{1,350}/)?(?:\w[\w-]{0,79}/)?\w[\w.-]{0,79}(?::\w[\w.-]{0,79})?", re.ASCII
)


def status_and_text(error: SollolError, path: str = "") -> tuple[int, str]:
    """The status and words for `error`; those about an unknown model depend on the path, as Ollama's do."""
    if not isinstance(error, NoNodeForModel):
        return error.status, str(error)
    name = error.model
    if name and path.startswith("/api/") and not _OLLAMA_NAME.fullmatch(name):
        return 400, "invalid model name"
    if name and path in _EMBED_PATHS:
        return error.status, f'model "{name}" not found, try pulling it first'
    return error.status, str(error)


def error_body(
    dialect: Dialect, error: SollolError, path: str = "", request_id: str = ""
) -> tuple[int, tuple[Header, ...], bytes]:
    """Status, headers (type and `Retry-After`) and body of an error reply. `request_id` is shown in Anthropic's shape."""
    status, text = status_and_text(error, path)
    if not isinstance(error, CannotServe):
        return told(dialect, status, text, None, request_id)
    status, headers, body = told(dialect, status, text, error.retry_after, request_id)
    if error.queued is not None:
        headers += ((b"x-sollol-queue-ms", b"%.1f" % (error.queued * 1000.0)),)
        headers += waited(error.position, error.why) if error.position else ()
    return status, headers, body


def told(
    dialect: Dialect, status: int, text: str, retry_after: float | None = None, request_id: str = ""
) -> tuple[int, tuple[Header, ...], bytes]:
    """The same for a plain status and text. `retry_after` is in seconds; a 503 always carries one."""
    kind = b"application/json; charset=utf-8" if dialect is Dialect.OLLAMA else b"application/json"
    headers: list[Header] = [(b"content-type", kind)]
    if status == 503 or retry_after is not None:
        seconds = retry_after if retry_after is not None and math.isfinite(retry_after) else 1.0
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    return status, tuple(headers), msgspec.json.encode(_shape(dialect, status, text, request_id))


def in_dialect(dialect: Dialect, status: int, body: bytes) -> tuple[int, bytes]:
    """Status and body of a node's error reply; the very body, if it has the shape of `dialect` already."""
    try:
        said = msgspec.json.decode(body, type=_Said)
    except UNREADABLE:
        said = _Said()
    first = bytes(memoryview(said.error)[:1])
    if dialect is Dialect.ANTHROPIC:
        told_so = first == b"{" and bytes(said.type) == b'"error"'
    else:
        told_so = first == (b'"' if dialect is Dialect.OLLAMA else b"{")
    return status, body if told_so else told(dialect, status, message(body))[2]


def stream_ending(dialect: Dialect, text: str, status: int = 502, number: int = 0) -> bytes:
    """The last bytes of a stream that cannot be completed; no `[DONE]` or `message_stop` follows.

    Where events are numbered (responses) this one has `number`. Translated streams have their own: `Translation.failure`.
    """
    if dialect is Dialect.RESPONSES:
        event = {"type": "error", "code": "server_error", "message": text, "param": None, "sequence_number": number}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
    body = msgspec.json.encode(_shape(dialect, status, text))
    if dialect is Dialect.OLLAMA:
        return body + b"\n"
    return (b"event: error\n" if dialect is Dialect.ANTHROPIC else b"") + b"data: " + body + b"\n\n"


def following(events: bytes) -> int:
    """The number of the event that comes after `events`, the last ones of a numbered stream; 0 if none of them has one."""
    numbers = _NUMBER.findall(events)
    return int(numbers[-1]) + 1 if numbers else 0


def _shape(dialect: Dialect, status: int, text: str, request_id: str = "") -> dict[str, Any]:
    if dialect is Dialect.OLLAMA:
        return {"error": text}
    if dialect is Dialect.ANTHROPIC:
        known = _ANTHROPIC_TYPES.get(status, "api_error")
        shape: dict[str, Any] = {"type": "error", "error": {"type": known, "message": text}}
        return {**shape, "request_id": request_id} if request_id else shape
    known = _OPENAI_TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")
    return {"error": {"message": text, "type": known, "param": None, "code": None}}


_NOTHING: Final = Raw(b"")
_EMPTY: Final = (b"", b"null", b'""')


class _Said(Struct):
    type: Raw = _NOTHING
    error: Raw = _NOTHING
    message: Raw = _NOTHING
    detail: Raw = _NOTHING


class _Inner(Struct):
    message: Raw = _NOTHING


def message(body: bytes) -> str:
    """The words of an error reply of any engine: Ollama's, OpenAI's, Anthropic's or FastAPI's; else the text itself, cut."""
    try:
        said = msgspec.json.decode(body, type=_Said)
    except UNREADABLE:
        return body.decode("utf-8", "replace").strip()[:MAX_TEXT]
    for value in (said.error, said.message, said.detail):
        if bytes(value) not in _EMPTY:
            return words(value)[:MAX_TEXT]
    return body.decode("utf-8", "replace").strip()[:MAX_TEXT]


def as_document(body: bytes) -> bytes:
    """The error in a stream that holds nothing else (an NDJSON line, or the data of an event) as a document of its own."""
    line = next((line for line in body.split(b"\n") if line.startswith((b"data:", b"error:"))), body)
    return line.removeprefix(b"data:").removeprefix(b"error:").strip()


def words(value: Raw) -> str:
    """The text of an "error" value: a string, or an object with a "message"."""
    try:
        inner = msgspec.json.decode(value, type=str | _Inner)
    except UNREADABLE:
        return bytes(value).decode("utf-8", "replace")
    if isinstance(inner, str):
        return inner
    return bytes(value).decode("utf-8", "replace") if inner.message is _NOTHING else words(inner.message)


# Ollama answers 500 to these, though the request is at fault (recorded). The last three are llama.cpp's, not yet recorded.
_FAULTS: Final = (
    re.compile(r'^option "[^"]*" must be of type '),
    re.compile(r"^invalid format: "),
    re.compile(r"does not support embeddings"),
    re.compile(r"\[json\.exception\."),
    re.compile(r"image input is not supported"),
    re.compile(r"(?i)failed to parse grammar"),
)
# A model that cannot be loaded: the first three were recorded, the others (known words of Ollama and llama.cpp) not yet.
_LOADS: Final = (
    "process has terminated",
    "invalid file magic",
    "exceeds file size",
    "error loading model",
    "failed to load model",
    "unable to load model",
    "unsupported model",
    "requires more system memory",
    "timed out waiting for llama",
    "unable to allocate",
)
_GONE: Final = re.compile(
    r"model ['\"`].*['\"`] (?:not found|does not exist)|no such model|model not found", re.IGNORECASE | re.DOTALL
)


def request_fault(status: int, body: bytes) -> bool:
    """Whether a 5xx is the request's own fault: it is passed on at once and counts against no node."""
    if status == 501:
        return True
    if status != 500:
        return False
    text = message(body)
    return any(fault.search(text) for fault in _FAULTS)


def model_gone(status: int, body: bytes) -> bool:
    """Whether a 404 says that the node lacks the model (its catalogue was stale), and not that a path is unknown."""
    return status == 404 and _GONE.search(message(body)) is not None


def load_failed(status: int, body: bytes) -> bool:
    """Whether a 5xx says that the model could not be loaded there."""
    if status < 500 or status in (501, 503):
        return False
    text = message(body)
    return any(sign in text for sign in _LOADS)


def loading(status: int, body: bytes) -> bool:
    """Whether a 503 is llama.cpp's while it starts: a state, not a failure."""
    return status == 503 and "loading model" in message(body).lower()
