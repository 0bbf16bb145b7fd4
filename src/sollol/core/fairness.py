"""Start tags: who comes next when requests wait, so that no client can push the others back. Units are seconds of work.

Tags are kept per client and priority: a client's own backlog of low priority does not push back its urgent requests.
"""

from __future__ import annotations

from .estimates import Recent

LEVELS = 10
SHARE = 0.6
"""Of all slots: with how much real capacity is reckoned."""


class Tags:
    """``now`` is the virtual time V; a client's finish tags are one number for each priority 1–10 (place 0 is unused)."""

    __slots__ = ("_finish", "now")

    def __init__(self, cap: int = 10_000) -> None:
        self.now = 0.0
        self._finish: Recent[str, list[float]] = Recent(cap)

    def start(self, client: str, priority: int, work: float) -> float:
        """The tag of a request that foresees ``work`` seconds of the cluster."""
        now = self.now
        priority = max(1, min(LEVELS, priority))
        finish = self._finish.get(client)
        if finish is None:
            finish = self._finish.put(client, [now] * (LEVELS + 1))
        tag = max(now, finish[priority])
        for level in range(1, priority + 1):
            at = finish[level]
            finish[level] = (at if at > now else now) + work  # max() would be half of this method's time
        return tag

    def settle(self, client: str, priority: int, difference: float) -> None:
        """Put the ``difference`` between work done and work foreseen on the client's account (also negative)."""
        finish = self._finish.get(client)
        if finish is not None:
            for level in range(1, min(LEVELS, priority) + 1):
                finish[level] += difference

    def sent(self, tag: float, least_waiting: float) -> None:
        """A request with ``tag`` was sent while ``least_waiting`` (infinite: nothing) is the least tag that could be served."""
        self.now = max(self.now, min(tag, least_waiting))
