"""One engine in one event loop, asked without a port: what a gateway has behind its door."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from sollol.assemble import House, build, configured_nodes
from sollol.config import NodeSettings
from sollol.core.estimates import Recent
from sollol.core.events import AttemptEnded, AttemptStarted, Event, NodeAdded, NodeChanged, NodeRemoved, NodeSurveyed, TaskEnded
from sollol.core.ports import Header, Headers, Outgoing, Sink
from sollol.core.types import Endpoint, NodeKind, Task
from sollol.engine.calls import stream
from sollol.engine.statistics import Statistics
from sollol.errors import BrokeMidStream, NoNodes, ShuttingDown, SollolError
from sollol.gateway import listings, models
from sollol.gateway.context import Gateway
from sollol.gateway.explain import explain
from sollol.gateway.http import Request
from sollol.gateway.inference import Asked, Inference
from sollol.pool.nodes import PoolNode, known_node
from sollol.pool.refusals import broken, refusal
from sollol.pool.settings import GATEWAY_SLOTS, PoolSettings, Wishes
from sollol.pool.sinks import Flow, Whole
from sollol.wire.control import Control

T = TypeVar("T")
Work = Callable[[Request, Sink], Awaitable[None]]
_NOTES: Final = 256
_ABOUT_MODELS: Final = {**models.ROUTES, **listings.ROUTES}


class Inside:
    """Everything behind a pool, for the loop in which it was made. `close` ends it; so does the end of the loop.

    ``told`` makes the exceptions that users see of ours.
    """

    def __init__(
        self, settings: PoolSettings, statistics: Statistics, told: Callable[[SollolError], Exception] | None = None
    ) -> None:
        self.told = told or _as_it_is
        self.loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self.closed = False
        self.settings = settings
        self.house: House = build(settings.config)
        house = self.house
        self.gateway = Gateway(
            settings.config,
            house.engine,
            house.admission,
            house.monitor,
            house.finder,
            started=house.engine.clock.now(),
            statistics=statistics,
            cache=house.cache,
        )
        self._inference = Inference(self.gateway, house.pipeline)
        self._running: set[asyncio.Task[Any]] = set()
        self._gateways: frozenset[str] = frozenset()
        self._notes: dict[Wishes, dict[str, Any]] = {}
        self.speeds: Recent[tuple[str, str], float] = Recent(256)  # texts per second of (node, model), as batches learned
        self._told = not settings.tell
        self._settled = False
        house.engine.listen(statistics.on_event, TaskEnded, AttemptEnded, NodeRemoved)
        house.engine.listen(self._heard, NodeAdded, NodeSurveyed, NodeRemoved, NodeChanged)
        if not settings.here:
            house.finder.never([("127.0.0.1", port) for port in settings.config.discovery.ports])
        house.finder.start(configured_nodes(settings.config))
        self._over = asyncio.Event()
        self._keeper = self.loop.create_task(self._keep(), name="sollol pool")
        if settings.tell and settings.search:
            say("Discovering Ollama nodes...")
        if settings.tell:
            house.engine.listen(self._tell_choice, AttemptStarted)

    @property
    def through_gateways(self) -> bool:
        """Whether every node is a gateway: then those route, and say how."""
        return bool(self._gateways) and len(self._gateways) == len(self.house.engine.state.nodes)

    async def ready(self) -> None:
        """Wait for the end of the first search, where there is one, and until every node was looked at once."""
        await self.searched()
        await self.house.monitor.looked(list(self.house.engine.state.nodes))

    async def searched(self) -> None:
        """Wait for the end of the first search, where there is one."""
        if self.settings.search:
            await self.house.finder.searched()
            self._tell_found()

    async def ask(self, path: str, body: bytes, wishes: Wishes, *, model: str = "") -> bytes:
        """The complete answer to a request for inference. Raises a `SollolError`."""
        if not self._settled:
            await self.somebody_has(model)
        return await self._whole(self._inference, self._request(path, body, wishes), model)

    def flow(self, path: str, body: bytes, wishes: Wishes, *, model: str = "") -> Flowing:
        """The answer as it comes; the request is sent at once."""

        async def work(request: Request, sink: Sink) -> None:
            if not self._settled:
                await self.somebody_has(model)
            await self._inference(self._request(path, body, wishes), sink)

        return Flowing(self, work, self._request(path, body, wishes), model)

    def task(self, path: str, body: bytes, wishes: Wishes) -> Task:
        """A request for inference as the pipeline takes it. Raises `RequestError`."""
        return self._inference.task(self._request(path, body, wishes))

    async def carry(self, task: Task) -> bytes:
        """The complete answer to such a request. Raises a `SollolError`."""
        sink = Whole()
        await self.house.pipeline(task, sink)
        return _body(sink, task.model)

    async def explain(self, query: str) -> bytes:
        """What the routing thinks of an imagined request."""
        await self.ready()
        return await self._whole(partial(explain, self.gateway), Request("GET", "", query, [], "pool"), "")

    async def ask_models(self, method: str, path: str, body: bytes = b"", *, model: str = "") -> bytes:
        """The complete answer of one of Ollama's paths about models."""
        await self.ready()
        return await self._whole(self._about_models, Request(method, path, "", [], "pool", body), model)

    def flow_models(self, method: str, path: str, body: bytes, *, model: str = "") -> Flowing:
        """The progress of a change, as it comes."""

        async def work(request: Request, sink: Sink) -> None:
            await self.ready()
            await self._about_models(request, sink)

        return Flowing(self, work, Request(method, path, "", [], "pool", body), model)

    async def upload(self, path: str, chunks: AsyncIterator[bytes], length: int) -> None:
        """Put a blob to where the next `create` of it will be."""
        await self.ready()
        handlers = next(found for prefix, found in models.PREFIXES.items() if path.startswith(prefix))
        request = Request("POST", path, "", [], "pool", chunks=chunks, length=length)
        await self._whole(partial(handlers["POST"], self.gateway), request, "")

    def add(self, settings: NodeSettings) -> PoolNode:
        """Take a node in, from the next request on. Raises `ConfigError` for an address that cannot be read."""
        (named,) = configured_nodes(msgspec.structs.replace(self.settings.config, nodes=(settings,)))
        node = self.house.finder.add(named)
        return known_node(self.house.engine.state.nodes[node.id])

    def remove(self, endpoint: Endpoint) -> bool:
        """Forget the node of that address; what runs there goes on to its end. False when there is none."""
        nodes = self.house.engine.state.nodes.values()
        found = next((node.id for node in nodes if node.node.endpoint == endpoint), None)
        return found is not None and self.house.finder.remove(found)

    def nodes(self) -> list[PoolNode]:
        """Every known node as it is now."""
        return [known_node(node) for node in self.house.engine.state.nodes.values()]

    async def close(self) -> None:
        """End every call that runs and close every connection."""
        self._over.set()
        if self._keeper is not asyncio.current_task():
            await asyncio.gather(self._keeper, return_exceptions=True)

    # --- one request

    def _request(self, path: str, body: bytes, wishes: Wishes) -> Request:
        notes = self._notes.get(wishes)
        if notes is None:
            if len(self._notes) >= _NOTES:
                self._notes.clear()
            notes = self._notes[wishes] = {"asked": self._asked(wishes)}
        return Request("POST", path, "", [], "pool", body, notes=notes)

    def _asked(self, wishes: Wishes) -> Asked:
        """What headers would have said. Gateways among the nodes are told it; where there is nothing else, they route."""
        far = self.through_gateways
        wished = Control(
            wishes.priority,
            wishes.mode,
            wishes.timeout,
            wishes.app,
            None if far else wishes.node,
            details=not far,
            hedge=None if far else wishes.hedge,
            cache=False if far else wishes.cache,
        )
        onward: list[Header] = []
        if self._gateways:
            told = {
                b"priority": wishes.priority,
                b"mode": wishes.mode,
                b"timeout": wishes.timeout,
                b"app": wishes.app or None,
                b"node": wishes.node if far else None,
                b"details": "body" if far else None,
                b"hedge": wishes.hedge if far else None,
                b"cache": str(wishes.cache).lower() if far and wishes.cache is not None else None,
            }
            onward = [(b"x-sollol-" + name, str(value).encode()) for name, value in told.items() if value is not None]
        return Asked(self.gateway.guard, wished, wishes.app or "pool", tuple(onward))

    async def somebody_has(self, model: str) -> None:
        """For the first calls: wait until a node is known to have the model, or until it is known that none has it."""
        await self.searched()
        nodes, monitor, name = self.house.engine.state.nodes, self.house.monitor, self.gateway.catalogue.model(model)
        looks = {self.loop.create_task(monitor.looked([node])) for node in nodes}
        try:
            while looks and not any(name in node.models for node in nodes.values()):
                _, looks = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
            self._settled = self._settled or not looks
        finally:
            for look in looks:
                look.cancel()

    async def _about_models(self, request: Request, sink: Sink) -> None:
        if not self.through_gateways:
            await _ABOUT_MODELS[request.method, request.path](self.gateway, request, sink)
            return
        node = next(iter(self.house.engine.state.nodes.values())).node
        outgoing = Outgoing(request.method, request.path, ((b"content-type", b"application/json"),), request.body)
        async with stream(self.house.engine.transport, node, outgoing) as reply:
            sink.head(reply.status, reply.headers)
            async for piece in reply:
                sink.data(piece)
            sink.end()

    async def _whole(self, work: Work, request: Request, model: str) -> bytes:
        sink = Whole()
        try:
            await self.counted(work(request, sink))
            return _body(sink, model)
        except SollolError as error:
            shown = self.told(error)
            if shown is error:
                raise
            raise shown from error

    async def counted(self, work: Awaitable[T]) -> T:
        """`work`, ended with an error that says so when the pool is closed meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if not self.closed or not task.cancelling():
                raise
            task.uncancel()
            raise ShuttingDown("the pool was closed before the answer was complete") from None
        except NoNodes as error:
            raise self._explained(error) from None
        finally:
            self._running.discard(task)

    def _explained(self, error: NoNodes) -> NoNodes:
        """The same, with what each node said last."""
        said = [f"{node.label}: {node.last_error}" for node in self.house.engine.state.nodes.values() if node.last_error]
        return NoNodes("; ".join([str(error), *said]), error.retry_after) if said else error

    # --- the end

    async def _keep(self) -> None:
        """Close when asked to, and also when the loop ends without that: it cancels this task."""
        try:
            await self._over.wait()
        finally:
            self.closed = True
            for task in self._running:
                task.cancel()
            await asyncio.sleep(0)
            await self.house.close()

    # --- what is heard

    def _heard(self, event: Event) -> None:
        """Nodes that turn out to be gateways get every request at once: they have the queue."""
        engine = self.house.engine
        gateways = frozenset(node.id for node in engine.state.nodes.values() if node.kind is NodeKind.SOLLOL)
        self._notes.clear()
        self._gateways = gateways
        if isinstance(event, NodeSurveyed) and event.node in gateways:
            node = engine.state.nodes[event.node].node
            if node.slots is None:
                engine.publish(NodeChanged(event.at, msgspec.structs.replace(node, slots=GATEWAY_SLOTS)))

    def _tell_found(self) -> None:
        if not self._told:
            self._told = True
            nodes = [node.node.endpoint.authority for node in self.house.engine.state.nodes.values()]
            say(f"Found {len(nodes)} node{'s' if len(nodes) != 1 else ''}: {', '.join(nodes) or 'none'}")

    def _tell_choice(self, event: Event) -> None:
        known = self.house.engine.state.nodes.get(event.decision.node) if isinstance(event, AttemptStarted) else None
        if known is not None:
            what = "GPU" if known.gpu else "CPU"
            say(f"Selected node: {known.node.endpoint.authority} ({what}, {known.latency * 1000:.0f}ms latency)")


def _body(sink: Whole, model: str) -> bytes:
    """The answer that was taken in, if it is one."""
    if sink.status >= 300:
        raise refusal(sink.status, sink.headers, sink.body, model)
    if not sink.ended:
        raise broken(sink.headers, "the answer ended early")
    return sink.body


def _as_it_is(error: SollolError) -> Exception:
    return error


class Flowing:
    """An answer that is coming. `close` ends the request, also at the node; so does forgetting this."""

    def __init__(self, inside: Inside, work: Work, request: Request, model: str) -> None:
        self.sink = sink = Flow()
        self.told = inside.told
        self._model = model
        self._loop = inside.loop
        self._task = inside.loop.create_task(inside.counted(work(request, sink)))
        self._task.add_done_callback(lambda task: _over(task, sink))

    async def read(self) -> bytes:
        """What has come since the last call, as soon as there is something; empty at the end. Raises a `SollolError`."""
        sink = self.sink
        data = await sink.read()
        if sink.status >= 300:
            while more := await sink.read():
                data += more
            raise refusal(sink.status, sink.headers, data, self._model)
        if not data:
            await self._task
            if sink.aborted:
                raise broken(sink.headers, "the answer ended early")
        return data

    def close(self) -> None:
        """End it; harmless when it is over."""
        self._task.cancel()

    def __del__(self) -> None:
        if not self._task.done():
            with suppress(RuntimeError):  # the loop is closed already, and everything in it has ended
                self._loop.call_soon_threadsafe(self._task.cancel)


def _over(task: asyncio.Task[None], sink: Flow) -> None:
    if not task.cancelled():
        task.exception()  # whoever reads is told; where nobody does, nobody is to be warned
    sink.end()


def decoded(body: bytes, headers: Headers = ()) -> dict[str, Any]:
    """A document, or a line of a stream. Raises `BrokeMidStream` for a line that tells of an error."""
    document = msgspec.json.decode(body)
    if not isinstance(document, Mapping):
        raise BrokeMidStream("the node", "the reply is no JSON object")
    if "error" in document and "done" not in document:
        raise broken(headers, str(document["error"]))
    return dict(document)


def say(line: str) -> None:
    """To the person at the terminal. That the terminal is gone is no reason to fail a request."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
