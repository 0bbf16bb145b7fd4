"""Watching a stream of Ollama's lines as it passes: counts them, sees errors, and reads only the last one."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from .endings import Ending, OllamaLine, error_text, of_ollama, ollama_line
from .unreadable import UNREADABLE

# A last line is kept whole up to LINE bytes (it carries `context`, one number per token); of a longer one the two ends.
LINE: Final = 1 << 20
TAIL: Final = 1 << 16
HEAD: Final = 1 << 12
KEEP: Final = 1 << 13
_PROGRESS_PATHS: Final = frozenset({"/api/pull", "/api/push", "/api/create"})
_ANSWER_PATHS: Final = frozenset({"/api/chat", "/api/generate"})
_ERROR: Final = b'{"error"'
_COUNTER: Final = re.compile(
    rb'"(total_duration|load_duration|prompt_eval_count|prompt_eval_duration|eval_count|eval_duration)":(\d{1,18})'
)
_REASON: Final = re.compile(rb'"done_reason":"(\w{1,32})"')


class NdjsonWatch:
    """Feed it every piece of the body. ``tokens`` counts lines, ``first_ok`` turns true when the first line is good JSON.

    ``problem`` is set when the first line is an error or no JSON: nothing should have been passed on then. ``error`` is the
    text of an error line anywhere.
    """

    __slots__ = ("_head", "_last", "_long", "_open", "_path", "error", "first_ok", "problem", "tokens")

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: bytearray | None = None
        self._head = b""  # of the open line, when it is too long to keep
        self._last = b""
        self._long: tuple[bytes, bytes] | None = None  # both ends of such a line, once it is complete
        self.tokens = 0
        self.first_ok = False
        self.problem: str | None = None
        self.error: str | None = None

    def feed(self, data: bytes) -> None:
        """Look at a piece of the body."""
        self.tokens += data.count(b"\n")
        if self._open is None and self.first_ok and data.endswith(b"\n"):
            self._last = data if len(data) <= KEEP else _last_line(data)
            if _ERROR in data:
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
        try:
            long = self._long
            line = _from_ends(*long) if long is not None and long[1] is self._last else ollama_line(_last_line(self._last))
        except UNREADABLE:
            return Ending(False)
        return Ending(_complete(self._path, line), None, of_ollama(line), native=True)

    def _join(self, data: bytes) -> None:
        """The slow way, for pieces that do not begin and end with a line."""
        cut = data.rfind(b"\n") + 1
        opened = self._open
        if not cut:
            self._open = opened = opened if opened is not None else bytearray()
            opened += data
            if len(opened) > LINE:
                self._head = self._head or bytes(opened[:HEAD])
                del opened[:-TAIL]
            return
        whole = data[:cut] if opened is None else bytes(opened) + data[:cut]
        self._open = bytearray(data[cut:]) if cut < len(data) else None
        self._whole(whole)

    def _whole(self, lines: bytes) -> None:
        head, self._head = self._head, b""
        lines = lines.strip()
        if not lines:
            return
        self._last = _last_line(lines)
        if head and b"\n" not in lines:
            self._long = (head, self._last)
        elif not self.first_ok and self.problem is None:
            self._judge_first(lines.split(b"\n", 1)[0])
        if _ERROR in lines:
            self._look_for_error(lines)

    def _judge_first(self, line: bytes) -> None:
        try:
            self.problem = self.error = error_text(ollama_line(line).error)
        except UNREADABLE as error:
            self.problem = f"the first line is not what an answer begins with: {error}"
        self.first_ok = self.problem is None

    def _look_for_error(self, data: bytes) -> None:
        for line in data.split(b"\n"):
            if line.startswith(_ERROR):
                try:
                    self.error = self.error or error_text(ollama_line(line).error)
                except UNREADABLE:
                    continue


def _last_line(lines: bytes) -> bytes:
    lines = lines.rstrip()
    return lines[lines.rfind(b"\n") + 1 :]


def _from_ends(head: bytes, tail: bytes) -> OllamaLine:
    """The ending of a line that was too long to keep, from its first and last bytes."""
    reason = _REASON.search(head) or _REASON.search(tail[-HEAD:])
    found = {name.decode(): int(number) for name, number in _COUNTER.findall(tail[-HEAD:])}
    done = b'"done":true' in head or b'"done":true' in tail[-HEAD:]
    return msgspec.convert({**found, "done": done, "done_reason": reason and reason.group(1).decode()}, OllamaLine)


def _complete(path: str, line: OllamaLine) -> bool:
    if path in _ANSWER_PATHS:
        return line.done is True or line.debug is not msgspec.UNSET
    return line.status == "success" if path in _PROGRESS_PATHS else True
