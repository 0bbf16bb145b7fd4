"""The check that no test leaves a task of the package behind sees what it is there for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.support.left_tasks import LeftTasks


async def forgets() -> object:
    return asyncio.create_task(asyncio.Event().wait(), name="not ours"), asyncio.create_task(waits())


async def waits() -> None:
    await asyncio.Event().wait()


async def cancels() -> object:
    task = asyncio.create_task(waits())
    task.cancel()
    return task


async def leaves_what_ends_at_once() -> object:
    return asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(ends())


async def ends() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(("main", "left"), [(forgets, ["waits"]), (cancels, []), (leaves_what_ends_at_once, [])])
def test_what_is_left(main: Callable[[], Awaitable[object]], left: list[str]) -> None:
    watched = LeftTasks(0.01, str(Path(__file__).parent))
    runner = asyncio.Runner()
    kept = runner.run(main())  # type: ignore[arg-type]  # coroutine functions all
    watched.close(runner)
    watched.close(runner)  # a closed one is nothing to look at
    assert kept
    assert (watched.taken(), watched.taken()) == (left, [])
