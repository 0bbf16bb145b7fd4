"""Racing nodes for the first answer: `AdaptiveHedging(num_hedges=2)`, and then `request_with_hedging`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from sollol.errors import BadValue

MOST: Final = 4


class Chats(Protocol):
    """A pool: `OllamaPool`, `AsyncPool` or `SyncPool`."""

    def chat(self, model: str, messages: Sequence[Any] | None = None, *, hedge: int, **options: Any) -> Any: ...


class AdaptiveHedging:
    """Asks pools to run a request on up to ``num_hedges`` nodes (1 to 4) and to take the first answer; the others end at once.

    Only small requests race, and only onto nodes that have the model loaded and a slot idle while nobody waits; all second
    runs together stay under 5 % of the work, so a busy cluster is not slowed down. Where nothing of that holds the request
    runs once, as any other.
    """

    def __init__(self, num_hedges: int = 2) -> None:
        if isinstance(num_hedges, bool) or not isinstance(num_hedges, int) or not 1 <= num_hedges <= MOST:
            raise BadValue(f"num_hedges must be a number of nodes from 1 to {MOST}, not {num_hedges!r}")
        self.num_hedges = num_hedges

    def request_with_hedging(self, *, pool: Chats, model: str, messages: Sequence[Any], **options: Any) -> Any:
        """Chat through ``pool``; what its ``chat`` gives for these options (a reply, or something to await)."""
        return pool.chat(model, messages, hedge=self.num_hedges, **options)
