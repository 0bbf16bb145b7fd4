"""The calls of `SyncPool` for many inputs at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

from sollol.pool.async_batches import Vector
from sollol.pool.async_pool import AsyncPool
from sollol.pool.batch import AsyncResults
from sollol.pool.options import (
    ChatBatchOptions,
    ChatEachOptions,
    EmbedBatchOptions,
    EmbedEachOptions,
    GenerateBatchOptions,
    GenerateEachOptions,
)
from sollol.pool.replies import ChatReply, GenerateReply
from sollol.pool.sync_pieces import SyncPieces

T = TypeVar("T")


class SyncResults(SyncPieces[tuple[int, T]], Generic[T]):
    """Results of a batch as they come, for a ``for`` loop: (index of the input, result), in no order.

    At the end `BatchError` says which items failed, if any did.
    """


class SyncBatches(ABC):
    """Any number of inputs, spread over all nodes; the rules are those of `sollol.pool.async_batches.AsyncBatches`."""

    _own: AsyncPool

    @abstractmethod
    def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a whole batch."""

    @abstractmethod
    def _results(self, results: AsyncResults[T]) -> SyncResults[T]:
        """The results as they come, for callers in other threads."""

    @overload
    def embed_batch(
        self, model: str, inputs: Iterable[str], *, as_array: Literal[True], **options: Unpack[EmbedBatchOptions]
    ) -> Any: ...
    @overload
    def embed_batch(
        self, model: str, inputs: Iterable[str], *, as_array: bool = ..., **options: Unpack[EmbedBatchOptions]
    ) -> list[Vector]: ...
    def embed_batch(
        self, model: str, inputs: Iterable[str], *, as_array: bool = False, **options: Unpack[EmbedBatchOptions]
    ) -> Any:
        """The vector of each text. ``as_array``: one NumPy array of 32-bit floats, a row for each.

        ``batch_size`` is how many texts a request has at most (64).
        """
        return self._whole(self._own.embed_batch(model, inputs, as_array=as_array, **options))

    def chat_batch(
        self, model: str, conversations: Iterable[Sequence[Any]], **options: Unpack[ChatBatchOptions]
    ) -> list[ChatReply]:
        """The answer to each conversation (a list of messages)."""
        return self._whole(self._own.chat_batch(model, conversations, **options))

    def generate_batch(
        self, model: str, prompts: Iterable[str], **options: Unpack[GenerateBatchOptions]
    ) -> list[GenerateReply]:
        """The answer to each prompt."""
        return self._whole(self._own.generate_batch(model, prompts, **options))

    def embed_each(self, model: str, inputs: Iterable[str], **options: Unpack[EmbedEachOptions]) -> SyncResults[Vector]:
        """(index, vector) of each text, as they come."""
        return self._results(self._own.embed_each(model, inputs, **options))

    def chat_each(
        self, model: str, conversations: Iterable[Sequence[Any]], **options: Unpack[ChatEachOptions]
    ) -> SyncResults[ChatReply]:
        """(index, answer) of each conversation, as they come."""
        return self._results(self._own.chat_each(model, conversations, **options))

    def generate_each(
        self, model: str, prompts: Iterable[str], **options: Unpack[GenerateEachOptions]
    ) -> SyncResults[GenerateReply]:
        """(index, answer) of each prompt, as they come."""
        return self._results(self._own.generate_each(model, prompts, **options))
