import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.attempts import FLOOR, MoveBudget, Next, after_failure
from sollol.errors import BadReply, ModelGone, NodeBusy, NodeError, NodeFailed, NodeUnreachable

WORDS = b'{"error":"boom"}'


@pytest.mark.parametrize(
    ("tried", "usable", "then"),
    [
        ([NodeUnreachable("a", "refused")], 3, Next.MOVE),
        ([NodeUnreachable("a", "refused")], 1, Next.GIVE_UP),
        ([NodeUnreachable("a", "refused")], 0, Next.GIVE_UP),
        ([NodeBusy("a", "busy"), NodeBusy("b", "busy")], 2, Next.GIVE_UP),
        ([NodeFailed("a", "500", 500, WORDS)], 2, Next.MOVE),
        ([NodeFailed("a", "500", 500, WORDS), NodeFailed("b", "500", 500, WORDS)], 9, Next.PASS_ON),
        ([NodeFailed("a", "500", 500, WORDS), NodeFailed("b", "500", 500, b"other")], 9, Next.MOVE),
        ([NodeFailed("a", "500", 500, WORDS), NodeFailed("b", "502", 502, WORDS)], 9, Next.MOVE),
        ([ModelGone("a", "gone"), BadReply("b", "bad")], 9, Next.MOVE),
        ([NodeUnreachable(str(n), "") for n in range(6)], 99, Next.GIVE_UP),
    ],
)
def test_what_follows(tried: list[NodeError], usable: int, then: Next) -> None:
    assert after_failure(tried, usable) is then


def test_the_first_move_is_free_and_later_ones_are_rationed() -> None:
    budget = MoveBudget()
    assert all(budget.take(0.0, 0) for _ in range(1000))
    assert [budget.take(0.0, 1) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    assert budget.next_chance(4.0) == pytest.approx(6.0)
    assert budget.take(10.0, 1)


def test_a_fifth_of_many_attempts_may_move_again() -> None:
    budget = MoveBudget()
    for _ in range(100):
        budget.attempted(1.0)
    assert sum(budget.take(1.0, 2) for _ in range(100)) == 20


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3)), max_size=200))
def test_the_share_holds_at_any_time(steps: list[tuple[float, int]]) -> None:
    budget, now, moves, attempts = MoveBudget(), 0.0, [], []
    for gap, before in steps:
        now += gap
        budget.attempted(now)
        attempts.append(now)
        if budget.take(now, before) and before:
            moves.append(now)
        recent = [t for t in moves if t > now - 10]
        assert len(recent) <= max(FLOOR, 0.2 * len([t for t in attempts if t > now - 10])) or before == 0 or moves[-1] != now
        assert budget.next_chance(now) <= 10.0
