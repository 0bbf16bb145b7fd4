"""Waiting for what another part of the process, or the other end of a socket, will do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Give the event loop and the sockets the time they need until `condition` holds; fails after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - the kernel moves the bytes: there is no event to wait for
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"it did not come to that within {seconds:g} s") from None


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """`until` for what blocks: asks every few milliseconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not come to that within {seconds:g} s"
        time.sleep(0.005)  # another thread or process moves on: there is no event to wait for


async def stalled(measure: Callable[[], int]) -> None:
    """Wait until a number has stopped changing: both sides' buffers are full, nothing moves."""
    same, before = 0, -1
    async with asyncio.timeout(20):
        while same < 25:
            await asyncio.sleep(0.004)
            now = measure()
            same = same + 1 if now == before else 0
            before = now
