"""Which addresses may be searched for nodes, and which addresses are one and the same node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from msgspec import Struct

from sollol.errors import ConfigError

from .types import Endpoint, NodeKind, Origin

Network = IPv4Network | IPv6Network

MAX_HOSTS: Final = 1_024
MAX_HOSTS_IN_ALL: Final = 4_096
LOOPBACK: Final = ("127.0.0.1", "::1")
_CAP_PREFIX: Final = 22
_LOCAL_ONLY_PORTS: Final = frozenset({8080, 8000, 1234})

_LOOPBACK_NETWORKS: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_SWEEPABLE: Final = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"))
_PRIVATE: Final[tuple[Network, ...]] = (*_SWEEPABLE, *_LOOPBACK_NETWORKS, IPv6Network("fc00::/7"), IPv6Network("fe80::/10"))
# Docker's default pools that no router hands out by habit. It also takes from 192.168.0.0/16, which is everybody's LAN.
_DOCKER_POOLS: Final = tuple(IPv4Network(f"172.{second}.0.0/16") for second in range(17, 32))
_DOCKER_INTERFACE: Final = re.compile(r"docker\d+|docker_gwbridge|br-[0-9a-f]{12}")


class Interface(Struct, frozen=True):
    """One address of one network interface of this machine. ``netmask`` is as the system says it: "255.255.255.0"."""

    name: str
    address: str
    netmask: str


class Candidate(Struct, frozen=True):
    """An address where something listens that may be a node. ``kind`` None: not known, it has to be asked."""

    endpoint: Endpoint
    origin: Origin
    kind: NodeKind | None = None
    name: str = ""


class Found(Struct, frozen=True):
    """What one way of searching found. ``where`` and ``notes`` are plain words for people."""

    candidates: tuple[Candidate, ...] = ()
    where: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Plan(Struct, frozen=True):
    """What a round of scanning contacts: known ports of ``loopback``, the node port of every address in ``networks``."""

    loopback: tuple[str, ...] = ()
    networks: tuple[IPv4Network, ...] = ()
    notes: tuple[str, ...] = ()

    def hosts(self) -> Iterator[str]:
        """Every address to sweep, once, in order."""
        seen: set[IPv4Address] = set()
        for network in self.networks:
            for address in _hosts(network):
                if address not in seen:
                    seen.add(address)
                    yield str(address)


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks that discovery is restricted to. A single address is a network of one. Raises `ConfigError`."""
    networks: list[Network] = []
    for text in texts:
        if not text.strip():
            continue
        try:
            network = ip_network(text.strip(), strict=False)
        except ValueError:
            raise ConfigError(f'{text!r} is no network: write it as "192.168.1.0/24"') from None
        if not _inside(network, _PRIVATE):
            raise ConfigError(
                f"{text!r} is not a private network: only RFC 1918, link-local, unique-local and loopback are searched"
            )
        networks.append(network)
    return tuple(networks)


def is_private(address: str) -> bool:
    """Whether an address is RFC 1918, link-local, unique-local or loopback; a name is not an address."""
    plain = _address(address)
    return plain is not None and any(_has(network, plain) for network in _PRIVATE)


def allowed(address: str, restriction: Sequence[Network]) -> bool:
    """Whether discovery may contact the address: private, and inside the restriction where there is one."""
    plain = _address(address)
    if plain is None or not is_private(address):
        return False
    return not restriction or any(_has(network, plain) for network in restriction)


def is_docker_interface(name: str) -> bool:
    """Whether Docker made the interface (docker0, docker_gwbridge, br- and 12 hex digits)."""
    return _DOCKER_INTERFACE.fullmatch(name) is not None


def is_docker_address(address: str, interfaces: Iterable[Interface] = ()) -> bool:
    """Whether an address is one that Docker gave to a container.

    An interface that holds the address's network decides (Docker's own bridge: yes, any other: a LAN). Without one it is so
    in Docker's default range, 172.17.0.0 to 172.31.255.255. 10.0.0.0/8 and 192.168.0.0/16 are never Docker's by guess.
    """
    plain = _address(address)
    if not isinstance(plain, IPv4Address):
        return False
    holders = [interface.name for interface in interfaces if _has(_network(interface), plain)]
    if holders:
        return any(is_docker_interface(name) for name in holders)
    return any(plain in pool for pool in _DOCKER_POOLS)


def network_ports(ports: Iterable[int]) -> tuple[int, ...]:
    """Of the ports that are looked at on this machine, those that networks are swept for.

    8080, 8000 and 1234 are many other programs' ports too, so other people's machines are not asked there.
    """
    return tuple(port for port in ports if port not in _LOCAL_ONLY_PORTS)


def plan_scan(interfaces: Iterable[Interface], restriction: Sequence[Network] = ()) -> Plan:
    """What to scan, from this machine's interfaces or, where discovery is restricted, inside the restriction alone.

    A network is at most 1,024 addresses (around the machine's own), all of them together at most 4,096; what was left out
    stands in the notes. Only private IPv4 networks are swept.
    """
    notes: list[str] = []
    own = [interface for interface in interfaces if _sweepable(interface, notes, quiet=bool(restriction))]
    if restriction:
        networks = [network for limit in restriction for network in _restricted(limit, own, notes)]
    else:
        networks = [_capped(_v4(interface), _own(interface), notes) for interface in own]
    loopback = tuple(address for address in LOOPBACK if allowed(address, restriction))
    return Plan(loopback, _bounded(networks, notes), tuple(dict.fromkeys(notes)))


def _sweepable(interface: Interface, notes: list[str], *, quiet: bool) -> bool:
    network = _network(interface)
    if network is None or _inside(network, _LOOPBACK_NETWORKS):
        return False
    if isinstance(network, IPv6Network):
        why = "IPv6 networks are too large to sweep; name nodes there, or announce them by mDNS"
    elif is_docker_interface(interface.name):
        why = "Docker's own network is not swept; Docker is asked for its containers"
    elif not _inside(network, _SWEEPABLE):
        why = "not a private network, so it is not searched"
    else:
        return True
    if not quiet and network.prefixlen < network.max_prefixlen and not network.is_link_local:
        notes.append(f"{network} ({interface.name}): {why}")
    return False


def _restricted(limit: Network, own: Sequence[Interface], notes: list[str]) -> list[IPv4Network]:
    """The parts of one allowed network to sweep: all of a small one; of a large one what this machine's interfaces are in."""
    if _inside(limit, _LOOPBACK_NETWORKS):
        return []
    if isinstance(limit, IPv6Network):
        notes.append(f"{limit}: IPv6 networks are too large to sweep; name nodes there, or announce them by mDNS")
        return []
    if not _inside(limit, _SWEEPABLE):
        notes.append(f"{limit}: not a private network, so it is not searched")
        return []
    if limit.num_addresses <= MAX_HOSTS:
        return [limit]
    shared = [(_overlap(limit, _v4(interface)), _own(interface)) for interface in own]
    parts = [_capped(network, address, notes) for network, address in shared if network is not None]
    return parts or [_capped(limit, limit.network_address, notes)]


def _overlap(one: IPv4Network, other: IPv4Network) -> IPv4Network | None:
    if not one.overlaps(other):
        return None
    return one if one.prefixlen >= other.prefixlen else other


def _capped(network: IPv4Network, around: IPv4Address, notes: list[str]) -> IPv4Network:
    if network.num_addresses <= MAX_HOSTS:
        return network
    centre = around if around in network else network.network_address
    part = IPv4Network((int(centre) >> (32 - _CAP_PREFIX) << (32 - _CAP_PREFIX), _CAP_PREFIX))
    notes.append(
        f"{network} has {network.num_addresses:,} addresses: only {part} is searched; "
        "list other parts in [discovery] networks, or name nodes there"
    )
    return part


def _bounded(networks: Iterable[IPv4Network], notes: list[str]) -> tuple[IPv4Network, ...]:
    kept: list[IPv4Network] = []
    total = 0
    for network in dict.fromkeys(networks):
        if any(network.subnet_of(other) for other in kept):
            continue
        if total + network.num_addresses > MAX_HOSTS_IN_ALL:
            notes.append(f"{network} is left out: a round searches at most {MAX_HOSTS_IN_ALL:,} addresses")
            continue
        total += network.num_addresses
        kept.append(network)
    return tuple(kept)


def _hosts(network: IPv4Network) -> Iterator[IPv4Address]:
    return iter(network.hosts()) if network.prefixlen < 31 else iter(network)


def _network(interface: Interface) -> Network | None:
    address = interface.address.partition("%")[0]
    try:
        if ":" in address:
            return IPv6Network((address, bin(int(IPv6Address(interface.netmask))).count("1")), strict=False)
        return IPv4Network((address, interface.netmask), strict=False)
    except ValueError:
        return None


def _v4(interface: Interface) -> IPv4Network:
    return IPv4Network((interface.address, interface.netmask), strict=False)


def _own(interface: Interface) -> IPv4Address:
    return IPv4Address(interface.address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        plain = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = plain.ipv4_mapped if isinstance(plain, IPv6Address) else None
    return mapped or plain


def _has(network: Network | None, address: IPv4Address | IPv6Address) -> bool:
    return network is not None and address.version == network.version and address in network


def _inside(network: Network, outer: Iterable[Network]) -> bool:
    for other in outer:
        if isinstance(network, IPv4Network) and isinstance(other, IPv4Network):
            if network.subnet_of(other):
                return True
        elif isinstance(network, IPv6Network) and isinstance(other, IPv6Network) and network.subnet_of(other):
            return True
    return False


# --- one and the same node

Place = tuple[str, int, str]
_HERE: Final = ""


class Places:
    """Knows which addresses are one node: this machine under all its names, and a name that resolves to a known address.

    ``own`` are the addresses of this machine's interfaces, ``names`` what host names resolved to. Other addresses in
    127.0.0.0/8 than 127.0.0.1 count as machines of their own: several nodes may share a port there.
    """

    def __init__(self, own: Iterable[str] = (), names: Mapping[str, Sequence[str]] | None = None) -> None:
        self._own = frozenset(_plain(address) for address in own if not _plain(address).startswith("127."))
        self._names = dict(names or {})

    def of(self, endpoint: Endpoint) -> frozenset[Place]:
        """Every place that the endpoint is; two endpoints that share one are the same node."""
        return frozenset((machine, endpoint.port, endpoint.base) for machine in self._machines(endpoint.host))

    def same(self, one: Endpoint, other: Endpoint) -> bool:
        return not self.of(one).isdisjoint(self.of(other))

    def is_here(self, host: str) -> bool:
        """Whether a host is this machine."""
        return _HERE in self._machines(host)

    def count_machines(self, hosts: Iterable[str]) -> int:
        """How many different machines the hosts are; one that has several addresses is one."""
        machines: list[frozenset[str]] = []
        for host in hosts:
            this = self._machines(host)
            same = [machine for machine in machines if not machine.isdisjoint(this)]
            machines = [machine for machine in machines if machine.isdisjoint(this)]
            machines.append(this.union(*same))
        return len(machines)

    def _machines(self, host: str) -> frozenset[str]:
        return frozenset(self._machine(address) for address in self._names.get(host) or (host,))

    def _machine(self, address: str) -> str:
        plain = _plain(address)
        here = plain in LOOPBACK or plain == "localhost" or plain.endswith(".localhost") or plain in self._own
        return _HERE if here else plain


def _plain(address: str) -> str:
    parsed = _address(address)
    return address.lower() if parsed is None else str(parsed)
