"""All ways of searching, as the settings want them."""

from __future__ import annotations

from typing import Protocol

from sollol.config import Discovery
from sollol.core.topology import Found, network_ports, parse_networks
from sollol.drivers.docker import DockerSearch, default_sockets
from sollol.drivers.interfaces import interfaces
from sollol.drivers.mdns import MdnsSearch
from sollol.drivers.scan import LocalSearch, SubnetSearch


class Searching(Protocol):
    """One way of searching."""

    async def find(self) -> Found: ...


def near_searches(settings: Discovery, *, resolved: bool = True) -> tuple[Searching, ...]:
    """This machine and its containers: answered within a moment. ``resolved`` is `DockerSearch`'s."""
    restriction = parse_networks(settings.networks)
    found: list[Searching] = []
    if settings.this_machine:
        found.append(LocalSearch(settings.ports, restriction))
    if settings.docker:
        sockets = default_sockets(settings.docker_host)
        found.append(DockerSearch(settings.ports, restriction, sockets=sockets, resolved=resolved))
    return tuple(found)


def far_searches(settings: Discovery) -> tuple[Searching, ...]:
    """The networks around: seconds."""
    restriction = parse_networks(settings.networks)
    found: list[Searching] = [SubnetSearch(interfaces, network_ports(settings.ports), restriction)]
    if settings.mdns:
        found.append(MdnsSearch(interfaces, restriction))
    return tuple(found)


def searches(settings: Discovery) -> tuple[Searching, ...]:
    """Every way of searching that is switched on; none when discovery is off. Raises `ConfigError` for bad networks."""
    if not settings.enabled:
        return ()
    return (*near_searches(settings), *far_searches(settings))
