"""What calls take beside their prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from sollol.pool.batch_progress import Progress
from sollol.pool.settings import (
    Wishes,
    checked_cache,
    checked_hedge,
    checked_mode,
    checked_priority,
    checked_text,
    checked_timeout,
)

_WISHES: Final = frozenset({"priority", "timeout", "routing_mode", "app_name", "node", "hedge", "cache"})


class CallWishes(TypedDict, total=False):
    """What every call may ask of the routing.

    ``priority`` 1 to 10 or its name, ``timeout`` in seconds for the whole call, ``routing_mode`` "fast", "reliable", "async" or
    "balanced", ``app_name`` the application that counts as one in fairness, ``node`` the name or id of the only node to use,
    ``hedge`` on how many nodes a small request may run at once, where they stand idle, until one of them answers. ``cache``:
    true takes a kept answer also where a new one might differ, false has a new one in any case.
    """

    priority: int | str | None
    timeout: float | None
    routing_mode: Any
    app_name: str | None
    node: str | None
    hedge: int | None
    cache: bool | None


class CallOptions(CallWishes, total=False):
    """What the calls that make text take beside their prompt, as Ollama has it; anything else goes to the node as it is."""

    options: Mapping[str, Any] | Any | None
    keep_alive: float | str | None
    format: Any
    think: bool | str | None
    logprobs: bool | None
    top_logprobs: int | None


class ChatOptions(CallOptions, total=False):
    """What a chat takes beside its messages."""

    tools: Sequence[Any] | None


class GenerateOptions(CallOptions, total=False):
    """What a generation takes beside its prompt."""

    system: str | None
    template: str | None
    context: Sequence[int] | None
    raw: bool | None
    images: Sequence[str | bytes | Path] | None


class EmbedOptions(CallWishes, total=False):
    """What an embedding takes beside its input."""

    truncate: bool | None
    dimensions: int | None
    options: Mapping[str, Any] | Any | None
    keep_alive: float | str | None


class SpreadOptions(TypedDict, total=False):
    """How any number of inputs is to be worked on.

    ``max_workers`` limits the requests at a time. ``use_adaptive`` false learns nothing: so many requests at a time (8), and
    routing places them. ``errors`` "return" puts what failed in the place of its result instead of raising at the end.
    """

    use_adaptive: bool
    max_workers: int | None
    errors: Literal["raise", "return"]


class BatchOptions(SpreadOptions, total=False):
    """What a whole batch takes besides: ``progress`` true shows it on standard error, a function is given (done, total)."""

    progress: bool | Progress


class EmbedEachOptions(EmbedOptions, SpreadOptions, total=False):
    """What embeddings as they come take beside their inputs; a request has ``batch_size`` texts at most (64)."""

    batch_size: int | None


class EmbedBatchOptions(EmbedEachOptions, BatchOptions, total=False):
    """What a batch of embeddings takes beside its inputs."""


class ChatEachOptions(ChatOptions, SpreadOptions, total=False):
    """What chats as they come take beside their conversations."""


class ChatBatchOptions(ChatEachOptions, BatchOptions, total=False):
    """What a batch of chats takes beside its conversations."""


class GenerateEachOptions(GenerateOptions, SpreadOptions, total=False):
    """What generations as they come take beside their prompts."""


class GenerateBatchOptions(GenerateEachOptions, BatchOptions, total=False):
    """What a batch of generations takes beside its prompts."""


def split(options: Mapping[str, Any], own: Wishes) -> tuple[Wishes, dict[str, Any]]:
    """What is for the routing, checked, and what goes to the node; ``own`` are the pool's wishes. Raises `BadValue`."""
    fields = dict(options)
    if not fields.keys() & _WISHES:
        return own, fields
    priority = checked_priority(fields.pop("priority", None))
    mode = checked_mode(fields.pop("routing_mode", None))
    timeout = checked_timeout(fields.pop("timeout", None))
    app = checked_text(fields.pop("app_name", None), "app_name")
    node = checked_text(fields.pop("node", None), "node")
    hedge = checked_hedge(fields.pop("hedge", None))
    cache = checked_cache(fields.pop("cache", None))
    wishes = Wishes(
        own.priority if priority is None else priority,
        mode or own.mode,
        own.timeout if timeout is None else timeout,
        app or own.app,
        node or own.node,
        own.hedge if hedge is None else hedge,
        own.cache if cache is None else cache,
    )
    return wishes, fields
