"""A thread with an event loop of its own, in which a pool works while its users block or run loops of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Final, TypeVar

from sollol.drivers.loop_thread import LoopThread
from sollol.drivers.loops import fastest
from sollol.errors import ShuttingDown, SollolError
from sollol.pool.async_pool import AsyncPool

T = TypeVar("T")
_CLOSED: Final = "the pool is closed; make a new one"
_CLOSE_SECONDS: Final = 5.0


class EngineThread(LoopThread[None]):
    """Runs ``pool`` until `close`. The thread is a daemon: it does not keep a process alive."""

    def __init__(self, pool: AsyncPool) -> None:
        super().__init__(self._work, name="sollol pool", daemon=True, loop_factory=fastest())
        self.process = os.getpid()
        self.closed = False
        self._pool = pool
        self._calls: dict[Future[Any], Coroutine[Any, Any, Any]] = {}
        self.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin `work` in the loop. Cancelling the future cancels the work. Raises `ShuttingDown` after `close`."""
        future: Future[T] = Future()
        self._calls[future] = work
        try:
            if self.closed:
                raise RuntimeError
            self._loop.call_soon_threadsafe(self._begin, future)
        except RuntimeError:
            self._calls.pop(future, None)
            work.close()
            raise ShuttingDown(_CLOSED) from None
        return future

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; the caller waits. Ctrl-C cancels it at once."""
        if self.here:
            work.close()
            raise SollolError("a call that waits was made in the pool's own thread: it would wait for itself")
        future = self.submit(work)
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing to one that is done

    def soon(self, act: Callable[[], object]) -> None:
        """Call `act` in the loop, without waiting; nothing happens after `close`."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act)

    def close(self) -> None:
        """End everything that runs, and the thread. A process that inherited this from its parent leaves it alone."""
        if self.process != os.getpid() or self.closed:
            return
        self.closed = True
        self.soon(self._over.set)
        self.join(_CLOSE_SECONDS)

    def main(self) -> None:
        """As of any `LoopThread`; calls that came too late for the loop are told so."""
        super().main()
        for future, work in list(self._calls.items()):  # they came too late
            work.close()
            _fail(future, ShuttingDown(_CLOSED))
        self._calls.clear()

    async def _work(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        ready.set_result(None)
        await self._over.wait()
        await self._pool.aclose()

    def _begin(self, future: Future[Any]) -> None:
        work = self._calls.pop(future)
        if future.cancelled():
            work.close()
            return
        task = self._loop.create_task(work)
        future.add_done_callback(lambda done: self.soon(task.cancel) if done.cancelled() else None)
        task.add_done_callback(lambda done: _end(future, done))


def _end(future: Future[Any], task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        _fail(future, ShuttingDown(_CLOSED))
        return
    error = task.exception()
    if error is not None:
        _fail(future, error)
        return
    with suppress(InvalidStateError):  # cancelled by its owner in this very moment
        future.set_result(task.result())


def _fail(future: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
