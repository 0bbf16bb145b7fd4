"""Ollama's replies, written from neutral pieces: NDJSON lines and documents; key order and number formats are Ollama's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..fields import present
from ..neutral import CallPiece, End, Piece, arguments_object
from .calls import Calls, Name

NS: Final = 1_000_000_000
_REASONS: Final = {"length": "length"}


class _Function(Struct):
    index: int
    name: str
    arguments: Raw


class _Call(Struct):
    id: str
    function: _Function


class _Message(Struct):
    """What Ollama's chat says in "message"."""

    role: str
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET


class _ChatLine(Struct):
    """A line, or the document, of /api/chat; the counters only where the answer ends."""

    model: str
    created_at: str
    message: _Message
    done: bool
    done_reason: str | UnsetType = UNSET
    logprobs: Raw | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class _GenerateLine(Struct):
    """The same of /api/generate."""

    model: str
    created_at: str
    response: str
    thinking: str | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    logprobs: Raw | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


def timestamp(wall: float) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go writes it (without zeros at the end)."""
    whole = int(wall // 1)
    nanos = min(int((wall - whole) * NS), NS - 1)
    text = datetime.fromtimestamp(max(0, whole), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"


def _ns(seconds: float) -> int:
    return max(0, round(seconds * NS))


class OllamaWriter:
    """Writes the reply to /api/chat (``chat``) or /api/generate. ``loads``: the reply to a request that only loads.

    Calls of tools are told whole, as Ollama tells them: when the answer ends.
    """

    def __init__(self, name: Name, *, chat: bool, loads: bool) -> None:
        self._name, self._chat, self._loads = name, chat, loads
        self._calls = Calls(name)
        self._first: float | None = None
        self._last: float | None = None

    def piece(self, piece: Piece, now: float) -> bytes:
        """The line for one piece; empty where there is nothing to show yet."""
        if self._loads:
            return b""
        if self._first is None:
            self._first = now
        self._last = now
        for call in piece.calls:
            self._calls.add(call)
        if not (piece.text or piece.thinking):
            return b""
        made = self._line(piece, now)
        return msgspec.json.encode(made) + b"\n"

    def close(self, end: End, now: float) -> bytes:
        """The last lines. Raises ValueError for calls that cannot be told."""
        calls = self._told(self._calls.whole())
        tail = b""
        if calls is not UNSET and self._chat:
            made = self._line(Piece(), now)
            assert isinstance(made, _ChatLine)
            made.message.tool_calls = calls
            tail = msgspec.json.encode(made) + b"\n"
        return tail + msgspec.json.encode(self._close(Piece(), end, now)) + b"\n"

    def document(self, piece: Piece, end: End, now: float) -> bytes:
        """The whole reply. Raises ValueError for calls that cannot be told."""
        for call in piece.calls:
            self._calls.add(call)
        made = self._close(piece, end, now)
        calls = self._told(self._calls.whole())
        if isinstance(made, _ChatLine) and not self._loads:
            made.message.tool_calls = calls
        return msgspec.json.encode(made)

    def failure(self, text: str, status: int) -> bytes:
        """The line that ends a stream which broke."""
        return msgspec.json.encode({"error": text}) + b"\n"

    def _line(self, piece: Piece, now: float) -> _ChatLine | _GenerateLine:
        """A line that is not the last."""
        thought = piece.thinking or UNSET
        made: _ChatLine | _GenerateLine
        stamp = timestamp(self._name.wall(now))
        if self._chat:
            made = _ChatLine(self._name.model, stamp, _Message("assistant", piece.text, thought), False)
        else:
            made = _GenerateLine(self._name.model, stamp, piece.text, thought)
        if present(piece.logprobs):
            made.logprobs = piece.logprobs
        return made

    def _close(self, piece: Piece, end: End, now: float) -> _ChatLine | _GenerateLine:
        """The last line, or the document: counts of the node, durations measured where the node says none."""
        made = self._line(Piece() if self._loads else piece, now)
        made.done = True
        if self._loads:
            made.done_reason = "load"
            return made
        start = self._name.start
        first = now if self._first is None else self._first
        made.done_reason = _REASONS.get(end.finish, "stop")
        made.total_duration = _ns(now - start)
        made.load_duration = _ns(end.load or 0.0)
        made.prompt_eval_count = end.prompt if end.prompt is not None else UNSET
        made.prompt_eval_duration = _ns(first - start if end.prefill is None else end.prefill)
        made.eval_count = end.output if end.output is not None else UNSET
        made.eval_duration = _ns((self._last or first) - first if end.decode is None else end.decode)
        return made

    def _told(self, calls: list[CallPiece]) -> list[_Call] | UnsetType:
        if not calls:
            return UNSET
        return [_Call(call.id, _Function(call.index, call.name, arguments_object(call.arguments))) for call in calls]


def embed_document(name: Name, vectors: list[Raw], end: End, now: float) -> bytes:
    """The reply of /api/embed."""
    made: dict[str, Any] = {"model": name.model, "embeddings": vectors}
    if vectors:
        made.update(total_duration=_ns(now - name.start), load_duration=0)
        if end.prompt is not None:
            made["prompt_eval_count"] = end.prompt
    return msgspec.json.encode(made)


def embedding_document(vectors: list[Raw]) -> bytes:
    """The reply of /api/embeddings, the older path: one vector, empty for an empty text."""
    return msgspec.json.encode({"embedding": vectors[0] if vectors else []})
