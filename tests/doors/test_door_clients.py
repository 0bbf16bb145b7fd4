"""The door and clients that are slow, greedy or gone; handlers that fail; stopping."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from tests.support.door_app import LIMIT, TestApp, doors, reply
from tests.support.wait import stalled, until

from sollol.core.ports import Sink
from sollol.errors import BadRequest, BodyTooLarge, PortTaken, QueueFull, RequestTimeout
from sollol.gateway.http import Handler, Request, Route
from sollol.gateway.protocol import UNSENT_BYTES, serve

GET = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"


def post(path: str, *lines: bytes) -> bytes:
    return b"\r\n".join([b"POST %b HTTP/1.1" % path.encode(), b"Host: a", *lines, b"", b""])


class Upstream:
    """Stands for the exchange with a node: writes down what the door does to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None:
        self.calls.append("close")


# limits


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 12_000,
        b"\r\n" * 40_000,
        post("/x", b"Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nX: " + b"y" * 70_000,
        post("/x", b"Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\n" + b"X: y\r\n" * 12_000,
    ],
    ids=["a value", "the target", "many", "empty lines", "a trailer", "many trailers"],
)
async def test_headers_over_the_limit(sent: bytes) -> None:
    async with doors() as door:
        client = await door.client()
        client.writer.write(sent)
        answer = await client.answer()
        assert (answer.status, answer.headers[b"connection"]) == (431, b"close")
        client.writer.write_eof()
        assert await client.closed() == b""


async def test_headers_below_the_limit() -> None:
    async with doors() as door:
        answer = await door.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 60_000 + b"\r\n\r\n")
        assert answer.status == 200


async def test_a_body_over_the_limit_is_refused_by_its_length() -> None:
    async with doors() as door:
        client = await door.client()
        answer = await client.ask(post("/x", b"Content-Length: %d" % (LIMIT + 1)))  # no byte of it has been sent
        assert (answer.status, answer.headers[b"connection"]) == (413, b"close")
        assert await client.reader.read() == b""


async def test_a_client_that_goes_on_sending_still_reads_the_refusal() -> None:
    async with doors() as door:
        client = await door.client()
        await client.send(post("/x", b"Content-Length: 30000000"))
        client.writer.write(bytes(30_000_000))
        answer = await client.answer()
        assert answer.status == 413


async def test_chunks_over_the_limit() -> None:
    async with doors() as door:
        client = await door.client()
        await client.send(post("/x", b"Transfer-Encoding: chunked"), *[b"64\r\n" + bytes(100) + b"\r\n"] * 11)
        assert (await client.answer()).status == 413
        assert (
            await door.ask(post("/x", b"Transfer-Encoding: chunked") + b"3E8\r\n" + bytes(LIMIT) + b"\r\n0\r\n\r\n")
        ).status == 200


async def test_too_many_connections() -> None:
    async with doors(connections=2) as door:
        first, second = await door.client(), await door.client()
        assert (await first.ask(GET)).status == 200
        assert (await second.ask(GET)).status == 200
        third = await door.client()
        assert (await third.answer()).status == 503
        assert isinstance(door.app.refused[0], QueueFull)
        third.leave()
        first.leave()
        await until(lambda: door.serving.connections == 1)
        assert (await door.ask(GET)).status == 200


# slow clients


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_headers_that_do_not_end(sent: bytes) -> None:
    async with doors(header_seconds=0.1, linger_seconds=0.1) as door:
        client = await door.client()
        if b"Host" in sent:
            assert (await client.ask(GET)).status == 200
        await client.send(sent)
        assert (await client.answer()).status == 408
        assert await client.closed() == b""


async def test_slow_letters_do_not_buy_time() -> None:
    async with doors(header_seconds=0.2, linger_seconds=0.1) as door:
        client = await door.client()

        async def drip() -> None:
            await client.send(b"GET / HTTP/1.1\r\nX: ")
            while True:
                await client.send(b"y")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert (await client.answer()).status == 408
        dripping.cancel()


async def test_a_silent_connection_is_closed() -> None:
    async with doors(header_seconds=0.1) as door:
        assert await (await door.client()).closed() == b""


async def test_an_idle_connection_is_closed() -> None:
    async with doors(idle_seconds=0.1) as door:
        client = await door.client()
        assert (await client.ask(GET)).status == 200
        assert await client.closed() == b""
        assert door.app.refused == []


async def test_a_body_that_does_not_come() -> None:
    async with doors(body_seconds=0.1, linger_seconds=0.1) as door:
        client = await door.client()
        await client.send(post("/x", b"Content-Length: 5"), b"he")
        assert (await client.answer()).status == 408
        assert await client.closed() == b""


async def test_a_body_that_comes_slowly_is_taken() -> None:
    async with doors(body_seconds=0.2) as door:
        client = await door.client()
        await client.send(post("/x", b"Content-Length: 10"))
        for _ in range(10):
            await asyncio.sleep(0.05)
            await client.send(b"x")
        assert (await client.answer()).status == 200


async def test_a_slow_handler_has_no_limit() -> None:
    async def slow(request: Request, sink: Sink) -> None:
        await asyncio.sleep(0.5)
        reply(sink, 200, b"at last")

    app = TestApp()
    app.on("/slow", slow)
    async with doors(app, header_seconds=0.1, body_seconds=0.1, idle_seconds=0.1) as door:
        assert (await door.ask(post("/slow", b"Content-Length: 1") + b"x")).body == b"at last"


# 100-continue and streamed bodies


async def test_expect_continue() -> None:
    async with doors() as door:
        client = await door.client()
        await client.send(post("/x", b"Expect: 100-continue", b"Content-Length: 5"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"hello")).body == b"POST /x? hello"


async def test_expect_continue_is_refused_without_the_body() -> None:
    app = TestApp(refusals={"/no": BadRequest("no")})
    async with doors(app) as door:
        answer = await door.ask(post("/no", b"Expect: 100-continue", b"Content-Length: 5"))
        assert (answer.status, answer.headers[b"connection"]) == (400, b"close")


async def test_a_streamed_body_is_read_as_it_comes() -> None:
    pieces: list[bytes] = []

    async def take(request: Request, sink: Sink) -> None:
        assert request.chunks is not None
        async for piece in request.chunks:
            pieces.append(piece)
        reply(sink, 200, b"%d" % sum(map(len, pieces)))

    app = TestApp()
    app.on("/up", take, streams=True)
    async with doors(app) as door:
        client = await door.client()
        await client.send(post("/up", b"Expect: 100-continue", b"Content-Length: 6"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        await until(lambda: pieces)
        assert (await client.ask(b"def")).body == b"6"
        await client.send(post("/up", b"Transfer-Encoding: chunked"), b"3\r\nabc\r\n", b"0\r\n\r\n")
        assert (await client.answer()).body == b"9"
        assert (await client.ask(GET)).status == 200


async def test_a_streamed_body_waits_for_its_reader() -> None:
    gate = asyncio.Event()
    got = 0

    async def take(request: Request, sink: Sink) -> None:
        nonlocal got
        await gate.wait()
        assert request.chunks is not None
        async for piece in request.chunks:
            got += len(piece)
        reply(sink, 200, b"")

    app = TestApp()
    app.on("/up", take, streams=True)
    total = 9_000_000
    async with doors(app, body_seconds=0.1) as door:  # time does not run against a client that is made to wait
        client = await door.client()
        client.writer.write(post("/up", b"Content-Length: %d" % total) + bytes(total))
        await stalled(client.writer.transport.get_write_buffer_size)
        assert client.writer.transport.get_write_buffer_size() > 0
        gate.set()
        assert (await client.answer()).status == 200
        assert got == total


@pytest.mark.parametrize(
    ("end", "error"),
    [(b"zz\r\n", BadRequest), (b"", RequestTimeout), (b"989681\r\n" + bytes(10_000_001) + b"\r\n", BodyTooLarge)],
    ids=["broken", "slow", "too large"],
)
async def test_a_streamed_body_that_fails(end: bytes, error: type[Exception]) -> None:
    seen: list[Exception] = []

    async def take(request: Request, sink: Sink) -> None:
        assert request.chunks is not None
        try:
            async for _ in request.chunks:
                pass
        except error as problem:
            seen.append(problem)
            raise

    app = TestApp()
    app.on("/up", take, streams=True)
    async with doors(app, body_seconds=0.3, linger_seconds=0.1) as door:
        client = await door.client()
        client.writer.write(post("/up", b"Transfer-Encoding: chunked") + b"1\r\na\r\n" + end)
        answer = await client.answer()
        assert answer.status == error.status  # type: ignore[attr-defined]  # all are SollolErrors
        assert len(seen) == 1
        assert (await door.ask(GET)).status == 200


async def test_a_handler_that_answers_before_it_has_read_all() -> None:
    async def hasty(request: Request, sink: Sink) -> None:
        reply(sink, 200, b"enough")

    app = TestApp()
    app.on("/up", hasty, streams=True)
    async with doors(app, linger_seconds=0.1) as door:
        client = await door.client()
        await client.send(post("/up", b"Content-Length: 100"), b"abc")
        answer = await client.answer()
        assert (answer.body, answer.headers[b"connection"]) == (b"enough", b"close")
        assert await client.closed() == b""


# clients that leave


@pytest.mark.parametrize("how", ["closed", "reset", "half closed"])
@pytest.mark.parametrize("begun", [False, True], ids=["before the first byte", "after it"])
async def test_a_client_that_leaves_closes_the_node_in_the_same_turn(how: str, begun: bool) -> None:
    upstream = Upstream()
    order: list[str] = []
    running = asyncio.Event()
    over = asyncio.Event()

    async def handler(request: Request, sink: Sink) -> None:
        sink.attach(upstream)
        if begun:
            sink.head(200, ())
            sink.data(b"first")
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            order.extend([*upstream.calls, "cancelled"])
            sink.data(b"nobody hears this")
            sink.end()
            sink.abort()
            late = Upstream()
            sink.attach(late)
            order.extend(late.calls)
            over.set()
            raise

    app = TestApp()
    app.on("/run", handler)
    async with doors(app) as door:
        client = await door.client()
        await client.send(post("/run", b"Content-Length: 2"), b"{}")
        await running.wait()
        if begun:
            await client.reader.readuntil(b"first")
        if how == "half closed":  # it cannot be told from one that is gone, and an Ollama takes it as gone too
            client.writer.write_eof()
        else:
            client.leave(reset=how == "reset")
        await asyncio.wait_for(over.wait(), 5)
        assert order == ["close", "cancelled", "close"]
        await until(lambda: door.serving.connections == 0)


async def test_the_socket_of_the_node_is_closed_before_anything_else_runs() -> None:
    upstream = Upstream()
    seen: list[list[str]] = []

    async def handler(request: Request, sink: Sink) -> None:
        sink.attach(upstream)
        await asyncio.Event().wait()

    app = TestApp()
    app.on("/run", handler)
    async with doors(app) as door:
        client = await door.client()
        await client.send(b"GET /run HTTP/1.1\r\nHost: a\r\n\r\n")
        [protocol] = door.serving._doors
        await until(lambda: protocol.current and protocol.current._exchange)
        protocol.eof_received()
        seen.append(list(upstream.calls))  # no await between: the very same turn
    assert seen == [["close"]]


async def test_leaving_in_the_middle_of_a_body() -> None:
    async with doors() as door:
        client = await door.client()
        await client.send(post("/x", b"Content-Length: 5"), b"he")
        await until(lambda: door.app.seen)
        client.leave()
        await until(lambda: door.serving.connections == 0)
        assert door.app.refused == []


async def test_an_upload_ends_when_its_client_leaves() -> None:
    ended = asyncio.Event()

    async def take(request: Request, sink: Sink) -> None:
        assert request.chunks is not None
        try:
            async for _ in request.chunks:
                pass
        finally:
            ended.set()

    app = TestApp()
    app.on("/up", take, streams=True)
    async with doors(app) as door:
        client = await door.client()
        await client.send(post("/up", b"Content-Length: 5"), b"he")
        await until(lambda: door.app.seen)
        client.leave()
        await asyncio.wait_for(ended.wait(), 5)


# slow readers


async def test_a_slow_reader_pauses_the_node_and_memory_stays_bounded() -> None:
    upstream = Upstream()
    sinks: list[Sink] = []
    done = asyncio.Event()

    async def handler(request: Request, sink: Sink) -> None:
        sink.head(200, ())
        sink.attach(upstream)
        sinks.append(sink)
        await done.wait()
        sink.end()

    app = TestApp()
    app.on("/fast", handler)
    async with doors(app) as door:
        client = await door.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's streams have no word for it
        await client.send(b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: sinks)
        sent = 0
        while "pause" not in upstream.calls:
            sinks[0].data(bytes(65_536))
            sent += 1
            assert sent < 1_000  # the buffers of two sockets are full long before 64 MB
        [protocol] = door.serving._doors
        assert protocol.transport.get_write_buffer_size() <= UNSENT_BYTES + 65_600
        late = Upstream()
        sinks[0].attach(late)
        assert late.calls == ["pause"]
        sinks[0].attach(upstream)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # asyncio's streams have no word for it
        done.set()
        assert len((await client.answer()).body) == sent * 65_536


async def test_resumed_when_there_is_room_again() -> None:
    upstream = Upstream()
    sinks: list[Sink] = []

    async def handler(request: Request, sink: Sink) -> None:
        sink.head(200, ())
        sink.attach(upstream)
        sinks.append(sink)
        await until(lambda: "resume" in upstream.calls)
        sink.end()

    app = TestApp()
    app.on("/fast", handler)
    async with doors(app) as door:
        client = await door.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's streams have no word for it
        await client.send(b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: sinks)
        while "pause" not in upstream.calls:
            sinks[0].data(bytes(65_536))
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # asyncio's streams have no word for it
        await client.answer()
        assert upstream.calls.index("pause") < upstream.calls.index("resume")


# handlers that fail


async def test_a_bug_is_logged_once_and_answered_plainly(caplog: pytest.LogCaptureFixture) -> None:
    async def buggy(request: Request, sink: Sink) -> None:
        raise ZeroDivisionError("secret detail")

    app = TestApp()
    app.on("/bug", buggy)
    async with doors(app) as door:
        client = await door.client()
        answer = await client.ask(b"GET /bug HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.body) == (500, b'{"error":"internal server error"}')
        assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
        assert (await client.ask(GET)).status == 200


async def test_an_error_of_ours_gets_the_words_of_the_app() -> None:
    async def failing(request: Request, sink: Sink) -> None:
        raise BadRequest("no such thing")

    app = TestApp()
    app.on("/fail", failing)
    async with doors(app) as door:
        answer = await door.ask(b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.body) == (400, b"no such thing")


def _begin(sink: Sink) -> None:
    sink.head(200, (), 10)
    sink.data(b"half")


async def _raise_ours(request: Request, sink: Sink) -> None:
    _begin(sink)
    raise BadRequest("too late")


async def _raise_other(request: Request, sink: Sink) -> None:
    _begin(sink)
    raise ZeroDivisionError


async def _forget_the_end(request: Request, sink: Sink) -> None:
    _begin(sink)


async def _too_short(request: Request, sink: Sink) -> None:
    _begin(sink)
    sink.end()


async def _too_long(request: Request, sink: Sink) -> None:
    _begin(sink)
    sink.data(b"much too long")
    await asyncio.Event().wait()


async def _abort(request: Request, sink: Sink) -> None:
    _begin(sink)
    sink.abort()
    assert sink.started


@pytest.mark.parametrize("handler", [_raise_ours, _raise_other, _forget_the_end, _too_short, _too_long, _abort])
async def test_a_reply_that_cannot_be_completed_breaks_the_connection(handler: Handler) -> None:
    app = TestApp()
    app.on("/half", handler)
    async with doors(app) as door:
        client = await door.client()
        await client.send(b"GET /half HTTP/1.1\r\nHost: a\r\n\r\n")
        got = await client.closed()
        assert b"Content-Length: 10" in got or got == b""  # a reset may overtake what was sent
        assert not got.endswith(b"half" * 2)
        assert (await door.ask(GET)).status == 200


async def test_a_handler_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(request: Request, sink: Sink) -> None:
        assert not sink.started

    app = TestApp()
    app.on("/silent", silent)
    async with doors(app) as door:
        assert (await door.ask(b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n")).status == 500
        assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("misuse", ["data", "end", "head twice"])
async def test_misuse_of_the_sink_is_a_bug_that_shows(misuse: str) -> None:
    async def handler(request: Request, sink: Sink) -> None:
        with pytest.raises(RuntimeError):
            if misuse == "data":
                sink.data(b"x")
            elif misuse == "end":
                sink.end()
            else:
                sink.head(200, (), 0)
                sink.head(200, (), 0)
        if misuse != "head twice":
            sink.head(200, (), 0)
        sink.end()

    app = TestApp()
    app.on("/misuse", handler)
    async with doors(app) as door:
        assert (await door.ask(b"GET /misuse HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200


async def test_a_handler_that_is_cancelled_answers_503() -> None:
    async def cancelled(request: Request, sink: Sink) -> None:
        raise asyncio.CancelledError

    app = TestApp()
    app.on("/cancelled", cancelled)
    async with doors(app) as door:
        assert (await door.ask(b"GET /cancelled HTTP/1.1\r\nHost: a\r\n\r\n")).status == 503


async def test_a_bug_in_the_routes_does_not_stop_the_door(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(TestApp):
        def route(self, request: Request) -> Route:
            if request.path == "/bug":
                raise ZeroDivisionError
            return super().route(request)

    async with doors(Broken()) as door:
        assert (await door.ask(b"GET /bug HTTP/1.1\r\nHost: a\r\n\r\n")).status == 500
        assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
        assert (await door.ask(GET)).status == 200


# listening and stopping


async def test_a_taken_port_is_said_in_words() -> None:
    async with doors() as door:
        with pytest.raises(PortTaken, match="--port"):
            await serve(TestApp(), "127.0.0.1", door.port)


async def test_an_address_that_is_not_ours_is_another_error() -> None:
    with pytest.raises(OSError, match=r"bind|assign") as caught:
        await serve(TestApp(), "192.0.2.1", 0)
    assert not isinstance(caught.value, PortTaken)


async def test_accepted_sockets_have_no_delay_and_are_kept_alive() -> None:
    async with doors() as door:
        await door.ask(GET)
        [protocol] = door.serving._doors
        sock = protocol.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_stopping_closes_idle_ones_at_once_and_lets_running_ones_finish() -> None:
    gate = asyncio.Event()

    async def slow(request: Request, sink: Sink) -> None:
        await gate.wait()
        reply(sink, 200, b"done")

    app = TestApp()
    app.on("/slow", slow)
    async with doors(app) as door:
        idle, running, port = await door.client(), await door.client(), door.port
        assert (await idle.ask(GET)).status == 200
        await running.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        await until(lambda: len(app.seen) == 3)
        closing = asyncio.create_task(door.serving.close(10))
        assert await idle.closed() == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not closing.done()
        gate.set()
        answer = await running.answer()
        assert (answer.body, answer.headers[b"connection"]) == (b"done", b"close")
        assert await running.closed() == b""
        await asyncio.wait_for(closing, 5)
        assert door.serving.addresses == []


async def test_stopping_does_not_wait_for_ever() -> None:
    cancelled = asyncio.Event()

    async def stuck(request: Request, sink: Sink) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    app = TestApp()
    app.on("/stuck", stuck)
    async with doors(app) as door:
        client = await door.client()
        await client.send(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: app.seen)
        tasks = asyncio.all_tasks()
        await asyncio.wait_for(door.serving.close(0.05), 5)
        assert cancelled.is_set()
        assert door.serving.connections == 0
        assert (await client.closed()).startswith(b"HTTP/1.1 503 ")
        assert len(asyncio.all_tasks()) < len(tasks)


async def test_time_does_not_run_against_a_request_that_waits_behind_another() -> None:
    gate = asyncio.Event()

    async def slow(request: Request, sink: Sink) -> None:
        await gate.wait()
        reply(sink, 200, b"slow")

    async def take(request: Request, sink: Sink) -> None:
        assert request.chunks is not None
        reply(sink, 200, b"%d" % sum([len(piece) async for piece in request.chunks]))

    app = TestApp()
    app.on("/slow", slow)
    app.on("/up", take, streams=True)
    async with doors(app, body_seconds=0.1, header_seconds=0.1) as door:
        client = await door.client()
        total = 5_000_000
        client.writer.write(
            b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + post("/up", b"Content-Length: %d" % total) + bytes(total)
        )
        await stalled(client.writer.transport.get_write_buffer_size)
        await asyncio.sleep(0.3)  # three times the limit
        gate.set()
        assert (await client.answer()).body == b"slow"
        assert (await client.answer()).body == b"%d" % total


async def test_time_runs_again_for_headers_that_were_held_back() -> None:
    gate = asyncio.Event()

    async def slow(request: Request, sink: Sink) -> None:
        await gate.wait()
        reply(sink, 200, b"slow")

    app = TestApp()
    app.on("/slow", slow)
    async with doors(app, header_seconds=0.1, linger_seconds=0.1) as door:
        client = await door.client()
        ask = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
        await client.send(ask + ask)
        await until(lambda: len(app.seen) == 2)
        await client.send(b"GET / HTTP/1.1\r\nHo")
        [protocol] = door.serving._doors
        await until(lambda: protocol._held)
        gate.set()
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 408]


async def test_far_too_many_connections_are_closed_without_a_word() -> None:
    async with doors(connections=1) as door:
        crowd = [await door.client() for _ in range(1 + 256 + 1)]
        assert await crowd[-1].closed() == b""
        assert (await crowd[1].answer()).status == 503
        assert (await crowd[0].ask(GET)).status == 200
