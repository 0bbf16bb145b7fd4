from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from tests.support.ports import listening, refusing

from sollol.core.topology import Interface, parse_networks
from sollol.core.types import Endpoint, Origin
from sollol.drivers import scan
from sollol.drivers.interfaces import interfaces, own_addresses, resolve
from sollol.drivers.scan import LocalSearch, SubnetSearch, open_ports


async def test_open_ports_are_found_in_order():
    with listening() as one, listening() as other, refusing() as closed:
        targets = [("127.0.0.1", other), ("127.0.0.1", closed), ("127.0.0.1", one), ("127.0.0.2", one)]
        assert await open_ports(targets) == [targets[0], targets[2]]
        assert await open_ports(targets, at_once=1) == [targets[0], targets[2]]
        assert await open_ports([]) == []


async def test_ipv6():
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with server:
        target = ("::1", server.getsockname()[1])
        assert await open_ports([target]) == [target]


async def test_a_full_backlog_is_waited_for_no_longer_than_allowed():
    """A socket whose queue is full drops what comes: the same as a host that does not answer."""
    with socket.socket() as server, contextlib.ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await open_ports([server.getsockname()], seconds=0.2) == []
        assert 0.15 < loop.time() - started < 1.0


async def test_a_thousand_refusing_ports_do_not_hold_the_loop():
    gaps: list[float] = []
    loop = asyncio.get_running_loop()

    async def tick() -> None:
        last = loop.time()
        while True:
            await asyncio.sleep(0)
            now = loop.time()
            gaps.append(now - last)
            last = now

    with refusing() as closed:
        ticking = asyncio.create_task(tick())
        assert await open_ports((("127.0.0.1", closed) for _ in range(1_000)), per_second=1e6) == []
        ticking.cancel()
    assert max(gaps) < 0.2


async def test_large_networks_are_swept_no_faster_than_the_system_forgets_addresses():
    loop = asyncio.get_running_loop()
    with refusing() as closed:
        started = loop.time()
        await open_ports((("127.0.0.1", closed) for _ in range(scan.BURST)), per_second=1.0)
        assert loop.time() - started < 0.9
        started = loop.time()
        await open_ports((("127.0.0.1", closed) for _ in range(scan.BURST + 31)), per_second=100.0)
        assert loop.time() - started >= 0.3


async def test_running_out_of_sockets_is_not_an_answer(monkeypatch):
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with listening() as port, contextlib.ExitStack() as taken:
        searching = asyncio.ensure_future(open_ports([("127.0.0.1", port)] * 3, seconds=2.0))
        hold = [taken.enter_context(socket.socket()) for _ in range(5)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hold[0].fileno(), hard))
        try:
            await asyncio.sleep(0.05)
            assert not searching.done()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await searching == [("127.0.0.1", port)] * 3


@pytest.mark.parametrize(("soft", "expected"), [(1_024, 256), (256, 64), (64, 16), (10, 8), (-1, 256)])
def test_how_many_sockets_at_once(monkeypatch, soft, expected):
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY if soft == -1 else soft, 4_096))
    assert scan._at_once() == expected


def test_how_many_sockets_at_once_where_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(scan, "resource", None)
    assert scan._at_once() == 256


async def test_local_search():
    with listening() as port, refusing() as closed:
        found = await LocalSearch([port, closed], parse_networks(["127.0.0.0/8"])).find()
        assert [(one.endpoint, one.origin) for one in found.candidates] == [(Endpoint("127.0.0.1", port), Origin.LOCAL)]
        assert found.where == (f"this machine (ports {port}, {closed})",)
        alone = await LocalSearch([port], parse_networks(["127.0.0.1"])).find()
        assert alone.where == (f"this machine (port {port})",)


async def test_local_search_outside_the_restriction():
    found = await LocalSearch([1], parse_networks(["10.0.0.0/24"])).find()
    assert (found.candidates, found.where) == ((), ())


async def test_subnet_search_contacts_nothing_of_loopback_or_public_networks():
    there = [Interface("lo", "127.0.0.1", "255.0.0.0"), Interface("eth0", "192.0.2.5", "255.255.255.0")]
    with listening() as port:
        found = await SubnetSearch(lambda: there, [port]).find()
    assert (found.candidates, found.where) == ((), ())
    assert "not a private network" in found.notes[0]


def test_interfaces_of_this_machine():
    assert "127.0.0.1" in own_addresses()
    assert any(interface.address == "127.0.0.1" and interface.netmask == "255.0.0.0" for interface in interfaces())


async def test_resolving():
    assert "127.0.0.1" in await resolve("localhost")
    assert await resolve("127.0.0.9") == ("127.0.0.9",)
    assert await resolve("no..such..name") == ()
