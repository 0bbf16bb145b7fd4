"""Nodes that announce themselves by mDNS. Needs the extra ``mdns`` (zeroconf); without it there is a note and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from sollol.core.topology import Candidate, Found, Interface, Network, allowed, is_docker_interface
from sollol.core.types import Endpoint, Origin

log = logging.getLogger(__name__)

OLLAMA_SERVICE = "_ollama._tcp.local."
SERVICES = (OLLAMA_SERVICE, "_http._tcp.local.")
LISTEN_SECONDS = 1.5
_MOST_SERVICES = 200


class MdnsSearch:
    """Listens for ``_ollama._tcp``, and for ``_http._tcp`` services with "ollama" in their names, on private networks only."""

    def __init__(
        self,
        interfaces: Callable[[], Iterable[Interface]],
        restriction: Sequence[Network] = (),
        seconds: float = LISTEN_SECONDS,
    ) -> None:
        self._interfaces = interfaces
        self._restriction = tuple(restriction)
        self._seconds = seconds

    async def find(self) -> Found:
        """What was announced within the time of listening (1.5 s)."""
        try:
            # optional, and a tenth of a second to import
            from zeroconf import IPVersion  # noqa: PLC0415 - see above
            from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf  # noqa: PLC0415 - see above
        except ImportError:
            return Found(notes=("mDNS is not searched: pip install 'sollol[mdns]' adds it",))
        speakers = self._speakers()
        if not speakers:
            return Found()
        names: dict[str, str] = {}

        def heard(*, service_type: str, name: str, **_: object) -> None:
            if len(names) < _MOST_SERVICES and (service_type == OLLAMA_SERVICE or "ollama" in name.lower()):
                names[name] = service_type

        try:
            zeroconf = AsyncZeroconf(interfaces=speakers, ip_version=IPVersion.V4Only)
        except OSError as error:
            return Found(notes=(f"mDNS is not searched: {error}",))
        try:
            browser = AsyncServiceBrowser(zeroconf.zeroconf, list(SERVICES), handlers=[heard])
            await asyncio.sleep(self._seconds)
            await browser.async_cancel()
            services = [AsyncServiceInfo(service, name) for name, service in names.items()]
            await asyncio.gather(*(service.async_request(zeroconf.zeroconf, 1_000) for service in services))
        finally:
            await zeroconf.async_close()
        found = (self._candidate(service.name, service.parsed_addresses(), service.port) for service in services)
        return Found(tuple(candidate for candidate in found if candidate is not None), ("mDNS",))

    def _speakers(self) -> list[str]:
        """This machine's addresses to listen on: private, no loopback, no Docker bridge, inside the restriction."""
        return [
            interface.address
            for interface in self._interfaces()
            if ":" not in interface.address
            and not interface.address.startswith("127.")
            and not is_docker_interface(interface.name)
            and allowed(interface.address, self._restriction)
        ]

    def _candidate(self, name: str, addresses: Sequence[str], port: int | None) -> Candidate | None:
        usable = [address for address in addresses if allowed(address, self._restriction)]
        if not usable or not port:
            return None
        return Candidate(Endpoint(usable[0], port), Origin.MDNS, name=name.partition(".")[0])
