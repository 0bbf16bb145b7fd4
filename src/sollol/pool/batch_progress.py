"""How far a batch is, for the person at the terminal: a bar there, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO

Progress = Callable[[int, int | None], None]
"""Called with what is done and with how many there are; None while that is not known."""

_WIDTH: Final = 30
_BAR_SECONDS: Final = 0.1
_LINE_SECONDS: Final = 5.0


class Shown:
    """Writes to ``out`` (standard error). On a terminal one line that changes; else a line each tenth, or every 5 s."""

    def __init__(self, what: str, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._out: TextIO | None = out or sys.stderr  # a program with windows only has none
        self._bar = self._out is not None and self._out.isatty()
        self._clock = clock
        self._began = self._last = clock()
        self._tenth = 0
        self._length = 0

    def __call__(self, done: int, total: int | None) -> None:
        now = self._clock()
        over = done == total
        if self._bar:
            if over or now - self._last >= _BAR_SECONDS:
                self._last = now
                line = self._line(done, total, now)
                self._write("\r" + line.ljust(self._length) + ("\n" if over else ""))
                self._length = len(line)
            return
        tenth = 10 * done // total if total else 0
        if over or tenth > self._tenth or now - self._last >= _LINE_SECONDS:
            self._tenth, self._last = tenth, now
            self._write(self._line(done, total, now) + "\n")

    def _write(self, text: str) -> None:
        """That nobody can read it any more (the terminal is gone) is no reason to fail."""
        if self._out is not None:
            with suppress(OSError, ValueError):
                self._out.write(text)
                self._out.flush()

    def _line(self, done: int, total: int | None, now: float) -> str:
        rate = done / max(now - self._began, 1e-6)
        if total is None:
            return f"{self._what}: {done} done, {rate:.0f}/s"
        share = done / total if total else 1.0
        bar = f" [{'#' * int(share * _WIDTH):<{_WIDTH}}]" if self._bar else ""
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        return f"{self._what}:{bar} {done}/{total} ({share:.0%}), {rate:.0f}/s{left}"
