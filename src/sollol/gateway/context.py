"""What the handlers of the gateway share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sollol.config import Config
from sollol.config_sources import catalogue_of
from sollol.drivers.metrics import Metrics
from sollol.engine.engine import Engine
from sollol.engine.statistics import Statistics
from sollol.gateway.blobs import BlobPlaces
from sollol.gateway.guards import Guard
from sollol.wire.catalogue import Catalogue

if TYPE_CHECKING:
    from sollol.engine.admission import Admission
    from sollol.engine.cache import Cache
    from sollol.engine.finder import Finder
    from sollol.engine.monitor import Monitor
    from sollol.gateway.shapes import Reloaded


@dataclass(slots=True)
class Gateway:
    """One running gateway. ``started`` is on the engine's clock; ``address`` is where it listens ("http://host:port").

    ``statistics`` and ``metrics`` count only while they listen to the engine. ``reload`` reads the settings again; None where
    they were given by a program and cannot be read. ``catalogue`` is what the names of models mean by the settings
    and by what was said of nodes since (`name_models`).
    """

    config: Config
    engine: Engine
    admission: Admission
    monitor: Monitor
    finder: Finder
    started: float
    address: str = ""
    guard: Guard = field(default_factory=Guard)
    statistics: Statistics = field(default_factory=Statistics)
    metrics: Metrics = field(default_factory=Metrics)
    blobs: BlobPlaces = field(default_factory=BlobPlaces)
    reload: Callable[[], Reloaded] | None = None
    cache: Cache | None = None
    catalogue: Catalogue = field(init=False)

    def __post_init__(self) -> None:
        self.catalogue = catalogue_of(self.config)

    def name_models(self) -> None:
        """Take what names mean by the settings and by the nodes that are known now. A name that is an alias stays that."""
        plain = catalogue_of(self.config)
        tables = {
            f"names of node '{node.id}'": {own: public for own, public in node.node.names if public not in plain.aliases}
            for node in self.engine.state.nodes.values()
            if node.node.names
        }
        self.catalogue = Catalogue(self.config.aliases, {**plain.names, **tables}, self.config.fallbacks) if tables else plain
