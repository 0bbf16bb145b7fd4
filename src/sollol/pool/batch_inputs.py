"""What a batch is given: anything that can be iterated over, read piece by piece and no further ahead than needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sollol.errors import BadValue

PIECE: Final = 256
PIECE_SECONDS: Final = 0.05


def checked(inputs: Any, what: str) -> Any:
    """``inputs``, if it is several things. Raises `BadValue`."""
    several = isinstance(inputs, Iterable | AsyncIterable) and not isinstance(inputs, str | bytes | Mapping)
    if not several:
        raise BadValue(f"{what} has to be several of them (a list, or anything that can be iterated over), not one")
    return inputs


def count(inputs: Any) -> int | None:
    """How many there are, where that is known."""
    try:
        return len(inputs)
    except TypeError:
        return None


async def pieces(inputs: Any) -> AsyncIterator[Sequence[Any]]:
    """The inputs in lists. What is no list is read in a thread of its own, so that it may take its time."""
    if isinstance(inputs, AsyncIterable):
        async for one in inputs:
            yield [one]
    elif isinstance(inputs, list | tuple):
        for start in range(0, len(inputs), PIECE):
            yield inputs[start : start + PIECE]
    else:
        rest = iter(inputs)
        while piece := await asyncio.to_thread(_some, rest):
            yield piece


def _some(rest: Iterator[Any]) -> list[Any]:
    """What comes in a moment, one at least; empty at the end."""
    until = time.monotonic() + PIECE_SECONDS
    found: list[Any] = []
    for one in rest:
        found.append(one)
        if len(found) >= PIECE or time.monotonic() > until:
            break
    return found
