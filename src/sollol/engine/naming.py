"""Looks at nodes and tells their models under the names that they have here, whatever a node calls them."""

from __future__ import annotations

from collections.abc import Mapping

from sollol.core.ports import Surveyor
from sollol.core.types import Model, Node, Survey
from sollol.wire.catalogue import renamed


class NamingSurveyor:
    """A surveyor around another one. ``names`` (canonical: what nodes say -> what it is here) may be replaced at any time.

    Those of the node itself go before them.
    """

    def __init__(self, inner: Surveyor, names: Mapping[str, str]) -> None:
        self._inner = inner
        self.names = names

    async def survey(self, node: Node) -> Survey:
        """As the surveyor inside. Raises what that raises."""
        found = await self._inner.survey(node)
        names = {**self.names, **dict(node.names)} if node.names else self.names
        return renamed(found, names) if names else found

    async def show(self, node: Node, model: Model) -> Model:
        """As the surveyor inside, which asks by the node's own name. Raises what that raises."""
        return await self._inner.show(node, model)

    def forget(self, node: Node) -> None:
        """As the surveyor inside."""
        self._inner.forget(node)
