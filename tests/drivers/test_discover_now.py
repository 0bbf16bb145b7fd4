from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest
from tests.support.canned import LLAMACPP, OLLAMA, canned_in_thread
from tests.support.ports import listening, refusing

import sollol
from sollol.config import Discovery
from sollol.core.types import Endpoint, Node, NodeKind
from sollol.discovery import count_unique_physical_hosts, discover_ollama_nodes, is_docker_ip, resolve_docker_ip
from sollol.drivers import discover_now, docker
from sollol.drivers.docker import DockerSearch
from sollol.drivers.mdns import MdnsSearch
from sollol.drivers.scan import LocalSearch, SubnetSearch
from sollol.drivers.searches import searches
from sollol.errors import ConfigError


def here(*ports: int, **settings) -> Discovery:
    return Discovery(ports=ports, networks=("127.0.0.0/8",), docker=False, mdns=False, **settings)


def test_a_node_reads_like_a_dict_and_like_an_object():
    with canned_in_thread(OLLAMA) as server:
        (node,) = discover_ollama_nodes(settings=here(server.port))
    assert node == {"host": "127.0.0.1", "port": server.port}
    assert json.loads(json.dumps(node)) == node
    assert (node["host"], node.host, node["port"], node.port) == ("127.0.0.1", "127.0.0.1", server.port, server.port)
    assert (node.url, node.node_id) == (f"http://127.0.0.1:{server.port}", f"127.0.0.1:{server.port}")
    assert (node.is_healthy, node.kind, node.version, node.models) == (True, NodeKind.OLLAMA, "0.33.0", ("tiny:latest",))
    assert 0 < node.latency < 2


def test_configured_nodes_and_ollama_host_are_looked_at(monkeypatch):
    with canned_in_thread(OLLAMA) as one, canned_in_thread(OLLAMA) as other, refusing() as closed:
        monkeypatch.setenv("SOLLOL_NODES", f"localhost:{one.port},127.0.0.1:{one.port},127.0.0.1:{closed}")
        monkeypatch.setenv("OLLAMA_HOST", f"0.0.0.0:{other.port}")
        monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", str(closed))
        nodes = discover_ollama_nodes(timeout=1.0)
    assert sorted(node.port for node in nodes) == sorted([one.port, other.port])


async def test_it_works_inside_a_running_loop_and_leaves_no_thread():
    before = threading.active_count()
    with canned_in_thread(OLLAMA) as server:
        nodes = discover_ollama_nodes(settings=here(server.port))
    assert [node.port for node in nodes] == [server.port]
    assert threading.active_count() == before


def test_only_ollama_nodes_are_listed():
    with canned_in_thread(LLAMACPP) as llama, listening() as silent, canned_in_thread(OLLAMA) as server:
        nodes = discover_ollama_nodes(timeout=0.3, settings=here(llama.port, silent, server.port))
    assert [node.port for node in nodes] == [server.port]


def test_nothing_there():
    with refusing() as closed:
        assert discover_ollama_nodes(settings=here(closed)) == []
        assert discover_ollama_nodes(settings=here(closed), discover_all_nodes=True) == []


def test_this_machine_can_be_left_out():
    with canned_in_thread(OLLAMA) as server:
        assert discover_ollama_nodes(settings=here(server.port), exclude_localhost=True) == []


def test_settings_that_cannot_be_read(monkeypatch):
    monkeypatch.setenv("SOLLOL_DISCOVERY_NETWORKS", "everything")
    with pytest.raises(ConfigError, match="everything"):
        discover_ollama_nodes()


def test_docker_addresses_are_resolved_to_where_the_port_answers():
    with listening() as port, refusing() as closed:
        assert resolve_docker_ip("172.17.0.5", port=port) == "127.0.0.1"
        assert resolve_docker_ip("172.17.0.5", port=closed, timeout=0.2) == "172.17.0.5"
        assert resolve_docker_ip("10.9.66.15", port=port) == "10.9.66.15"


def test_a_docker_address_outside_the_restriction_is_not_tried(monkeypatch):
    monkeypatch.setenv("SOLLOL_DISCOVERY_NETWORKS", "10.0.0.0/24")
    with listening() as port:
        assert resolve_docker_ip("172.17.0.5", port=port) == "172.17.0.5"


def test_inside_a_container_the_docker_host_is_tried(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    mark.touch()
    monkeypatch.setattr(docker, "CONTAINER_MARKS", (mark,))
    monkeypatch.setattr(docker, "HOST_NAME", "127.0.0.6")
    with listening("127.0.0.6") as port:
        assert resolve_docker_ip("172.17.0.5", port=port) == "127.0.0.6"
    assert is_docker_ip("172.17.0.5")


@pytest.mark.parametrize(
    ("nodes", "count"),
    [
        ([], 0),
        (["127.0.0.1:11434", "localhost:11435", "http://127.0.0.2:80", "[::1]:11434"], 1),
        ([{"host": "10.9.66.15", "port": 11434}, {"host": "10.9.66.154", "port": 11434}, "localhost"], 3),
        ([{"host": "10.9.66.15"}, "10.9.66.15:11500", SimpleNamespace(host="10.9.66.15")], 1),
        ([Node("n", Endpoint("10.9.66.15", 1)), Node("m", Endpoint("10.9.66.16", 1)), {"host": "fd00::7"}], 3),
        (["172.17.0.5:11434", "127.0.0.1:11434"], 1),
    ],
)
def test_machines_are_counted_once(nodes, count):
    assert count_unique_physical_hosts(nodes) == count


def test_the_package_gives_the_same_functions():
    assert sollol.is_docker_ip is discover_now.is_docker_ip
    assert sollol.resolve_docker_ip is discover_now.resolve_docker_ip


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        (Discovery(enabled=False), []),
        (Discovery(), [LocalSearch, DockerSearch, SubnetSearch, MdnsSearch]),
        (Discovery(this_machine=False, docker=False, mdns=False), [SubnetSearch]),
    ],
)
def test_searches_as_the_settings_want_them(settings, kinds):
    assert [type(search) for search in searches(settings)] == kinds


def test_searches_refuse_bad_networks():
    with pytest.raises(ConfigError, match="not a private network"):
        searches(Discovery(networks=("8.8.8.0/24",)))
