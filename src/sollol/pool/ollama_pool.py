"""`OllamaPool`: one object for programs that wait, programs that await, and notebooks."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import warnings
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar, Unpack, overload

from sollol.drivers.discover_now import count_unique_physical_hosts
from sollol.errors import ShuttingDown
from sollol.pool.batch import AsyncResults
from sollol.pool.inside import Inside
from sollol.pool.nodes import Nodes
from sollol.pool.options import ChatOptions, EmbedOptions, GenerateOptions
from sollol.pool.pending import Later, pending, running_loop
from sollol.pool.replies import ChatReply, EmbedReply, GenerateReply, Reply
from sollol.pool.settings import NodeForm, PoolSettings, checked_mode, pool_settings
from sollol.pool.streams import AsyncReplies
from sollol.pool.sync_batches import SyncResults
from sollol.pool.sync_pieces import SyncPieces
from sollol.pool.sync_pool import SyncPool, SyncReplies

R = TypeVar("R", bound=Reply)
T = TypeVar("T")
P = TypeVar("P")
_BLOCKS = "this waits for an answer and blocks the event loop; write `await` before the call"


class EitherWay(SyncPieces[P], Generic[P]):
    """Pieces for ``for`` and for ``async for``."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> P:
        if not self._waiting:
            self._waiting.extend(await asyncio.wrap_future(self._engine.submit(self._source.take())))
        if not self._waiting:
            raise StopAsyncIteration
        return self._waiting.popleft()

    async def aclose(self) -> None:
        """End it now. Harmless when it is over."""
        self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return _itself(self).__await__()


class Replies(EitherWay[R], SyncReplies[R], Generic[R]):
    """The pieces of an answer."""


class Results(EitherWay[tuple[int, T]], SyncResults[T], Generic[T]):
    """Results of a batch as they come: (index of the input, result), in no order."""


if TYPE_CHECKING:  # every reply can be awaited too, which only a stub can say shortly
    from sollol.pool.awaitable import AwaitablePool
else:
    AwaitablePool = SyncPool


class OllamaPool(AwaitablePool):
    """Many nodes as one, inside an application. Made without nodes, it looks for them.

    Every call works in three ways. In a plain program it waits and gives the reply. Where an event loop runs, it has begun
    when the call returns and can be awaited (also by `asyncio.gather`); used without ``await``, in a notebook for example, it
    waits for the reply then, and warns once that the loop is blocked meanwhile. New code may like `AsyncPool` or `SyncPool`
    better, which do one thing each.

    ``enable_hedging`` sends a request to a second node when the first is late. ``enable_cache``, ``cache_max_size`` (answers)
    and ``cache_ttl`` (seconds) are about answers that are surely the same. ``max_queue_size`` is how many calls may wait.
    ``enable_intelligent_routing``, ``discover_all_nodes``, ``enable_ray`` and ``enable_dask`` are accepted: the routing always
    works with what was measured, every way of searching is always used, and calls to nodes need no workers.
    """

    _always_blocks: ClassVar[bool] = False

    def __init__(
        self,
        nodes: Iterable[NodeForm] | NodeForm | None = None,
        *,
        enable_intelligent_routing: bool = True,
        discover_all_nodes: bool = True,
        enable_ray: bool = False,
        enable_dask: bool = False,
        settings: PoolSettings | None = None,
        **given: Any,
    ) -> None:
        if settings is None:
            settings = pool_settings(nodes, **given)
        # a program with windows only has no standard error
        tell = settings.search and sys.stderr is not None and sys.stderr.isatty()
        super().__init__(settings=replace(settings, tell=tell))
        self._warned = threading.Event()

    @classmethod
    def auto_configure(cls, **given: Any) -> Self:
        """A pool that has looked for nodes; takes what the class takes.

        Where an event loop runs, it is still looking when this returns: await it, or just use it.
        """
        pool = cls(**given)
        looked = pool._engine().submit(pool._own.ready())
        if cls._always_blocks or not running_loop():
            looked.result()
        return pool

    def __await__(self) -> Generator[Any, None, Self]:
        return self._when_ready().__await__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    # --- the calls for coroutines

    @overload
    async def chat_async(
        self, model: str, messages: Sequence[Any] | None = ..., *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Replies[ChatReply]: ...
    @overload
    async def chat_async(
        self,
        model: str,
        messages: Sequence[Any] | None = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...
    async def chat_async(self, model: str, messages: Sequence[Any] | None = None, **options: Any) -> Any:
        """`chat` as a coroutine; with ``stream=True`` it gives an async iterator."""
        if options.pop("stream", False):
            return self._pieces(self._own.chat(model, messages, stream=True, **options))
        return await self._far(self._own.chat(model, messages, **options))

    @overload
    async def generate_async(
        self, model: str, prompt: str | None = ..., *, stream: Literal[True], **options: Unpack[GenerateOptions]
    ) -> Replies[GenerateReply]: ...
    @overload
    async def generate_async(
        self, model: str, prompt: str | None = ..., *, stream: Literal[False] = ..., **options: Unpack[GenerateOptions]
    ) -> GenerateReply: ...
    async def generate_async(self, model: str, prompt: str | None = None, **options: Any) -> Any:
        """`generate` as a coroutine; with ``stream=True`` it gives an async iterator."""
        if options.pop("stream", False):
            return self._pieces(self._own.generate(model, prompt, stream=True, **options))
        return await self._far(self._own.generate(model, prompt, **options))

    async def embed_async(self, model: str, input: str | Sequence[str] = "", **options: Unpack[EmbedOptions]) -> EmbedReply:
        """`embed` as a coroutine."""
        return await self._far(self._own.embed(model, input, **options))

    # --- warming

    def warm_model(self, model: str, **options: Any) -> bool:
        """Load a model before it is needed. False if that did not work; the log says why."""
        return self._value(self._own.warm_model(model, **options))

    def warm_models(self, models: Sequence[str], parallel: bool = True, **options: Any) -> dict[str, bool]:
        """Load several models, at once or one after another; which of them are loaded now."""
        return self._wait(Reply, self._own.warm_models(models, parallel=parallel, **options))

    # --- the pool itself

    @property
    def nodes(self) -> Nodes:
        """The nodes as they are now. A pool that looks for nodes has looked once when it answers this."""
        if self._settings.search and not self._closed:
            self._engine().run(self._own.searched())
        return super().nodes

    def set_routing_mode(self, mode: Any) -> None:
        """From the next call on: "balanced", "fast", "reliable" or "async". Raises `BadValue`."""
        self._own.set_routing_mode(checked_mode(mode))

    def count_unique_physical_hosts(self) -> int:
        """On how many machines the nodes are; several addresses of one machine count once."""
        nodes = self.nodes
        return count_unique_physical_hosts(nodes) if nodes else 0

    def should_use_parallel_execution(self, num_tasks: int) -> bool:
        """Whether so many independent tasks are done sooner side by side: there is more than one, and more than one machine."""
        return num_tasks > 1 and self.count_unique_physical_hosts() > 1

    def get_stats(self) -> dict[str, Any]:
        """What was counted since the pool was made. Latencies are milliseconds, rates 0 to 1, both nan before the first answer.

        ``batch_throughput`` (texts per second) is there only where it was measured.
        """
        stats = self._run(self._own.get_stats())
        return {key: _measured(value) for key, value in stats.items()}

    # --- for what works with a pool in its own loop

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` in the pool's own event loop, without waiting for it."""
        try:
            return self._engine().submit(work)
        except ShuttingDown:
            work.close()
            raise

    def blocking(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which runs in the pool's own event loop; waits for it."""
        return self._run(work)

    async def opened(self) -> Inside:
        """The engine, with every node looked at; in the pool's own loop only."""
        await self._own.ready()
        return self._own.inside

    async def load(self, model: str, node: str) -> bool:
        """Load a model on a node for good; in the pool's own loop only. False if that did not work."""
        return await self._own.warm_model(model, node=node, keep_alive=-1)

    # --- inside

    def _wait(self, kind: type[R], work: Coroutine[Any, Any, R]) -> R:
        if self._always_blocks or not running_loop():
            return self._run(work)
        return pending(kind, self.begin(work), self._blocks)

    def _value(self, work: Coroutine[Any, Any, T]) -> T:
        if self._always_blocks or not running_loop():
            return self._run(work)
        later: Any = Later(self.begin(work), self._blocks)
        return later  # type: ignore[no-any-return]  # is used like the value, or awaited

    def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        return self._value(work)

    def _pieces(self, replies: AsyncReplies[R]) -> Replies[R]:
        return Replies(self._engine(), replies)

    def _results(self, results: AsyncResults[T]) -> Results[T]:
        return Results(self._engine(), results)

    async def _far(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self.begin(work))

    async def _when_ready(self) -> Self:
        await self._far(self._own.ready())
        return self

    def _blocks(self) -> None:
        if running_loop() and not self._warned.is_set():
            self._warned.set()
            warnings.warn(_BLOCKS, RuntimeWarning, stacklevel=5)


async def _itself(one: T) -> T:
    return one


def _measured(value: Any) -> Any:
    """Nothing measured is nan, so that it can be printed as a number; a rate of batches is left out."""
    if isinstance(value, Mapping):
        left_out = {"batch_throughput"}
        return {key: _measured(one) for key, one in value.items() if one is not None or key not in left_out}
    return math.nan if value is None else value
