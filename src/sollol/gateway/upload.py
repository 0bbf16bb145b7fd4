"""The body of a request while it is still coming, for handlers that pass it on."""

from __future__ import annotations

from asyncio import Event
from collections import deque
from collections.abc import AsyncIterator, Callable

from sollol.errors import SollolError

_HIGH, _LOW = 262_144, 65_536


class Upload:
    """Pieces of a body for one reader. `hold` is called with True when enough is buffered, with False when there is room.

    ``wanted`` is called once, when the reader asks for the first piece (for `100 Continue`).
    """

    def __init__(self, hold: Callable[[bool], None], wanted: Callable[[], None]) -> None:
        self._hold = hold
        self._wanted: Callable[[], None] | None = wanted
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._full = False
        self._over = False
        self._error: SollolError | None = None
        self._news = Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, never empty. Raises a `SollolError` when the body is broken, too large or too slow."""
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            wanted()
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._buffered -= len(piece)
        if self._full and self._buffered <= _LOW:
            self._full = False
            self._hold(False)
        return piece

    def push(self, piece: bytes) -> None:
        """A piece came."""
        self._pieces.append(piece)
        self._buffered += len(piece)
        if not self._full and self._buffered >= _HIGH:
            self._full = True
            self._hold(True)
        self._news.set()

    def finish(self) -> None:
        """The body is complete."""
        self._over = True
        self._news.set()

    def fail(self, error: SollolError) -> None:
        """No more will come."""
        if not self._over:
            self._error = error
            self._over = True
            self._news.set()
