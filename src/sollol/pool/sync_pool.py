"""`SyncPool`: the same pool for programs that wait for each answer, from any number of threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, Literal, Self, TypeVar, Unpack, overload

from sollol.errors import ShuttingDown
from sollol.pool.async_pool import AsyncPool
from sollol.pool.batch import AsyncResults
from sollol.pool.engine_thread import EngineThread
from sollol.pool.nodes import Nodes, PoolNode
from sollol.pool.options import CallWishes, ChatOptions, EmbedOptions, GenerateOptions
from sollol.pool.replies import (
    ChatReply,
    EmbeddingReply,
    EmbedReply,
    GenerateReply,
    ListReply,
    ProcessReply,
    ProgressReply,
    Reply,
    ShowReply,
    StatusReply,
)
from sollol.pool.settings import NodeForm, PoolSettings, pool_settings
from sollol.pool.streams import AsyncReplies
from sollol.pool.sync_batches import SyncBatches, SyncResults
from sollol.pool.sync_pieces import SyncPieces

T = TypeVar("T")
R = TypeVar("R", bound=Reply)
_CLOSED: Final = "this pool is closed; make a new one"


class SyncReplies(SyncPieces[R], Generic[R]):
    """The pieces of an answer, for a ``for`` loop. The request is sent when the first one is asked for."""


class SyncPool(SyncBatches):
    """Many nodes as one, inside an application, without a gateway: every call waits for its answer.

    Made like `AsyncPool`, with the same calls. One thread with an event loop works for it; it is started by the first call and
    ended by `close`, the end of a ``with`` block, forgetting the pool, or the end of the process. Any number of threads may use
    one pool. A process made by ``fork`` gets an engine of its own with its first call; a pool can also be pickled.
    """

    _kind: ClassVar[type[AsyncPool]] = AsyncPool

    def __init__(
        self,
        nodes: Iterable[NodeForm] | NodeForm | None = None,
        *,
        settings: PoolSettings | None = None,
        **given: Any,
    ) -> None:
        self._settings = settings or pool_settings(nodes, **given)
        self._own = self._kind(settings=self._settings)
        self._engines: dict[int, EngineThread] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._closed = False

    def __reduce__(self) -> Any:
        return partial(type(self), settings=self._own.settings), ()

    # --- asking

    @overload
    def chat(
        self, model: str, messages: Sequence[Any] | None = ..., *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> SyncReplies[ChatReply]: ...
    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[Any] | None = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...
    @overload
    def chat(
        self, model: str, messages: Sequence[Any] | None = ..., *, stream: bool, **options: Unpack[ChatOptions]
    ) -> ChatReply | SyncReplies[ChatReply]: ...
    def chat(
        self, model: str, messages: Sequence[Any] | None = None, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> ChatReply | SyncReplies[ChatReply]:
        """Continue a chat. With ``stream=True`` the answer comes in pieces."""
        if stream:
            return self._pieces(self._own.chat(model, messages, stream=True, **options))
        return self._wait(ChatReply, self._own.chat(model, messages, **options))

    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> SyncReplies[GenerateReply]: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> GenerateReply: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: bool,
        **options: Unpack[GenerateOptions],
    ) -> GenerateReply | SyncReplies[GenerateReply]: ...
    def generate(
        self,
        model: str,
        prompt: str | None = None,
        suffix: str | None = None,
        *,
        stream: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> GenerateReply | SyncReplies[GenerateReply]:
        """Continue a prompt. With ``stream=True`` the answer comes in pieces."""
        if stream:
            return self._pieces(self._own.generate(model, prompt, suffix, stream=True, **options))
        return self._wait(GenerateReply, self._own.generate(model, prompt, suffix, **options))

    def embed(self, model: str, input: str | Sequence[str] = "", **options: Unpack[EmbedOptions]) -> EmbedReply:
        """Vectors of one text or of several; all in one request to one node."""
        return self._wait(EmbedReply, self._own.embed(model, input, **options))

    def embeddings(self, model: str, prompt: str | None = None, **options: Unpack[EmbedOptions]) -> EmbeddingReply:
        """The vector of one text, by Ollama's old call."""
        return self._wait(EmbeddingReply, self._own.embeddings(model, prompt, **options))

    def explain(
        self, model: str, *, prompt_tokens: int = 100, max_tokens: int | None = None, **wishes: Unpack[CallWishes]
    ) -> Reply:
        """Where a request of that size would go and why; nothing is sent."""
        return self._wait(Reply, self._own.explain(model, prompt_tokens=prompt_tokens, max_tokens=max_tokens, **wishes))

    # --- models

    def list(self) -> ListReply:
        """The models of all nodes; each says on which."""
        return self._wait(ListReply, self._own.list())

    def ps(self) -> ProcessReply:
        """What is loaded, and where."""
        return self._wait(ProcessReply, self._own.ps())

    def show(self, model: str) -> ShowReply:
        """Everything about one model."""
        return self._wait(ShowReply, self._own.show(model))

    @overload
    def pull(
        self, model: str, *, insecure: bool = ..., stream: Literal[True], nodes: Any = ...
    ) -> SyncReplies[ProgressReply]: ...
    @overload
    def pull(self, model: str, *, insecure: bool = ..., stream: Literal[False] = ..., nodes: Any = ...) -> ProgressReply: ...
    @overload
    def pull(
        self, model: str, *, insecure: bool = ..., stream: bool, nodes: Any = ...
    ) -> ProgressReply | SyncReplies[ProgressReply]: ...
    def pull(
        self, model: str, *, insecure: bool = False, stream: bool = False, nodes: Sequence[str] | str | None = None
    ) -> ProgressReply | SyncReplies[ProgressReply]:
        """Download a model to the ``nodes`` named ("all": every one), else to those that have it, else where it fits best."""
        if stream:
            return self._pieces(self._own.pull(model, insecure=insecure, stream=True, nodes=nodes))
        return self._wait(ProgressReply, self._own.pull(model, insecure=insecure, nodes=nodes))

    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: Literal[True]) -> SyncReplies[ProgressReply]: ...
    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: Literal[False] = ...) -> ProgressReply: ...
    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: bool) -> ProgressReply | SyncReplies[ProgressReply]: ...
    def push(self, model: str, *, insecure: bool = False, stream: bool = False) -> ProgressReply | SyncReplies[ProgressReply]:
        """Upload a model from one node that has it."""
        if stream:
            return self._pieces(self._own.push(model, insecure=insecure, stream=True))
        return self._wait(ProgressReply, self._own.push(model, insecure=insecure))

    @overload
    def create(self, model: str, *, stream: Literal[True], **fields: Any) -> SyncReplies[ProgressReply]: ...
    @overload
    def create(self, model: str, *, stream: Literal[False] = ..., **fields: Any) -> ProgressReply: ...
    @overload
    def create(self, model: str, *, stream: bool, **fields: Any) -> ProgressReply | SyncReplies[ProgressReply]: ...
    def create(self, model: str, *, stream: bool = False, **fields: Any) -> ProgressReply | SyncReplies[ProgressReply]:
        """Make a model of another (``from_=``) or of files; the fields are those of Ollama's API."""
        if stream:
            replies: AsyncReplies[ProgressReply] = self._own.create(model, stream=True, **fields)
            return self._pieces(replies)
        return self._wait(ProgressReply, self._own.create(model, stream=False, **fields))

    def copy(self, source: str, destination: str) -> StatusReply:
        """Give a model a second name on every node that has it."""
        return self._wait(StatusReply, self._own.copy(source, destination))

    def delete(self, model: str, *, nodes: Sequence[str] | str | None = None) -> StatusReply:
        """Delete a model from the nodes named, else from every node that has it."""
        return self._wait(StatusReply, self._own.delete(model, nodes=nodes))

    def create_blob(self, path: str | Path) -> str:
        """Upload a file for the next `create`; its digest."""
        return self._run(self._own.create_blob(path))

    # --- the pool itself

    def ready(self) -> Self:
        """Wait until the first search is over and every node was looked at once."""
        self._run(self._own.ready())
        return self

    @property
    def nodes(self) -> Nodes:
        """The nodes as they are now; before the first call those that were named."""
        return self._in_loop(lambda: self._own.nodes)

    def add_node(self, host: NodeForm, port: int | None = None, *, priority: int | None = None, name: str = "") -> PoolNode:
        """Take a node in, from the next call on: an address in any form, or host and port. Raises `ConfigError`."""
        return self._in_loop(lambda: self._own.add_node(host, port, priority=priority, name=name))

    def remove_node(self, host: NodeForm, port: int | None = None) -> bool:
        """Forget a node; what runs there goes on to its end. False when it is not known."""
        return self._in_loop(lambda: self._own.remove_node(host, port))

    def get_stats(self) -> dict[str, Any]:
        """What was counted since the pool was made; latencies in milliseconds, None where nothing was measured."""
        return self._run(self._own.get_stats())

    # --- the cache of answers

    def get_cache_stats(self) -> dict[str, Any]:
        """What the cache holds and did: ``size`` (answers), ``hit_rate`` (0 to 1), ``hits``, ``misses``, ``bytes`` and more."""
        return self._run(_called(self._own.get_cache_stats))

    def clear_cache(self) -> int:
        """Drop every kept answer; how many went."""
        return self._run(_called(self._own.clear_cache))

    def invalidate_cache_by_model(self, model: str) -> int:
        """Drop the kept answers of a model; how many went."""
        return self._run(_called(lambda: self._own.invalidate_cache_by_model(model)))

    def export_cache(self) -> dict[str, Any]:
        """Every kept answer, as plain values that can be written as JSON."""
        return self._run(_called(self._own.export_cache))

    def import_cache(self, data: Mapping[str, Any]) -> int:
        """Take back what `export_cache` gave; how many answers are still young enough. Raises `BadValue`."""
        return self._run(_called(lambda: self._own.import_cache(data)))

    # --- the end

    def close(self) -> None:
        """End every call that runs, every connection and the thread. Harmless when it is closed already."""
        self._closed = True
        engine = self._engines.get(os.getpid())
        if engine is not None:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- inside

    def _engine(self) -> EngineThread:
        """The thread of this process; started now if there is none."""
        process = os.getpid()
        engine = self._engines.get(process)
        if engine is not None:
            return engine
        # A lock that was held while the process was forked would stay locked: each process has its own.
        with self._locks.setdefault(process, threading.Lock()):
            if self._closed:
                raise ShuttingDown(_CLOSED)
            engine = self._engines.get(process)
            if engine is None:
                engine = self._engines[process] = EngineThread(self._own)
                weakref.finalize(self, engine.close)
        return engine

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            engine = self._engine()
        except ShuttingDown:
            work.close()
            raise
        return engine.run(work)

    def _wait(self, kind: type[R], work: Coroutine[Any, Any, R]) -> R:
        return self._run(work)

    def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        return self._run(work)

    def _pieces(self, replies: AsyncReplies[R]) -> SyncReplies[R]:
        return SyncReplies(self._engine(), replies)

    def _results(self, results: AsyncResults[T]) -> SyncResults[T]:
        return SyncResults(self._engine(), results)

    def _in_loop(self, act: Callable[[], T]) -> T:
        """What `act` returns, called where the engine works, if it works."""
        engine = self._engines.get(os.getpid())
        return act() if engine is None or engine.closed else engine.run(_called(act))


async def _called(act: Callable[[], T]) -> T:
    return act()
