"""The calls of `AsyncPool` for many inputs at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Unpack, overload

from sollol.engine.batch import Batch
from sollol.pool import batch
from sollol.pool.batch import AsyncResults, Chats, Manner, Prompts, Texts, Work
from sollol.pool.batch_inputs import checked, count
from sollol.pool.inside import Inside
from sollol.pool.options import (
    ChatBatchOptions,
    ChatEachOptions,
    EmbedBatchOptions,
    EmbedEachOptions,
    GenerateBatchOptions,
    GenerateEachOptions,
    split,
)
from sollol.pool.replies import ChatReply, GenerateReply
from sollol.pool.settings import Wishes

Vector = list[float]
Many = Iterable[Any] | AsyncIterable[Any]
Make = Callable[[str, Mapping[str, Any]], Work]


class AsyncBatches(ABC):
    """Any number of inputs, spread over all nodes: every call has the same rules.

    ``inputs`` (or what it is called) is anything that can be iterated over, also asynchronously; it is read as needed. Results
    are in its order. Each node takes as much as it does in about a second, a node that is lost loses nothing, and what one
    node is late with another one does. ``max_workers`` limits the requests at a time; ``use_adaptive=False`` learns nothing:
    so many requests at a time (8), of ``batch_size`` texts each (16), and routing places them. ``progress`` true shows how far
    it is on standard error; a function is called with (done, total or None), in the event loop of the pool. ``timeout`` is for
    the whole batch. The priority is 1 unless the call or the pool says otherwise, and the cache is left alone.

    Items that fail everywhere raise one `BatchError` at the end, with the results of all others; ``errors="return"`` puts the
    error in the place of the result. Raises another `SollolError` at once where nothing can be done at all.
    """

    _wishes: Wishes

    @abstractmethod
    def _opened(self) -> Inside:
        """The engine; made now if there is none."""

    @overload
    async def embed_batch(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
        *,
        as_array: Literal[True],
        **options: Unpack[EmbedBatchOptions],
    ) -> Any: ...
    @overload
    async def embed_batch(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
        *,
        as_array: bool = ...,
        **options: Unpack[EmbedBatchOptions],
    ) -> list[Vector]: ...
    async def embed_batch(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
        *,
        as_array: bool = False,
        **options: Unpack[EmbedBatchOptions],
    ) -> Any:
        """The vector of each text. ``as_array``: one NumPy array of 32-bit floats, a row for each.

        ``batch_size`` is how many texts a request has at most (64).
        """
        return await self._whole_batch(partial(Texts, array=as_array), model, inputs, options, array=as_array)

    async def chat_batch(
        self,
        model: str,
        conversations: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        **options: Unpack[ChatBatchOptions],
    ) -> list[ChatReply]:
        """The answer to each conversation (a list of messages)."""
        replies: list[ChatReply] = await self._whole_batch(Chats, model, conversations, options)
        return replies

    async def generate_batch(
        self,
        model: str,
        prompts: Iterable[str] | AsyncIterable[str],
        **options: Unpack[GenerateBatchOptions],
    ) -> list[GenerateReply]:
        """The answer to each prompt."""
        replies: list[GenerateReply] = await self._whole_batch(Prompts, model, prompts, options)
        return replies

    def embed_each(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
        **options: Unpack[EmbedEachOptions],
    ) -> AsyncResults[Vector]:
        """(index, vector) of each text, as they come. Whoever reads slowly slows the nodes, and needs no more memory."""
        return self._each(Texts, model, inputs, options)

    def chat_each(
        self,
        model: str,
        conversations: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        **options: Unpack[ChatEachOptions],
    ) -> AsyncResults[ChatReply]:
        """(index, answer) of each conversation, as they come."""
        return self._each(Chats, model, conversations, options)

    def generate_each(
        self,
        model: str,
        prompts: Iterable[str] | AsyncIterable[str],
        **options: Unpack[GenerateEachOptions],
    ) -> AsyncResults[GenerateReply]:
        """(index, answer) of each prompt, as they come."""
        return self._each(Prompts, model, prompts, options)

    async def _whole_batch(
        self, make: Make, model: str, inputs: Many, options: Mapping[str, Any], *, array: bool = False
    ) -> Any:
        fields = dict(options)
        progress = fields.pop("progress", False)
        work, wishes, manner = self._asked(make, model, fields)
        total = count(checked(inputs, work.what))
        into = batch.gathered(total, manner, array=array)
        told = batch.progress_of(progress, f"{work.path.removeprefix('/api/')} {work.model}")
        inside = self._opened()

        async def carried() -> Any:
            begun = await batch.begin(inside, work, inputs, wishes, manner)
            return await batch.whole(begun, into, total, told)

        return await inside.counted(carried())

    def _each(self, make: Make, model: str, inputs: Many, options: Mapping[str, Any]) -> AsyncResults[Any]:
        work, wishes, manner = self._asked(make, model, dict(options))
        checked(inputs, work.what)

        async def start() -> tuple[Inside, Batch[Any, Any]]:
            inside = self._opened()
            return inside, await inside.counted(batch.begin(inside, work, inputs, wishes, manner))

        return AsyncResults(start, manner.errors)

    def _asked(self, make: Make, model: str, fields: dict[str, Any]) -> tuple[Work, Wishes, Manner]:
        """What is asked for by these options, which are taken out of ``fields``. Raises `BadValue`."""
        manner = Manner(
            fields.pop("use_adaptive", True),
            fields.pop("max_workers", None),
            fields.pop("batch_size", None),
            fields.pop("errors", "raise"),
        )
        wishes, rest = split(fields, self._wishes)
        return make(model, rest), wishes, manner
