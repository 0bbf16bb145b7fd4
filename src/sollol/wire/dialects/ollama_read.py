"""Replies of Ollama nodes, read into neutral pieces."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Raw, Struct

from ..errors import words
from ..fields import present
from ..neutral import CallPiece, End, Piece
from ..prompts import NOTHING
from ..unreadable import UNREADABLE

_NS: Final = 1e-9


class _Function(Struct):
    name: str = ""
    arguments: Raw = NOTHING


class _ToolCall(Struct):
    id: str = ""
    function: _Function | None = None


class _Message(Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(Struct):
    created_at: str = ""
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    logprobs: Raw = NOTHING
    error: Raw = NOTHING
    done: bool = False
    done_reason: str | None = None
    load_duration: float | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: float | None = None
    eval_count: int | None = None
    eval_duration: float | None = None


_line: Final = msgspec.json.Decoder(_Line).decode


class OllamaReader:
    """Reads one reply; the attributes are those of `OpenAIReader`. ``single``: only the first call of a tool is passed on."""

    __slots__ = ("_calls", "_rest", "_single", "end", "problem")

    def __init__(self, *, single: bool = False) -> None:
        self._rest: list[bytes] = []
        self._calls = 0
        self._single = single
        self.end = End()
        self.problem: str | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        if b"\n" not in data:
            self._rest.append(data)
            return []
        if self._rest:
            data = b"".join((*self._rest, data))
            self._rest = []
        *lines, rest = data.split(b"\n")
        if rest:
            self._rest.append(rest)
        return [piece for line in lines if (piece := self._read(line)) is not None]

    def finish(self) -> list[Piece]:
        """The pieces that stood open; ``problem`` is set if the stream had no end."""
        pieces = self.feed(b"\n") if self._rest else []
        if not self.end.finish:
            self.problem = self.problem or "the node's stream ended without its end"
        return pieces

    def document(self, body: bytes) -> Piece:
        """A whole reply. Raises ValueError if it is not the document that is due."""
        seen = _line(body)
        if not seen.done:
            raise ValueError("the node's reply holds no answer")
        return self._piece(seen) or Piece()

    def _read(self, line: bytes) -> Piece | None:
        if not line.strip():
            return None
        try:
            seen = _line(line)
        except UNREADABLE:
            self.problem = self.problem or "the node's stream is not what was asked for"
            return None
        if present(seen.error):
            self.problem = words(seen.error)
            return None
        return self._piece(seen)

    def _piece(self, seen: _Line) -> Piece | None:
        said = seen.message
        if said is None:
            piece = Piece(seen.response or "", seen.thinking or "")
        else:
            piece = Piece(said.content or "", said.thinking or "")
            if said.tool_calls:
                piece.calls = self._called(said.tool_calls)
        if present(seen.logprobs):
            piece.logprobs = seen.logprobs
        if self.end.created is None:
            self.end.created = _seconds(seen.created_at)
        if seen.done:
            self._close(seen)
        return piece if piece.text or piece.thinking or piece.calls or piece.logprobs is not NOTHING else None

    def _called(self, seen: list[_ToolCall]) -> list[CallPiece]:
        """Ollama tells whole calls; it counts them anew in each line, so they are counted here."""
        calls = []
        for call in seen:
            if call.function is None or (self._single and self._calls):
                continue
            arguments = bytes(call.function.arguments).decode() or "{}"
            calls.append(CallPiece(self._calls, call.id, call.function.name, arguments))
            self._calls += 1
        return calls

    def _close(self, seen: _Line) -> None:
        end = self.end
        if self._calls:
            end.finish = "tool_calls"
        else:
            end.finish = "length" if seen.done_reason == "length" else "stop"
        end.prompt, end.output = seen.prompt_eval_count, seen.eval_count
        end.load = _of_ns(seen.load_duration)
        end.prefill, end.decode = _of_ns(seen.prompt_eval_duration), _of_ns(seen.eval_duration)


def _of_ns(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds * _NS


def _seconds(stamp: str) -> float | None:
    """Seconds of the calendar for Ollama's RFC 3339, whose nanoseconds Python does not read."""
    try:
        return datetime.fromisoformat(stamp[:19] + "+00:00").timestamp() if stamp.endswith("Z") else _zoned(stamp)
    except (ValueError, OverflowError):
        return None


def _zoned(stamp: str) -> float:
    zone = max(stamp.rfind("+"), stamp.rfind("-"))
    return datetime.fromisoformat(stamp[:19] + stamp[zone:]).timestamp()


class _Vectors(Struct):
    embeddings: list[Raw]
    prompt_eval_count: int | None = None


_vectors: Final = msgspec.json.Decoder(_Vectors).decode


def vectors(body: bytes, end: End) -> list[Raw]:
    """The vectors of a reply of /api/embed; `end` gets the count of tokens. Raises ValueError. The numbers are never built."""
    seen = _vectors(body)
    end.prompt = seen.prompt_eval_count
    return seen.embeddings
