from __future__ import annotations

import json

import pytest

from sollol.wire.containers import Container, default_gateway, parse_containers


def listed(*containers):
    return json.dumps(list(containers)).encode()


def container(name="/box", image="ollama/ollama:latest", ports=(), addresses=("172.17.0.2",)):
    networks = {f"net{n}": {"IPAddress": address, "Gateway": "172.17.0.1"} for n, address in enumerate(addresses)}
    return {"Id": "f" * 64, "Names": [name], "Image": image, "Ports": list(ports), "NetworkSettings": {"Networks": networks}}


def port(private=11434, public=11434, ip="0.0.0.0", kind="tcp"):
    return {"PrivatePort": private, "Type": kind} | ({"PublicPort": public, "IP": ip} if public else {})


@pytest.mark.parametrize(
    ("entry", "published", "inside"),
    [
        (container(ports=[port()]), [("127.0.0.1", 11434)], [("172.17.0.2", 11434)]),
        (container(ports=[port(), port(ip="::")]), [("127.0.0.1", 11434)], [("172.17.0.2", 11434)]),
        (container(ports=[port(public=5000, ip="192.168.1.7")]), [("192.168.1.7", 5000)], [("172.17.0.2", 11434)]),
        (container(ports=[port(public=None)]), [], [("172.17.0.2", 11434)]),
        (container(image="alpine", ports=[port()]), [("127.0.0.1", 11434)], [("172.17.0.2", 11434)]),
        (container(image="alpine", name="/my-Ollama"), [], [("172.17.0.2", 11434)]),
        (container(addresses=["172.18.0.2", "", "172.19.0.2"]), [], [("172.18.0.2", 11434), ("172.19.0.2", 11434)]),
        (container(ports=[port(private=8080, public=8080)]), [], [("172.17.0.2", 11434)]),
    ],
)
def test_containers_that_may_be_nodes(entry, published, inside):
    (found,) = parse_containers(listed(entry))
    assert found == Container(entry["Names"][0][1:], tuple(published), tuple(inside))


@pytest.mark.parametrize(
    "entry", [container(image="postgres"), container(image="dns", ports=[port(kind="udp")]), {"Image": "alpine"}]
)
def test_other_containers(entry):
    assert parse_containers(listed(entry)) == ()


def test_a_container_with_little_to_say():
    sparse = {"Image": "ollama/ollama", "Names": None, "Ports": None, "NetworkSettings": {"Networks": None}}
    assert parse_containers(listed(sparse)) == (Container("ollama/ollama", (), ()),)


@pytest.mark.parametrize("body", [b"", b'{"message":"page not found"}', b"[5]", b"[" * 20_000])
def test_no_list(body):
    with pytest.raises(ValueError, match="not a list of containers"):
        parse_containers(body)


ROUTES = "Iface\tDestination\tGateway\tFlags\n"


@pytest.mark.parametrize(
    ("table", "gateway"),
    [
        (ROUTES + "eth0\t00000000\t010011AC\t0003\t0\neth0\t000011AC\t00000000\t0001\t0\n", "172.17.0.1"),
        (ROUTES + "eth0\t000011AC\t00000000\t0001\n", None),
        (ROUTES + "tun0\t00000000\t00000000\t0001\n", None),
        (ROUTES + "eth0\t00000000\tnonsense\t0003\n", None),
        (ROUTES + "\n", None),
        ("", None),
    ],
)
def test_default_gateway(table, gateway):
    assert default_gateway(table) == gateway
