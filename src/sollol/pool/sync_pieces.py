"""What comes piece by piece from the pool's thread, for a ``for`` loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from sollol.pool.engine_thread import EngineThread

P = TypeVar("P")


class Source(Protocol):
    """Where the pieces come from, in the loop of the pool."""

    def take(self) -> Coroutine[Any, Any, Sequence[Any]]:
        """All that have come by now, one at least; empty at the end."""
        ...

    def close(self) -> None:
        """End it now."""
        ...


class SyncPieces(Iterator[P], Generic[P]):
    """The pieces of one source. It begins when the first one is asked for; `close`, or forgetting it, ends it early."""

    def __init__(self, engine: EngineThread, source: Source) -> None:
        self._engine = engine
        self._source = source
        self._waiting: deque[P] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> P:
        if not self._waiting:
            self._waiting.extend(self._engine.run(self._source.take()))
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()

    def close(self) -> None:
        """End it now, also at the node. Harmless when it is over."""
        self._waiting.clear()
        self._engine.soon(self._source.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
