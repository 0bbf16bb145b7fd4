"""Replies of llama.cpp's own completions (/infill: what belongs between a beginning and an end), read into neutral pieces."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from ..endings import Timings
from ..errors import message
from ..fields import present
from ..neutral import End, Piece
from ..prompts import NOTHING
from ..sse import Events
from ..unreadable import UNREADABLE

INFILL: Final = "/infill"


class _Said(Struct):
    content: str | None = None
    stop: bool = False
    stop_type: str = ""
    stopping_word: str = ""
    tokens_evaluated: int | None = None
    tokens_predicted: int | None = None
    timings: Timings | None = None
    error: Raw = NOTHING


_said: Final = msgspec.json.Decoder(_Said).decode


class InfillReader:
    """Reads one reply. ``end`` grows as it goes; ``problem`` says why a stream is none that is complete."""

    __slots__ = ("_events", "end", "problem")

    def __init__(self) -> None:
        self._events = Events()
        self.end = End()
        self.problem: str | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        return [piece for event in self._events.feed(data) if (piece := self._event(event.data)) is not None]

    def finish(self) -> list[Piece]:
        """The pieces that stood open; ``problem`` is set if the stream had no end."""
        pieces = [piece for event in self._events.finish() if (piece := self._event(event.data)) is not None]
        if not self.end.finish:
            self.problem = self.problem or "the node's stream ended without its end"
        return pieces

    def document(self, body: bytes) -> Piece:
        """A whole reply. Raises ValueError if it is not the document that is due."""
        seen = _said(body)
        if seen.content is None:
            raise ValueError("the node's reply holds no answer")
        self._close(seen)
        return Piece(seen.content)

    def _event(self, data: bytes) -> Piece | None:
        try:
            seen = _said(data)
        except UNREADABLE:
            if data != b"[DONE]":
                self.problem = self.problem or "the node's stream is not what was asked for"
            return None
        if present(seen.error):
            self.problem = message(data)
            return None
        if seen.stop:
            self._close(seen)
        return Piece(seen.content) if seen.content else None

    def _close(self, seen: _Said) -> None:
        end, timings = self.end, seen.timings or Timings()
        end.finish = "length" if seen.stop_type == "limit" else "stop"
        end.stopped_by = seen.stopping_word or None
        end.prompt, end.output, end.cached = seen.tokens_evaluated, seen.tokens_predicted, timings.cache_n
        end.prefill = None if timings.prompt_ms is None else timings.prompt_ms / 1000
        end.decode = None if timings.predicted_ms is None else timings.predicted_ms / 1000
