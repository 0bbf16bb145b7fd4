"""Emulated nodes that stand in while no node is found, so that everything can be tried (`sollol up --demo-if-empty`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sollol.core.events import Event, NodeAdded
from sollol.core.types import Node, Origin
from sollol.gateway.running import RunningGateway
from sollol.wire.address import parse_endpoint

if TYPE_CHECKING:
    from sollol.emulator.server import EmulatedCluster


class StandIns:
    """The three nodes of the demonstration, for one gateway. A node that is found or named later takes their place."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._house = gateway.house
        self._cluster: EmulatedCluster | None = None
        self._ids: list[str] = []

    async def start_if_empty(self) -> bool:
        """Wait for the end of the first search; True when nothing was found and the emulated nodes were started."""
        from sollol.emulator import presets  # noqa: PLC0415 - a gateway that has nodes does without the emulator
        from sollol.emulator.server import EmulatedCluster  # noqa: PLC0415 - only for an empty cluster

        house = self._house
        await house.finder.searched()
        if house.engine.state.nodes:
            return False
        self._cluster = cluster = EmulatedCluster(presets.demo())
        await cluster.__aenter__()
        for emulated in cluster.nodes:
            endpoint = parse_endpoint(emulated.url)
            node = Node(endpoint.authority, endpoint, name=emulated.name, origin=Origin.DEMO, emulated=True)
            self._ids.append(house.finder.add(node).id)
        house.engine.listen(self._heard, NodeAdded)
        await house.monitor.looked(self._ids)
        return True

    async def close(self) -> None:
        """Stop them; to be called when the gateway is closed."""
        if self._cluster is not None:
            await self._cluster.close()

    def _heard(self, event: Event) -> None:
        if isinstance(event, NodeAdded) and event.node.origin is not Origin.DEMO and self._ids:
            asyncio.get_running_loop().call_soon(self._leave)

    def _leave(self) -> None:
        """Answers that are made up must not mix with real ones; what runs on the emulated nodes goes on to its end."""
        ids, self._ids = self._ids, []
        for node in ids:
            self._house.finder.remove(node, "a real node is there")
