"""Emulated nodes on a thread with an event loop of its own, beside callers that block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from sollol.drivers.loop_thread import LoopThread
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

T = TypeVar("T")
_PATIENCE: Final = 20.0


class Machines:
    """A context manager: while it is open the nodes listen. `urls` are in the order of the specs."""

    def __init__(self, specs: Sequence[NodeSpec]) -> None:
        self.cluster = EmulatedCluster(specs)
        self.urls: list[str] = []
        self._over = asyncio.Event()
        self._thread: LoopThread[asyncio.AbstractEventLoop] = LoopThread(self._serve, name="emulated machines")

    def __enter__(self) -> Self:
        self._loop = self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def stop(self, name: str) -> int:
        """The machine dies: its connections break, nothing listens. Returns how many requests it was working on."""

        async def die() -> int:
            running = self.cluster[name].stats.in_flight
            await self.cluster[name].stop()
            return running

        return self._do(die())

    def start(self, name: str) -> None:
        """It listens again on its old port, with nothing loaded."""
        self._do(self.cluster[name].start())

    def see(self, look: Callable[[EmulatedCluster], Any]) -> Any:
        """What `look` returns, called in the loop of the nodes."""

        async def called() -> Any:
            return look(self.cluster)

        return self._do(called())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        async with self.cluster:
            self.urls = self.cluster.urls
            ready.set_result(asyncio.get_running_loop())
            await self._over.wait()
