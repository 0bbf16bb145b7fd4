"""How requests weigh what a node costs: ``from sollol.routing_modes import RoutingMode, TaskPriority``."""

from sollol.core.types import Mode as RoutingMode
from sollol.core.types import Priority as TaskPriority

__all__ = ["RoutingMode", "TaskPriority"]
