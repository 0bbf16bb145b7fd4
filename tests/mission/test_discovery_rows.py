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
