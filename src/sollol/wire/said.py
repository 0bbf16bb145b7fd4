"""What a client has been told so far of one plain answer, so that another node can go on from there."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .endings import Ending, error_text, of_ollama, ollama_line
from .unreadable import UNREADABLE

# Pieces are read when so many bytes are kept: of what has been read only the text stays in memory.
PIECES: Final = 16 * 1024
# A stream that said more than this is not continued: nobody holds all of it for every client.
TEXT: Final = 128 * 1024
_EMPTY: Final = Raw(b'""')
_ERROR: Final = b'{"error"'
_LAST: Final = (b'"content":""', b'"response":""')


class _Message(Struct):
    role: Raw = Raw(b'"assistant"')
    content: Raw = _EMPTY
    thinking: Raw | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET


class _Line(Struct):
    """A line of an answer; the text stays as it was written."""

    message: _Message | None = None
    response: Raw = _EMPTY
    thinking: Raw | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET
    done: bool = False


# A line as Ollama writes one that says nothing but text: reading these alone takes a third of the time.
_SAID: Final = tuple(
    re.compile(rb'\{"model":"[^"\\]*","created_at":"[^"\\]*",' + said + rb',"done":false\}\n')
    for said in (
        rb'"message":\{"role":"assistant","content":"([^"\\]*(?:\\.[^"\\]*)*)"\}',
        rb'"response":"([^"\\]*(?:\\.[^"\\]*)*)"',
    )
)
_lines: Final = msgspec.json.Decoder(_Line).decode_lines
_fields: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.encode


class SaidLines:
    """The lines of Ollama's /api/chat or /api/generate. `add` takes whole lines only; what cannot be read is never continued.

    After `read`: ``text`` is all that was said, ``tokens`` counts the lines that said something, ``plain`` is false once
    thoughts or calls of tools were among them, ``done`` is true when the last line was. ``whole``: all of it is kept, however
    long, for `document`.
    """

    __slots__ = (
        *("_calls", "_last", "_pieces", "_said", "_size", "_thoughts", "_whole"),
        *("done", "plain", "tokens"),
    )

    gap = b"\n"
    sign = b""

    def __init__(self, whole: bool = False) -> None:
        self._whole = whole
        self._size = 0
        self._pieces: list[bytes] = []
        # One piece of memory: an object for each token would take ten times as much as its text.
        self._said = bytearray()
        self._thoughts = bytearray()
        self._calls: list[bytes] = []
        self._last = b""
        self.tokens = 0
        self.plain = True
        self.done = False

    def add(self, lines: bytes) -> None:
        """Take in what the client is shown."""
        self._pieces.append(lines)
        self._size += len(lines)
        if self._size > PIECES and not self._whole:
            self.read()
            if len(self._said) + len(self._thoughts) > TEXT:
                self.plain = False
                self._said.clear()
                self._thoughts.clear()

    def cut(self, data: bytes) -> tuple[bytes, bytes]:
        """The whole lines of `data` up to the first that tells an error, and what is left after the last of them."""
        at = 0 if data.startswith(_ERROR) else data.find(b"\n" + _ERROR) + 1
        if at or data.startswith(_ERROR):
            return data[:at], data[at:]
        end = data.rfind(b"\n") + 1
        return data[:end], data[end:]

    @property
    def text(self) -> str:
        """What was said. ValueError: it cannot be read."""
        self.read()
        return msgspec.json.decode(b'"' + self._said + b'"', type=str)

    def read(self) -> None:
        """Read what was added."""
        if not self._pieces:
            return
        body = b"".join(self._pieces).rstrip()
        self._pieces.clear()
        self._size = 0
        if not body:
            return
        end = body.rfind(b"\n") + 1
        self._last = body[end:]
        texts = _SAID[0].findall(body, 0, end) or _SAID[1].findall(body, 0, end)
        if len(texts) == body.count(b"\n"):
            self._said += b"".join(texts)
            self.tokens += len(texts) - texts.count(b"")
            body = self._last
        try:
            for line in _lines(body):
                self._take(line)
        except UNREADABLE:
            self.plain = False

    def _take(self, line: _Line) -> None:
        message = line.message
        said, thoughts, calls = line.response, line.thinking, line.tool_calls
        if message is not None:
            said, thoughts, calls = (message.content, message.thinking, message.tool_calls)
        if len(said) > 2 and bytes(said) != b"null":
            self._said += memoryview(said)[1:-1]
            self.tokens += 1
        if thoughts is not UNSET and len(thoughts) > 2 and bytes(thoughts) != b"null":
            self.plain = False
            self._thoughts += memoryview(thoughts)[1:-1]
        if calls is not UNSET and bytes(calls) not in (b"null", b"[]"):
            self.plain = False
            if self._whole:
                self._calls.append(bytes(calls).strip()[1:-1])
        self.done = line.done

    def document(self) -> bytes:
        """One document that says all of it, as the node would have written it. There must have been a last line."""
        self.read()
        last = self._last
        if not (self._thoughts or self._calls):
            for empty in _LAST:
                if empty in last:
                    return last.replace(empty, empty[:-1] + self._said + b'"', 1)
        fields = _fields(last)
        texts = {b"content" if "message" in fields else b"response": b'"' + self._said + b'"'}
        if self._thoughts:
            texts[b"thinking"] = b'"' + self._thoughts + b'"'
        if self._calls:
            texts[b"tool_calls"] = b"[" + b",".join(self._calls) + b"]"
        told = b",".join([b'"' + name + b'":' + value for name, value in texts.items()])
        return b"{" + b",".join([_member(name, value, told) for name, value in fields.items() if name not in _TOLD]) + b"}"

    def ending(self) -> Ending:
        """How it ended, as one reply: with the counters of the last line."""
        self.read()
        if not self.done:
            return Ending(False)
        return Ending(True, None, of_ollama(ollama_line(self._last)), native=True)

    def rest(self, usage: dict[str, int] | None = None) -> bytes:
        """What an answer that is done still lacks at its end: nothing."""
        return b""

    def closing(self, reason: str, counted: dict[str, int], usage: dict[str, int] | None = None) -> bytes:
        """A last line for what was said already, made of its last line so far; ``usage`` may tell how long the prompt was."""
        self.read()
        if usage is not None:
            counted = {"prompt_eval_count": usage["prompt_tokens"], **counted}
        fields = _fields(self._last)
        empty = {"message": {"role": "assistant", "content": ""}} if "message" in fields else {"response": ""}
        kept = {name: value for name, value in fields.items() if name not in ("message", "response", "done")}
        return _encode({**kept, **empty, "done": True, "done_reason": reason, **counted}) + b"\n"


_TOLD: Final = frozenset({"thinking", "tool_calls"})


def _member(name: str, value: Raw, told: bytes) -> bytes:
    """One member of a document; where the text belongs, all of it."""
    if name == "message":
        role = msgspec.json.decode(value, type=_Message).role
        return b'"message":{"role":' + bytes(role) + b"," + told + b"}"
    return told if name == "response" else _encode(name) + b":" + bytes(value)


def error_in(lines: bytes) -> str | None:
    """The text of an error line with which a stream ended; None if `lines` do not begin with one."""
    if not lines.startswith(_ERROR):
        return None
    try:
        return error_text(ollama_line(lines.split(b"\n", 1)[0]).error)
    except UNREADABLE:
        return "the stream ended in an error that cannot be read"
