"""Answers that were asked for where an event loop runs: they can be awaited, or used as if they were there already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar, cast

from sollol.pool.replies import EmbedReply, Reply

R = TypeVar("R", bound=Reply)
T = TypeVar("T")
_PLACE: Final = "\0"
"""The one key of a reply that is not there yet. With none, JSON encoders would take it for an empty one without asking."""


def pending(kind: type[R], future: Future[R], blocks: Callable[[], None]) -> R:
    """A reply of `kind` that is on its way. ``blocks`` is called before the caller's loop has to wait for it.

    Awaiting it gives the reply without blocking. The first other use waits, and from then on it is the reply.
    """
    waiting = _pending_kind(kind)()
    dict.__setitem__(waiting, _PLACE, (future, blocks))
    return cast("R", waiting)


def running_loop() -> bool:
    """Whether an event loop runs in this thread."""
    return asyncio._get_running_loop() is not None


class _Pending(Reply):
    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self._future()[0]).__await__()

    def __getattr__(self, name: str) -> Any:
        self._settle()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._settle()
        setattr(self, name, value)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._settle()
        return self.__reduce_ex__(protocol)

    def __hash__(self) -> int:  # type: ignore[override]  # asyncio.gather puts what it waits for into a dict
        return id(self)

    def _future(self) -> tuple[Future[Reply], Callable[[], None]]:
        found: tuple[Future[Reply], Callable[[], None]] = dict.__getitem__(self, _PLACE)
        return found

    def _settle(self) -> None:
        """Wait, and become the reply."""
        future, blocks = self._future()
        if not future.done():
            blocks()
        reply = future.result()
        dict.clear(self)
        dict.update(self, dict(reply.items()))
        object.__setattr__(self, "__class__", type(reply))
        if isinstance(reply, EmbedReply):
            object.__setattr__(self, "_single", getattr(reply, "_single", False))


def _after(name: str) -> Callable[..., Any]:
    def settled(self: _Pending, *args: Any, **kwargs: Any) -> Any:
        self._settle()
        return getattr(self, name)(*args, **kwargs)

    settled.__name__ = name
    return settled


for _name in (
    *("__getitem__", "__setitem__", "__delitem__", "__contains__", "__iter__", "__len__", "__reversed__", "__repr__"),
    *("__eq__", "__ne__", "__or__", "__ror__", "__ior__", "__str__", "__format__"),
    *("get", "keys", "values", "items", "pop", "popitem", "setdefault", "update", "copy", "clear"),
):
    setattr(_Pending, _name, _after(_name))


@lru_cache(maxsize=64)
def _pending_kind(kind: type[Reply]) -> type[_Pending]:
    return type(f"Pending{kind.__name__}", (_Pending, kind), {"__slots__": ()})


class Later(Generic[T]):
    """A result that is no document, on its way: await it, or use it, which waits."""

    def __init__(self, future: Future[T], blocks: Callable[[], None]) -> None:
        self._future = future
        self._blocks = blocks

    def result(self) -> T:
        """The result; waits for it."""
        if not self._future.done():
            self._blocks()
        return self._future.result()

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self._future).__await__()

    def __bool__(self) -> bool:
        return bool(self.result())

    def __eq__(self, other: object) -> bool:
        return bool(self.result() == other)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return repr(self.result())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.result(), name)

    def __len__(self) -> int:
        return len(cast("Any", self.result()))

    def __iter__(self) -> Any:
        return iter(cast("Any", self.result()))

    def __getitem__(self, key: Any) -> Any:
        return cast("Any", self.result())[key]
