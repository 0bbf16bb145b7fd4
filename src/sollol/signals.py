"""What signals ask of a running gateway: to stop, to stop now, to take new settings."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Asked:
    """What was asked so far. ``stop``: SIGINT or SIGTERM; ``hurry``: a second one, whose ``number`` it is (0 before).

    ``reload`` is called in the loop for each SIGHUP, once somebody has put it there.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.number = 0
        self.reload: Callable[[], object] | None = None

    def end(self, number: int) -> None:
        """One signal to stop."""
        if self.stop.is_set():
            self.number = number
            self.hurry.set()
        self.stop.set()

    def hang_up(self, had_terminal: bool) -> None:
        """SIGHUP: new settings, unless the terminal that the gateway was started from is gone; then it ends with it."""
        if had_terminal and not terminal_there():
            self.stop.set()
        elif self.reload is not None:
            self.reload()


@contextmanager
def heard(asked: Asked) -> Iterator[None]:
    """While the block runs, signals go to `asked`; a third one to stop ends the process the hard way. Main thread only."""
    loop = asyncio.get_running_loop()
    ends = (signal.SIGINT, signal.SIGTERM)
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    before = {name: signal.getsignal(name) for name in (*ends, hang_up) if name is not None}
    # `nohup` starts programs that are to outlive their terminal: SIGHUP is ignored there
    had_terminal = hang_up is not None and before[hang_up] is not signal.SIG_IGN and terminal_there()
    times = 0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        if times > 1:
            for name in ends:
                signal.signal(name, before[name])
        loop.call_soon_threadsafe(asked.end, number)

    def hung_up(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(asked.hang_up, had_terminal)

    for name in before:
        signal.signal(name, hung_up if name is hang_up else end)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def terminal_there() -> bool:
    """Whether this process has a terminal that still stands (on Windows: never)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True
