"""The network interfaces of this machine, and what its resolver says about names."""

from __future__ import annotations

import asyncio
import socket

import psutil

from sollol.core.topology import Interface

RESOLVE_SECONDS = 3.0


def interfaces() -> tuple[Interface, ...]:
    """Every IP address of every interface that is up, with its netmask."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return tuple(
        Interface(name, entry.address, entry.netmask or "")
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def own_addresses() -> tuple[str, ...]:
    """The addresses of this machine, loopback among them."""
    return tuple(interface.address for interface in interfaces())


async def resolve(host: str) -> tuple[str, ...]:
    """The addresses of a host name, in the resolver's order; empty when it is not known within three seconds."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            answers = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return ()
    return tuple(dict.fromkeys(str(address[0]) for *_, address in answers))
