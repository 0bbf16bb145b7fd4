"""A thread with an event loop of its own, for what has to run beside callers that block or have loops of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .loops import LoopFactory

T = TypeVar("T")
Serve = Callable[[Future[T]], Coroutine[Any, Any, None]]


class LoopThread(Generic[T]):
    """Runs one coroutine, ``serve(ready)``, in its own loop. ``serve`` gives ``ready`` its result once it can be used.

    ``daemon``: the thread does not keep a process alive. ``loop_factory`` as for `asyncio.Runner`.
    """

    def __init__(
        self,
        serve: Serve[T],
        *,
        name: str,
        daemon: bool = False,
        loop_factory: LoopFactory | None = None,
    ) -> None:
        self._serve = serve
        self._loop_factory = loop_factory
        self._ready: Future[T] = Future()
        self._thread = threading.Thread(target=self.main, name=name, daemon=daemon)

    @property
    def here(self) -> bool:
        """Whether the caller is in this thread."""
        return threading.current_thread() is self._thread

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread.is_alive()

    def start(self) -> T:
        """Start it and wait for what ``serve`` is ready with. Raises what it raised before that."""
        self._thread.start()
        error = self._ready.exception()
        if error is not None:
            self._thread.join()
            raise error
        return self._ready.result()

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end, for ever without ``seconds``; at once when it is the caller or was never started."""
        if not self.here and self._thread.ident is not None:
            self._thread.join(seconds)

    def main(self) -> None:
        """What the thread does, from its beginning to its end."""
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._serve(self._ready))
        except BaseException as error:  # whatever it is belongs to the thread that waits in `start`
            if self._ready.done():
                raise
            self._ready.set_exception(error)
