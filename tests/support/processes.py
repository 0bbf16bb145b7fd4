"""A Python program as a process of its own, whose lines a test waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Running:
    """A running program; standard error comes with standard output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def line_with(self, words: str) -> str:
        """The next line of output that has these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if words in line:
                return line.rstrip("\n")
        raise AssertionError(f"it ended without {words!r}: {''.join(self.said)}")


@contextmanager
def python(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """``python ARGUMENTS``; killed at the end of the block if it still runs."""
    with subprocess.Popen(
        [sys.executable, "-u", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(env or {})},
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.kill()
