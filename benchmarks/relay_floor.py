"""What the relay itself costs: CPU time per request of one process that has the door, the transport and nothing between.

    python benchmarks/relay_floor.py [--requests 20000] [--clients 16] [--loop asyncio|uvloop|both] [--raw-asgi]

A stub node and the load run in processes of their own; the relay reports the CPU time that it used itself, so that
neither of them can flatter the figure. `--raw-asgi` measures the same relay as a plain ASGI callable under uvicorn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any

from sollol.core.ports import Exchange, Header, Headers, Outgoing, Sink
from sollol.core.types import Endpoint, Node
from sollol.drivers.http import HttpTransport
from sollol.errors import SollolError
from sollol.gateway.http import Request, Route
from sollol.gateway.protocol import serve

BODY = b'{"model":"m:1b","messages":[{"role":"user","content":"hello"}],"stream":false}'
ANSWER = (
    b'{"model":"m:1b","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"Hello there."},'
    b'"done_reason":"stop","done":true,"total_duration":5191566,"prompt_eval_count":26,"eval_count":298}'
)
REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
)
REQUEST = (
    b"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nUser-Agent: bench\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


class Stub(asyncio.Protocol):
    """Answers every request, which must come in one piece, with the same reply."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(REPLY)


class Passing:
    """Receiver of one relayed exchange: node to client in the same call."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.exchange: Any = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: Headers) -> None:
        self.sink.head(status, headers, self.exchange.length)

    def on_data(self, data: bytes) -> None:
        self.sink.data(data)

    def on_end(self) -> None:
        self.sink.end()
        self.over.set_result(None)

    def on_error(self, error: Exception) -> None:
        self.over.set_exception(error)

    def on_writable(self, writable: bool) -> None:
        pass


class Relay:
    """The smallest app: everything goes to one node."""

    def __init__(self, node: Node, transport: HttpTransport) -> None:
        self.node = node
        self.transport = transport
        self._route = Route(self.handle, 1 << 20)

    def route(self, request: Request) -> Route:
        return self._route

    async def handle(self, request: Request, sink: Sink) -> None:
        passing = Passing(sink)
        outgoing = Outgoing(request.method, request.path, request.headers, request.body)
        exchange: Exchange = self.transport.send(self.node, outgoing, passing)
        passing.exchange = exchange
        sink.attach(exchange)
        await passing.over

    def refuse(self, request: Request | None, sink: Sink, error: SollolError) -> None:
        sink.head(error.status, (), 0)
        sink.end()

    def reply_headers(self, request: Request) -> list[Header]:
        return [(b"X-Powered-By", b"SOLLOL")]


def _run(loop: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415 - an extra that may be missing

        uvloop.run(main())
    else:
        asyncio.run(main())


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _report_until_closed(pipe: Connection) -> None:
    """Answer "cpu" with the CPU seconds of this process until told "stop"."""
    loop = asyncio.get_running_loop()
    while True:
        readable = asyncio.Event()
        loop.add_reader(pipe.fileno(), readable.set)
        await readable.wait()
        loop.remove_reader(pipe.fileno())
        if pipe.recv() == "stop":
            return
        pipe.send(_cpu())


def stub(pipe: Connection, loop: str) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await _report_until_closed(pipe)
        server.close()

    _run(loop, main)


def relay(pipe: Connection, loop: str, node_port: int) -> None:
    async def main() -> None:
        transport = HttpTransport()
        serving = await serve(Relay(Node("stub", Endpoint("127.0.0.1", node_port)), transport), "127.0.0.1", 0)
        pipe.send(serving.addresses[0][1])
        await _report_until_closed(pipe)
        await serving.close(0)
        await transport.close()

    _run(loop, main)


def raw_asgi(pipe: Connection, loop: str, node_port: int) -> None:
    import uvicorn  # type: ignore[import-not-found]  # noqa: PLC0415 - not a dependency; only this comparison needs it

    node = Node("stub", Endpoint("127.0.0.1", node_port))
    transport = HttpTransport()

    class AsgiSink:
        """Collects what the receiver says, because `send` of ASGI must be awaited."""

        def __init__(self) -> None:
            self.messages: list[dict[str, Any]] = []

        def head(self, status: int, headers: Headers, length: int | None = None) -> None:
            framing = [] if length is None else [(b"content-length", b"%d" % length)]
            listed = [*headers, *framing, (b"X-Powered-By", b"SOLLOL")]
            self.messages.append({"type": "http.response.start", "status": status, "headers": listed})

        def data(self, data: bytes) -> None:
            self.messages.append({"type": "http.response.body", "body": data, "more_body": True})

        def end(self) -> None:
            self.messages.append({"type": "http.response.body", "body": b"", "more_body": False})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        sink: Any = AsgiSink()
        passing = Passing(sink)
        passing.exchange = transport.send(node, Outgoing(scope["method"], scope["path"], scope["headers"], body), passing)
        await passing.over
        for message in sink.messages:
            await send(message)

    async def main() -> None:
        config = uvicorn.Config(
            app, port=0, http="httptools", loop=loop, lifespan="off", access_log=False, log_level="warning", ws="none"
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        pipe.send(server.servers[0].sockets[0].getsockname()[1])
        await _report_until_closed(pipe)
        server.should_exit = True
        await running
        await transport.close()

    _run(loop, main)


class Client(asyncio.Protocol):
    """Sends `count` requests one after the other."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.buffer = b""
        self.times: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.at = time.perf_counter()
        self.transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if ANSWER not in self.buffer:
            return
        self.times.append(time.perf_counter() - self.at)
        self.buffer = b""
        self.left -= 1
        if self.left:
            self.ask()
        else:
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed too early"))


async def load(port: int, requests: int, clients: int) -> tuple[float, list[float]]:
    """Seconds taken, and the time of each request."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    made = [await loop.create_connection(lambda: Client(requests // clients), "127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(client.done for _, client in made))
    return time.perf_counter() - started, [one for _, client in made for one in client.times]


def measure(loop: str, front: Callable[[Connection, str, int], None], requests: int, clients: int) -> dict[str, Any]:
    """Warm up, then measure; CPU µs per request of the front process alone."""
    context = multiprocessing.get_context("spawn")
    node_pipe, node_end = context.Pipe()
    front_pipe, front_end = context.Pipe()
    node = context.Process(target=stub, args=(node_end, loop))
    node.start()
    node_port = node_pipe.recv()
    process = context.Process(target=front, args=(front_end, loop, node_port))
    process.start()
    port = front_pipe.recv()
    try:
        asyncio.run(load(port, max(clients, requests // 10), clients))
        front_pipe.send("cpu")
        before = front_pipe.recv()
        seconds, times = asyncio.run(load(port, requests, clients))
        front_pipe.send("cpu")
        used = front_pipe.recv() - before
    finally:
        for pipe in (front_pipe, node_pipe):
            pipe.send("stop")
        process.join(10)
        node.join(10)
    return {
        "front": front.__name__,
        "loop": loop,
        "clients": clients,
        "cpu_us": round(used / len(times) * 1e6, 1),
        "per_second": round(len(times) / seconds),
        "median_us": round(statistics.median(times) * 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "both"], default="both")
    parser.add_argument("--raw-asgi", action="store_true")
    given = parser.parse_args()
    print(json.dumps({"machine": platform.processor() or platform.machine(), "python": platform.python_version()}))
    for loop in ("asyncio", "uvloop") if given.loop == "both" else (given.loop,):
        for front in (relay, raw_asgi) if given.raw_asgi else (relay,):
            print(json.dumps(measure(loop, front, given.requests, given.clients)))


if __name__ == "__main__":
    main()
