"""Faults of an emulated node, switched at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

_Tokens = Annotated[int, msgspec.Meta(ge=0)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is wrong with a node; the default is nothing.

    - ``refuse``: nothing listens and open connections are cut; ``flap``: that and health take turns, each for so many seconds
    - ``reset``: every new connection is reset; ``hang``: requests are read and never answered
    - ``status``: answered at once with this status (500, 503, 404, ...)
    - ``stall_after``, ``error_after``, ``end_after``, ``die_after``: after so many tokens of an answer comes nothing more, the
      dialect's error, the end without its closing words, or the connection's end (0 with the last: before the first byte)
    - ``bad_json``, ``bad_framing``: replies that cannot be parsed, as JSON or as HTTP
    - ``slow``: everything that runs takes so many times as long

    ``scope`` says whose requests ``hang``, ``status``, ``bad_json`` and ``bad_framing`` concern: "inference" (the node still
    answers probes) or "all". ``times`` ends all but refuse, flap, reset and slow after so many concerned requests, and
    ``every`` spares all but each n-th.
    """

    refuse: bool = False
    flap: Annotated[float, msgspec.Meta(gt=0)] | None = None
    reset: bool = False
    hang: bool = False
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    stall_after: _Tokens | None = None
    error_after: _Tokens | None = None
    end_after: _Tokens | None = None
    die_after: _Tokens | None = None
    bad_json: bool = False
    bad_framing: bool = False
    slow: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    scope: Literal["inference", "all"] = "inference"
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    every: Annotated[int, msgspec.Meta(ge=1)] = 1

    @property
    def per_request(self) -> bool:
        """Whether single requests can be hit at all."""
        cuts = (self.stall_after, self.error_after, self.end_after, self.die_after)
        return self.hang or self.bad_json or self.bad_framing or self.status is not None or any(c is not None for c in cuts)


NONE = Faults()


class FaultSwitch:
    """The faults of one node at this moment, and which requests they hit."""

    def __init__(self, changed: Callable[[Faults], None]) -> None:
        self._changed = changed
        self._faults = NONE
        self._seen = self._hit = 0

    @property
    def current(self) -> Faults:
        return self._faults

    def set(self, faults: Faults = NONE, **fields: object) -> None:
        """Replace all faults by `faults` changed by `fields`. Raises msgspec.ValidationError for unknown or wrong ones."""
        if fields:
            faults = msgspec.convert({**msgspec.structs.asdict(faults), **fields}, Faults)
        self._faults = faults
        self._seen = self._hit = 0
        self._changed(faults)

    def clear(self) -> None:
        """Heal the node."""
        self.set(NONE)

    def pick(self, inference: bool) -> Faults:
        """The faults that hit the next request."""
        faults = self._faults
        if not faults.per_request or not (inference or faults.scope == "all"):
            return NONE
        if faults.times is not None and self._hit >= faults.times:
            return NONE
        self._seen += 1
        if self._seen % faults.every:
            return NONE
        self._hit += 1
        return faults
