"""What type checkers see of `OllamaPool`: replies that can be used as they are and awaited too."""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar, Unpack, overload

from sollol.pool.async_batches import Vector
from sollol.pool.ollama_pool import Replies, Results
from sollol.pool.options import (
    CallWishes,
    ChatBatchOptions,
    ChatEachOptions,
    ChatOptions,
    EmbedBatchOptions,
    EmbedEachOptions,
    EmbedOptions,
    GenerateBatchOptions,
    GenerateEachOptions,
    GenerateOptions,
)
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
from sollol.pool.sync_pool import SyncPool

T = TypeVar("T")

class ChatAnswer(ChatReply):
    def __await__(self) -> Generator[Any, None, ChatReply]: ...

class GenerateAnswer(GenerateReply):
    def __await__(self) -> Generator[Any, None, GenerateReply]: ...

class EmbedAnswer(EmbedReply):
    def __await__(self) -> Generator[Any, None, EmbedReply]: ...

class EmbeddingAnswer(EmbeddingReply):
    def __await__(self) -> Generator[Any, None, EmbeddingReply]: ...

class Answer(Reply):
    def __await__(self) -> Generator[Any, None, Reply]: ...

class ListAnswer(ListReply):
    def __await__(self) -> Generator[Any, None, ListReply]: ...

class ProcessAnswer(ProcessReply):
    def __await__(self) -> Generator[Any, None, ProcessReply]: ...

class ShowAnswer(ShowReply):
    def __await__(self) -> Generator[Any, None, ShowReply]: ...

class StatusAnswer(StatusReply):
    def __await__(self) -> Generator[Any, None, StatusReply]: ...

class ProgressAnswer(ProgressReply):
    def __await__(self) -> Generator[Any, None, ProgressReply]: ...

class BatchAnswer(list[T], Generic[T]):
    def __await__(self) -> Generator[Any, None, list[T]]: ...

class AwaitablePool(SyncPool):
    @overload
    def chat(
        self, model: str, messages: Sequence[Any] | None = ..., *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Replies[ChatReply]: ...
    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[Any] | None = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> ChatAnswer: ...
    @overload
    def chat(
        self, model: str, messages: Sequence[Any] | None = ..., *, stream: bool, **options: Unpack[ChatOptions]
    ) -> ChatAnswer | Replies[ChatReply]: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> Replies[GenerateReply]: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> GenerateAnswer: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: bool,
        **options: Unpack[GenerateOptions],
    ) -> GenerateAnswer | Replies[GenerateReply]: ...
    def embed(self, model: str, input: str | Sequence[str] = ..., **options: Unpack[EmbedOptions]) -> EmbedAnswer: ...
    def embeddings(self, model: str, prompt: str | None = ..., **options: Unpack[EmbedOptions]) -> EmbeddingAnswer: ...
    def explain(
        self, model: str, *, prompt_tokens: int = ..., max_tokens: int | None = ..., **wishes: Unpack[CallWishes]
    ) -> Answer: ...
    def list(self) -> ListAnswer: ...
    def ps(self) -> ProcessAnswer: ...
    def show(self, model: str) -> ShowAnswer: ...
    @overload
    def pull(self, model: str, *, insecure: bool = ..., stream: Literal[True], nodes: Any = ...) -> Replies[ProgressReply]: ...
    @overload
    def pull(self, model: str, *, insecure: bool = ..., stream: Literal[False] = ..., nodes: Any = ...) -> ProgressAnswer: ...
    @overload
    def pull(
        self, model: str, *, insecure: bool = ..., stream: bool, nodes: Any = ...
    ) -> ProgressAnswer | Replies[ProgressReply]: ...
    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: Literal[True]) -> Replies[ProgressReply]: ...
    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: Literal[False] = ...) -> ProgressAnswer: ...
    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: bool) -> ProgressAnswer | Replies[ProgressReply]: ...
    @overload
    def create(self, model: str, *, stream: Literal[True], **fields: Any) -> Replies[ProgressReply]: ...
    @overload
    def create(self, model: str, *, stream: Literal[False] = ..., **fields: Any) -> ProgressAnswer: ...
    @overload
    def create(self, model: str, *, stream: bool, **fields: Any) -> ProgressAnswer | Replies[ProgressReply]: ...
    def copy(self, source: str, destination: str) -> StatusAnswer: ...
    def delete(self, model: str, *, nodes: Sequence[str] | str | None = ...) -> StatusAnswer: ...
    @overload
    def embed_batch(
        self, model: str, inputs: Iterable[str], *, as_array: Literal[True], **options: Unpack[EmbedBatchOptions]
    ) -> Any: ...
    @overload
    def embed_batch(
        self, model: str, inputs: Iterable[str], *, as_array: bool = ..., **options: Unpack[EmbedBatchOptions]
    ) -> BatchAnswer[Vector]: ...
    def chat_batch(
        self, model: str, conversations: Iterable[Sequence[Any]], **options: Unpack[ChatBatchOptions]
    ) -> BatchAnswer[ChatReply]: ...
    def generate_batch(
        self, model: str, prompts: Iterable[str], **options: Unpack[GenerateBatchOptions]
    ) -> BatchAnswer[GenerateReply]: ...
    def embed_each(self, model: str, inputs: Iterable[str], **options: Unpack[EmbedEachOptions]) -> Results[Vector]: ...
    def chat_each(
        self, model: str, conversations: Iterable[Sequence[Any]], **options: Unpack[ChatEachOptions]
    ) -> Results[ChatReply]: ...
    def generate_each(
        self, model: str, prompts: Iterable[str], **options: Unpack[GenerateEachOptions]
    ) -> Results[GenerateReply]: ...
