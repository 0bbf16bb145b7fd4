"""Names for priorities, 1 to 10: ``from sollol.priority_helpers import Priority, get_priority_for_role``."""

from sollol.core.roles import get_priority_for_role
from sollol.core.types import Priority

__all__ = ["Priority", "get_priority_for_role"]
