"""What follows an attempt that failed before the first byte: another node, passing the reply on, or giving up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum

from sollol.errors import NodeError, NodeFailed

MAX_ATTEMPTS = 6
WINDOW_SECONDS = 10.0
SHARE = 0.2
FLOOR = 10


class Next(Enum):
    """The four things that can follow a failed attempt."""

    MOVE = "move"
    PASS_ON = "pass on"
    GIVE_UP = "give up"


def after_failure(tried: Sequence[NodeError], usable: int) -> Next:
    """What follows the last failure of `tried` (in the order tried), with `usable` nodes that could serve the request.

    The same 5xx with the same text from two nodes is the request's fault: the second reply is passed on. Otherwise another
    node is tried, up to min(max(usable, 1), 6) attempts in all; a request whose only node failed is therefore over at once.
    """
    last = tried[-1]
    if isinstance(last, NodeFailed) and any(same_complaint(last, earlier) for earlier in tried[:-1]):
        return Next.PASS_ON
    if not last.retry_elsewhere or len(tried) >= min(max(usable, 1), MAX_ATTEMPTS):
        return Next.GIVE_UP
    return Next.MOVE


def same_complaint(one: NodeError, other: NodeError) -> bool:
    """Whether two nodes refused in the same words."""
    return (
        isinstance(one, NodeFailed)
        and isinstance(other, NodeFailed)
        and (one.node_status, one.body) == (other.node_status, other.body)
    )


class MoveBudget:
    """Keeps moves from becoming a storm: the second and later moves of requests are at most 20 % of recent attempts.

    The first move of a request is always allowed (a node that dies takes many requests with it). At least 10 later moves in
    any 10 s are allowed, however few attempts there are.
    """

    def __init__(self) -> None:
        self._attempts: deque[float] = deque()
        self._moves: deque[float] = deque()

    def attempted(self, now: float) -> None:
        """Count an attempt at `now` seconds."""
        self._attempts.append(now)
        _forget(self._attempts, now)

    def take(self, now: float, moves_before: int) -> bool:
        """Whether a request that has moved `moves_before` times may move now; counts the move if it may."""
        if moves_before == 0:
            return True
        _forget(self._attempts, now)
        _forget(self._moves, now)
        if len(self._moves) >= max(FLOOR, SHARE * len(self._attempts)):
            return False
        self._moves.append(now)
        return True

    def next_chance(self, now: float) -> float:
        """Seconds from `now` until `take` may say yes again (when the oldest counted move is forgotten)."""
        return min(max(0.0, self._moves[0] + WINDOW_SECONDS - now), WINDOW_SECONDS) if self._moves else 0.0


def _forget(times: deque[float], now: float) -> None:
    while times and times[0] <= now - WINDOW_SECONDS:
        times.popleft()
