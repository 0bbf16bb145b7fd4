"""The same as `said`, for OpenAI's streams of server-sent events."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .endings import Ending
from .said import PIECES, TEXT
from .unreadable import UNREADABLE

_DONE: Final = b"[DONE]"
_ERRORS: Final = (b'data: {"error"', b'data:{"error"', b"error: {", b"error:{")
_ENDS: Final = (b"\n\n", b"\n\r\n")
# With an event like this Ollama ends the stream of an engine that died.
_NAMELESS: Final = b'"model":""'


Usage = dict[str, int]
"""``prompt_tokens`` and ``completion_tokens``."""


class _Delta(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Raw | UnsetType = UNSET


class _Choice(Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(Struct):
    completion_tokens: int | None = None


class _Event(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_event: Final = msgspec.json.Decoder(_Event).decode
_fields: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class SaidEvents:
    """The events of /v1/chat/completions or /v1/completions, with the attributes of `SaidLines`; `add` takes whole events.

    ``head`` holds what all events of one answer repeat: id, object, created, model. An event with ``sign`` in it ends a stream
    that broke; it is empty where nothing is such a sign. ``sign`` false: these are not the events of an Ollama node.
    ``whole``: somebody else keeps all of it too, so that nothing is gained by reading it before it has to be read.
    """

    __slots__ = ("_closed", "_counted", "_pieces", "_said", "_size", "_whole", "done", "head", "plain", "sign", "tokens")

    gap = b"\n\n"

    def __init__(self, sign: bool = True, whole: bool = False) -> None:
        self._whole = whole
        self._pieces: list[bytes] = []
        self._said: list[str] = []
        self._closed = self._counted = False
        self._size = 0
        self.head: dict[str, Raw] = {}
        self.tokens = 0
        self.plain = True
        self.done = False
        self.sign = _NAMELESS if sign else b""

    def add(self, events: bytes) -> None:
        """Take in what the client is shown."""
        if not self.tokens and not self._pieces and _NAMELESS in events:
            self.sign = b""  # nothing of it has a name: that is the way of this server
        self._pieces.append(events)
        self._size += len(events)
        if self._size > PIECES and not self._whole:
            self.read()
            # One object for each token would take ten times as much memory as the text.
            self._said = ["".join(self._said)]
            if len(self._said[0]) > TEXT:
                self.plain = False
                self._said.clear()

    def cut(self, data: bytes) -> tuple[bytes, bytes]:
        """The whole events of `data` up to the first that tells an error, and what is left after the last of them."""
        errors = [0 if data.startswith(error) else data.find(b"\n" + error) + 1 or None for error in _ERRORS]
        found = [at for at in errors if at is not None]
        if self.sign and (nameless := data.find(self.sign)) >= 0:
            found.append(max(data.rfind(gap, 0, nameless) + len(gap) if gap in data[:nameless] else 0 for gap in _ENDS))
        if found:
            return data[: min(found)], data[min(found) :]
        end = max(at + len(gap) if (at := data.rfind(gap)) >= 0 else 0 for gap in _ENDS)
        return data[:end], data[end:]

    @property
    def text(self) -> str:
        """What was said."""
        self.read()
        return "".join(self._said)

    def read(self) -> None:
        """Read what was added."""
        pieces, self._pieces = self._pieces, []
        for line in b"".join(pieces).split(b"\n"):
            if line.startswith(b"data:"):
                self._take(line[5:].strip())
        self._size = 0

    def _take(self, data: bytes) -> None:
        if data == _DONE:
            self._closed = True
            return
        try:
            if not self.head:
                self.head = {
                    name: value for name, value in _fields(data).items() if name not in ("choices", "usage", "timings")
                }
            seen = _event(data)
        except UNREADABLE:
            self.plain = False
            return
        for choice in seen.choices:
            self._note(choice)
        # Ollama tells counts of nothing with every piece of a plain completion.
        if seen.usage is not None and seen.usage.completion_tokens and (self.done or not seen.choices):
            self._counted = True

    def _note(self, choice: _Choice) -> None:
        delta = choice.delta
        said = choice.text if delta is None else delta.content
        if said:
            self._said.append(said)
            self.tokens += 1
        if delta is not None and (delta.reasoning_content or delta.reasoning or delta.tool_calls is not UNSET):
            self.plain = False
        if choice.finish_reason:
            self.done = True

    def ending(self) -> Ending:
        """How it ended; the counters are not kept."""
        self.read()
        return Ending(self.done)

    def rest(self, usage: Usage | None = None) -> bytes:
        """What an answer that is done still lacks at its end; its counts, if they are due: ``usage``."""
        self.read()
        return b"" if self._closed else self._counts(usage) + b"data: [DONE]\n\n"

    def closing(self, reason: str, counted: dict[str, int], usage: Usage | None = None) -> bytes:
        """The end of an answer whose text is complete."""
        chat = bytes(self.head.get("object", Raw(b""))) != b'"text_completion"'
        choice: dict[str, Any] = {"index": 0, "delta": {}} if chat else {"text": "", "index": 0}
        last = event({**self.head, "choices": [{**choice, "finish_reason": reason}]})
        return last + self._counts(usage) + b"data: [DONE]\n\n"

    def _counts(self, usage: Usage | None) -> bytes:
        if usage is None or self._counted:
            return b""
        counts = {**usage, "total_tokens": sum(usage.values())}
        return event({**self.head, "choices": [], "usage": counts})


def event(data: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
