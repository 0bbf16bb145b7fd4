"""Answers that come piece by piece, for ``async for``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, Self, TypeVar

from sollol.errors import SollolError
from sollol.pool.async_pieces import AsyncPieces
from sollol.pool.inside import Flowing, decoded
from sollol.pool.replies import Reply, wrap

R = TypeVar("R", bound=Reply)


class AsyncReplies(AsyncPieces[R], Generic[R]):
    """The pieces of an answer. The request is sent when the first one is asked for; `aclose` ends it, also at the node.

    So does forgetting it: a loop that is left early needs nothing more. Awaiting it gives it back, so that both
    ``async for x in pool.chat(..., stream=True)`` and ``async for x in await pool.chat(..., stream=True)`` work.
    """

    def __init__(self, kind: type[R], source: Callable[[], Flowing]) -> None:
        super().__init__()
        self._kind = kind
        self._source: Callable[[], Flowing] | None = source
        self._flowing: Flowing | None = None
        self._failed: Exception | None = None
        self._rest = b""

    async def take(self) -> list[R]:
        """All pieces that have come by now, one at least; empty at the end. Raises a `SollolError`."""
        if self._source is not None:
            source, self._source = self._source, None
            self._flowing = source()
        found: list[R] = []
        while self._flowing is not None and not found:
            flowing = self._flowing
            try:
                data = await flowing.read()
                if not data:
                    self._flowing = None
                    data = b"\n" if self._rest else b""  # a last line without an end counts too
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        found.append(wrap(self._kind, decoded(line, flowing.sink.headers)))
            except SollolError as error:
                self._flowing = None
                self._failed = flowing.told(error)
                self._failed.__cause__ = None if self._failed is error else error
        if self._failed is not None and not found:
            failed, self._failed = self._failed, None
            raise failed
        return found

    def close(self) -> None:
        """`aclose` without waiting; in the loop of the pool."""
        self._source = None
        flowing, self._flowing = self._flowing, None
        self._waiting.clear()
        if flowing is not None:
            flowing.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._itself().__await__()

    async def _itself(self) -> Self:
        return self
