"""One search for nodes, now, for programs that want a list and no gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from sollol.config import Discovery
from sollol.config_sources import load
from sollol.core.topology import (
    Candidate,
    Place,
    Places,
    allowed,
    is_docker_address,
    is_docker_interface,
    is_private,
    parse_networks,
)
from sollol.core.types import Endpoint, Node, NodeKind, Origin, Survey
from sollol.drivers.clock import SystemClock
from sollol.drivers.docker import host_addresses, in_container
from sollol.drivers.http import HttpTransport
from sollol.drivers.interfaces import interfaces, own_addresses, resolve
from sollol.drivers.scan import CONNECT_SECONDS, open_ports
from sollol.drivers.searches import Searching, far_searches, near_searches
from sollol.drivers.survey import HttpSurveyor
from sollol.errors import NodeError
from sollol.wire.address import OLLAMA_PORT, parse_address

Answer = TypeVar("Answer")
_ASKED_AT_ONCE = 16


class FoundNode(dict[str, Any]):
    """A node that answered: a dict of host and port, with the rest as attributes. ``models`` are the names it lists."""

    def __init__(self, endpoint: Endpoint, survey: Survey) -> None:
        super().__init__(host=endpoint.host, port=endpoint.port)
        self.host = endpoint.host
        self.port = endpoint.port
        self.url = endpoint.url
        self.node_id = endpoint.authority
        self.kind = survey.kind
        self.version = survey.version
        self.latency = survey.latency
        self.models = tuple(model.native for model in survey.models)
        self.is_healthy = True


def discover_ollama_nodes(
    timeout: float = 2.0,
    discover_all_nodes: bool = False,
    auto_resolve_docker: bool = True,
    exclude_localhost: bool = False,
    settings: Discovery | None = None,
) -> list[FoundNode]:
    """Search for Ollama nodes, every machine once.

    Looks at configured nodes, this machine and its containers first and at the networks around only if none was found there,
    or if ``discover_all_nodes`` is true. ``timeout`` is the time in seconds that one address has to answer; an empty /24 takes
    about one second. A node on this machine is given with its address in the network where it answers there.
    ``auto_resolve_docker`` false gives containers with their own addresses; ``exclude_localhost`` leaves this machine out.
    ``settings`` None: the configuration's. It blocks the caller. Raises `ConfigError` when the settings cannot be read.
    """
    config = load().config
    named = [parse_address(node.url).endpoint for node in config.nodes] if settings is None else []
    now = _Now(timeout, settings or config.discovery)
    near = near_searches(now.settings, resolved=auto_resolve_docker)
    return _blocking(lambda: now.run(named, near, far_searches(now.settings), discover_all_nodes, exclude_localhost))


def is_docker_ip(ip: str) -> bool:
    """Whether an address is one that Docker gave to a container; a LAN address is not, nor is any of 10.0.0.0/8 by guess."""
    # Inside a container its own interface is in Docker's network, and says nothing about a LAN.
    return is_docker_address(ip, () if in_container() else interfaces())


def resolve_docker_ip(ip: str, port: int = OLLAMA_PORT, timeout: float = 1.0) -> str:
    """An address under which a container's port is reached from here: 127.0.0.1, this machine's, or the Docker host's.

    An address that is not Docker's comes back as it is, as does one whose port answers nowhere within ``timeout`` seconds.
    """
    if not is_docker_ip(ip):
        return ip
    restriction = parse_networks(load().config.discovery.networks)
    return _blocking(lambda: _resolve_docker(ip, port, timeout, lambda address: allowed(address, restriction)))


def count_unique_physical_hosts(nodes: Iterable[Any]) -> int:
    """How many machines the nodes are on. Nodes are given as addresses, mappings with "host", or objects with ``host``."""
    hosts = [_host(node) for node in nodes]
    hosts = ["localhost" if host.startswith("127.") or is_docker_ip(host) else host for host in hosts]
    return _blocking(lambda: _count(hosts))


class _Now:
    """One search."""

    def __init__(self, timeout: float, settings: Discovery) -> None:
        self.settings = settings
        self._timeout = timeout
        self._restriction = parse_networks(settings.networks)
        self._places = Places(own_addresses())

    async def run(
        self, named: Sequence[Endpoint], near: Sequence[Searching], far: Sequence[Searching], everything: bool, elsewhere: bool
    ) -> list[FoundNode]:
        names = await asyncio.gather(*(resolve(endpoint.host) for endpoint in named))
        self._places = Places(own_addresses(), {endpoint.host: found for endpoint, found in zip(named, names, strict=True)})
        transport = HttpTransport(connect_timeout=min(2.0, self._timeout))
        self._surveyor = HttpSurveyor(transport, SystemClock(), self._timeout)
        self._at_once = asyncio.Semaphore(_ASKED_AT_ONCE)
        try:
            known = [Candidate(endpoint, Origin.STATIC) for endpoint in named]
            if everything:
                return await self._stage(known, (*near, *far), elsewhere)
            return await self._stage(known, near, elsewhere) or await self._stage([], far, elsewhere)
        finally:
            await transport.close()

    async def _stage(self, known: Sequence[Candidate], searches: Sequence[Searching], elsewhere: bool) -> list[FoundNode]:
        found = await asyncio.gather(*(search.find() for search in searches))
        groups: dict[frozenset[Place], list[Candidate]] = {}
        for candidate in [*known, *(candidate for one in found for candidate in one.candidates)]:
            if elsewhere and self._places.is_here(candidate.endpoint.host):
                continue
            groups.setdefault(self._key(groups, candidate.endpoint), []).append(candidate)
        answers = await asyncio.gather(*(self._first(group) for group in groups.values()))
        return [answer for answer in answers if answer is not None]

    def _key(self, groups: Iterable[frozenset[Place]], endpoint: Endpoint) -> frozenset[Place]:
        places = self._places.of(endpoint)
        return next((group for group in groups if not group.isdisjoint(places)), places)

    async def _first(self, group: Sequence[Candidate]) -> FoundNode | None:
        """The node under the first of its addresses that answers, those in the network before loopback."""
        endpoints = [candidate.endpoint for candidate in group]
        if all(self._places.is_here(endpoint.host) for endpoint in endpoints):
            endpoints = [*await self._in_the_network(endpoints[0]), *endpoints]
        for endpoint in dict.fromkeys(endpoints):
            node = Node(endpoint.authority, endpoint)
            try:
                async with self._at_once:
                    survey = await self._surveyor.survey(node)
            except NodeError:
                continue
            return FoundNode(endpoint, survey) if survey.kind is NodeKind.OLLAMA else None
        return None

    async def _in_the_network(self, endpoint: Endpoint) -> list[Endpoint]:
        """The addresses of this machine that others reach it by and that answer on the same port."""
        own = [
            interface.address
            for interface in interfaces()
            if ":" not in interface.address
            and not interface.address.startswith("127.")
            and not is_docker_interface(interface.name)
            and allowed(interface.address, self._restriction)
        ]
        listening = await open_ports(((address, endpoint.port) for address in own), min(CONNECT_SECONDS, self._timeout))
        return [msgspec.structs.replace(endpoint, host=address) for address, _ in listening]


async def _resolve_docker(ip: str, port: int, seconds: float, may: Callable[[str], bool]) -> str:
    own = [address for address in own_addresses() if is_private(address) and ":" not in address]
    hosts = await host_addresses() if in_container() else ()
    ways = [address for address in dict.fromkeys(["127.0.0.1", *own, *hosts]) if may(address)]
    listening = await open_ports(((address, port) for address in ways), seconds)
    return listening[0][0] if listening else ip


async def _count(hosts: Sequence[str]) -> int:
    different = list(dict.fromkeys(hosts))
    answers = await asyncio.gather(*(resolve(host) for host in different))
    return Places(own_addresses(), dict(zip(different, answers, strict=True))).count_machines(different)


def _host(node: Any) -> str:
    if isinstance(node, str):
        return parse_address(node).endpoint.host
    host = node["host"] if isinstance(node, Mapping) else getattr(node, "host", None) or node.endpoint.host
    return parse_address({"host": str(host)}).endpoint.host


def _blocking(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run to the end in a thread of its own, so that a loop which runs in the caller's thread does not matter."""

    async def whole() -> Answer:
        return await work()

    with ThreadPoolExecutor(1, thread_name_prefix="sollol-discovery") as thread:
        return thread.submit(lambda: asyncio.run(whole())).result()
