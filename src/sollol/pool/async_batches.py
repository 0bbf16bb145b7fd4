"""The calls of `AsyncPool` for many inputs at once."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Sequence
from typing import Any, Literal, Unpack, overload

from sollol.engine.batch import Batch
from sollol.pool import batch
from sollol.pool.batch import AsyncResults, Chats, Manner, Prompts, Texts, Work
from sollol.pool.batch_inputs import checked, count
from sollol.pool.batch_progress import Progress
from sollol.pool.inside import Inside
from sollol.pool.options import ChatOptions, EmbedOptions, GenerateOptions, split
from sollol.pool.replies import ChatReply, GenerateReply
from sollol.pool.settings import Wishes

Vector = list[float]
Many = Iterable[Any] | AsyncIterable[Any]
OnError = Literal["raise", "return"]


class AsyncBatches:
    """Any number of inputs, spread over all nodes: every call has the same rules.

    ``inputs`` (or what it is called) is anything that can be iterated over, also asynchronously; it is read as needed. Results
    are in its order. Each node takes as much as it does in about a second, a node that is lost loses nothing, and what one
    node is late with another one does. ``max_workers`` limits the requests at a time; ``use_adaptive=False`` learns nothing:
    so many requests at a time (8), of ``batch_size`` texts each, and routing places them. ``progress`` true shows how far it
    is on standard error; a function is called with (done, total or None), in the event loop of the pool. ``timeout`` is for
    the whole batch. The priority is 1 unless the call or the pool says otherwise, and the cache is left alone.

    Items that fail everywhere raise one `BatchError` at the end, with the results of all others; ``errors="return"`` puts the
    error in the place of the result. Raises another `SollolError` at once where nothing can be done at all.
    """

    _wishes: Wishes

    def _opened(self) -> Inside:
        raise NotImplementedError

    @overload
    async def embed_batch(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
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
    async def embed_batch(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
        *,
        as_array: bool = ...,
        use_adaptive: bool = ...,
        max_workers: int | None = ...,
        batch_size: int | None = ...,
        errors: OnError = ...,
        progress: bool | Progress = ...,
        **options: Unpack[EmbedOptions],
    ) -> list[Vector]: ...
    async def embed_batch(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
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
        wishes, fields = split(options, self._wishes)
        manner = Manner(use_adaptive, max_workers, batch_size, errors)
        work = Texts(model, fields, array=as_array)
        return await self._whole_batch(work, inputs, wishes, manner, progress)

    async def chat_batch(
        self,
        model: str,
        conversations: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        *,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        errors: OnError = "raise",
        progress: bool | Progress = False,
        **options: Unpack[ChatOptions],
    ) -> list[ChatReply]:
        """The answer to each conversation (a list of messages)."""
        wishes, fields = split(options, self._wishes)
        manner = Manner(use_adaptive, max_workers, None, errors)
        replies: list[ChatReply] = await self._whole_batch(Chats(model, fields), conversations, wishes, manner, progress)
        return replies

    async def generate_batch(
        self,
        model: str,
        prompts: Iterable[str] | AsyncIterable[str],
        *,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        errors: OnError = "raise",
        progress: bool | Progress = False,
        **options: Unpack[GenerateOptions],
    ) -> list[GenerateReply]:
        """The answer to each prompt."""
        wishes, fields = split(options, self._wishes)
        manner = Manner(use_adaptive, max_workers, None, errors)
        replies: list[GenerateReply] = await self._whole_batch(Prompts(model, fields), prompts, wishes, manner, progress)
        return replies

    def embed_each(
        self,
        model: str,
        inputs: Iterable[str] | AsyncIterable[str],
        *,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        batch_size: int | None = None,
        errors: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> AsyncResults[Vector]:
        """(index, vector) of each text, as they come. Whoever reads slowly slows the nodes, and needs no more memory."""
        wishes, fields = split(options, self._wishes)
        return self._each(Texts(model, fields), inputs, wishes, Manner(use_adaptive, max_workers, batch_size, errors))

    def chat_each(
        self,
        model: str,
        conversations: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        *,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        errors: OnError = "raise",
        **options: Unpack[ChatOptions],
    ) -> AsyncResults[ChatReply]:
        """(index, answer) of each conversation, as they come."""
        wishes, fields = split(options, self._wishes)
        return self._each(Chats(model, fields), conversations, wishes, Manner(use_adaptive, max_workers, None, errors))

    def generate_each(
        self,
        model: str,
        prompts: Iterable[str] | AsyncIterable[str],
        *,
        use_adaptive: bool = True,
        max_workers: int | None = None,
        errors: OnError = "raise",
        **options: Unpack[GenerateOptions],
    ) -> AsyncResults[GenerateReply]:
        """(index, answer) of each prompt, as they come."""
        wishes, fields = split(options, self._wishes)
        return self._each(Prompts(model, fields), prompts, wishes, Manner(use_adaptive, max_workers, None, errors))

    async def _whole_batch(self, work: Work, inputs: Many, wishes: Wishes, manner: Manner, progress: bool | Progress) -> Any:
        total = count(checked(inputs, work.what))
        into = batch.gathered(total, manner, array=isinstance(work, Texts) and work.array)
        told = batch.progress_of(progress, f"{work.path.removeprefix('/api/')} {work.model}")
        inside = self._opened()

        async def carried() -> Any:
            begun = await batch.begin(inside, work, inputs, wishes, manner)
            return await batch.whole(begun, into, total, told)

        return await inside.counted(carried())

    def _each(self, work: Work, inputs: Many, wishes: Wishes, manner: Manner) -> AsyncResults[Any]:
        checked(inputs, work.what)

        async def start() -> tuple[Inside, Batch[Any, Any]]:
            inside = self._opened()
            return inside, await inside.counted(batch.begin(inside, work, inputs, wishes, manner))

        return AsyncResults(start, manner.errors)
