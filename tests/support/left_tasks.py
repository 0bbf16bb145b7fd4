"""Which tasks of the package still run when a loop ends: those that its `asyncio.Runner` would cancel without a word."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import sollol

PACKAGE = str(Path(sollol.__file__).parent)
close_of_asyncio = asyncio.Runner.close


class LeftTasks:
    """Looks at every `asyncio.Runner` that closes, whoever made it: the tests', `sollol up`'s, those of threads.

    A task that only has to see what has already happened (a connection that was closed) has ``seconds`` for it. One that was
    cancelled is no matter: whoever cancelled it has thought of it. Neither is a task that runs code of a test.
    """

    def __init__(self, seconds: float = 2.0, folder: str = PACKAGE) -> None:
        self.seconds = seconds
        self.folder = folder
        self.names: list[str] = []

    def close(self, runner: asyncio.Runner) -> None:
        """Stands for `asyncio.Runner.close`."""
        try:
            left = _tasks_of(self.folder, runner.get_loop())
        except RuntimeError:  # it is closed already
            return
        try:
            if left:
                self.names += runner.run(_after(self.seconds, left))
        finally:
            close_of_asyncio(runner)

    def taken(self) -> list[str]:
        """What was found since the last call."""
        found, self.names = self.names, []
        return found


def _tasks_of(folder: str, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks(loop) if not task.cancelling() and _file(task).startswith(folder)]


def _file(task: asyncio.Task[Any]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code is not None else ""


async def _after(seconds: float, left: list[asyncio.Task[Any]]) -> list[str]:
    _, running = await asyncio.wait(left, timeout=seconds)
    return sorted(task.get_coro().__qualname__ for task in running)  # type: ignore[union-attr]  # coroutines have one


def watch() -> LeftTasks:
    """Look at all of this process, from now on."""
    watched = LeftTasks()

    def close(runner: asyncio.Runner) -> None:  # a function, since a bound method would not get the runner
        watched.close(runner)

    asyncio.Runner.close = close  # type: ignore[method-assign]  # the point of it
    return watched
