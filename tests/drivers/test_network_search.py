"""Searching in networks of the test's own: nothing leaves the namespaces."""

from __future__ import annotations

import importlib.util
import json

import pytest
from tests.support.need import require
from tests.support.netns import lan

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns")]

QUIET = {"mdns": False, "docker": False}


def find(network, static=(), **settings):
    return network.run("find", json.dumps({"settings": QUIET | settings, "static": list(static)}))


def now(network, settings=(), **arguments):
    return network.run("now", json.dumps({"settings": QUIET | dict(settings)} | arguments))


def assert_responsive(found):
    """The loop was never held for 50 ms by the search itself; a busy machine may have held the whole process."""
    assert found["busiest_gap"] < 0.05
    assert found["longest_gap"] < 0.5


def test_three_nodes_in_a_24_where_others_refuse_drop_or_do_not_exist():
    nodes = ["10.77.1.20:11434", "10.77.1.33:11434", "10.77.1.200:11434"]
    with lan() as network:
        network.address("10.77.1.1/24")
        network.others(*(node.partition(":")[0] for node in nodes))
        network.route_back("10.77.1.1/32")
        network.refuse("10.77.1.64/26")
        network.drop([f"10.77.1.{last}" for last in range(128, 192)])
        with network.serving(network.there, "serve", *nodes):
            found = find(network)
    assert found["nodes"] == sorted(nodes)
    assert set(found["origins"].values()) == {"scan"}
    assert max(found["added"].values()) < 2
    assert found["seconds"] < 2
    assert_responsive(found)
    assert found["where"] == ["this machine (ports 11434, 8080, 8000, 1234)", "10.77.1.0/24 (port 11434)"]
    assert found["threads"] == 1


def test_an_empty_24_costs_under_two_seconds():
    with lan() as network:
        network.address("10.77.2.1/24")
        found = find(network)
    assert found["nodes"] == []
    assert found["seconds"] < 2
    assert found["processor"] < 1
    assert_responsive(found)


def test_a_huge_network_is_searched_around_this_machine_and_says_so():
    with lan() as network:
        network.address("10.78.200.10/16")
        network.others("10.78.201.9", "10.78.3.3")
        network.route_back("10.78.200.10/32")
        network.refuse("10.78.200.128/25")
        with network.serving(network.there, "serve", "10.78.201.9:11434", "10.78.3.3:11434"):
            found = find(network)
            listed = find(network, networks=["10.78.3.0/24"])
    assert found["nodes"] == ["10.78.201.9:11434"]
    assert "10.78.0.0/16 has 65,536 addresses: only 10.78.200.0/22 is searched" in found["notes"][0]
    assert found["seconds"] < 12
    assert_responsive(found)
    assert listed["nodes"] == ["10.78.3.3:11434"]
    assert listed["where"] == ["10.78.3.0/24 (port 11434)"]


def test_a_node_on_this_machine_is_one_node_under_all_its_addresses():
    with lan() as network:
        network.address("10.77.3.5/28")
        with network.serving(network.here, "serve", "0.0.0.0:11434", "::1:11434"):
            found = find(network)
            named = find(network, static=["10.77.3.5:11434", "localhost:11434"])
            every = now(network, discover_all_nodes=True)
            first = now(network)
            none = now(network, exclude_localhost=True, discover_all_nodes=True)
    assert found["nodes"] == ["127.0.0.1:11434"]
    assert named["nodes"] == ["10.77.3.5:11434"]
    assert every == first == [{"host": "10.77.3.5", "port": 11434}]
    assert none == []


def test_a_node_bound_to_loopback_alone_keeps_that_address():
    with lan() as network:
        network.address("10.77.3.5/28")
        with network.serving(network.here, "serve", "127.0.0.1:11434"):
            assert now(network, discover_all_nodes=True) == [{"host": "127.0.0.1", "port": 11434}]


def test_one_search_now_looks_at_the_network_when_asked_or_when_nothing_is_near():
    with lan() as network:
        network.address("10.77.4.1/28")
        network.others("10.77.4.2", "10.77.4.3")
        network.route_back("10.77.4.0/28")
        with network.serving(network.there, "serve", "10.77.4.2:11434", "10.77.4.3:11434"):
            far = now(network)
            with network.serving(network.here, "serve", "10.77.4.1:11434", "127.0.0.1:11434"):
                near = now(network)
                every = now(network, discover_all_nodes=True)
    assert far == [{"host": "10.77.4.2", "port": 11434}, {"host": "10.77.4.3", "port": 11434}]
    assert near == [{"host": "10.77.4.1", "port": 11434}]
    assert sorted(node["host"] for node in every) == ["10.77.4.1", "10.77.4.2", "10.77.4.3"]


def test_a_node_that_announces_itself_is_found_on_any_port():
    require(importlib.util.find_spec("zeroconf"), "zeroconf: pip install '.[mdns]'")
    with lan() as network:
        network.address("10.77.5.1/28")
        network.others("10.77.5.2")
        network.route_back("10.77.5.0/28")
        network.batch(network.there, ["route add 224.0.0.0/4 dev lan1"])
        network.batch(network.here, ["route add 224.0.0.0/4 dev lan0"])
        with network.serving(network.there, "announce", "10.77.5.2:11500"):
            found = find(network, mdns=True)
            elsewhere = find(network, mdns=True, networks=["10.77.6.0/28"])
    assert found["origins"] == {"10.77.5.2:11500": "mdns"}
    assert "mDNS" in found["where"]
    assert elsewhere["nodes"] == []
    assert "mDNS" not in elsewhere["where"]
