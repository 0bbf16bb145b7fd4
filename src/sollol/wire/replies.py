"""Reading replies as they pass: how a stream goes, how it ended, and whether a document is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from sollol.core.types import Dialect

from .endings import Ending, Frame, OllamaLine, error_text, frame, of_ollama, of_openai, ollama_line
from .ndjson_watch import NdjsonWatch
from .newer_requests import TRANSCRIPTIONS
from .sse_watch import SseWatch
from .unreadable import UNREADABLE

__all__ = ["Document", "Ending", "Watch", "document", "watcher"]

Document = Callable[[bytes], Ending]


class Watch(Protocol):
    """Watches one stream. Until ``first_ok`` nothing should be passed on: ``problem`` may still say that there is no answer."""

    tokens: int
    first_ok: bool
    problem: str | None
    error: str | None

    def feed(self, data: bytes) -> None: ...
    def finish(self) -> Ending: ...


def watcher(dialect: Dialect, path: str) -> Watch:
    """A watch for the streamed reply of a node that was asked in `dialect` at `path`."""
    return NdjsonWatch(path) if dialect is Dialect.OLLAMA else SseWatch(path)


def document(dialect: Dialect, path: str, body: bytes) -> Ending:
    """Whether `body` is a complete JSON document of the kind that `path` gives, and its counters. Vectors are not built."""
    if path == TRANSCRIPTIONS:
        return Ending(bool(body))  # plain text, if the client asked for that
    try:
        if dialect is Dialect.OLLAMA:
            return _ollama(path, ollama_line(body))
        return _openai(path, frame(body))
    except UNREADABLE as error:
        return Ending(False, f"the reply is not the JSON that is due: {error}")


def _ollama(path: str, seen: OllamaLine) -> Ending:
    error = error_text(seen.error)
    if error is not None:
        return Ending(False, error)
    if path in ("/api/chat", "/api/generate"):
        complete = seen.done is True or seen.debug is not msgspec.UNSET
    elif path == "/api/embed":
        complete = _is_list(seen.embeddings)
    elif path == "/api/embeddings":
        complete = _is_list(seen.embedding)
    elif path in ("/api/pull", "/api/push", "/api/create"):
        complete = seen.status == "success"
    else:
        complete = True
    return Ending(complete, None, of_ollama(seen), native=True)


def _openai(path: str, seen: Frame) -> Ending:
    error = error_text(seen.error)
    if error is not None:
        return Ending(False, error)
    reason = seen.stop_reason or ""
    for choice in seen.choices or ():
        if choice.finish_reason:
            reason = choice.finish_reason
            break
    if path in ("/v1/chat/completions", "/v1/completions"):
        complete = bool(seen.choices)
    elif path == "/v1/embeddings":
        complete = _is_list(seen.data)
    elif path == "/v1/messages":
        complete = seen.type == "message"
    elif path == "/infill":
        complete = seen.content is not msgspec.UNSET
    elif path == "/v1/responses":
        complete = seen.status in ("completed", "incomplete")
    else:
        complete = True
    return Ending(complete, None, of_openai(seen.usage, seen.timings, reason))


def _is_list(raw: msgspec.Raw | msgspec.UnsetType) -> bool:
    return raw is not msgspec.UNSET and bytes(memoryview(raw)[:1]) == b"["
