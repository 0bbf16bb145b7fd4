"""What an agent does says how urgent it is."""

from __future__ import annotations

from typing import Final

from .types import Priority

_ROLES: Final = {
    "user": Priority.URGENT,
    "assistant": Priority.URGENT,
    "researcher": 8,
    "planner": 8,
    "coordinator": 8,
    "coder": Priority.HIGH,
    "critic": Priority.HIGH,
    "reviewer": Priority.HIGH,
    "editor": 6,
    "writer": 6,
    "storyteller": 6,
    "summarizer": Priority.NORMAL,
    "tester": Priority.NORMAL,
    "archivist": Priority.LOW,
    "indexer": Priority.LOW,
    "batch": Priority.BATCH,
}


def get_priority_for_role(role: str, default: int = Priority.NORMAL) -> int:
    """The priority (1 to 10) of an agent with this role, case aside; ``default`` for a role that is not known."""
    return int(_ROLES.get(role.strip().lower(), default))
