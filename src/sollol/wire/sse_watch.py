"""Watching a stream of server-sent events (OpenAI, Anthropic) as it passes; only its last few events are kept and read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

from .endings import Ending, Frame, Inner, Timings, Usage, error_text, frame, of_openai
from .unreadable import UNREADABLE

EVENTS: Final = 8
KEEP: Final = 1 << 14
OPEN: Final = 1 << 20
_DONE: Final = b"[DONE]"
_LAST: Final = frozenset({"message_stop", "response.completed", "response.incomplete", "transcript.text.done"})
_GAPS: Final = (b"\n\n", b"\r\n\r\n")


class SseWatch:
    """Feed it every piece of the body. ``tokens`` counts events; the other attributes are those of `NdjsonWatch`."""

    __slots__ = ("_input", "_open", "_path", "_tail", "error", "first_ok", "problem", "tokens")

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: bytearray | None = None
        self._tail: deque[bytes] = deque(maxlen=EVENTS)
        self._input: Usage | None = None
        self.tokens = 0
        self.first_ok = False
        self.problem: str | None = None
        self.error: str | None = None

    def feed(self, data: bytes) -> None:
        """Look at a piece of the body."""
        if self._open is None and self.first_ok and data.endswith(_GAPS):
            self.tokens += data.count(b"\n\n") or data.count(b"\n\r\n")
            self._tail.append(data if len(data) <= KEEP else _last(data))
            if b"error" in data:
                self._look_for_error(data)
            return
        self._join(data)

    def finish(self) -> Ending:
        """What the stream came to; call it once, when the body has ended."""
        if self._open is not None:
            rest, self._open = bytes(self._open), None
            self._whole(rest)
        if self.error is not None:
            return Ending(False, self.error)
        end = _End(self._input)
        for data in _datas(b"".join(self._tail)):
            end.take(data)
        return Ending(end.complete(self._path), None, of_openai(end.usage, end.timings, end.reason))

    def _join(self, data: bytes) -> None:
        """The slow way, for pieces that do not begin and end with an event."""
        opened = self._open
        if opened is None:
            self._open = opened = bytearray()
        seen = max(0, len(opened) - 3)
        opened += data
        cut = max(_end_of(opened, b"\n\n", seen), _end_of(opened, b"\n\r\n", seen))
        if cut:
            whole = bytes(opened[:cut])
            self._open = opened[cut:] or None
            self._whole(whole)
        elif len(opened) > OPEN:
            del opened[:-KEEP]

    def _whole(self, events: bytes) -> None:
        self.tokens += events.count(b"\n\n") or events.count(b"\n\r\n")
        self._tail.append(events if len(events) <= KEEP else _last(events))
        if not self.first_ok and self.problem is None:
            self._judge_first(events)
        if b"error" in events:
            self._look_for_error(events)

    def _judge_first(self, events: bytes) -> None:
        for data in _datas(events):
            if data == _DONE:
                self.first_ok = True
                return
            try:
                first = frame(data)
            except UNREADABLE as error:
                self.problem = f"the first event is not what an answer begins with: {error}"
                return
            self.problem = self.error = error_text(first.error)
            if isinstance(first.message, Inner):
                self._input = first.message.usage
            self.first_ok = self.problem is None
            return
        if events.strip() and not events.lstrip().startswith((b":", b"event:", b"id:", b"retry:")):
            self.problem = "the reply is not a stream of events"

    def _look_for_error(self, events: bytes) -> None:
        for data in _datas(events):
            try:
                seen = frame(data)
            except UNREADABLE:
                continue
            inner = error_text(seen.response.error) if seen.response is not None else None
            self.error = self.error or error_text(seen.error) or inner


class _End:
    """What the last events of a stream say."""

    __slots__ = ("done", "finished", "reason", "timings", "usage")

    def __init__(self, first: Usage | None) -> None:
        self.done = ""
        self.finished = False
        self.reason = ""
        self.usage = first
        self.timings: Timings | None = None

    def take(self, data: bytes) -> None:
        """Read the data of one event; the ends of an event that was cut off are passed over."""
        if data == _DONE:
            self.done = "[DONE]"
            return
        try:
            seen = frame(data)
        except UNREADABLE:
            return
        for choice in seen.choices or ():
            if choice.finish_reason:
                self.finished, self.reason = True, choice.finish_reason
        if isinstance(seen.delta, msgspec.Struct) and seen.delta.stop_reason:
            self.finished, self.reason = True, seen.delta.stop_reason
        self._count(seen)
        if seen.type in _LAST:
            self.done = seen.type
        elif bytes(seen.stop) == b"true":
            self.done = "stop"

    def _count(self, seen: Frame) -> None:
        self.timings = seen.timings or self.timings
        usage = seen.usage or (seen.response.usage if seen.response is not None else None)
        if usage is None:
            return
        if usage.input_tokens is None and usage.prompt_tokens is None and self.usage is not None:
            usage.input_tokens = self.usage.input_tokens
        self.usage = usage

    def complete(self, path: str) -> bool:
        if path.startswith("/v1/messages"):
            return self.done == "message_stop"
        if path.startswith("/v1/responses"):
            return self.done.startswith("response.")
        if path.startswith("/v1/audio/") or path == "/infill":
            return bool(self.done)
        return self.done == "[DONE]" and self.finished


def _last(events: bytes) -> bytes:
    """The end of long events: the last one stays whole, since that of a response repeats the answer."""
    whole = events.rstrip(b"\r\n")
    start = max(whole.rfind(b"\n\n"), whole.rfind(b"\n\r\n"), 0)
    return events[min(start, len(events) - KEEP) :] if len(events) - start <= OPEN else events[-KEEP:]


def _end_of(data: bytearray, gap: bytes, start: int) -> int:
    at = data.rfind(gap, start)
    return at + len(gap) if at >= 0 else 0


def _datas(events: bytes) -> Iterator[bytes]:
    """The data of each event; engines write it in one line. Old llama.cpp servers write errors as "error: {...}"."""
    for line in events.split(b"\n"):
        if line.startswith(b"data:"):
            yield line[5:].strip()
        elif line.startswith(b"error:"):
            yield b'{"error":' + line[6:].strip() + b"}"
