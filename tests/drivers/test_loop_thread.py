"""A thread with an event loop of its own: what `start` gives and raises, and that it ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest

from sollol.drivers.loop_thread import LoopThread


def test_start_gives_what_it_is_ready_with_and_join_waits_for_the_end():
    over = threading.Event()

    async def serve(ready: Future[str]) -> None:
        ready.set_result(threading.current_thread().name)
        await asyncio.to_thread(over.wait)

    thread = LoopThread(serve, name="aside")
    assert not thread.running
    thread.join()  # it was never started
    assert thread.start() == "aside"
    assert thread.running
    assert not thread.here
    over.set()
    thread.join(5)
    assert not thread.running


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_start_raises_what_went_wrong_and_the_thread_is_gone(error: BaseException):
    async def serve(ready: Future[str]) -> None:
        raise error

    thread = LoopThread(serve, name="aside")
    with pytest.raises(type(error)) as raised:
        thread.start()
    assert raised.value is error
    assert not thread.running


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_goes_wrong_later_is_not_swallowed():
    told: list[BaseException | None] = []

    async def serve(ready: Future[None]) -> None:
        ready.set_result(None)
        raise ValueError("later")

    hook, threading.excepthook = threading.excepthook, lambda args: told.append(args.exc_value)
    try:
        thread = LoopThread(serve, name="aside")
        thread.start()
        thread.join(5)
    finally:
        threading.excepthook = hook
    assert [str(error) for error in told] == ["later"]


def test_the_thread_knows_itself_and_does_not_wait_for_itself():
    seen: list[bool] = []

    async def serve(ready: Future[None]) -> None:
        seen.append(thread.here)
        thread.join()
        ready.set_result(None)

    thread = LoopThread(serve, name="aside")
    thread.start()
    thread.join(5)
    assert seen == [True]
