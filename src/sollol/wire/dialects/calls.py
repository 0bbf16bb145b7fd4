"""What writers share: the name under which a reply goes, and the calls of tools as they come together."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..neutral import CallPiece, End
from ..routing import DETAILS


class Name(Struct):
    """How a reply is named. ``id`` is its own (letters and digits), ``model`` what the client called it.

    ``start`` is when it was asked, in seconds on the caller's clock; the calendar comes from the node.
    """

    id: str
    model: str
    start: float
    offset: float | None = None

    def note(self, end: End, now: float) -> None:
        """Set the calendar by what the node says, the first time that it says it."""
        if self.offset is None and end.created is not None:
            self.offset = end.created - now

    def wall(self, now: float) -> float:
        """`now` on the calendar, in seconds."""
        return (self.offset or 0.0) + now


def resumption(end: End) -> dict[str, Any]:
    """The member of an answer's end that tells which nodes said its beginning; none where one node said it all."""
    return {DETAILS: {"resumed_from": end.resumed_from}} if end.resumed_from else {}


class Calls:
    """Puts pieces of calls together, by their index. Calls without an id get one."""

    def __init__(self, name: Name) -> None:
        self._name = name
        self._parts: dict[int, list[str]] = {}
        self._calls: dict[int, CallPiece] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: CallPiece) -> bool:
        """Take a piece; True if it is the first of its call."""
        call = self._calls.get(piece.index)
        if call is None:
            given = piece.id or f"call_{self._name.id}_{piece.index}"
            self._calls[piece.index] = CallPiece(piece.index, given, piece.name)
            self._parts[piece.index] = [piece.arguments]
            return True
        call.name = call.name or piece.name
        self._parts[piece.index].append(piece.arguments)
        return False

    def named(self, index: int) -> CallPiece:
        """The call as far as it is known, without its arguments."""
        return self._calls[index]

    def arguments(self, index: int) -> str:
        """The arguments of a call so far."""
        return "".join(self._parts[index])

    def whole(self) -> list[CallPiece]:
        """All calls, in order, with their arguments."""
        return [CallPiece(at, call.id, call.name, self.arguments(at)) for at, call in sorted(self._calls.items())]
