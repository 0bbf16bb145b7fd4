from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.ports import listening, refusing

from sollol.config_sources import load
from sollol.core.topology import parse_networks
from sollol.core.types import Endpoint, Origin
from sollol.drivers import docker
from sollol.drivers.docker import DockerSearch, containers, default_sockets, host_addresses, in_container
from sollol.drivers.searches import near_searches
from sollol.wire import containers as wire


@asynccontextmanager
async def dockerd(path: Path, body: bytes | None):
    """A Docker that answers every request with `body`; None: not at all."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if body is None:
            await reader.read()
        else:
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body)
        writer.close()

    asked: list[bytes] = []
    tasks: list[asyncio.Task[None] | None] = []
    server = await asyncio.start_unix_server(answer, path)
    async with server:
        yield asked
        await asyncio.gather(*(task for task in tasks if task))


def entry(published: int | None, address: str = "127.0.0.5", ip: str = "127.0.0.1") -> dict[str, object]:
    ports = [{"PrivatePort": 11434, "Type": "tcp"} | ({"PublicPort": published, "IP": ip} if published else {})]
    networks = {"bridge": {"IPAddress": address}}
    return {"Names": ["/box"], "Image": "ollama/ollama", "Ports": ports, "NetworkSettings": {"Networks": networks}}


def search(path: Path, **settings) -> DockerSearch:
    return DockerSearch([11434], sockets=[path], inside=False, **settings)


async def find(tmp_path: Path, *entries, **settings):
    path = tmp_path / "docker.sock"
    async with dockerd(path, json.dumps(entries).encode()) as asked:
        found = await search(path, **settings).find()
    assert asked[0].startswith(b"GET /containers/json HTTP/1.0\r\n")
    return found


async def test_a_published_port(tmp_path):
    with listening() as port:
        found = await find(tmp_path, entry(port))
    (one,) = found.candidates
    assert (one.endpoint, one.origin, one.name) == (Endpoint("127.0.0.1", port), Origin.DOCKER, "box")
    assert found.where == ("Docker containers (1 that may be nodes)",)


async def test_a_container_without_a_published_port_is_reached_inside(tmp_path, monkeypatch):
    with listening("127.0.0.5") as port, refusing() as closed:
        monkeypatch.setattr(wire, "OLLAMA_PORT", port)
        unpublished = entry(None)
        unpublished["Ports"] = [{"PrivatePort": port, "Type": "tcp"}]
        broken = entry(closed)
        broken["Ports"] = [{"PrivatePort": port, "PublicPort": closed, "IP": "127.0.0.1", "Type": "tcp"}]
        for one in (unpublished, broken):
            found = await find(tmp_path, one)
            assert [candidate.endpoint for candidate in found.candidates] == [Endpoint("127.0.0.5", port)]


async def test_its_own_address_where_that_is_asked_for(tmp_path):
    with listening() as port:
        found = await find(tmp_path, entry(port), resolved=False)
    assert found.candidates == ()


async def test_nothing_outside_the_restriction_is_contacted(tmp_path):
    with listening() as port:
        found = await find(tmp_path, entry(port), restriction=parse_networks(["10.0.0.0/8"]))
        public = await find(tmp_path, entry(port, ip="8.8.8.8", address="8.8.4.4"))
    assert found.candidates == public.candidates == ()


@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"message":"no"}'])
async def test_a_docker_that_talks_nonsense(tmp_path, body):
    path = tmp_path / "docker.sock"
    async with dockerd(path, body):
        found = await search(path).find()
    assert (found.candidates, found.where, found.notes) == ((), (), ())


async def test_a_docker_that_hangs_is_left_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(docker, "ASK_SECONDS", 0.1)
    path = tmp_path / "docker.sock"
    async with dockerd(path, None):
        assert await containers([path]) == ()


async def test_no_docker_is_no_news(tmp_path):
    (tmp_path / "file").write_text("no socket")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
        found = await DockerSearch(
            [11434], sockets=[tmp_path / "none", tmp_path / "file", tmp_path / "dead"], inside=False
        ).find()
    assert (found.candidates, found.where, found.notes) == ((), (), ())


async def test_inside_a_container_the_host_is_tried():
    async def hosts():
        return ["127.0.0.7", "127.0.0.8", "127.0.0.9"]

    with listening("127.0.0.8") as port, listening("127.0.0.9", port):
        found = await DockerSearch([port], sockets=[], inside=True, host=hosts).find()
        nobody = await DockerSearch([port], parse_networks(["10.0.0.0/8"]), sockets=[], inside=True, host=hosts).find()
    assert [one.endpoint for one in found.candidates] == [Endpoint("127.0.0.8", port)]
    assert found.where == ("the Docker host",)
    assert (nobody.candidates, nobody.where) == ((), ())  # it was not searched, so nobody says so


async def test_a_host_that_is_not_known_was_not_searched():
    async def hosts():
        return []

    assert (await DockerSearch([11434], sockets=[], inside=True, host=hosts).find()).where == ()


async def test_docker_host_is_a_setting_and_the_usual_variable(tmp_path):
    path = tmp_path / "own.sock"
    for environ in ({"DOCKER_HOST": f"unix://{path}"}, {"SOLLOL_DISCOVERY_DOCKER_HOST": f"unix://{path}"}):
        loaded = load(environ={"HOME": str(tmp_path), **environ})
        assert loaded.config.discovery.docker_host == f"unix://{path}"
        assert loaded.sources["discovery.docker_host"] == next(iter(environ))
        with listening() as port:
            async with dockerd(path, json.dumps([entry(port)]).encode()):
                found = await near_searches(loaded.config.discovery)[-1].find()
            assert [candidate.endpoint.port for candidate in found.candidates] == [port]


async def test_the_hosts_addresses_come_from_its_name_and_the_gateway(tmp_path, monkeypatch):
    monkeypatch.setattr(docker, "HOST_NAME", "localhost")
    routes = tmp_path / "route"
    routes.write_text("Iface\tDestination\tGateway\neth0\t00000000\t010011AC\n")
    monkeypatch.setattr(docker, "ROUTES", routes)
    found = await host_addresses()
    assert "127.0.0.1" in found
    assert found[-1] == "172.17.0.1"
    monkeypatch.setattr(docker, "ROUTES", tmp_path / "none")
    assert "172.17.0.1" not in await host_addresses()


@pytest.mark.parametrize(
    ("docker_host", "expected"),
    [("unix:///tmp/d.sock", (Path("/tmp/d.sock"),)), ("tcp://10.0.0.1:2375", ()), ("ssh://host", ()), ("unix://", ())],
)
def test_docker_host(docker_host, expected):
    assert default_sockets(docker_host) == expected


def test_default_sockets():
    assert default_sockets()[0] == Path("/var/run/docker.sock")


def test_whether_this_is_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(docker, "CONTAINER_MARKS", (tmp_path / "a", tmp_path / "b"))
    assert not in_container()
    (tmp_path / "b").touch()
    assert in_container()
