"""The parts of the model of a node: a slot, a request in the node, a loaded model."""

from __future__ import annotations

from collections import deque
from math import inf

from sollol.emulator.specs import ModelSpec, NodeSpec, Work

_REUSE_SHARE = 0.1  # a slot is taken for its prefix only if that is over this share of the prompt


class Slot:
    """One key-value cache and the hashes of the message boundaries that it holds."""

    __slots__ = ("hashes",)

    def __init__(self) -> None:
        self.hashes: frozenset[int] = frozenset()


class Job:
    """One request in the node. ``over`` once it ended, was refused or cancelled."""

    __slots__ = (
        "admitted",
        "arrived",
        "cached",
        "decoding",
        "first",
        "first_at",
        "handle",
        "model",
        "over",
        "rate",
        "runner",
        "slot",
        "started",
        "work",
    )

    def __init__(self, handle: int, work: Work, model: ModelSpec, now: float) -> None:
        self.handle = handle
        self.work = work
        self.model = model
        self.arrived = self.admitted = self.started = self.first_at = now
        self.first = inf  # on the clock of work
        self.rate = 0.0
        self.cached = 0
        self.runner: Runner | None = None
        self.slot: Slot | None = None
        self.decoding = False
        self.over = False


class Runner:
    """A loaded model and its slots."""

    __slots__ = (
        "_free",
        "_holders",
        "busy",
        "decode",
        "expires",
        "keep_alive",
        "model",
        "num_ctx",
        "prefill",
        "size",
        "slots",
        "waiting",
    )

    def __init__(self, model: ModelSpec, num_ctx: int, spec: NodeSpec) -> None:
        self.model = model
        self.num_ctx = num_ctx
        self.slots = 1 if model.embeds else spec.slots
        self.size = model.size + model.kv_bytes(num_ctx * self.slots)
        self.waiting: deque[Job] = deque()
        self.busy = 0
        self.keep_alive = inf if spec.always_resident else spec.keep_alive
        self.expires = inf
        self.prefill = spec.prefill_rate(model)
        self.decode = spec.decode_rate(model)
        # Dicts for their order: the slot unused for longest is the first free one, and equal runs go equally.
        self._free: dict[Slot, None] = dict.fromkeys(Slot() for _ in range(self.slots))
        self._holders: dict[int, dict[Slot, None]] = {}

    @property
    def idle(self) -> bool:
        return not self.busy and not self.waiting

    def take(self, work: Work) -> tuple[Slot, int]:
        """Give a free slot to `work`, and the tokens it saves: the longest beginning, else the one unused for longest."""
        slot, saved = self._longest(work)
        if slot is None or saved <= _REUSE_SHARE * work.prompt_tokens:
            slot = next(iter(self._free))
            saved = next((self._saves(tokens, work) for tokens, value in reversed(work.boundaries) if value in slot.hashes), 0)
        del self._free[slot]
        self.busy += 1
        self.hold(slot, frozenset(value for _, value in work.boundaries))
        return slot, saved

    def give_back(self, slot: Slot) -> None:
        """Nobody uses `slot` any more; it keeps what it holds."""
        self._free[slot] = None
        self.busy -= 1

    def hold(self, slot: Slot, hashes: frozenset[int]) -> None:
        """From now on `slot` holds exactly these beginnings."""
        for value in slot.hashes - hashes:
            holders = self._holders[value]
            del holders[slot]
            if not holders:
                del self._holders[value]
        for value in hashes - slot.hashes:
            self._holders.setdefault(value, {})[slot] = None
        slot.hashes = hashes

    def _longest(self, work: Work) -> tuple[Slot | None, int]:
        for tokens, value in reversed(work.boundaries):
            for slot in self._holders.get(value, ()):
                if slot in self._free:
                    return slot, self._saves(tokens, work)
        return None, 0

    @staticmethod
    def _saves(tokens: int, work: Work) -> int:
        return max(0, min(tokens, work.prompt_tokens - 1))
