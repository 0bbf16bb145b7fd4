"""Nodes in Docker containers, and on the Docker host when SOLLOL itself runs in a container."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

from sollol.config import home_folder
from sollol.core.topology import Candidate, Found, Network, allowed
from sollol.core.types import Endpoint, Origin
from sollol.drivers.interfaces import resolve
from sollol.drivers.scan import Target, candidates, open_ports
from sollol.wire.containers import Container, default_gateway, parse_containers

log = logging.getLogger(__name__)

REPLY_LIMIT = 16 << 20
ASK_SECONDS = 2.0
HOST_NAME = "host.docker.internal"
ROUTES = Path("/proc/net/route")
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
# HTTP/1.0: the reply is neither chunked nor kept open, so its end is the connection's.
_LIST = b"GET /containers/json HTTP/1.0\r\nHost: docker\r\n\r\n"


def default_sockets(docker_host: str = "") -> tuple[Path, ...]:
    """Where Docker's socket may be; a DOCKER_HOST with a unix path is the only place then. Other schemes are not searched."""
    if docker_host:
        scheme, _, path = docker_host.partition("://")
        return (Path(path),) if scheme == "unix" and path else ()
    places = [Path("/var/run/docker.sock"), home_folder() / ".docker" / "run" / "docker.sock"]
    if hasattr(os, "getuid"):
        places.append(Path(f"/run/user/{os.getuid()}/docker.sock"))
    return tuple(places)


def in_container() -> bool:
    """Whether this process runs in a Docker or Podman container."""
    return any(mark.exists() for mark in CONTAINER_MARKS)


async def containers(sockets: Iterable[Path]) -> tuple[Container, ...]:
    """The containers that may be nodes, as the first Docker that answers lists them. No Docker: none."""
    for path in sockets:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                body = await _ask(path)
        except (OSError, TimeoutError, AttributeError, NotImplementedError):
            # Nothing there, not allowed to ask, or a system without such sockets: the same as no Docker at all.
            continue
        try:
            return parse_containers(body)
        except ValueError as error:
            log.info("docker gave no list of containers", extra={"socket": str(path), "error": str(error)})
    return ()


async def _ask(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(_LIST)
        await writer.drain()
        reply = b""
        while len(reply) < REPLY_LIMIT and (piece := await reader.read(65_536)):
            reply += piece
    finally:
        writer.close()
    return reply.partition(b"\r\n\r\n")[2]


async def host_addresses() -> tuple[str, ...]:
    """Inside a container: the addresses of the Docker host, best first."""
    found = list(await resolve(HOST_NAME))
    gateway = _gateway(ROUTES)
    return tuple(dict.fromkeys([*found, gateway] if gateway else found))


def _gateway(routes: Path) -> str | None:
    try:
        return default_gateway(routes.read_text())
    except OSError:
        return None


class DockerSearch:
    """Asks Docker for containers with Ollama; from inside a container, tries the Docker host too. No Docker: finds nothing.

    ``resolved`` true gives the published port on this machine where there is one; false always the container's own address.
    """

    def __init__(
        self,
        ports: Sequence[int],
        restriction: Sequence[Network] = (),
        *,
        sockets: Sequence[Path] | None = None,
        inside: bool | None = None,
        host: Callable[[], Awaitable[Sequence[str]]] = host_addresses,
        resolved: bool = True,
    ) -> None:
        self._ports = tuple(ports)
        self._restriction = tuple(restriction)
        self._sockets = default_sockets() if sockets is None else tuple(sockets)
        self._inside = in_container() if inside is None else inside
        self._host = host
        self._resolved = resolved

    async def find(self) -> Found:
        listed = await containers(self._sockets)
        found = [candidate for container in listed if (candidate := await self._reachable(container)) is not None]
        where = [f"Docker containers ({len(listed)} that may be nodes)"] if listed else []
        hosts = [address for address in await self._host() if allowed(address, self._restriction)] if self._inside else []
        if hosts:
            where.append("the Docker host")
            found.extend(await self._on_the_host(hosts))
        return Found(tuple(found), tuple(where))

    async def _reachable(self, container: Container) -> Candidate | None:
        """The one address under which the container answers from here."""
        ways = (container.published, container.inside) if self._resolved else (container.inside,)
        for way in ways:
            listening = await open_ports(self._allowed(way))
            if listening:
                host, port = listening[0]
                return Candidate(Endpoint(host, port), Origin.DOCKER, name=container.name)
        return None

    async def _on_the_host(self, addresses: Sequence[str]) -> tuple[Candidate, ...]:
        for address in addresses:
            listening = await open_ports((address, port) for port in self._ports)
            if listening:
                return candidates(listening, Origin.DOCKER)
        return ()

    def _allowed(self, targets: Iterable[Target]) -> list[Target]:
        return [target for target in targets if allowed(target[0], self._restriction)]
