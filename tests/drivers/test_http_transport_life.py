"""The transport's connections: kept, dropped, paused, closed; uploads, TLS, addresses."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.need import require
from tests.support.raw_peer import Peer, RawNode, Told, answers, raw_node
from tests.support.wait import stalled, until

from sollol.core.ports import Outgoing
from sollol.core.types import Endpoint, Node
from sollol.drivers.http import READ_BYTES, HttpTransport
from sollol.drivers.http_connect import interleave
from sollol.errors import NodeClosed, NodeUnreachable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
GET = Outgoing("GET", "/")


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    made = HttpTransport()
    yield made
    await made.close()


async def ask(transport: HttpTransport, node: Node, request: Outgoing = GET) -> Told:
    told = Told()
    transport.send(node, request, told)
    return await told.finished()


async def always_ok(peer: Peer) -> None:
    while await peer.request():
        await peer.send(OK)


# cut anywhere


@st.composite
def legal_replies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A legal reply and its body."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    body = b"".join(pieces)
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    extra = draw(st.sampled_from([b"", b"X-Empty:\r\n", b"x: \t y \r\n", b"Connection: keep-alive\r\n"]))
    start = interim + b"HTTP/1.1 200 OK\r\n" + extra
    if draw(st.booleans()):
        return start + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), body
    extension = draw(st.sampled_from([b"", b";a", b';a="b"']))
    trailer = draw(st.sampled_from([b"", b"X-Sum: 1\r\n"]))
    chunks = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return start + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0%b\r\n%b\r\n" % (extension, trailer), body


class Wire:
    """A transport of asyncio's kind that carries nothing: for feeding a connection exact pieces."""

    def __init__(self) -> None:
        self.closed = False

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


@given(legal_replies(), st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_of_a_legal_reply_gives_the_same(reply: tuple[bytes, bytes], cuts: list[int]) -> None:
    async def check() -> None:
        from sollol.drivers.http_connection import Connection

        transport, wire, told = HttpTransport(), Wire(), Told()
        node = Node("n", Endpoint("127.0.0.1", 1))
        connection = Connection(transport, node.endpoint)
        connection.connection_made(wire)  # type: ignore[arg-type]  # the four methods of it that are used
        connection._keep = True
        transport.keep(connection)
        transport.send(node, GET, told)
        marks = sorted({0, *(cut for cut in cuts if cut < len(reply[0])), len(reply[0])})
        for start, end in itertools.pairwise(marks):
            assert not told.over
            connection.get_buffer(-1)[: end - start] = reply[0][start:end]
            connection.buffer_updated(end - start)
        assert (told.status, told.body, told.ended, told.errors) == (200, reply[1], 1, [])
        assert connection.usable
        connection.connection_lost(None)
        await transport.close()

    asyncio.run(check())


# the pool


async def test_the_latest_connection_is_used_first_and_not_more_than_allowed_are_kept() -> None:
    transport = HttpTransport(max_idle=2)
    gate = asyncio.Event()
    ended: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        await gate.wait()
        await peer.send(OK.replace(b"hi", b"%02d" % peer.number))
        while await peer.request():
            await peer.send(OK.replace(b"hi", b"%02d" % peer.number))
        ended.append(peer.number)

    async with raw_node(script) as raw:
        told = [Told() for _ in range(4)]
        for each in told:
            transport.send(raw.node, GET, each)
        await until(lambda: raw.connections == 4)
        gate.set()
        for each in told:
            await each.finished()
        first = await ask(transport, raw.node)
        second = await ask(transport, raw.node)
        assert first.body == second.body  # put back and taken again
        await until(lambda: len(ended) == 2)
        assert first.body not in [b"%02d" % number for number in ended]
        await transport.close()


async def test_idle_connections_are_closed_in_time() -> None:
    transport = HttpTransport(idle_seconds=0.05)
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.closed()
        closed.set()

    async with raw_node(script) as raw:
        await ask(transport, raw.node)
        await asyncio.wait_for(closed.wait(), 5)
    await transport.close()


async def test_forget_closes_the_idle_ones_and_spares_the_busy(transport: HttpTransport) -> None:
    gate, closed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK) if not peer.number else await gate.wait()
        if peer.number:
            await peer.send(OK)
        else:
            await peer.request()
            await gate.wait()
            await peer.send(OK)
            await peer.closed()
            closed.set()

    async with raw_node(script) as raw:
        await ask(transport, raw.node)
        busy, fresh = Told(), Told()
        transport.send(raw.node, GET, busy)
        transport.send(raw.node, GET, fresh)
        transport.forget(raw.node.endpoint)
        gate.set()
        assert (await busy.finished()).body == b"hi"
        assert (await fresh.finished()).body == b"hi"
        transport.forget(raw.node.endpoint)
        await asyncio.wait_for(closed.wait(), 5)
        transport.forget(raw.node.endpoint)


async def test_an_idle_connection_is_written_to_at_once(transport: HttpTransport) -> None:
    async with raw_node(always_ok) as raw:
        await ask(transport, raw.node)
        exchange = transport.send(raw.node, GET, Told())
        assert exchange.connection is not None  # no task, no turn of the loop in between
        exchange.close()


async def test_the_socket_has_no_delay_and_is_kept_alive(transport: HttpTransport) -> None:
    async with raw_node(always_ok) as raw:
        await ask(transport, raw.node)
        exchange = transport.send(raw.node, GET, Told())
        sock = exchange.connection._transport.get_extra_info("socket")  # type: ignore[union-attr]  # it is connected
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        exchange.close()


# closing


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\npart"])
async def test_close_closes_the_socket_and_says_nothing_more(transport: HttpTransport, begun: bytes) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.send(begun)
        assert await peer.closed() == b""
        closed.set()

    async with raw_node(script) as raw:
        told = Told()
        exchange = transport.send(raw.node, GET, told)
        await asked.wait()
        if begun:
            await told.until(lambda told: told.pieces)
        exchange.close()
        exchange.close()
        await asyncio.wait_for(closed.wait(), 5)
        exchange.pause(), exchange.resume(), exchange.write(b"x"), exchange.finish()  # harmless
        assert not told.over


async def test_close_from_within_a_callback(transport: HttpTransport) -> None:
    class Closer(Told):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            exchange.close()

    async with raw_node(
        answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\nXX")
    ) as raw:
        told = Closer()
        exchange = transport.send(raw.node, GET, told)
        await told.until(lambda told: told.pieces)
        assert (told.body, told.over) == (b"a", False)


async def test_close_while_connecting(transport: HttpTransport) -> None:
    async with raw_node(always_ok) as raw:
        told = Told()
        for turns in range(4):
            exchange = transport.send(raw.node, GET, told)
            for _ in range(turns):
                await asyncio.sleep(0)
            exchange.close()
        assert (await ask(transport, raw.node)).body == b"hi"
        assert not told.over


async def test_the_transport_closes_with_everything_in_it() -> None:
    transport = HttpTransport()
    tasks = asyncio.all_tasks()
    silent = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await silent.wait()

    async with raw_node(script) as raw:
        running, connecting = Told(), Told()
        transport.send(raw.node, GET, running)
        await until(lambda: raw.connections)
        transport.send(raw.node, GET, connecting)
        await transport.close()
        assert [type(error) for error in running.errors] == [NodeClosed]
        assert [type(error) for error in connecting.errors] == [NodeUnreachable]
        after = await ask(transport, raw.node)
        assert [type(error) for error in after.errors] == [NodeUnreachable]
        silent.set()
    assert asyncio.all_tasks() == tasks
    await transport.close()


async def test_a_bug_in_a_receiver_is_not_taken_for_a_broken_reply(transport: HttpTransport) -> None:
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))

    class Buggy(Told):
        def on_data(self, data: bytes) -> None:
            raise ZeroDivisionError

    async with raw_node(always_ok) as raw:
        told = Buggy()
        transport.send(raw.node, GET, told)
        await told.finished()
        assert [type(error) for error in told.errors] == [NodeClosed]
        assert isinstance(found[0]["exception"], ZeroDivisionError)


# backpressure


async def test_a_paused_exchange_stops_the_node(transport: HttpTransport) -> None:
    total = 64 * 1024 * 1024
    written = 0

    async def script(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while written < total:
            peer.writer.write(bytes(65_536))
            await peer.writer.drain()
            written += 65_536
        await peer.closed()

    class Counting(Told):
        got = 0

        def on_data(self, data: bytes) -> None:
            self.got += len(data)
            self.news.set()

    async with raw_node(script) as raw:
        told = Counting()
        exchange = transport.send(raw.node, GET, told)
        exchange.pause()  # already while it connects
        await stalled(lambda: written)
        assert (told.status, told.got) == (0, 0)
        assert written < total / 4
        exchange.resume()
        async with asyncio.timeout(30):
            await told.finished()
        assert told.got == total


async def test_little_comes_after_a_pause_however_much_was_there(transport: HttpTransport) -> None:
    total = 4 * 1024 * 1024

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        peer.writer.write(bytes(total))
        await peer.closed()

    class Turns(Told):
        """Pauses at each turn of the loop, and goes on when all that was on its way must have come."""

        got = 0
        turns: list[int]

        def on_data(self, data: bytes) -> None:
            self.got += len(data)
            self.turns.append(len(data))
            exchange.pause()
            asyncio.get_running_loop().call_later(0.001, exchange.resume)
            self.news.set()

    async with raw_node(script) as raw:
        told = Turns()
        told.turns = []
        exchange = transport.send(raw.node, GET, told)
        await told.finished()
        assert told.got == total
        assert max(told.turns) <= READ_BYTES


async def test_a_connection_paused_to_the_end_is_watched_again_when_idle(transport: HttpTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    class Pausing(Told):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            exchange.pause()

    async with raw_node(script) as raw:
        told = Pausing()
        exchange = transport.send(raw.node, GET, told)
        await told.finished()
        await until(lambda: not transport._open)  # the node closed; a connection that did not read would never see that


# uploads


@pytest.mark.parametrize("length", [None, 10])
async def test_uploads(transport: HttpTransport, length: int | None) -> None:
    heard: list[bytes] = []

    async def script(peer: Peer) -> None:
        heard.append(await peer.request())
        await peer.send(OK)

    async with raw_node(script) as raw:
        told = Told()
        exchange = transport.send(raw.node, Outgoing("PUT", "/blob", upload=True, length=length), told)
        exchange.write(b"hello")  # before it is connected
        exchange.write(b"")
        await until(lambda: exchange.connection)
        exchange.write(b"world")
        exchange.finish()
        await told.finished()
        head, _, body = heard[0].partition(b"\r\n\r\n")
        if length is None:
            assert b"Transfer-Encoding: chunked" in head
            assert body == b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
        else:
            assert b"Content-Length: 10" in head
            assert body == b"helloworld"
        assert told.body == b"hi"


async def test_an_upload_of_the_wrong_length_is_a_bug_of_the_caller(transport: HttpTransport) -> None:
    async with raw_node(always_ok) as raw:
        exchange = transport.send(raw.node, Outgoing("PUT", "/", upload=True, length=3), Told())
        with pytest.raises(ValueError, match="shorter"):
            exchange.finish()
        with pytest.raises(ValueError, match="longer"):
            exchange.write(b"four")
        exchange.close()
        whole = transport.send(raw.node, Outgoing("PUT", "/", upload=True, length=3), Told())
        whole.write(b"all")
        whole.finish()
        with pytest.raises(ValueError, match="after the end"):
            whole.write(b"x")
        whole.close()


async def test_an_upload_hears_when_to_wait_and_is_never_sent_twice(transport: HttpTransport) -> None:
    reading = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await reading.wait()
        if not peer.number:
            await peer.reader.read(1_000_000)

    async with raw_node(script) as raw:
        await ask(transport, raw.node)
        told = Told()
        exchange = transport.send(raw.node, Outgoing("POST", "/", upload=True), told)
        while not told.writable:
            exchange.write(bytes(65_536))
        assert told.writable == [False]
        reading.set()
        await told.until(lambda told: len(told.writable) > 1 or told.over)
        await told.finished()
        assert [type(error) for error in told.errors] == [NodeClosed]
        assert raw.connections == 1


async def test_an_upload_waits_while_connecting(transport: HttpTransport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with raw_node(script) as raw:
        told = Told()
        exchange = transport.send(raw.node, Outgoing("POST", "/", upload=True), told)
        exchange.write(bytes(100_000))
        assert told.writable == [False]
        await told.until(lambda told: told.writable[-1])
        exchange.finish()
        assert (await told.finished()).body == b"hi"


async def test_a_reply_before_the_end_of_the_upload_is_taken_and_the_connection_given_up(transport: HttpTransport) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await peer.closed()
        closed.set()

    async with raw_node(script) as raw:
        told = Told()
        exchange = transport.send(raw.node, Outgoing("PUT", "/", upload=True), told)
        assert (await told.finished()).status == 413
        exchange.write(b"more")
        exchange.finish()
        await asyncio.wait_for(closed.wait(), 5)


async def test_a_large_body_arrives_whole(transport: HttpTransport) -> None:
    body = bytes(range(256)) * 4_000
    heard: list[bytes] = []

    async def script(peer: Peer) -> None:
        heard.append(await peer.request())
        await peer.send(OK)

    async with raw_node(script) as raw:
        assert (await ask(transport, raw.node, Outgoing("POST", "/", body=body))).body == b"hi"
        assert heard[0].partition(b"\r\n\r\n")[2] == body


# addresses and TLS


def test_families_take_turns() -> None:
    found = [(10, "a6"), (10, "b6"), (2, "a4"), (10, "a6"), (2, "b4"), (2, "c4")]
    assert interleave(found) == ["a6", "a4", "b6", "b4", "c4"]


async def test_ipv6(transport: HttpTransport) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    async with raw_node(always_ok, host="::1") as raw:
        assert (await ask(transport, Node("n", Endpoint("::1", raw.port)))).body == b"hi"


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """A name with several addresses, without asking any name server."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)


async def test_the_next_address_is_tried_when_one_refuses(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_node(always_ok) as raw:
        resolves_to(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
        assert (await ask(transport, Node("n", Endpoint("several", raw.port)))).body == b"hi"


async def test_all_addresses_refuse(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, "127.0.0.2", "127.0.0.3")
    async with raw_node(always_ok) as raw:
        port = raw.port
    told = await ask(transport, Node("n", Endpoint("several", port)))
    assert [type(error) for error in told.errors] == [NodeUnreachable]
    assert "127.0.0.2" in str(told.errors[0])


async def test_an_address_that_does_not_answer_is_overtaken(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as full:
        async with raw_node(always_ok) as raw:
            full.bind(("127.0.0.2", raw.port))
            full.listen(0)
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.2", raw.port))
            resolves_to(monkeypatch, "127.0.0.2", "127.0.0.1")
            assert (await ask(transport, Node("n", Endpoint("several", raw.port)))).body == b"hi"
            for filler in fillers:
                filler.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for localhost in one file."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert, both = folder / "key", folder / "cert", folder / "both.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    made = subprocess.run(
        [*command.split(), "-addext", names, "-keyout", str(key), "-out", str(cert)], capture_output=True, check=False
    )
    require(not made.returncode, "the openssl program, to make a certificate with")
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


async def with_tls(certificate: Path, transport: HttpTransport, script: Any = always_ok) -> tuple[Told, RawNode]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with raw_node(script, ssl=context) as raw:
        told = await ask(transport, Node("n", Endpoint("127.0.0.1", raw.port, tls=True)))
        again = await ask(transport, Node("n", Endpoint("127.0.0.1", raw.port, tls=True)))
        assert again.over
        await transport.close()
        return told, raw


async def test_tls(certificate: Path) -> None:
    told, raw = await with_tls(certificate, HttpTransport(tls=ssl.create_default_context(cafile=str(certificate))))
    assert (told.body, raw.connections) == (b"hi", 1)


async def test_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    told, _ = await with_tls(certificate, HttpTransport())
    assert [type(error) for error in told.errors] == [NodeUnreachable]
    assert "certificate" in str(told.errors[0]).lower()
