"""Finds out where something listens: many TCP connections at once, none of them waited for long."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Sequence

from sollol.core.topology import Candidate, Found, Interface, Network, Plan, allowed, plan_scan
from sollol.core.types import Endpoint, Origin

try:
    import resource
except ImportError:  # Windows has no such limit on sockets
    resource = None  # type: ignore[assignment]  # stands for "no limit"

CONNECT_SECONDS = 0.7
AT_ONCE = 256
# Linux remembers an address that nobody has for 3 s, and at most 1,024 neighbours in all; with that table full the whole
# machine loses packets. A /24 goes out at once, more than that no faster than entries go away.
BURST = 256
PER_SECOND = 100.0
_GROUP = 32
_PAUSE_SECONDS = 0.005
_TRY_AGAIN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EAGAIN, errno.EADDRNOTAVAIL})

Target = tuple[str, int]


async def open_ports(
    targets: Iterable[Target], seconds: float = CONNECT_SECONDS, at_once: int | None = None, per_second: float = PER_SECOND
) -> list[Target]:
    """The (address, port) pairs of `targets` that take a connection within `seconds`, in the order given.

    Addresses are numeric. At most `at_once` sockets (256, or a quarter of what this process may open) are open at a time; after
    the first 256 targets at most `per_second` are tried.
    """
    started = asyncio.get_running_loop().time()
    numbered = enumerate(targets)
    found: list[tuple[int, Target]] = []

    async def work() -> None:
        for number, target in numbered:
            await _until(started + max(0, number - BURST) / per_second)
            if await _answers(target, seconds):
                found.append((number, target))
            # a refused connection to this machine fails without waiting, and others want the loop too
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(at_once or _at_once()):
            group.create_task(work())
            if number % _GROUP == _GROUP - 1:
                await asyncio.sleep(_PAUSE_SECONDS)
    return [target for _, target in sorted(found)]


async def _until(due: float) -> None:
    wait = due - asyncio.get_running_loop().time()
    if wait > 0:
        await asyncio.sleep(wait)


def _at_once() -> int:
    if resource is None:
        return AT_ONCE
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return AT_ONCE if soft == resource.RLIM_INFINITY else max(8, min(AT_ONCE, soft // 4))


async def _answers(target: Target, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await _connect(target)
                except OSError as error:
                    if error.errno not in _TRY_AGAIN:
                        return False
                    # out of sockets or of room in the neighbour table: not the other side's answer
                    await asyncio.sleep(0.1)
                else:
                    return True
    except TimeoutError:
        return False


async def _connect(target: Target) -> None:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, target)


def candidates(targets: Iterable[Target], origin: Origin) -> tuple[Candidate, ...]:
    """Places where something listens, as candidates to be asked."""
    return tuple(Candidate(Endpoint(host, port), origin) for host, port in targets)


class LocalSearch:
    """Searches the known ports of 127.0.0.1 and ::1; nothing else of the loopback network."""

    def __init__(self, ports: Sequence[int], restriction: Sequence[Network] = ()) -> None:
        self._ports = tuple(ports)
        self._loopback = plan_scan((), restriction).loopback

    async def find(self) -> Found:
        """Which of the ports take a connection. Where both addresses do, the node is listed under both."""
        if not self._loopback:
            return Found()
        listening = await open_ports((host, port) for port in self._ports for host in self._loopback)
        where = f"this machine (port{'s' if len(self._ports) > 1 else ''} {', '.join(map(str, self._ports))})"
        return Found(candidates(listening, Origin.LOCAL), (where,))


class SubnetSearch:
    """Sweeps the networks of this machine's interfaces, or the networks that discovery is restricted to."""

    def __init__(
        self, interfaces: Callable[[], Iterable[Interface]], ports: Sequence[int], restriction: Sequence[Network] = ()
    ) -> None:
        self._interfaces = interfaces
        self._ports = tuple(ports)
        self._restriction = tuple(restriction)

    def plan(self) -> Plan:
        """What would be contacted now."""
        return plan_scan(self._interfaces(), self._restriction)

    async def find(self) -> Found:
        """Who listens there. An empty /24 takes under a second, each further 100 addresses one more."""
        plan = self.plan()
        targets = ((host, port) for port in self._ports for host in plan.hosts() if allowed(host, self._restriction))
        listening = await open_ports(targets)
        ports = ", ".join(map(str, self._ports))
        where = tuple(f"{network} (port {ports})" for network in plan.networks)
        return Found(candidates(listening, Origin.SCAN), where, plan.notes)
