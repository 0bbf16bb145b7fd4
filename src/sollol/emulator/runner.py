"""The parts of the model of a node: a slot, a request in the node, a loaded model."""

from __future__ import annotations

from collections import deque
from math import inf

from sollol.emulator.specs import ModelSpec, NodeSpec, Work

_REUSE_SHARE = 0.1  # a slot is taken for its prefix only if that is over this share of the prompt


class Slot:
    """One key-value cache: what it holds (hashes of message boundaries) and who uses it."""

    __slots__ = ("hashes", "job", "used")

    def __init__(self) -> None:
        self.hashes: frozenset[int] = frozenset()
        self.used = -inf
        self.job: Job | None = None

    def prefix(self, work: Work) -> int:
        """Tokens of `work` that need not be read again."""
        if self.hashes:
            for tokens, value in reversed(work.boundaries):
                if value in self.hashes:
                    return max(0, min(tokens, work.prompt_tokens - 1))
        return 0


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
    """A loaded model."""

    __slots__ = ("busy", "decode", "expires", "keep_alive", "model", "num_ctx", "prefill", "size", "slots", "waiting")

    def __init__(self, model: ModelSpec, num_ctx: int, spec: NodeSpec) -> None:
        self.model = model
        self.num_ctx = num_ctx
        self.slots = [Slot() for _ in range(1 if model.embeds else spec.slots)]
        self.size = model.size + model.kv_bytes(num_ctx * len(self.slots))
        self.waiting: deque[Job] = deque()
        self.busy = 0
        self.keep_alive = inf if spec.always_resident else spec.keep_alive
        self.expires = inf
        self.prefill = spec.prefill_rate(model)
        self.decode = spec.decode_rate(model)

    @property
    def idle(self) -> bool:
        return not self.busy and not self.waiting

    def best_slot(self, work: Work) -> tuple[Slot, int]:
        """A free slot and the tokens it saves: the longest beginning, else the one unused for longest."""
        free = [s for s in self.slots if s.job is None]
        if work.boundaries:
            slot = max(free, key=lambda s: s.prefix(work))
            saved = slot.prefix(work)
            if saved > _REUSE_SHARE * work.prompt_tokens:
                return slot, saved
        slot = min(free, key=lambda s: s.used)
        return slot, slot.prefix(work)
