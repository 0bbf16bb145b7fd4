"""What the handlers of the gateway share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sollol.config import Config
from sollol.engine.engine import Engine

if TYPE_CHECKING:
    from sollol.engine.admission import Admission
    from sollol.engine.finder import Finder
    from sollol.engine.monitor import Monitor


@dataclass(slots=True)
class Gateway:
    """One running gateway. ``started`` is on the engine's clock; ``address`` is where it listens ("http://host:port")."""

    config: Config
    engine: Engine
    admission: Admission
    monitor: Monitor
    finder: Finder
    started: float
    address: str = ""
