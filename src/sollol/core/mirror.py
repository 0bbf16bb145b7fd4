"""A mirror of the prefixes that runners still hold in their KV slots, so that a conversation returns to where it is warm.

Only hashes and lengths are kept, in characters. A prefix counts when it is over a tenth of the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .estimates import Recent
from .types import Prompt

if TYPE_CHECKING:
    from .node import Runner

_FIRST = 2
_LAST = 8
_LOOK = 24
WORTH = 0.1
"""Share of a prompt that a prefix must cover to count."""


def marks(prompt: Prompt, last: int = _LAST) -> tuple[tuple[int, int], ...]:
    """The boundaries worth remembering: the first ones (shared system prompts) and the last (the conversation so far)."""
    every = prompt.boundaries
    return every if len(every) <= _FIRST + last else every[:_FIRST] + every[-last:]


class KvSlot:
    """One slot of a runner: whose prefix it holds. ``tokens`` is all that a stranger would overwrite there."""

    __slots__ = ("answer_chars", "busy", "marks", "runner", "tokens", "used")

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.marks: tuple[tuple[int, int], ...] = ()
        self.answer_chars = 0.0
        self.tokens = 0.0
        self.used = 0.0
        self.busy = False

    def matched(self, chars: int, limit: int) -> float:
        """Characters of a prompt that the slot holds if it agrees up to ``chars``; the answer behind its end counts too."""
        if self.marks and self.marks[-1][0] == chars:
            return min(chars + self.answer_chars, limit)
        return chars


class Mirror:
    """Every slot of every runner, found by the hashes of what it holds, and how often follow-ups find their prefix alive.

    Only free slots are in the index, by model and hash and then by node, so that a look costs one step for each node however
    many slots hold the same prompt.
    """

    __slots__ = ("_found", "_index", "_seen", "alive")

    def __init__(self) -> None:
        self._index: dict[tuple[str, int], dict[str, dict[KvSlot, None]]] = {}
        self._seen: Recent[int, bool] = Recent(4096)
        # The last look: whoever is sent at once is looked for twice with nothing between, to decide and to take the slot.
        self._found: tuple[Prompt, str, dict[str, tuple[float, KvSlot]]] | None = None
        self.alive = 0.5

    def find(self, prompt: Prompt, model: str) -> dict[str, tuple[float, KvSlot]]:
        """Per node id: (characters held, slot) of the longest match in a free slot of ``model`` there, the latest used."""
        last = self._found
        if last is not None and last[0] is prompt and last[1] == model:
            return last[2]
        found: dict[str, tuple[float, KvSlot]] = {}
        self._found = (prompt, model, found)
        index = self._index
        if not index:
            return found
        limit = prompt.chars
        for chars, digest in reversed(marks(prompt, _LOOK)):
            if chars <= WORTH * limit:
                break
            nodes = index.get((model, digest))
            if nodes is None:
                continue
            for node, slots in nodes.items():
                slot = next(reversed(slots))
                held = slot.matched(chars, limit)
                old = found.get(node)
                if old is None or held > old[0]:
                    found[node] = (held, slot)
        return found

    def follows(self, prompt: Prompt) -> bool:
        """Whether the prompt goes on with a conversation that was answered before."""
        seen = self._seen
        for _, digest in prompt.boundaries[-_LAST:]:  # noqa: SIM110 - once a request, and any() takes three times as long
            if digest in seen:
                return True
        return False

    def followed(self, alive: bool) -> None:
        """A follow-up turn was placed; ``alive``: its prefix was still there."""
        self.alive += 0.05 * ((1.0 if alive else 0.0) - self.alive)

    def take(self, slot: KvSlot, prompt: Prompt, tokens: float, now: float) -> None:
        """``slot`` works on ``prompt`` from now on; what it held is overwritten."""
        self.forget(slot)
        slot.marks = marks(prompt)
        slot.tokens = tokens
        slot.answer_chars = 0.0
        slot.used = now
        slot.busy = True

    def release(self, slot: KvSlot, answer_tokens: float, chars_per_token: float, now: float) -> None:
        """The request of ``slot`` is over; prompt and answer stay in it until somebody overwrites them."""
        self._found = None
        slot.busy = False
        slot.used = now
        slot.tokens += answer_tokens
        slot.answer_chars = answer_tokens * chars_per_token
        if not slot.marks:
            return
        self._seen.put(slot.marks[-1][1], True)
        runner = slot.runner
        for _, digest in slot.marks:
            self._index.setdefault((runner.model, digest), {}).setdefault(runner.node, {})[slot] = None

    def forget(self, slot: KvSlot) -> None:
        """What ``slot`` held is gone."""
        self._found = None
        if not slot.busy:
            self._take_out(slot)
        slot.marks = ()
        slot.tokens = 0.0

    def _take_out(self, slot: KvSlot) -> None:
        runner = slot.runner
        for _, digest in slot.marks:
            nodes = self._index[runner.model, digest]
            slots = nodes[runner.node]
            del slots[slot]
            if not slots:
                del nodes[runner.node]
                if not nodes:
                    del self._index[runner.model, digest]

    def forget_all(self, slots: list[KvSlot]) -> None:
        """The runner with these slots is gone."""
        for slot in slots:
            self.forget(slot)
        slots.clear()


def oldest_free(slots: list[KvSlot]) -> KvSlot | None:
    """The free slot that was used longest ago, or None."""
    best: KvSlot | None = None
    for slot in slots:
        if not slot.busy and (best is None or slot.used < best.used):
            best = slot
    return best
