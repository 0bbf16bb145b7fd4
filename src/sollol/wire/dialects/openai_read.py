"""Replies of nodes that speak OpenAI's dialect, read into neutral pieces. And what engines add to it."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from ..endings import Timings
from ..errors import message
from ..fields import present
from ..neutral import CallPiece, End, Piece
from ..prompts import NOTHING, starts
from ..sse import Events
from ..unreadable import UNREADABLE

_LATEST: Final = 253_402_300_000  # the end of the year 9999, in seconds
_FINISHES: Final = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Details(Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Usage(Struct):
    """Counts of tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Function(Struct):
    name: str | None = None
    arguments: Raw = NOTHING


class _ToolCall(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(Struct):
    """The delta or message of a chat."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Logprobs(Struct):
    content: Raw = NOTHING


class _Choice(Struct):
    delta: _Said | None = None
    message: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: _Logprobs | None = None
    index: int = 0


class _Chunk(Struct):
    """One event of a stream, or a document."""

    created: int | float | None = None
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Raw = NOTHING


_chunk: Final = msgspec.json.Decoder(_Chunk).decode


class OpenAIReader:
    """Reads one reply. ``end`` grows as it goes; ``problem`` says why a stream is none that is complete."""

    __slots__ = ("_calls", "_done", "_events", "end", "problem")

    def __init__(self) -> None:
        self._events = Events()
        self._calls = -1  # the last call's index
        self._done = False
        self.end = End()
        self.problem: str | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        return [piece for event in self._events.feed(data) if (piece := self._event(event.data)) is not None]

    def finish(self) -> list[Piece]:
        """The pieces that stood open; ``problem`` is set if the stream had no end."""
        pieces = [piece for event in self._events.finish() if (piece := self._event(event.data)) is not None]
        if not (self._done and self.end.finish):
            self.problem = self.problem or "the node's stream ended without its end"
        return pieces

    def document(self, body: bytes) -> Piece:
        """A whole reply. Raises ValueError if it is not the document that is due."""
        seen = _chunk(body)
        if not seen.choices:
            raise ValueError("the node's reply holds no answer")
        self._note(seen)
        piece = self._piece(seen.choices[0]) or Piece()
        self.end.finish = self.end.finish or "stop"
        return piece

    def _event(self, data: bytes) -> Piece | None:
        if data == b"[DONE]":
            self._done = True
            return None
        try:
            seen = _chunk(data)
        except UNREADABLE:
            self.problem = self.problem or "the node's stream is not what was asked for"
            return None
        if present(seen.error):
            self.problem = message(data)
            return None
        if seen.usage is not None or seen.timings is not None or self.end.created is None:
            self._note(seen)
        for choice in seen.choices or ():
            if choice.index == 0:
                return self._piece(choice)
        return None

    def _piece(self, choice: _Choice) -> Piece | None:
        if choice.finish_reason:
            self.end.finish = _FINISHES.get(choice.finish_reason, "stop")
            if isinstance(choice.stop_reason, str):
                self.end.stopped_by = choice.stop_reason
        logprobs = NOTHING if choice.logprobs is None or not present(choice.logprobs.content) else choice.logprobs.content
        said = choice.delta or choice.message
        if said is None:
            return Piece(choice.text, logprobs=logprobs) if choice.text else None
        if said.tool_calls:
            calls = [self._call(call) for call in said.tool_calls]
            return Piece(said.content or "", said.reasoning_content or said.reasoning or "", calls, logprobs)
        text = said.content or said.refusal or ""
        thinking = said.reasoning_content or said.reasoning or ""
        return Piece(text, thinking, logprobs=logprobs) if text or thinking else None

    def _call(self, seen: _ToolCall) -> CallPiece:
        """A piece of a call; engines that count none begin another one with another id."""
        index = seen.index
        if index is None:
            index = self._calls + 1 if seen.id or self._calls < 0 else self._calls
        self._calls = max(self._calls, index)
        function = seen.function or _Function()
        raw = function.arguments
        text = ""
        if starts(raw) == b'"':
            text = msgspec.json.decode(raw)
        elif present(raw):
            text = bytes(raw).decode()
        return CallPiece(index, seen.id or "", function.name or "", text)

    def _note(self, seen: _Chunk) -> None:
        """Keep what the end needs: the calendar, the counts, and llama.cpp's own times, which are better than ours."""
        end, usage, timings = self.end, seen.usage, seen.timings
        if end.created is None and seen.created and 0 < seen.created < _LATEST:
            end.created = seen.created
        if usage is not None:
            _count(end, usage)
        if timings is None:
            return
        if end.prompt is None and timings.prompt_n is not None:
            end.prompt = timings.prompt_n + (timings.cache_n or 0)
        end.output = timings.predicted_n if end.output is None else end.output
        end.cached = timings.cache_n if end.cached is None else end.cached
        end.prefill = None if timings.prompt_ms is None else timings.prompt_ms / 1000
        end.decode = None if timings.predicted_ms is None else timings.predicted_ms / 1000


def _count(end: End, usage: Usage) -> None:
    end.prompt = usage.prompt_tokens if usage.prompt_tokens is not None else end.prompt
    end.output = usage.completion_tokens if usage.completion_tokens is not None else end.output
    if usage.prompt_tokens_details is not None:
        end.cached = usage.prompt_tokens_details.cached_tokens
    if usage.completion_tokens_details is not None:
        end.reasoning = usage.completion_tokens_details.reasoning_tokens


class _Vector(Struct):
    embedding: Raw
    index: int = 0


class _Vectors(Struct):
    data: list[_Vector]
    usage: Usage | None = None


_vectors: Final = msgspec.json.Decoder(_Vectors).decode


def vectors(body: bytes, end: End) -> list[Raw]:
    """The vectors of a reply by their index, since not every engine keeps the order; `end` gets the count of tokens.

    Raises ValueError. The numbers are never built.
    """
    seen = _vectors(body)
    if seen.usage is not None:
        _count(end, seen.usage)
    return [item.embedding for item in sorted(seen.data, key=lambda item: item.index)]
