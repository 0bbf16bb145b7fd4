"""Opening a connection: all addresses of a name, each given a short head start (happy eyeballs), within one time limit."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
import ssl
from collections.abc import Callable, Iterable

from sollol.core.types import Endpoint

from .http_connection import Connection

Make = Callable[[], Connection]

_HEAD_START = 0.25


async def open_connection(make: Make, endpoint: Endpoint, context: ssl.SSLContext | None) -> Connection:
    """Connect to `endpoint`, with TLS if `context` is given. Raises OSError; the caller sets the time limit."""
    if _is_address(endpoint.host):
        return await _connect(make, endpoint, endpoint.host, context)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    addresses = interleave((family, str(address[0])) for family, _, _, _, address in found)
    if len(addresses) == 1:
        return await _connect(make, endpoint, addresses[0], context)
    return await _race(make, endpoint, addresses, context)


def interleave(found: Iterable[tuple[int, str]]) -> list[str]:
    """Addresses in the resolver's order, but families in turns, so that a dead family delays by one head start only."""
    families: dict[int, list[str]] = {}
    for family, address in found:
        queue = families.setdefault(family, [])
        if address not in queue:
            queue.append(address)
    turns = itertools.zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _connect(make: Make, endpoint: Endpoint, address: str, context: ssl.SSLContext | None) -> Connection:
    loop = asyncio.get_running_loop()
    name = endpoint.host if context else None
    _, protocol = await loop.create_connection(make, address, endpoint.port, ssl=context, server_hostname=name)
    return protocol


async def _race(make: Make, endpoint: Endpoint, addresses: list[str], context: ssl.SSLContext | None) -> Connection:
    """The first address that accepts; uvloop's create_connection has no race of its own."""
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[Connection]] = set()
    errors: list[OSError] = []
    waiting = list(addresses)
    try:
        while waiting or running:
            if waiting:
                running.add(loop.create_task(_connect(make, endpoint, waiting.pop(0), context)))
            head_start = _HEAD_START if waiting else None
            done, running = await asyncio.wait(running, timeout=head_start, return_when=asyncio.FIRST_COMPLETED)
            winner = _first(done, errors)
            if winner is not None:
                return winner
    finally:
        for task in running:
            task.cancel()
        for late in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(late, BaseException):
                late.abort()
    raise OSError("; ".join(dict.fromkeys(map(str, errors))))


def _first(done: set[asyncio.Task[Connection]], errors: list[OSError]) -> Connection | None:
    """A connection among finished attempts; a second one is dropped, failures are added to `errors`."""
    winner: Connection | None = None
    for task in done:
        error = task.exception()
        if isinstance(error, OSError):
            errors.append(error)
        elif error is not None:
            raise error
        elif winner is None:
            winner = task.result()
        else:
            task.result().abort()
    return winner
