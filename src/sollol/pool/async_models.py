"""The calls of `AsyncPool` about models."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, overload

from sollol.pool import bodies
from sollol.pool.inside import Inside, decoded
from sollol.pool.replies import ListReply, ProcessReply, ProgressReply, ShowReply, StatusReply, wrap
from sollol.pool.streams import AsyncReplies

_BLOB_PIECE: Final = 1 << 20


class AsyncModels(ABC):
    """Models of all nodes; each call means what it means for one Ollama."""

    @abstractmethod
    def _opened(self) -> Inside:
        """The engine; made now if there is none."""

    async def list(self) -> ListReply:
        """The models of all nodes; each says on which."""
        return wrap(ListReply, decoded(await self._opened().ask_models("GET", "/api/tags")))

    async def ps(self) -> ProcessReply:
        """What is loaded, and where."""
        return wrap(ProcessReply, decoded(await self._opened().ask_models("GET", "/api/ps")))

    async def show(self, model: str) -> ShowReply:
        """Everything about one model."""
        body = bodies.encoded({"model": model})
        return wrap(ShowReply, decoded(await self._opened().ask_models("POST", "/api/show", body, model=model)))

    @overload
    def pull(
        self, model: str, *, insecure: bool = ..., stream: Literal[True], nodes: Any = ...
    ) -> AsyncReplies[ProgressReply]: ...
    @overload
    def pull(
        self, model: str, *, insecure: bool = ..., stream: Literal[False] = ..., nodes: Any = ...
    ) -> Coroutine[Any, Any, ProgressReply]: ...
    @overload
    def pull(
        self, model: str, *, insecure: bool = ..., stream: bool, nodes: Any = ...
    ) -> Coroutine[Any, Any, ProgressReply] | AsyncReplies[ProgressReply]: ...
    def pull(
        self, model: str, *, insecure: bool = False, stream: bool = False, nodes: Sequence[str] | str | None = None
    ) -> Coroutine[Any, Any, ProgressReply] | AsyncReplies[ProgressReply]:
        """Download a model to the ``nodes`` named ("all": every one), else to those that have it, else where it fits best."""
        fields = {"model": model, "insecure": insecure or None, "stream": stream, "nodes": nodes}
        return self._change("/api/pull", fields, stream)

    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: Literal[True]) -> AsyncReplies[ProgressReply]: ...
    @overload
    def push(self, model: str, *, insecure: bool = ..., stream: Literal[False] = ...) -> Coroutine[Any, Any, ProgressReply]: ...
    @overload
    def push(
        self, model: str, *, insecure: bool = ..., stream: bool
    ) -> Coroutine[Any, Any, ProgressReply] | AsyncReplies[ProgressReply]: ...
    def push(
        self, model: str, *, insecure: bool = False, stream: bool = False
    ) -> Coroutine[Any, Any, ProgressReply] | AsyncReplies[ProgressReply]:
        """Upload a model from one node that has it."""
        return self._change("/api/push", {"model": model, "insecure": insecure or None, "stream": stream}, stream)

    @overload
    def create(self, model: str, *, stream: Literal[True], **fields: Any) -> AsyncReplies[ProgressReply]: ...
    @overload
    def create(self, model: str, *, stream: Literal[False] = ..., **fields: Any) -> Coroutine[Any, Any, ProgressReply]: ...
    @overload
    def create(
        self, model: str, *, stream: bool, **fields: Any
    ) -> Coroutine[Any, Any, ProgressReply] | AsyncReplies[ProgressReply]: ...
    def create(
        self, model: str, *, stream: bool = False, **fields: Any
    ) -> Coroutine[Any, Any, ProgressReply] | AsyncReplies[ProgressReply]:
        """Make a model of another (``from_=``) or of files; the fields are those of Ollama's API."""
        named = {key.removesuffix("_"): value for key, value in fields.items()}
        if "messages" in named:
            named["messages"] = bodies.messages(named["messages"])
        return self._change("/api/create", {"model": model, "stream": stream, **named}, stream)

    async def copy(self, source: str, destination: str) -> StatusReply:
        """Give a model a second name on every node that has it."""
        body = bodies.encoded({"source": source, "destination": destination})
        await self._opened().ask_models("POST", "/api/copy", body, model=source)
        return StatusReply(status="success")

    async def delete(self, model: str, *, nodes: Sequence[str] | str | None = None) -> StatusReply:
        """Delete a model from the nodes named, else from every node that has it."""
        body = bodies.encoded({"model": model, "nodes": nodes})
        await self._opened().ask_models("DELETE", "/api/delete", body, model=model)
        return StatusReply(status="success")

    async def create_blob(self, path: str | Path) -> str:
        """Upload a file for the next `create`; its digest."""
        file = Path(path)
        digest, size = await asyncio.to_thread(_digest, file)
        await self._opened().upload(f"/api/blobs/{digest}", _pieces(file), size)
        return digest

    def _change(
        self, path: str, fields: Mapping[str, Any], stream: bool
    ) -> Coroutine[Any, Any, ProgressReply] | AsyncReplies[ProgressReply]:
        body, model = bodies.encoded(fields), fields["model"]
        if stream:
            return AsyncReplies(ProgressReply, lambda: self._opened().flow_models("POST", path, body, model=model))
        return self._changed(path, body, model)

    async def _changed(self, path: str, body: bytes, model: str) -> ProgressReply:
        return wrap(ProgressReply, decoded(await self._opened().ask_models("POST", path, body, model=model)))


def _digest(file: Path) -> tuple[str, int]:
    found, size = sha256(), 0
    with file.open("rb") as opened:
        while piece := opened.read(_BLOB_PIECE):
            found.update(piece)
            size += len(piece)
    return f"sha256:{found.hexdigest()}", size


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as opened:
        while piece := await asyncio.to_thread(opened.read, _BLOB_PIECE):
            yield piece
