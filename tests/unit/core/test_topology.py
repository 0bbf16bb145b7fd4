from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.topology import (
    MAX_HOSTS,
    MAX_HOSTS_IN_ALL,
    Interface,
    Places,
    allowed,
    is_docker_address,
    is_docker_interface,
    is_private,
    network_ports,
    parse_networks,
    plan_scan,
)
from sollol.core.types import Endpoint
from sollol.errors import ConfigError

LAN = Interface("eth0", "192.168.1.7", "255.255.255.0")
LO = Interface("lo", "127.0.0.1", "255.0.0.0")
DOCKER = Interface("docker0", "172.17.0.1", "255.255.0.0")
PRIVATE = [ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")]


def nets(*texts):
    return parse_networks(texts)


def swept(plan):
    return [str(network) for network in plan.networks]


def test_the_real_subnet_and_loopback_without_a_sweep():
    plan = plan_scan([LO, LAN])
    assert plan.loopback == ("127.0.0.1", "::1")
    assert swept(plan) == ["192.168.1.0/24"]
    hosts = list(plan.hosts())
    assert len(hosts) == 254
    assert hosts[0] == "192.168.1.1"
    assert "192.168.1.7" in hosts
    assert plan.notes == ()


@pytest.mark.parametrize(
    ("interface", "networks", "note"),
    [
        (Interface("eth0", "10.1.7.9", "255.255.254.0"), ["10.1.6.0/23"], ""),
        (Interface("eth0", "172.16.5.5", "255.255.255.240"), ["172.16.5.0/28"], ""),
        (Interface("wg0", "10.9.0.2", "255.255.255.255"), ["10.9.0.2/32"], ""),
        (Interface("eth0", "169.254.10.20", "255.255.0.0"), ["169.254.8.0/22"], "65,536 addresses: only 169.254.8.0/22"),
        (Interface("eth0", "10.9.66.15", "255.0.0.0"), ["10.9.64.0/22"], "16,777,216 addresses: only 10.9.64.0/22"),
        (Interface("eth0", "203.0.113.5", "255.255.255.0"), [], "not a private network"),
        (Interface("eth0", "192.0.2.2", "255.255.255.0"), [], "not a private network"),
        (Interface("tailscale0", "100.64.3.4", "255.255.0.0"), [], "not a private network"),
        (Interface("eth0", "192.168.1.7", "0.0.0.0"), [], "not a private network"),
        (Interface("tailscale0", "100.64.3.4", "255.255.255.255"), [], ""),
        (Interface("eth0", "fd00::2", "ffff:ffff:ffff:ffff::"), [], "IPv6 networks are too large"),
        (Interface("eth0", "2001:db8::2", "ffff:ffff:ffff:ffff::"), [], "IPv6 networks are too large"),
        (Interface("eth0", "fe80::1%eth0", "ffff:ffff:ffff:ffff::"), [], ""),
        (DOCKER, [], "Docker is asked"),
        (Interface("br-0123456789ab", "192.168.32.1", "255.255.240.0"), [], "Docker is asked"),
        (Interface("br-lan", "192.168.32.1", "255.255.255.0"), ["192.168.32.0/24"], ""),
        (Interface("eth0", "nonsense", "255.0.0.0"), [], ""),
        (Interface("eth0", "192.168.1.7", ""), [], ""),
        (Interface("eth0", "fd00::2", "255.0.0.0"), [], ""),
    ],
)
def test_one_interface(interface, networks, note):
    plan = plan_scan([LO, interface])
    assert swept(plan) == networks
    assert (note in " ".join(plan.notes)) if note else plan.notes == ()


def test_the_same_network_twice_is_swept_once():
    plan = plan_scan(
        [LAN, Interface("wlan0", "192.168.1.8", "255.255.255.0"), Interface("x", "192.168.1.9", "255.255.255.128")]
    )
    assert swept(plan) == ["192.168.1.0/24"]


def test_overlapping_networks_give_every_address_once():
    plan = plan_scan([Interface("x", "192.168.1.9", "255.255.255.128"), LAN])
    hosts = list(plan.hosts())
    assert len(hosts) == len(set(hosts)) == 254


def test_all_networks_together_are_bounded():
    many = [Interface(f"eth{n}", f"10.{n}.0.5", "255.255.0.0") for n in range(6)]
    plan = plan_scan(many)
    assert len(plan.networks) == 4
    assert "at most 4,096 addresses" in " ".join(plan.notes)


@pytest.mark.parametrize(
    ("restriction", "networks", "loopback", "note"),
    [
        (["127.0.0.0/8"], [], ("127.0.0.1",), ""),
        (["::1"], [], ("::1",), ""),
        (["192.168.1.0/24"], ["192.168.1.0/24"], (), ""),
        (["192.168.1.16/28"], ["192.168.1.16/28"], (), ""),
        (["192.168.1.44"], ["192.168.1.44/32"], (), ""),
        (["10.1.2.0/24"], ["10.1.2.0/24"], (), ""),
        (["192.168.0.0/16"], ["192.168.1.0/24"], (), ""),
        (["10.0.0.0/8"], ["10.0.0.0/22"], (), "only 10.0.0.0/22 is searched"),
        (["fd00::/8"], [], (), "IPv6"),
        (["127.0.0.1", "192.168.1.0/30"], ["192.168.1.0/30"], ("127.0.0.1",), ""),
    ],
)
def test_restricted(restriction, networks, loopback, note):
    plan = plan_scan([LO, LAN, DOCKER], nets(*restriction))
    assert swept(plan) == networks
    assert plan.loopback == loopback
    assert (note in " ".join(plan.notes)) if note else plan.notes == ()


def test_a_large_restriction_inside_a_huge_network_is_searched_around_this_machine():
    interface = Interface("eth0", "10.9.66.15", "255.0.0.0")
    assert swept(plan_scan([interface], nets("10.9.0.0/16"))) == ["10.9.64.0/22"]
    assert swept(plan_scan([interface], nets("10.8.0.0/16"))) == ["10.8.0.0/22"]


def test_a_public_restriction_contacts_nothing():
    plan = plan_scan([LO, LAN], [ip_network("203.0.113.0/24"), ip_network("0.0.0.0/0")])
    assert swept(plan) == []
    assert "203.0.113.0/24: not a private network" in " ".join(plan.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [("eth0", "is no network"), ("10.0.0.0/33", "is no network"), ("8.8.8.0/24", "not a private"), ("::/0", "not")],
)
def test_networks_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        nets(text)


def test_empty_entries_restrict_nothing():
    assert nets("", " ") == ()


@pytest.mark.parametrize(
    ("address", "restriction", "expected"),
    [
        ("10.1.2.3", [], True),
        ("127.0.0.9", [], True),
        ("::1", [], True),
        ("fd00::1", [], True),
        ("fe80::1%eth0", [], True),
        ("::ffff:10.0.0.1", [], True),
        ("8.8.8.8", [], False),
        ("100.64.0.1", [], False),
        ("192.0.2.1", [], False),
        ("2001:db8::1", [], False),
        ("::ffff:8.8.8.8", [], False),
        ("host", [], False),
        ("10.1.2.3", ["10.1.0.0/16"], True),
        ("10.2.2.3", ["10.1.0.0/16"], False),
        ("::1", ["127.0.0.0/8"], False),
    ],
)
def test_allowed(address, restriction, expected):
    assert allowed(address, nets(*restriction)) is expected


def test_is_private_knows_no_names():
    assert not is_private("localhost")


@pytest.mark.parametrize(
    ("address", "interfaces", "expected"),
    [
        ("172.17.0.5", [], True),
        ("172.31.255.1", [], True),
        ("172.16.0.5", [], False),
        ("172.32.0.5", [], False),
        ("10.9.66.15", [], False),
        ("192.168.1.7", [], False),
        ("192.168.33.7", [], False),
        ("127.0.0.1", [], False),
        ("gpu-box", [], False),
        ("fd00::5", [], False),
        ("172.17.0.5", [LAN, LO], True),
        ("172.17.0.5", [DOCKER], True),
        ("172.20.0.5", [Interface("eth0", "172.20.0.9", "255.255.0.0")], False),
        ("192.168.33.7", [Interface("br-0123456789ab", "192.168.32.1", "255.255.240.0")], True),
        ("10.5.0.7", [Interface("br-0123456789ab", "10.5.0.1", "255.255.0.0")], True),
        ("172.17.0.5", [Interface("eth0", "broken", "")], True),
    ],
)
def test_docker_addresses(address, interfaces, expected):
    assert is_docker_address(address, interfaces) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("docker0", True),
        ("docker_gwbridge", True),
        ("br-0123456789ab", True),
        ("br-lan", False),
        ("br0", False),
        ("eth0", False),
    ],
)
def test_docker_interfaces(name, expected):
    assert is_docker_interface(name) is expected


PLACES = Places(
    ["127.0.0.1", "127.0.0.2", "192.168.1.7", "FD00::2", "fe80::5%eth0"],
    {"gpu-box": ("192.168.1.9", "fd00::9"), "me": ("192.168.1.7",), "nobody": ()},
)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("localhost", "127.0.0.1", True),
        ("::1", "127.0.0.1", True),
        ("192.168.1.7", "localhost", True),
        ("fd00:0::2", "127.0.0.1", True),
        ("fe80::5", "127.0.0.1", True),
        ("::ffff:192.168.1.7", "127.0.0.1", True),
        ("ollama.localhost", "127.0.0.1", True),
        ("me", "127.0.0.1", True),
        ("gpu-box", "192.168.1.9", True),
        ("gpu-box", "fd00::9", True),
        ("GPU-other", "gpu-other", True),
        ("nobody", "nobody", True),
        ("gpu-box", "192.168.1.8", False),
        ("192.168.1.9", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.1", False),
        ("127.0.0.2", "127.0.0.3", False),
    ],
)
def test_one_node_under_two_addresses(one, other, same):
    assert PLACES.same(Endpoint(one, 11434), Endpoint(other, 11434)) is same
    assert not PLACES.same(Endpoint(one, 11434), Endpoint(other, 11435))
    assert not PLACES.same(Endpoint(one, 11434), Endpoint(other, 11434, base="/b"))


@pytest.mark.parametrize(
    ("hosts", "count"),
    [
        ([], 0),
        (["localhost", "192.168.1.7", "::1", "me"], 1),
        (["192.168.1.9", "fd00::9"], 2),
        (["192.168.1.9", "fd00::9", "gpu-box"], 1),
        (["192.168.1.9", "gpu-box", "localhost", "192.168.1.50"], 3),
    ],
)
def test_machines_are_counted_once(hosts, count):
    assert PLACES.count_machines(hosts) == count


def test_this_machine():
    assert [PLACES.is_here(host) for host in ("localhost", "me", "fd00::2", "gpu-box", "127.0.0.2")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_networks_are_swept_for_ollama_and_for_what_is_asked_for():
    assert network_ports((11434, 8080, 8000, 1234, 11500)) == (11434, 11500)


masks = st.one_of(
    st.integers(0, 32).map(lambda bits: str(ip_network(f"0.0.0.0/{bits}").netmask)),
    st.sampled_from(["", "0.0.0.255", "255.0.255.0", "ffff::", "ffff:ffff:ffff:ffff::"]),
)
interfaces = st.builds(
    Interface, st.sampled_from(["lo", "eth0", "docker0", "br-0123456789ab"]), st.ip_addresses().map(str), masks
)
near = st.builds(
    Interface, st.just("eth1"), st.sampled_from(["10.0.0.1", "172.31.255.254", "192.168.0.1", "169.254.0.1"]), masks
)
restrictions = st.lists(
    st.tuples(st.ip_addresses(v=4).map(str), st.integers(0, 32)).map(
        lambda pair: ip_network(f"{pair[0]}/{pair[1]}", strict=False)
    ),
    max_size=4,
)


@given(st.lists(st.one_of(interfaces, near), max_size=8), restrictions)
def test_a_plan_is_private_bounded_and_inside_the_restriction(interfaces, restriction):
    plan = plan_scan(interfaces, restriction)
    assert sum(network.num_addresses for network in plan.networks) <= MAX_HOSTS_IN_ALL
    for network in plan.networks:
        assert network.num_addresses <= MAX_HOSTS
        assert any(network.subnet_of(private) for private in PRIVATE)
        assert not restriction or any(network.subnet_of(limit) for limit in restriction)
    for address in plan.hosts():
        assert allowed(address, restriction)
        assert not ip_address(address).is_loopback
