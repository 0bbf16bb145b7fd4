"""Where answers go in a process without a door: kept whole, or handed on piece by piece with backpressure."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from sollol.core.ports import Exchange, Headers

_HIGH: Final = 262_144


class Whole:
    """Keeps an answer until it is complete. ``ended`` is false after a reply that broke off."""

    __slots__ = ("_pieces", "ended", "headers", "started", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.started = self.ended = False
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        self.started = True
        self.status, self.headers = status, headers

    def data(self, data: bytes) -> None:
        self._pieces.append(data)

    def end(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = False

    def attach(self, exchange: Exchange | None) -> None:
        """A whole answer is read as fast as it comes."""


class Flow:
    """Hands an answer on as it comes; whoever does not read slows the node, not our memory."""

    __slots__ = ("_exchange", "_full", "_news", "_over", "_pieces", "_size", "aborted", "headers", "started", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.started = self.aborted = False
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._over = self._full = False
        self._exchange: Exchange | None = None
        self._news = asyncio.Event()

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        self.started = True
        self.status, self.headers = status, headers

    def data(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        self._news.set()
        if self._size >= _HIGH and not self._full:
            self._full = True
            if self._exchange is not None:
                self._exchange.pause()

    def end(self) -> None:
        self._over = True
        self._news.set()

    def abort(self) -> None:
        self.aborted = True
        self.end()

    def attach(self, exchange: Exchange | None) -> None:
        self._exchange = exchange
        if exchange is not None and self._full:
            exchange.pause()

    async def read(self) -> bytes:
        """What has come since the last call, as soon as there is something; empty at the end."""
        while not self._pieces and not self._over:
            self._news.clear()
            await self._news.wait()
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._full:
            self._full = False
            if self._exchange is not None:
                self._exchange.resume()
        return data
