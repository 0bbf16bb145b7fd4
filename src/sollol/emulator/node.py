"""One emulated node: the model of it, its sockets, its faults and what it counts."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from sollol.core.types import NodeKind
from sollol.emulator.calls import BUSY, ENGINE_DIED, Call, Document, Refusal, Writer
from sollol.emulator.connection import Connection, Request, dumps, reset
from sollol.emulator.faults import NONE, Faults, FaultSwitch
from sollol.emulator.listening import Listener
from sollol.emulator.model import NodeModel
from sollol.emulator.specs import Finished, FirstToken, Loaded, NodeSpec, Refused, Work

_BAD_FRAMING = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"

Route = Callable[["Exchange"], None]


@dataclass(slots=True)
class Stats:
    """What a node has seen since the last reset. `in_flight` counts requests for tokens or vectors, `recent` are the latest."""

    requests: int = 0
    inference: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    cancelled: int = 0
    refused: int = 0
    finished: int = 0
    loads: int = 0
    connections: int = 0
    paths: Counter[str] = field(default_factory=Counter)
    recent: deque[Request] = field(default_factory=lambda: deque(maxlen=100))

    def as_dict(self) -> dict[str, Any]:
        names = (
            "requests",
            "inference",
            "in_flight",
            "max_in_flight",
            "cancelled",
            "refused",
            "finished",
            "loads",
            "connections",
        )
        return {name: getattr(self, name) for name in names} | {"paths": dict(self.paths)}


class _Rejected(asyncio.Protocol):
    """A connection that is reset as soon as it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        reset(cast("asyncio.Transport", transport))  # uvloop's transports are of no class of asyncio


class EmulatedNode:
    """A node that listens on `host`:`port` (0: any free one, kept over a restart)."""

    def __init__(self, spec: NodeSpec, route: Route, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.spec = spec
        self.stats = Stats()
        self.faults = FaultSwitch(self._faults_changed)
        self.peers: list[EmulatedNode] = [self]
        self.blobs: dict[str, tuple[int, bytes]] = {}
        self.host = host
        self.port = port
        self.loading = False
        self._route = route
        self._calls: dict[int, Call] = {}
        self._connections: set[Connection] = set()
        self._listener = Listener(host, port, self._protocol)
        self._flap: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.model = NodeModel(spec, self.loop.time())

    def now(self) -> float:
        """Seconds on the clock of the model."""
        return self.loop.time()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> NodeKind:
        return self.spec.kind

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    # Listening

    async def start(self) -> None:
        """Listen; after `stop` on the same port again. Raises OSError if the port is taken."""
        self._listener.open()
        self.port = self._listener.port

    async def stop(self) -> None:
        """Die: nothing listens, connections are cut, everything that was loaded is lost."""
        self._close()
        self.model.crash(self.now())
        self._pump()

    async def close(self) -> None:
        """Stop for good and give the port back."""
        if self._flap is not None:
            self._flap.cancel()
        await self.stop()
        if self._timer is not None:
            self._timer.cancel()
        await self._listener.release()

    def _protocol(self) -> asyncio.Protocol:
        self.stats.connections += 1
        rejected = self.faults.current.reset or not self._listener.is_open  # shut while this one was on its way in
        return _Rejected() if rejected else Connection(self.handle, self._connections)

    def _close(self) -> None:
        """Stop listening and cut every connection."""
        self._listener.shut()
        for connection in list(self._connections):
            gone = connection.gone
            connection.abort()
            if gone is not None:
                gone()

    def _faults_changed(self, faults: Faults) -> None:
        self.model.set_slow(faults.slow, self.now())
        if self._flap is not None:
            self._flap.cancel()
            self._flap = None
        if faults.refuse:
            self._close()
        else:
            self._listener.open()
        if faults.flap is not None:
            self._flap = self.loop.call_later(faults.flap, self._flip, faults.flap)
        self._pump()

    def _flip(self, period: float) -> None:
        if self._listener.is_open:
            self._close()
        else:
            self._listener.open()
        self._flap = self.loop.call_later(period, self._flip, period)

    # Requests

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer one request, now or later."""
        if request.path.startswith("/_emulator"):
            control(self, request, connection)
            return
        stats = self.stats
        stats.requests += 1
        stats.paths[f"{request.method} {request.path}"] += 1
        stats.recent.append(request)
        inference = is_inference(request.path)
        faults = self.faults.pick(inference)
        if faults is not NONE:
            if faults.hang:
                connection.gone = _nothing
                return
            if faults.bad_framing:
                connection.raw(_BAD_FRAMING, close=True)
                return
        self._route(Exchange(self, request, connection, faults))

    def run(self, work: Work, writer: Writer, connection: Connection, faults: Faults) -> None:
        """Have the model do `work`; `writer` answers."""
        stats = self.stats
        stats.inference += 1
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        handle = self.model.submit(work, self.now())
        call = Call(self, connection, writer, faults, handle)
        self._calls[handle] = call
        connection.gone = call.gone
        self._pump()

    def cancelled(self, call: Call) -> None:
        """The client of `call` left."""
        self.stats.cancelled += 1
        self.dropped(call)

    def dropped(self, call: Call) -> None:
        """Nobody waits for `call` any more."""
        if self._calls.pop(call.handle, None) is not None:
            self.stats.in_flight -= 1
            self.model.cancel(call.handle, self.now())
            self._pump()

    def unload(self, name: str) -> None:
        """Have a model leave when it is idle."""
        self.model.unload(name, self.now())
        self._pump()

    def _wake(self) -> None:
        self._timer = None
        self._pump(self._when)

    def _pump(self, due: float = 0.0) -> None:
        """Carry out what happened by now, and wake up when next something will.

        `due` is when the clock was to wake it: an event loop may do so a little early, by what its clock is coarse.
        """
        for happening in self.model.advance(max(self.now(), due)):
            match happening:
                case FirstToken(handle=handle):
                    if (call := self._calls.get(handle)) is not None and not call.over:
                        call.first()
                case Finished(handle=handle, counters=counters):
                    if (call := self._take(handle)) is not None:
                        self.stats.finished += 1
                        call.finished(counters)
                case Refused(handle=handle):
                    if (call := self._take(handle)) is not None:
                        self.stats.refused += 1
                        call.refused()
                case Loaded():
                    self.stats.loads += 1
                case _:
                    pass
        self._arm()

    def _take(self, handle: int) -> Call | None:
        call = self._calls.pop(handle, None)
        if call is None:
            return None
        self.stats.in_flight -= 1
        return None if call.over else call

    def _arm(self) -> None:
        when = self.model.next_time()
        if self._timer is not None:
            if when is not None and self._when <= when:
                return  # wakes early enough, and arms itself again then
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._when = when
            self._timer = self.loop.call_at(when, self._wake)


def _nothing() -> None:
    pass


def is_inference(path: str) -> bool:
    """Whether a path is asked for tokens or vectors."""
    return path in _INFERENCE


_INFERENCE = frozenset(
    (
        *(f"/api/{name}" for name in ("generate", "chat", "embed", "embeddings")),
        *(f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses", "messages")),
        *(f"/{name}" for name in ("completion", "completions", "chat/completions", "embedding", "embeddings")),
        *(f"/api/v0/{name}" for name in ("chat/completions", "completions", "embeddings")),
    )
)


def status_refusal(status: int) -> Refusal:
    """The error of a node that was told to fail with `status`."""
    known = {500: ENGINE_DIED, 503: BUSY}
    return Refusal(status, known.get(status, f"this node was told to answer {status}"))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request at a node and how to answer it: at once (`send`), or when the model has done the work (`run`)."""

    node: EmulatedNode
    request: Request
    connection: Connection
    faults: Faults

    def send(self, document: Document) -> None:
        send(self.connection, document)

    def run(self, work: Work, writer: Writer) -> None:
        self.node.run(work, writer, self.connection, self.faults)


def send(connection: Connection, document: Document) -> None:
    """Answer with a whole document."""
    connection.reply(document.status, document.body, document.ctype, document.headers)


def control(node: EmulatedNode, request: Request, connection: Connection) -> None:
    """`/_emulator`: what the node has counted, and its faults. `?node=NAME` means another node of the process."""
    wanted = dict(p.partition("=")[::2] for p in request.query.split("&")).get("node", node.name)
    target = next((n for n in node.peers if n.name == wanted), None)
    if target is None:
        send(connection, Document(dumps({"error": f"no node named {wanted!r}"}), 404))
        return
    if (request.method, request.path) == ("POST", "/_emulator/faults"):
        try:
            faults = msgspec.json.decode(request.body or b"{}", type=Faults)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            send(connection, Document(dumps({"error": str(error)}), 400))
            return
        if target is node:  # which may be about to cut this very connection
            send(connection, Document(msgspec.json.encode(faults)))
            target.faults.set(faults)
        else:
            target.faults.set(faults)
            send(connection, Document(msgspec.json.encode(faults)))
    elif (request.method, request.path) == ("POST", "/_emulator/reset"):
        target.stats = Stats(in_flight=target.stats.in_flight)
        target.faults.clear()
        send(connection, Document(b"{}"))
    elif (request.method, request.path) == ("GET", "/_emulator"):
        body = {"name": target.name, "url": target.url, "kind": target.kind, "stats": target.stats.as_dict()}
        send(connection, Document(dumps(body | {"faults": msgspec.structs.asdict(target.faults.current)})))
    else:
        send(connection, Document(b'{"error":"not found"}', 404))
