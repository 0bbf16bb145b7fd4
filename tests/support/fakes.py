"""The outside of the engine, scripted: a clock that follows the loop, nodes that answer as told, a client that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.support.core_cluster import a_node, a_survey, a_task

from sollol.core.events import AttemptEnded, AttemptStarted, Event, NodeAdded, NodeSurveyed, ProbeFailed, TaskEnded
from sollol.core.ports import Exchange, Header, Headers, Outgoing, Receiver
from sollol.core.scheduler import Limits, Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import Dialect, Endpoint, Node, NodeKind, Survey, Task
from sollol.engine.admission import Admission
from sollol.engine.dispatch import Dispatch
from sollol.engine.engine import Engine
from sollol.engine.pipeline import Deadline, Observe, Outcome, compose
from sollol.errors import NodeClosed

NDJSON: Header = (b"content-type", b"application/x-ndjson")
JSON: Header = (b"content-type", b"application/json; charset=utf-8")
WORD = b'{"model":"m","message":{"role":"assistant","content":"word "},"done":false}\n'
LAST = (
    b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":200000000,'
    b'"load_duration":10000000,"prompt_eval_count":10,"prompt_eval_duration":10000000,"eval_count":3,"eval_duration":90000000}\n'
)


class LoopClock:
    """Time as the event loop counts it, virtual or not."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 1e9 + self.now()

    def jitter(self) -> float:
        return 0.5


class FakeExchange:
    """One request that reached a node. After `close` nothing more is told, as the port promises."""

    def __init__(self, node: Node, request: Outgoing, receiver: Receiver) -> None:
        self.node = node
        self.request = request
        self.receiver = receiver
        self.closed = False
        self.over = False
        self.paused = False
        self.clogged = asyncio.Event()

    # what the engine and the door do

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def write(self, data: bytes) -> None:
        raise AssertionError("requests of the engine are sent whole")

    def finish(self) -> None:
        raise AssertionError("requests of the engine are sent whole")

    def close(self) -> None:
        self.closed = True

    # what the node does

    def head(self, status: int = 200, *headers: Header) -> None:
        if not self.closed and not self.over:
            self.receiver.on_head(status, headers or (NDJSON,))

    def data(self, *pieces: bytes) -> None:
        for piece in pieces:
            if not self.closed and not self.over:
                self.receiver.on_data(piece)

    def end(self) -> None:
        if not self.closed and not self.over:
            self.over = True
            self.receiver.on_end()

    def fail(self, error: Exception) -> None:
        if not self.closed and not self.over:
            self.over = True
            self.receiver.on_error(error)

    def reply(self, status: int, body: bytes, *headers: Header) -> None:
        """A whole document."""
        self.head(status, *(headers or (JSON,)))
        if body:
            self.data(body)
        self.end()


Script = Callable[[FakeExchange], Awaitable[None]]


async def answers(exchange: FakeExchange) -> None:
    """Three words, a tenth of a second apart."""
    exchange.head()
    for _ in range(3):
        exchange.data(WORD)
        await asyncio.sleep(0.1)
    exchange.data(LAST)
    exchange.end()


async def hangs(exchange: FakeExchange) -> None:
    """Nothing at all."""


def says(status: int, body: bytes = b"", *headers: Header) -> Script:
    """An answer that is a document."""

    async def script(exchange: FakeExchange) -> None:
        exchange.reply(status, body, *headers)

    return script


def fails(error: Callable[[str], Exception], after: Sequence[bytes] = (), seconds: float = 0.0) -> Script:
    """The connection breaks, after some pieces of the body and some time."""

    async def script(exchange: FakeExchange) -> None:
        if after:
            exchange.head()
            exchange.data(*after)
        await asyncio.sleep(seconds)
        exchange.fail(error(exchange.node.id))

    return script


class FakeTransport:
    """Each node answers by its scripts in turn, then by its last one again and again; without any, by `answers`."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Script]] = {}
        self.sent: list[FakeExchange] = []
        self.broken: list[BaseException] = []
        self.forgotten: list[Endpoint] = []
        self._running: set[asyncio.Task[None]] = set()

    def script(self, node: str, *scripts: Script) -> None:
        self.scripts[node] = list(scripts)

    @property
    def asked(self) -> list[str]:
        """The nodes that got a request, in order."""
        return [exchange.node.id for exchange in self.sent]

    def send(self, node: Node, request: Outgoing, receiver: Receiver) -> Exchange:
        exchange = FakeExchange(node, request, receiver)
        self.sent.append(exchange)
        scripts = self.scripts.get(node.id, [answers])
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        task = asyncio.ensure_future(self._play(script, exchange))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return exchange

    async def _play(self, script: Script, exchange: FakeExchange) -> None:
        try:
            await script(exchange)
        except (AssertionError, RuntimeError) as error:  # the engine did what it must not do: the test fails at its end
            self.broken.append(error)
            exchange.fail(NodeClosed(exchange.node.id, "the script broke"))

    def forget(self, endpoint: Endpoint) -> None:
        self.forgotten.append(endpoint)

    async def close(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


class FakeSink:
    """A client that takes everything. Says at once when the engine does what a door must not be asked to do."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.length: int | None = None
        self.pieces: list[bytes] = []
        self.ended = self.aborted = False
        self.exchange: Exchange | None = None
        self.attached: list[Exchange | None] = []

    @property
    def started(self) -> bool:
        return bool(self.status)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        assert not self.status, "the head was sent twice"
        self.status, self.headers, self.length = status, dict(headers), length

    def data(self, data: bytes) -> None:
        assert self.status, "data before the head"
        assert not self.ended, "data after the end"
        assert not self.aborted, "data after the connection was broken"
        self.pieces.append(data)

    def end(self) -> None:
        assert self.status, "the end before the head"
        assert not self.ended, "ended twice"
        self.ended = True

    def abort(self) -> None:
        assert not self.ended, "broken after the end"
        self.aborted = True

    def attach(self, exchange: Exchange | None) -> None:
        self.exchange = exchange
        self.attached.append(exchange)


class Request:
    """A request on its way: its task, what its client sees, and what carries it."""

    def __init__(self, task: Task, sink: FakeSink, running: asyncio.Task[Outcome]) -> None:
        self.task = task
        self.sink = sink
        self.running = running

    def leave(self) -> None:
        """What the door does when the client goes: the node's socket is closed at once, the handler is cancelled."""
        if self.sink.exchange is not None:
            self.sink.exchange.close()
        self.running.cancel()

    async def outcome(self) -> Outcome:
        return await self.running

    async def error(self) -> BaseException:
        """What it raised; it must have raised something."""
        found = (await asyncio.gather(self.running, return_exceptions=True))[0]
        assert isinstance(found, BaseException), found
        return found


class House:
    """The engine on scripted nodes. ``events`` are all events, in order."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.transport = FakeTransport()
        self.clock = LoopClock()
        self.state = ClusterState()
        self.engine = Engine(self.state, Scheduler(self.state, limits), self.transport, self.clock)
        self.events: list[Event] = []
        self.engine.listen(self.events.append)
        self.admission = Admission(self.engine)
        self.dispatch = Dispatch(self.engine, self.admission)
        self.handler = compose((Observe(self.engine), Deadline(self.engine)), self.dispatch)
        self.requests: list[Request] = []

    def add(self, name: str, *scripts: Script, survey: Survey | None = None, slots: int | None = 1, **fields: Any) -> None:
        """A node that is up, has model "m" loaded and answers by these scripts."""
        if scripts:
            self.transport.script(name, *scripts)
        self.engine.publish(NodeAdded(self.clock.now(), a_node(name, slots=slots, **fields)))
        self.seen(name, survey)

    def seen(self, name: str, survey: Survey | None = None) -> None:
        self.engine.publish(NodeSurveyed(self.clock.now(), name, survey or a_survey(("m",), ("m",))))

    def down(self, name: str) -> None:
        self.engine.publish(ProbeFailed(self.clock.now(), name, refused=True, text="refused"))

    def ask(self, sink: FakeSink | None = None, **fields: Any) -> Request:
        """Start a request for model "m"."""
        body = fields.pop("body", b'{"model":"m","messages":[]}')
        path = fields.pop("path", "/api/chat")
        task = a_task(len(self.requests) + 1, at=self.clock.now(), body=body, **fields)
        if path != task.path:
            task.path = path
            task.dialect = Dialect.OPENAI if path.startswith("/v1") else Dialect.OLLAMA
        sink = sink or FakeSink()
        request = Request(task, sink, asyncio.ensure_future(self.handler(task, sink)))
        self.requests.append(request)
        return request

    def of(self, kind: type[Event]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def check_that_all_is_over(self) -> None:
        """Every request ended once, every attempt that started ended, and nothing is held anywhere."""
        assert self.admission.waiting == 0
        assert self.engine.scheduler.waiting == 0
        ended = [event.task.id for event in self.of(TaskEnded)]
        assert sorted(ended) == [request.task.id for request in self.requests]
        running: dict[int, str] = {}
        for event in self.events:
            if isinstance(event, AttemptStarted):
                assert event.decision.task.id not in running, "sent twice at once"
                running[event.decision.task.id] = event.decision.node
            elif isinstance(event, AttemptEnded):
                assert running.pop(event.task.id) == event.node
        assert not running
        for node in self.state.nodes.values():
            assert node.in_flight == 0
            assert all(runner.running == 0 for runner in node.runners.values())
        for exchange in self.transport.sent:
            assert exchange.closed or exchange.over
        for request in self.requests:
            assert request.sink.exchange is None


@asynccontextmanager
async def house(limits: Limits | None = None) -> AsyncIterator[House]:
    """An engine until the end of the block; whatever happened in it, everything must be over then."""
    made = House(limits)
    try:
        yield made
    finally:
        for request in made.requests:
            request.running.cancel()
        await asyncio.gather(*(request.running for request in made.requests), return_exceptions=True)
        made.admission.close()
        await made.transport.close()
    assert not made.transport.broken, made.transport.broken
    made.check_that_all_is_over()


async def turns(count: int = 5) -> None:
    """Let the loop run a few turns, without any time going by."""
    for _ in range(count):
        await asyncio.sleep(0)


def openai_kind(**fields: Any) -> Survey:
    """What a llama.cpp server with the model tells."""
    return a_survey(("m",), ("m",), kind=NodeKind.LLAMACPP, **fields)
