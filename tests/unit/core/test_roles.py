"""What an agent does says how urgent it is: the roles that applications know."""

from __future__ import annotations

import pytest

from sollol.core.roles import get_priority_for_role
from sollol.core.types import Priority


@pytest.mark.parametrize(
    ("role", "priority"),
    [("user", 9), ("researcher", 8), ("critic", 7), ("editor", 6), ("summarizer", 5), ("archivist", 3), ("batch", 1)],
)
def test_roles_have_their_priority(role: str, priority: int) -> None:
    assert get_priority_for_role(role) == get_priority_for_role(f"  {role.upper()} ") == priority


def test_a_role_nobody_knows_has_the_usual_one_or_what_is_given() -> None:
    assert get_priority_for_role("juggler") == Priority.NORMAL
    assert get_priority_for_role("juggler", 2) == 2
    assert get_priority_for_role("", Priority.LOW) == Priority.LOW
    assert type(get_priority_for_role("user")) is int
