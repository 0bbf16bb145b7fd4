"""Emulated nodes on real sockets: many nodes in one process, a port each."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from sollol.emulator.node import EmulatedNode
from sollol.emulator.routes import route
from sollol.emulator.specs import NodeSpec


class EmulatedCluster:
    """Nodes that listen while the context is open.

    ``port`` is that of the first node and counts up from there, 0 takes any free ones. `nodes` are in the order of `specs`;
    each can be stopped and started again on its port, and made faulty (`node.faults.set(status=503)`).
    """

    def __init__(self, specs: Sequence[NodeSpec], *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._specs = specs
        self._host = host
        self._port = port
        self.nodes: list[EmulatedNode] = []

    async def __aenter__(self) -> EmulatedCluster:
        try:
            for i, spec in enumerate(self._specs):
                node = EmulatedNode(spec, route, host=self._host, port=self._port + i if self._port else 0)
                self.nodes.append(node)
                await node.start()
        except OSError:
            await self.close()
            raise
        for node in self.nodes:
            node.peers = self.nodes
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop every node for good."""
        for node in self.nodes:
            await node.close()

    def __getitem__(self, name: str) -> EmulatedNode:
        """The node of that name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]
