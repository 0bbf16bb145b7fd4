"""Emulated machines on a thread with an event loop of its own, for tests and programs that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from sollol.emulator.node import EmulatedNode
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec


class Machines:
    """A context manager: while it is open the nodes listen. `urls` are in the order of the specs."""

    def __init__(self, specs: Sequence[NodeSpec]) -> None:
        self._specs = specs
        self._ready: Future[None] = Future()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="emulated machines")
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(20)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def stop(self, name: str) -> None:
        """The machine dies: its connections break, nothing listens."""
        asyncio.run_coroutine_threadsafe(self._cluster[name].stop(), self._loop).result(20)

    def start(self, name: str) -> None:
        """It listens again on its old port, with nothing loaded."""
        asyncio.run_coroutine_threadsafe(self._cluster[name].start(), self._loop).result(20)

    def see(self, look: Callable[[EmulatedCluster], Any]) -> Any:
        """What `look` returns, called in the loop of the nodes."""

        async def called() -> Any:
            return look(self._cluster)

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(20)

    def node(self, name: str) -> EmulatedNode:
        return self._cluster[name]

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with EmulatedCluster(self._specs) as self._cluster:
                self.urls = self._cluster.urls
                self._ready.set_result(None)
                await self._over.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise
