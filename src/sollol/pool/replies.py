"""What calls give back: dicts, as Ollama's own JSON is, whose keys are attributes too.

``reply["message"]["content"]`` and ``reply.message.content`` are the same. A field that Ollama may leave out is None as an
attribute and absent as a key. ``json.dumps(reply)`` gives Ollama's document back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from inspect import get_annotations
from typing import Any, ClassVar, Final, TypeVar, overload

import msgspec

R = TypeVar("R", bound="Reply")
ROUTING: Final = "_sollol_routing"
# Ollama writes nanoseconds; Python reads microseconds.
_FRACTION: Final = re.compile(r"(\.\d{6})\d+")


class Reply(dict[str, Any]):
    """A document of Ollama's. Keys are attributes too."""

    __slots__ = ()
    _optional: ClassVar[frozenset[str]] = frozenset()
    _inner: ClassVar[Mapping[str, type[Reply]]] = {}

    def __init_subclass__(cls, inner: Mapping[str, type[Reply]] | None = None) -> None:
        if inner is not None:
            cls._inner = inner
        cls._optional = cls._optional | frozenset(get_annotations(cls))

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in self._optional:
            return None
        raise AttributeError(f"this {type(self).__name__} has no {name!r}; it has: {', '.join(self.keys())}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    @property
    def routing(self) -> Routing | None:
        """Where it was answered and why there; None where the reply does not say it."""
        found = self.get(ROUTING)
        return found if isinstance(found, Routing) else None

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """A plain dict all the way down."""
        plain: dict[str, Any] = msgspec.json.decode(self.model_dump_json())
        return plain

    def model_dump_json(self, **_: Any) -> str:
        """The document as JSON text."""
        return msgspec.json.encode(dict(self.items())).decode()


class Routing(Reply):
    """The decision behind a reply. Times are in milliseconds where the name says so, else in seconds."""

    __slots__ = ()
    host: str
    node: str
    port: int
    task_type: str
    complexity: str
    requires_gpu: bool
    expected_seconds: float
    mode: str
    score: float
    reason: str
    attempts: int
    queue_ms: float
    backend: str


class Function(Reply):
    """The function that a model wants to call."""

    __slots__ = ()
    name: str
    arguments: dict[str, Any]


class ToolCall(Reply, inner={"function": Function}):
    """One call of a tool that a model asks for."""

    __slots__ = ()
    function: Function


class Message(Reply, inner={"tool_calls": ToolCall}):
    """One message of a chat; can be given back as it is in the next call."""

    __slots__ = ()
    role: str
    content: str | None
    thinking: str | None
    images: Sequence[Any] | None
    tool_name: str | None
    tool_calls: Sequence[ToolCall] | None


class _Counted(Reply):
    __slots__ = ()
    model: str
    created_at: str | None
    done: bool | None
    done_reason: str | None
    total_duration: int | None
    load_duration: int | None
    prompt_eval_count: int | None
    prompt_eval_duration: int | None
    eval_count: int | None
    eval_duration: int | None


class ChatReply(_Counted, inner={"message": Message, ROUTING: Routing}):
    """A reply to a chat, or one piece of it. Durations are nanoseconds."""

    __slots__ = ()
    message: Message
    logprobs: Sequence[Any] | None


class GenerateReply(_Counted, inner={ROUTING: Routing}):
    """A reply to a prompt, or one piece of it. Durations are nanoseconds."""

    __slots__ = ()
    response: str
    thinking: str | None
    context: Sequence[int] | None
    logprobs: Sequence[Any] | None


class EmbedReply(_Counted, inner={ROUTING: Routing}):
    """Vectors. Text keys give Ollama's document; ``len``, iteration, numbers and slices give the vectors.

    For a single text as input they give the numbers of its one vector. ``numpy.asarray(reply)`` works where NumPy is.
    """

    __slots__ = ("_single",)
    embeddings: Sequence[Sequence[float]]

    @classmethod
    def of(cls, document: dict[str, Any], *, single: bool) -> EmbedReply:
        """`single`: the input was one text, not a list."""
        reply = wrap(cls, document)
        object.__setattr__(reply, "_single", single)
        return reply

    @property
    def vectors(self) -> Sequence[Any]:
        """One vector per input; of a single text its numbers."""
        found: Sequence[Any] = self.get("embeddings") or []
        return found[0] if found and getattr(self, "_single", False) else found

    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: int | slice) -> Any: ...
    def __getitem__(self, key: str | int | slice) -> Any:
        return self.vectors[key] if isinstance(key, int | slice) else dict.__getitem__(self, key)

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.vectors)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy  # noqa: PLC0415 - only NumPy calls this

        return numpy.array(self.vectors, dtype=dtype)

    def __reduce__(self) -> Any:
        return _embed_reply, (dict(self.items()), getattr(self, "_single", False))


def _embed_reply(document: dict[str, Any], single: bool) -> EmbedReply:
    return EmbedReply.of(document, single=single)


class EmbeddingReply(Reply, inner={ROUTING: Routing}):
    """The one vector of the old `embeddings` call."""

    __slots__ = ()
    embedding: Sequence[float]


class ModelDetails(Reply):
    """What a model is."""

    __slots__ = ()
    parent_model: str | None
    format: str | None
    family: str | None
    families: Sequence[str] | None
    parameter_size: str | None
    quantization_level: str | None


class ModelEntry(Reply, inner={"details": ModelDetails}):
    """One model of a list; ``nodes`` are the names of the nodes that have it. Sizes are bytes."""

    __slots__ = ()
    model: str
    name: str
    digest: str
    size: int
    details: ModelDetails
    nodes: Sequence[str]

    @property
    def modified_at(self) -> datetime | None:
        """When it was last changed; the text is under the key."""
        return moment(self.get("modified_at"))


class ListReply(Reply, inner={"models": ModelEntry}):
    """The models of all nodes, newest first."""

    __slots__ = ()
    models: Sequence[ModelEntry]


class LoadedModel(Reply, inner={"details": ModelDetails}):
    """One model that is loaded on ``node``. Sizes are bytes; ``size_vram`` is the part in a GPU's memory."""

    __slots__ = ()
    model: str
    name: str
    digest: str
    size: int
    size_vram: int
    details: ModelDetails
    context_length: int | None
    node: str

    @property
    def expires_at(self) -> datetime | None:
        """When it will be unloaded if nobody uses it; the text is under the key."""
        return moment(self.get("expires_at"))


class ProcessReply(Reply, inner={"models": LoadedModel}):
    """What is loaded where."""

    __slots__ = ()
    models: Sequence[LoadedModel]


class ShowReply(Reply, inner={"details": ModelDetails, "messages": Message}):
    """Everything about one model."""

    __slots__ = ()
    template: str | None
    modelfile: str | None
    license: str | None
    details: ModelDetails | None
    model_info: dict[str, Any] | None
    parameters: str | None
    capabilities: Sequence[str] | None

    @property
    def modelinfo(self) -> dict[str, Any] | None:
        """``model_info`` under the name that the ``ollama`` package gives it."""
        found: dict[str, Any] | None = self.get("model_info")
        return found

    @property
    def modified_at(self) -> datetime | None:
        """When it was last changed; the text is under the key."""
        return moment(self.get("modified_at"))


class StatusReply(Reply):
    """How a change ended: "success"."""

    __slots__ = ()
    status: str | None


class ProgressReply(StatusReply):
    """How far a change is. ``completed`` and ``total`` are bytes; ``node`` is there where several nodes change."""

    __slots__ = ()
    completed: int | None
    total: int | None
    digest: str | None
    node: str | None


def wrap(kind: type[R], document: dict[str, Any]) -> R:
    """`document` as a reply of `kind`; the dicts inside it become replies too. Lists of numbers are not looked through."""
    reply = kind(document)
    inner = kind._inner
    for key, value in document.items():
        if type(value) is dict:
            dict.__setitem__(reply, key, wrap(inner.get(key, Reply), value))
        elif type(value) is list and value and type(value[0]) is dict:
            within = inner.get(key, Reply)
            dict.__setitem__(reply, key, [wrap(within, one) if type(one) is dict else one for one in value])
    return reply


def moment(text: Any) -> datetime | None:
    """A time as Ollama writes it; None where there is none."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(_FRACTION.sub(r"\1", text.replace("Z", "+00:00")))
    except ValueError:
        return None
