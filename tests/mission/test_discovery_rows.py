"""Rows A25, A26 and C11 of the contract: what programs call to find nodes."""

from __future__ import annotations

import pytest
from tests.support.canned import OLLAMA, canned_in_thread
from tests.support.ports import listening


@pytest.mark.parametrize(
    ("address", "docker"),
    [("172.17.0.5", True), ("172.18.0.2", True), ("10.9.66.15", False), ("192.168.1.100", False), ("127.0.0.1", False)],
)
def test_a25_a_docker_address_is_told_from_a_lan_address(address, docker):
    from sollol import is_docker_ip

    assert is_docker_ip(address) is docker


def test_a25_a_docker_address_is_resolved_to_one_that_works():
    from sollol import resolve_docker_ip

    with listening() as port:
        assert resolve_docker_ip("172.17.0.5", port=port) == "127.0.0.1"
    assert resolve_docker_ip("10.9.66.15", port=11434) == "10.9.66.15"


@pytest.mark.parametrize("resolve", [True, False])
def test_a26_discovery_takes_auto_resolve_docker(monkeypatch, resolve):
    from sollol.discovery import discover_ollama_nodes

    with canned_in_thread(OLLAMA) as server:
        monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", str(server.port))
        nodes = discover_ollama_nodes(auto_resolve_docker=resolve)
    assert [node["port"] for node in nodes] == [server.port]


@pytest.mark.parametrize("everything", [True, False])
def test_c11_every_machine_once_with_host_and_port(monkeypatch, everything):
    from sollol.discovery import discover_ollama_nodes

    with canned_in_thread(OLLAMA) as server:
        monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", str(server.port))
        monkeypatch.setenv("SOLLOL_NODES", f"localhost:{server.port}")
        nodes = discover_ollama_nodes(timeout=2.0, discover_all_nodes=everything)
    (node,) = nodes
    assert isinstance(node["port"], int)
    assert node["port"] == server.port
    assert node["host"] in {"localhost", "127.0.0.1"}


@pytest.mark.parametrize(
    ("nodes", "machines"),
    [
        ([], 0),
        ([{"host": "localhost", "port": 11434}, {"host": "127.0.0.1", "port": 11435}], 1),
        ([{"host": "127.0.0.1", "port": 11434}, {"host": "172.17.0.5", "port": 11434}], 1),
        (["192.0.2.10:11434", "http://192.0.2.10:11435", "192.0.2.11"], 2),
    ],
)
def test_c12_c26_machines_are_counted_not_addresses(nodes, machines):
    from sollol.discovery import count_unique_physical_hosts

    assert count_unique_physical_hosts(nodes) == machines


def test_c26_what_was_found_can_be_counted(monkeypatch):
    from sollol.discovery import count_unique_physical_hosts, discover_ollama_nodes

    with canned_in_thread(OLLAMA) as first, canned_in_thread(OLLAMA) as second:
        monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", f"{first.port},{second.port}")
        nodes = discover_ollama_nodes(discover_all_nodes=True)
        assert {node["port"] for node in nodes} == {first.port, second.port}
        assert count_unique_physical_hosts(nodes) == 1
