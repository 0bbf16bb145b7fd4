"""Which event loop to run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def fastest() -> LoopFactory | None:
    """What makes uvloop's loops where it is installed; None stands for asyncio's own, as for `asyncio.Runner`."""
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an extra, looked for only when something runs

        return uvloop.new_event_loop
    return None
