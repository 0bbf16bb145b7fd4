"""Docker's list of containers, and the kernel's table of routes, read for nodes."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

import msgspec
from msgspec import Struct, field

from .unreadable import UNREADABLE

OLLAMA_PORT: Final = 11434
_ANY_ADDRESS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}


class Container(Struct, frozen=True):
    """A container that may be a node: ``published`` are (address, port) on the Docker host, ``inside`` its own addresses."""

    name: str
    published: tuple[tuple[str, int], ...]
    inside: tuple[tuple[str, int], ...]


class _Port(Struct):
    IP: str = ""
    PrivatePort: int = 0
    PublicPort: int = 0
    Type: str = "tcp"


class _Network(Struct):
    IPAddress: str | None = ""


class _Networks(Struct):
    Networks: dict[str, _Network] | None = None


class _Container(Struct):
    Image: str = ""
    Names: list[str] | None = None
    Ports: list[_Port] | None = None
    NetworkSettings: _Networks = field(default_factory=_Networks)


def parse_containers(body: bytes) -> tuple[Container, ...]:
    """The containers that publish or name Ollama, from a reply to ``GET /containers/json``. Raises `ValueError`."""
    try:
        entries = msgspec.json.decode(body, type=list[_Container])
    except UNREADABLE as error:
        raise ValueError(f"not a list of containers: {error}") from None
    found = (_container(entry) for entry in entries)
    return tuple(container for container in found if container is not None)


def _container(entry: _Container) -> Container | None:
    ports = [port for port in entry.Ports or () if port.PrivatePort == OLLAMA_PORT and port.Type == "tcp"]
    names = entry.Names or []
    if not ports and not any("ollama" in text.lower() for text in (entry.Image, *names)):
        return None
    published = dict.fromkeys((_ANY_ADDRESS.get(port.IP, port.IP), port.PublicPort) for port in ports if port.PublicPort)
    networks = (entry.NetworkSettings.Networks or {}).values()
    inside = dict.fromkeys((network.IPAddress, OLLAMA_PORT) for network in networks if network.IPAddress)
    name = names[0].lstrip("/") if names else entry.Image
    return Container(name, tuple(published), tuple(inside))


def default_gateway(table: str) -> str | None:
    """The IPv4 address of the default gateway in the text of /proc/net/route; None if there is none."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[1] == "00000000" and fields[2] != "00000000":
            try:
                return str(IPv4Address(bytes.fromhex(fields[2])[::-1]))
            except ValueError:
                return None
    return None
