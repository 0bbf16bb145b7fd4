"""The paths that make tokens or vectors: peek at the body, make a task of it, and let the pipeline answer."""

from __future__ import annotations

from functools import lru_cache, partial
from hashlib import sha256
from itertools import count
from typing import Final

from msgspec import Struct

from sollol.core import caching
from sollol.core.ports import Header, Sink
from sollol.core.types import Dialect, Mode, Task
from sollol.engine.pipeline import Handler
from sollol.errors import NoNodeForModel, NoNodes, SollolError
from sollol.gateway import naming
from sollol.gateway.context import Gateway
from sollol.gateway.guards import Guard
from sollol.gateway.http import Request
from sollol.gateway.models import unload_everywhere
from sollol.gateway.targets import nobody
from sollol.wire import errors as wire_errors
from sollol.wire.control import Control, control, oldest
from sollol.wire.names import canonical
from sollol.wire.newer_requests import MESSAGES, RERANK, RESPONSES, TRANSCRIPTIONS
from sollol.wire.requests import Peek, read

PATHS: Final = (
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    MESSAGES,
    RESPONSES,
    RERANK,
    TRANSCRIPTIONS,
)
NORMAL: Final = 5

_canonical = lru_cache(maxsize=1_000)(canonical)


class Asked(Struct):
    """What the headers say: the wishes, who counts as one in fairness, and what goes on to the node.

    Kept in the request's notes under "asked"; whoever has no headers to read puts it there.
    """

    guard: Guard
    control: Control
    client: str
    onward: tuple[Header, ...]


def _asked(guard: Guard, request: Request) -> Asked:
    asked: Asked | None = request.notes.get("asked")
    if asked is None or asked.guard is not guard:
        wishes = control(request.headers)
        asked = request.notes["asked"] = Asked(guard, wishes, _client(request, wishes.app), guard.onward(request.headers))
    return asked


class Inference:
    """Handler of the paths above."""

    def __init__(self, gateway: Gateway, pipeline: Handler) -> None:
        self._gateway = gateway
        self._pipeline = pipeline
        self._ids = count(1)

    async def __call__(self, request: Request, sink: Sink) -> None:
        """Answer one request; raises a `SollolError` as long as nothing was sent."""
        asked = _asked(self._gateway.guard, request)
        peek = read(request.path, request.body, asked=asked.control)
        if peek.unload:
            await unload_everywhere(self._gateway, peek.model, request, sink)
            return
        known = self._gateway.catalogue.special.get(_canonical(peek.model))
        if known is None:
            await self._answer(request, asked, peek, sink)
        else:
            await naming.answer(self._gateway, known, peek, sink, partial(self._answer, request, asked))

    async def _answer(self, request: Request, asked: Asked, peek: Peek, sink: Sink) -> None:
        task = self._task(request, peek, asked)
        if task.dialect is Dialect.RESPONSES and task.stream:
            sink = _Numbered(sink)
        try:
            await self._pipeline(task, sink)
        except NoNodeForModel as error:
            raise NoNodeForModel(peek.model) from error  # named as the client named it
        except NoNodes as error:
            if sink.started or self._gateway.engine.state.nodes:
                raise
            raise NoNodes(nobody(self._gateway), error.retry_after) from error
        except SollolError as error:
            if not sink.started:
                raise
            _end_broken(task, sink, error)

    def task(self, request: Request) -> Task:
        """What `request` is to the pipeline. Raises `RequestError`."""
        asked = _asked(self._gateway.guard, request)
        peek = read(request.path, request.body, asked=asked.control)
        known = self._gateway.catalogue.special.get(_canonical(peek.model))
        return self._task(request, peek if known is None else naming.asking(peek, known.model), asked)

    def _task(self, request: Request, peek: Peek, asked: Asked) -> Task:
        gateway, wishes = self._gateway, peek.control
        now = gateway.engine.clock.now()
        task = Task(
            id=next(self._ids),
            kind=peek.kind,
            dialect=peek.dialect,
            path=request.path,
            model=_canonical(peek.model),
            body=peek.body,
            arrived=now,
            stream=peek.stream,
            priority=NORMAL if peek.priority is None else peek.priority,
            mode=self._mode(wishes.mode),
            client=asked.client,
            app=wishes.app,
            deadline=None if wishes.timeout is None else now + wishes.timeout,
            num_ctx=peek.num_ctx,
            needs=peek.needs,
            prompt=peek.prompt,
            inputs=peek.inputs,
            max_tokens=peek.max_tokens,
            keep_alive=peek.keep_alive,
            pin=wishes.node,
            load_only=peek.load_only,
            plain=peek.plain,
            details=wishes.details,
            headers=asked.onward,
            hedge=wishes.hedge,
        )
        if peek.repeatable or wishes.cache:
            self._may_share(task, request, peek)
        return task

    def _may_share(self, task: Task, request: Request, peek: Peek) -> None:
        """Give the task a key, if its answer may be shared with identical requests and its client has nothing against it."""
        wish, cache = peek.control.cache, self._gateway.config.cache
        if wish is False or task.pin is not None or not (cache.enabled or cache.coalesce):
            return
        if not (peek.repeatable or caching.may_share(task, wish)):
            return
        age = oldest(request.header(b"cache-control"))
        if age is not None:
            task.max_age = age
            task.key = caching.key(task.path, task.body, stream=task.stream, details=task.details, headers=task.headers)

    def _mode(self, wished: Mode | None) -> Mode:
        return self._gateway.config.routing.mode if wished is None else wished


def _client(request: Request, app: str) -> str:
    """Who counts as one in fairness: the key (a digest of it: it shows in listings), else the application, else the address."""
    key = request.header(b"authorization") or request.header(b"x-api-key")
    if key:
        return "key " + sha256(key).hexdigest()[:12]
    return app or request.client


class _Numbered:
    """The sink of a stream whose events are numbered: it keeps the last of them, for whoever has to say one more."""

    __slots__ = ("_data", "_last", "_sink", "abort", "attach", "end", "head")

    def __init__(self, sink: Sink) -> None:
        self._sink, self._data = sink, sink.data
        self.head, self.end, self.abort, self.attach = sink.head, sink.end, sink.abort, sink.attach
        self._last = (b"", b"")

    @property
    def started(self) -> bool:
        return self._sink.started

    def data(self, data: bytes) -> None:
        self._last = (self._last[1], data)
        self._data(data)

    @property
    def number(self) -> int:
        """The number of an event that would come now."""
        return wire_errors.following(b"".join(self._last))


def _end_broken(task: Task, sink: Sink, error: SollolError) -> None:
    """The answer had begun: say what happened in the words of the dialect, or break the connection."""
    number = sink.number if isinstance(sink, _Numbered) else 0
    words = wire_errors.stream_ending(task.dialect, str(error), number=number) if task.stream else None
    if words is None:
        sink.abort()
    else:
        sink.data(words)
        sink.end()
