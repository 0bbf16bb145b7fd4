"""Anthropic's replies (/v1/messages), written from neutral pieces: the events of a stream in their order, and documents."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from sollol.core.types import Dialect

from ..errors import told
from ..neutral import CallPiece, End, Piece, arguments_object
from .calls import Calls, Name, resumption

_STOPS: Final = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class _TextDelta(Struct, tag="text_delta"):
    text: str


class _ThinkingDelta(Struct, tag="thinking_delta"):
    thinking: str


class _JsonDelta(Struct, tag="input_json_delta"):
    partial_json: str


class _Delta(Struct, tag="content_block_delta"):
    index: int
    delta: _TextDelta | _ThinkingDelta | _JsonDelta


def _event(name: bytes, data: Any) -> bytes:
    return b"event: " + name + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _usage(end: End) -> dict[str, Any]:
    """What was read from the cache is counted apart."""
    cached = end.cached or 0
    usage = {"input_tokens": max(0, (end.prompt or 0) - cached), "output_tokens": end.output or 0}
    return {**usage, "cache_read_input_tokens": cached} if cached else usage


def _stop(end: End) -> dict[str, Any]:
    if end.stopped_by is not None and end.finish == "stop":
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stopped_by}
    return {"stop_reason": _STOPS.get(end.finish, "end_turn"), "stop_sequence": None}


class MessagesWriter:
    """Writes the reply to /v1/messages.

    Blocks do not overlap there: of several calls at once, one is passed on as it comes, the others are kept until it is over.
    """

    def __init__(self, name: Name) -> None:
        self._name = name
        self._calls = Calls(name)
        self._begun = False
        self._index = -1
        self._open = ""  # the kind of block that stands open: "text", "thinking", "call"
        self._call = -1  # the index of the call whose block stands open, or stood open last
        self._kept: list[int] = []

    def piece(self, piece: Piece, now: float) -> bytes:
        """The events for one piece. Raises ValueError for a stream that goes back to a call which was over."""
        out = b"" if self._begun else self._begin()
        if piece.thinking:
            out += self._switch("thinking") + self._delta(_ThinkingDelta(piece.thinking))
        if piece.text:
            out += self._switch("text") + self._delta(_TextDelta(piece.text))
        for call in piece.calls:
            out += self._called(call)
        return out

    def close(self, end: End, now: float) -> bytes:
        """The events that end the stream. Raises ValueError for calls that cannot be told."""
        out = (b"" if self._begun else self._begin()) + self._stop_block()
        for call in self._calls.whole():
            arguments_object(call.arguments)
        delta = {"type": "message_delta", "delta": _stop(end), "usage": _usage(end), **resumption(end)}
        return out + _event(b"message_delta", delta) + _event(b"message_stop", {"type": "message_stop"})

    def document(self, piece: Piece, end: End, now: float) -> bytes:
        """The whole reply. Raises ValueError for calls that cannot be told."""
        content: list[dict[str, Any]] = []
        if piece.thinking:
            content.append({"type": "thinking", "thinking": piece.thinking, "signature": ""})
        if piece.text:
            content.append({"type": "text", "text": piece.text})
        for call in piece.calls:
            self._calls.add(call)
        for call in self._calls.whole():
            content.append({**_tool_use(call), "input": arguments_object(call.arguments)})
        return msgspec.json.encode({**self._message(content), **_stop(end), "usage": _usage(end), **resumption(end)})

    def failure(self, text: str, status: int) -> bytes:
        """The event that ends a stream which broke."""
        return b"event: error\ndata: " + told(Dialect.ANTHROPIC, status, text)[2] + b"\n\n"

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        name = self._name
        return {"id": f"msg_{name.id}", "type": "message", "role": "assistant", "model": name.model, "content": content}

    def _begin(self) -> bytes:
        """The first event; how long the prompt was is known only at the end."""
        self._begun = True
        usage = {"input_tokens": 0, "output_tokens": 0}
        message = {**self._message([]), "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event(b"message_start", {"type": "message_start", "message": message})

    def _called(self, piece: CallPiece) -> bytes:
        first = self._calls.add(piece)
        if first and (self._open != "call" or self._over()):
            return self._start_call(piece.index) + self._arguments(piece.arguments)
        if piece.index == self._call and self._open == "call":
            return self._arguments(piece.arguments)
        if first:
            self._kept.append(piece.index)
        elif piece.index not in self._kept:
            raise ValueError("the node went back to a tool call that was over")
        return b""

    def _over(self) -> bool:
        """Whether the call that stands open has all its arguments."""
        try:
            arguments_object(self._calls.arguments(self._call))
        except ValueError:
            return False
        return True

    def _start_call(self, index: int) -> bytes:
        block = {**_tool_use(self._calls.named(index)), "input": {}}
        out = self._start("call", block)
        self._call = index
        return out

    def _arguments(self, text: str) -> bytes:
        return self._delta(_JsonDelta(text)) if text else b""

    def _switch(self, kind: str) -> bytes:
        """Make a block of `kind` the open one."""
        if self._open == kind:
            return b""
        empty = {"type": "text", "text": ""} if kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
        return self._stop_block() + self._start(kind, empty)

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        out = self._stop_block() if self._open else b""
        self._open = kind
        self._index += 1
        event = {"type": "content_block_start", "index": self._index, "content_block": block}
        return out + _event(b"content_block_start", event)

    def _delta(self, delta: _TextDelta | _ThinkingDelta | _JsonDelta) -> bytes:
        return b"event: content_block_delta\ndata: " + msgspec.json.encode(_Delta(self._index, delta)) + b"\n\n"

    def _stop_block(self) -> bytes:
        """End the open block; after a call, tell those that were kept meanwhile."""
        if not self._open:
            return b""
        self._open = ""
        out = _event(b"content_block_stop", {"type": "content_block_stop", "index": self._index})
        kept, self._kept = self._kept, []
        for index in kept:
            out += self._start_call(index) + self._arguments(self._calls.arguments(index))
        return out + (self._stop_block() if kept else b"")


def _tool_use(call: CallPiece) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}
