"""`AsyncPool`: the whole engine in the event loop of the caller."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload
from urllib.parse import urlencode

import msgspec

from sollol.config import NodeSettings
from sollol.core.caching import Saved
from sollol.core.types import Mode
from sollol.engine.statistics import Statistics
from sollol.errors import BadRequest, BadValue, ShuttingDown, SollolError
from sollol.gateway import cache_page
from sollol.gateway.admin import statistics
from sollol.pool import bodies
from sollol.pool.async_batches import AsyncBatches
from sollol.pool.async_models import AsyncModels
from sollol.pool.inside import Inside, decoded
from sollol.pool.nodes import Nodes, PoolNode, named_node
from sollol.pool.options import CallOptions, CallWishes, ChatOptions, EmbedOptions, GenerateOptions, split
from sollol.pool.replies import ChatReply, EmbeddingReply, EmbedReply, GenerateReply, R, Reply, wrap
from sollol.pool.settings import NodeForm, PoolSettings, Wishes, node_settings, pool_settings
from sollol.pool.streams import AsyncReplies
from sollol.wire.address import parse_endpoint
from sollol.wire.names import canonical

log = logging.getLogger("sollol.pool")


class AsyncPool(AsyncModels, AsyncBatches):
    """Many nodes as one, inside an application, without a gateway.

    ``nodes`` are addresses in any form; without them those of the configuration are used and others are looked for.
    ``gateway`` is the URL of a running SOLLOL whose nodes and queue are used instead. ``more`` is what
    `sollol.pool.settings.pool_settings` takes besides. Nothing is contacted before the first call. Used from one event loop at
    a time; `aclose`, ``async with`` and the end of the loop close it. Errors are those of `sollol.errors`: when all nodes
    failed, `AllAttemptsFailed` names each; a time limit that passes is a `TimeoutError`.
    """

    def __init__(
        self,
        nodes: Iterable[NodeForm] | NodeForm | None = None,
        *,
        gateway: str | None = None,
        search: bool | None = None,
        exclude_localhost: bool = False,
        app_name: str = "",
        priority: int | str | None = None,
        routing_mode: Any = None,
        timeout: float | None = None,
        settings: PoolSettings | None = None,
        **more: Any,
    ) -> None:
        self._settings = settings or pool_settings(
            nodes,
            gateway=gateway,
            search=search,
            exclude_localhost=exclude_localhost,
            app_name=app_name,
            priority=priority,
            routing_mode=routing_mode,
            timeout=timeout,
            **more,
        )
        self._wishes = self._settings.wishes
        self._statistics = Statistics()
        self._inside: Inside | None = None
        self._closed = False

    # --- asking

    @overload
    def chat(
        self, model: str, messages: Sequence[Any] | None = ..., *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> AsyncReplies[ChatReply]: ...
    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[Any] | None = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> Coroutine[Any, Any, ChatReply]: ...
    @overload
    def chat(
        self, model: str, messages: Sequence[Any] | None = ..., *, stream: bool, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, ChatReply] | AsyncReplies[ChatReply]: ...
    def chat(
        self, model: str, messages: Sequence[Any] | None = None, *, stream: bool = False, **options: Unpack[ChatOptions]
    ) -> Coroutine[Any, Any, ChatReply] | AsyncReplies[ChatReply]:
        """Continue a chat. With ``stream=True`` the answer comes in pieces (``async for``), else whole (``await``)."""
        wishes, fields = split(options, self._wishes)
        fields.update(model=model, messages=bodies.messages(messages), tools=bodies.tools(fields.get("tools")))
        return self._answer(ChatReply, "/api/chat", fields, wishes, stream=stream)

    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> AsyncReplies[GenerateReply]: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> Coroutine[Any, Any, GenerateReply]: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: str | None = ...,
        suffix: str | None = ...,
        *,
        stream: bool,
        **options: Unpack[GenerateOptions],
    ) -> Coroutine[Any, Any, GenerateReply] | AsyncReplies[GenerateReply]: ...
    def generate(
        self,
        model: str,
        prompt: str | None = None,
        suffix: str | None = None,
        *,
        stream: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Coroutine[Any, Any, GenerateReply] | AsyncReplies[GenerateReply]:
        """Continue a prompt. With ``stream=True`` the answer comes in pieces (``async for``), else whole (``await``)."""
        wishes, fields = split(options, self._wishes)
        fields.update(model=model, prompt=prompt, suffix=suffix, images=bodies.images(fields.get("images")))
        return self._answer(GenerateReply, "/api/generate", fields, wishes, stream=stream)

    async def embed(self, model: str, input: str | Sequence[str] = "", **options: Unpack[EmbedOptions]) -> EmbedReply:
        """Vectors of one text or of several; all in one request to one node."""
        wishes, fields = split(options, self._wishes)
        fields["input"] = input if isinstance(input, str) else list(input)
        body = bodies.encoded({"model": model, **fields})
        document = decoded(await self._opened().ask("/api/embed", body, wishes, model=model))
        return EmbedReply.of(document, single=isinstance(input, str))

    async def embeddings(self, model: str, prompt: str | None = None, **options: Unpack[EmbedOptions]) -> EmbeddingReply:
        """The vector of one text, by Ollama's old call."""
        wishes, fields = split(options, self._wishes)
        body = bodies.encoded({"model": model, "prompt": prompt, **fields})
        return wrap(EmbeddingReply, decoded(await self._opened().ask("/api/embeddings", body, wishes, model=model)))

    async def explain(
        self, model: str, *, prompt_tokens: int = 100, max_tokens: int | None = None, **wishes: Unpack[CallWishes]
    ) -> Reply:
        """Where a request of that size would go and why: ``chosen``, ``reason``, and the terms in seconds of each of ``nodes``.

        Nothing is sent. Raises `BadValue` or `BadRequest` for sizes and wishes that cannot be.
        """
        wished, _ = split(wishes, self._wishes)
        question = {"model": model, "prompt_tokens": prompt_tokens, "max_tokens": max_tokens}
        question |= {"priority": wished.priority, "mode": wished.mode}
        query = urlencode({key: value for key, value in question.items() if value is not None})
        return wrap(Reply, decoded(await self._opened().explain(query)))

    # --- warming

    async def warm_model(self, model: str, **options: Unpack[CallOptions]) -> bool:
        """Load a model before it is needed. False if that did not work; the log says why."""
        try:
            try:
                await self.generate(model, **options)
            except BadRequest:  # a model that only embeds
                await self.embed(model, [""], keep_alive=options.get("keep_alive"), node=options.get("node"))
        except SollolError as error:
            log.warning("could not warm %s: %s", model, error)
            return False
        return True

    async def warm_models(self, models: Sequence[str], *, parallel: bool = True, **options: Unpack[CallOptions]) -> Reply:
        """Load several models, at once or one after another; which of them are loaded now, by name."""
        if parallel:
            done = await asyncio.gather(*(self.warm_model(model, **options) for model in models))
        else:
            done = [await self.warm_model(model, **options) for model in models]
        return Reply(zip(models, done, strict=True))

    # --- the pool itself

    async def ready(self) -> Self:
        """Wait until the first search is over and every node was looked at once."""
        await self._opened().ready()
        return self

    @property
    def inside(self) -> Inside:
        """The engine of this loop, for what builds on a pool."""
        return self._opened()

    @property
    def settings(self) -> PoolSettings:
        """Everything that it takes to make the same pool again."""
        return self._settings

    @property
    def nodes(self) -> Nodes:
        """The nodes as they are now; before the first call those that were named."""
        inside = self._current()
        return inside.nodes() if inside is not None else [named_node(node) for node in self._settings.config.nodes]

    def add_node(self, host: NodeForm, port: int | None = None, *, priority: int | None = None, name: str = "") -> PoolNode:
        """Take a node in, from the next call on: an address in any form, or host and port. Raises `ConfigError`."""
        given = host if port is None else {"host": host, "port": port}
        settings = node_settings(given)
        settings = msgspec.structs.replace(settings, priority=priority or settings.priority, name=name or settings.name)
        checked = named_node(settings)
        kept = [node for node in self._settings.config.nodes if named_node(node).node_id != checked.node_id]
        self._keep_nodes([*kept, settings])
        inside = self._current()
        return checked if inside is None else inside.add(settings)

    def remove_node(self, host: NodeForm, port: int | None = None) -> bool:
        """Forget a node; what runs there goes on to its end. False when it is not known."""
        gone = named_node(node_settings(host if port is None else {"host": host, "port": port}))
        kept = [node for node in self._settings.config.nodes if named_node(node).url != gone.url]
        known = len(kept) < len(self._settings.config.nodes)
        self._keep_nodes(kept)
        inside = self._current()
        return known if inside is None else inside.remove(parse_endpoint(gone.url)) or known

    def set_routing_mode(self, mode: Mode | None) -> None:
        """The mode of calls that name none, from the next one on; None: the configuration's."""
        self._wishes = replace(self._wishes, mode=mode)
        self._settings = replace(self._settings, wishes=self._wishes)

    async def searched(self) -> None:
        """Wait for the end of the first search, where there is one."""
        await self._opened().searched()

    async def get_stats(self) -> dict[str, Any]:
        """What was counted since the pool was made; latencies in milliseconds, None where nothing was measured."""
        inside = self._opened()
        await inside.searched()
        stats: dict[str, Any] = msgspec.to_builtins(statistics(inside.gateway))
        return stats

    # --- the cache of answers

    def get_cache_stats(self) -> dict[str, Any]:
        """What the cache holds and did: ``size`` (answers), ``hit_rate`` (0 to 1), ``hits``, ``misses``, ``bytes`` and more."""
        found: dict[str, Any] = msgspec.to_builtins(cache_page.state(self._opened().gateway))
        return found

    def clear_cache(self) -> int:
        """Drop every kept answer; how many went."""
        return self._opened().house.cache.store.clear()

    def invalidate_cache_by_model(self, model: str) -> int:
        """Drop the kept answers of a model; how many went."""
        return self._opened().house.cache.store.forget(canonical(model))

    def export_cache(self) -> dict[str, Any]:
        """Every kept answer, as plain values that can be written as JSON."""
        house = self._opened().house
        return {"answers": msgspec.to_builtins(house.cache.store.saved(house.engine.clock.now()))}

    def import_cache(self, data: Mapping[str, Any]) -> int:
        """Take back what `export_cache` gave; how many answers are still young enough. Raises `BadValue`."""
        house = self._opened().house
        try:
            saved = msgspec.convert(data["answers"], list[Saved])
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise BadValue(f"this is not what export_cache gave: {error}") from None
        return house.cache.store.restore(saved, house.engine.clock.now())

    # --- the end

    async def aclose(self) -> None:
        """End every call that runs and close every connection. Harmless when it is closed already."""
        self._closed = True
        inside, self._inside = self._inside, None
        if inside is not None and inside.process == os.getpid() and inside.loop is asyncio.get_running_loop():
            await inside.close()

    close = aclose

    async def __aenter__(self) -> Self:
        self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _told(self, error: SollolError) -> Exception:
        """The exception that callers see."""
        return error

    def _current(self) -> Inside | None:
        """The engine, if one runs."""
        inside = self._inside
        return inside if inside is not None and not inside.closed and inside.process == os.getpid() else None

    def _keep_nodes(self, nodes: Sequence[NodeSettings]) -> None:
        config = msgspec.structs.replace(self._settings.config, nodes=tuple(nodes))
        self._settings = replace(self._settings, config=config)

    def _opened(self) -> Inside:
        """The engine of this loop. A new loop, or a new process, gets a new one with the same nodes."""
        inside = self._inside
        if inside is not None and not inside.closed and inside.loop is asyncio.get_running_loop():
            return inside
        if self._closed:
            raise ShuttingDown("this pool is closed; make a new one")
        if inside is not None and inside.process == os.getpid() and not inside.closed and inside.loop.is_running():
            raise SollolError("this pool is used from another event loop now: give each loop its own AsyncPool")
        self._inside = inside = Inside(self._settings, self._statistics, self._told)
        return inside

    def _answer(
        self, kind: type[R], path: str, fields: Mapping[str, Any], wishes: Wishes, *, stream: bool
    ) -> Coroutine[Any, Any, R] | AsyncReplies[R]:
        model = fields["model"]
        body = bodies.encoded({**fields, "stream": stream})
        if stream:
            return AsyncReplies(kind, lambda: self._opened().flow(path, body, wishes, model=model))
        return self._whole(kind, path, model, body, wishes)

    async def _whole(self, kind: type[R], path: str, model: str, body: bytes, wishes: Wishes) -> R:
        return wrap(kind, decoded(await self._opened().ask(path, body, wishes, model=model)))
