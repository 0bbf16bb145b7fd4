from __future__ import annotations

import gc
import sys
from importlib.util import find_spec

import pytest
from tests.support.need import require

from sollol.core.topology import Interface, parse_networks
from sollol.core.types import Endpoint, Origin
from sollol.drivers.mdns import MdnsSearch

LO = Interface("lo", "127.0.0.1", "255.0.0.0")
LAN = Interface("eth0", "192.168.1.7", "255.255.255.0")


async def test_without_the_extra_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    found = await MdnsSearch(lambda: [LAN]).find()
    assert found.candidates == ()
    assert found.notes == ("mDNS is not searched: pip install 'sollol[mdns]' adds it",)


@pytest.mark.parametrize(
    "interface",
    [
        LO,
        Interface("eth0", "203.0.113.5", "255.255.255.0"),
        Interface("docker0", "172.17.0.1", "255.255.0.0"),
        Interface("eth0", "fd00::2", "ffff::"),
        LAN,
    ],
)
async def test_only_private_networks_inside_the_restriction_are_spoken_to(interface):
    require(find_spec("zeroconf"), "zeroconf: `make test` installs it")
    found = await MdnsSearch(lambda: [interface], parse_networks(["127.0.0.0/8", "10.0.0.0/8"])).find()
    assert (found.candidates, found.where, found.notes) == ((), (), ())


# zeroconf leaves its socket to the garbage collector when it cannot start
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_address_that_cannot_be_listened_on_is_said():
    require(find_spec("zeroconf"), "zeroconf: `make test` installs it")
    found = await MdnsSearch(lambda: [Interface("gone0", "10.255.255.1", "255.0.0.0")]).find()
    assert found.notes[0].startswith("mDNS is not searched: ")
    gc.collect()


@pytest.mark.parametrize(
    ("addresses", "port", "expected"),
    [
        (["192.168.1.9"], 11434, Endpoint("192.168.1.9", 11434)),
        (["8.8.8.8", "192.168.1.9"], 80, Endpoint("192.168.1.9", 80)),
        (["8.8.8.8"], 80, None),
        ([], 80, None),
        (["192.168.1.9"], None, None),
        (["192.168.1.9"], 0, None),
    ],
)
def test_what_is_announced_is_taken_only_where_it_may_be_contacted(addresses, port, expected):
    candidate = MdnsSearch(lambda: [LAN])._candidate("gpu-box._ollama._tcp.local.", addresses, port)
    assert (candidate.endpoint if candidate else None) == expected
    if candidate:
        assert (candidate.name, candidate.origin) == ("gpu-box", Origin.MDNS)
