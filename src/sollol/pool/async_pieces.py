"""What comes piece by piece in the loop of its user, for ``async for``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Self, TypeVar

P = TypeVar("P")


class AsyncPieces(AsyncIterator[P], ABC, Generic[P]):
    """The pieces of one source. It begins when the first one is asked for; `aclose`, or forgetting it, ends it early."""

    def __init__(self) -> None:
        self._waiting: deque[P] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> P:
        if not self._waiting:
            self._waiting.extend(await self.take())
        if not self._waiting:
            raise StopAsyncIteration
        return self._waiting.popleft()

    @abstractmethod
    async def take(self) -> list[P]:
        """All that have come by now, one at least; empty at the end."""

    @abstractmethod
    def close(self) -> None:
        """`aclose` without waiting; in the loop of the pool."""

    async def aclose(self) -> None:
        """End it now, also at the nodes. Harmless when it is over."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
