"""The calls of `SyncPool` for many inputs at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, overload

from sollol.pool.async_batches import OnError, Vector
from sollol.pool.async_pool import AsyncPool
from sollol.pool.batch import AsyncResults
from sollol.pool.batch_progress import Progress
from sollol.pool.engine_thread import EngineThread
from sollol.pool.options import ChatOptions, EmbedOptions, GenerateOptions
from sollol.pool.replies import ChatReply, GenerateReply

T = TypeVar("T")


class SyncResults(Iterator[tuple[int, T]], Generic[T]):
    """Results of a batch as they come, for a ``for`` loop: (index of the input, result), in no order.

    It begins when the first one is asked for; `close`, or forgetting it, ends it early. At the end `BatchError` says which
    items failed, if any did.
    """

    def __init__(self, engine: EngineThread, results: AsyncResults[T]) -> None:
        self._engine = engine
        self._results = results
        self._waiting: deque[tuple[int, T]] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, T]:
        if not self._waiting:
            self._waiting.extend(self._engine.run(self._results.take()))
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()

    def close(self) -> None:
        """End it now. Harmless when it is over."""
        self._waiting.clear()
        self._engine.soon(self._results.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class SyncBatches:
    """Any number of inputs, spread over all nodes; the rules are those of `sollol.pool.async_batches.AsyncBatches`."""

    _own: AsyncPool

    def _engine(self) -> EngineThread:
        raise NotImplementedError

    def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a whole batch."""
        raise NotImplementedError

    @overload
    def embed_batch(
        self,
        model: str,
        inputs: Iterable[str],
        *,
        as_array: Literal[True],
        use_adaptive: bool = ...,
        max_workers: int | None = ...,
        batch_size: int | None = ...,
        errors: OnError = ...,
        progress: bool | Progress = ...,
        **options: Unpack[EmbedOptions],
    ) -> Any: ...
    @overload
    def embed_batch(
        self,
        model: str,
        inputs: Iterable[str],
        *,
        as_array: bool = ...,
        use_adaptive: bool = ...,
        max_workers: int | None = ...,
        batch_size: int | None = ...,
        errors: OnError = ...,
        progress: bool | Progress = ...,
        **options: Unpack[EmbedOptions],
    ) -> list[Vector]: ...
    def embed_batch(
        self,
        model: str,
        inputs: Iterable[str],
        *,
        as_array: bool = False,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        batch_size: int | None = None,
        errors: OnError = "raise",
        progress: bool | Progress = False,
        **options: Unpack[EmbedOptions],
    ) -> Any:
        """The vector of each text. ``as_array``: one NumPy array of 32-bit floats, a row for each.

        ``batch_size`` is how many texts a request has at most (64).
        """
        return self._whole(
            self._own.embed_batch(
                model,
                inputs,
                as_array=as_array,
                use_adaptive=use_adaptive,
                max_workers=max_workers,
                batch_size=batch_size,
                errors=errors,
                progress=progress,
                **options,
            )
        )

    def chat_batch(
        self,
        model: str,
        conversations: Iterable[Sequence[Any]],
        *,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        errors: OnError = "raise",
        progress: bool | Progress = False,
        **options: Unpack[ChatOptions],
    ) -> list[ChatReply]:
        """The answer to each conversation (a list of messages)."""
        return self._whole(
            self._own.chat_batch(
                model,
                conversations,
                use_adaptive=use_adaptive,
                max_workers=max_workers,
                errors=errors,
                progress=progress,
                **options,
            )
        )

    def generate_batch(
        self,
        model: str,
        prompts: Iterable[str],
        *,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        errors: OnError = "raise",
        progress: bool | Progress = False,
        **options: Unpack[GenerateOptions],
    ) -> list[GenerateReply]:
        """The answer to each prompt."""
        return self._whole(
            self._own.generate_batch(
                model,
                prompts,
                use_adaptive=use_adaptive,
                max_workers=max_workers,
                errors=errors,
                progress=progress,
                **options,
            )
        )

    def embed_each(self, model: str, inputs: Iterable[str], **options: Any) -> SyncResults[Vector]:
        """(index, vector) of each text, as they come; takes what `embed_batch` takes but ``as_array`` and ``progress``."""
        return SyncResults(self._engine(), self._own.embed_each(model, inputs, **options))

    def chat_each(self, model: str, conversations: Iterable[Sequence[Any]], **options: Any) -> SyncResults[ChatReply]:
        """(index, answer) of each conversation, as they come; takes what `chat_batch` takes but ``progress``."""
        return SyncResults(self._engine(), self._own.chat_each(model, conversations, **options))

    def generate_each(self, model: str, prompts: Iterable[str], **options: Any) -> SyncResults[GenerateReply]:
        """(index, answer) of each prompt, as they come; takes what `generate_batch` takes but ``progress``."""
        return SyncResults(self._engine(), self._own.generate_each(model, prompts, **options))
