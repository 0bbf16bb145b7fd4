"""One request for tokens or vectors: what the model decides about it becomes bytes on its connection."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sollol.core.types import Counters
from sollol.emulator.connection import JSON, NDJSON, Connection, Header
from sollol.emulator.faults import Faults

if TYPE_CHECKING:
    from sollol.emulator.node import EmulatedNode

BUSY = "server busy, please try again.  maximum pending requests exceeded"
ENGINE_DIED = "an error was encountered while running the model: unexpected EOF"


@dataclass(frozen=True, slots=True)
class Document:
    """A whole reply."""

    body: bytes
    status: int = 200
    ctype: bytes = JSON
    headers: Sequence[Header] = ()


class Refusal(Exception):
    """The node answers with an error. ``early``: before the request reached its handler (OpenAI's framing shows it)."""

    def __init__(self, status: int, message: str, *, early: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.early = early


class Writer(ABC):
    """The bytes of one answer in one dialect. ``pieces`` is how many parts the answer is streamed in, 0 if only at its end."""

    stream: bool = False
    pieces: int = 0
    stream_type: bytes = NDJSON
    stream_headers: Sequence[Header] = ()

    @abstractmethod
    def document(self, counters: Counters) -> Document:
        """The whole answer, where it is not streamed."""

    @abstractmethod
    def error(self, refusal: Refusal) -> Document:
        """The whole reply when there is no answer."""

    def piece(self, k: int) -> bytes:
        """The `k`-th part (from 0) of a stream; parts are asked for in order."""
        return b""

    def final(self, counters: Counters) -> list[bytes]:
        """What ends a stream."""
        return [self.document(counters).body]

    def broken(self) -> list[bytes]:
        """What comes last in a stream whose engine died."""
        return []


def _cut(faults: Faults) -> tuple[str, int] | None:
    """The first way in which this answer is going to break off, and after how many tokens."""
    cuts = (
        ("die", faults.die_after),
        ("error", faults.error_after),
        ("end", faults.end_after),
        ("stall", faults.stall_after),
    )
    return min(((name, n) for name, n in cuts if n is not None), key=lambda c: c[1], default=None)


class Call:
    """A request in the node, from its arrival to its last byte."""

    __slots__ = ("_connection", "_cut", "_due", "_faults", "_node", "_sent", "_started", "_timer", "_writer", "handle", "over")

    def __init__(self, node: EmulatedNode, connection: Connection, writer: Writer, faults: Faults, handle: int) -> None:
        self._node = node
        self._connection = connection
        self._writer = writer
        self._faults = faults
        self._cut = _cut(faults)
        self._sent = 0
        self._started = False
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.handle = handle
        self.over = False

    def gone(self) -> None:
        """The client left."""
        self._end()
        self._node.cancelled(self)

    def refused(self) -> None:
        """The model did not take the request."""
        self._reply(self._writer.error(Refusal(503, BUSY)))
        self._end()

    def first(self) -> None:
        """The first token is out."""
        if self._writer.stream or self._cut is not None:
            self._emit()

    def _emit(self) -> None:
        node, writer = self._node, self._writer
        self._timer = None
        now = max(node.now(), self._due)  # an event loop may wake a little early, by what its clock is coarse
        out = node.model.tokens(self.handle, now)
        if self._cut is not None and out >= self._cut[1]:
            self._write(self._cut[1])
            self._break(self._cut[0])
            return
        self._write(out)
        if self._cut is None and out >= writer.pieces:
            return
        when = node.model.time_of_token(self.handle, out + 1)
        if when is not None:
            self._due = max(when, now + 1e-4)  # a token that is due already has only not been counted for rounding
            self._timer = node.loop.call_at(self._due, self._emit)
        elif out < writer.pieces:
            self._timer = node.loop.call_later(0.05, self._emit)  # the node stands still

    def _write(self, upto: int) -> None:
        writer = self._writer
        upto = min(upto, writer.pieces)
        if not writer.stream or upto <= self._sent:
            self._sent = max(self._sent, upto)
            return
        parts = [writer.piece(k) for k in range(self._sent, upto)]
        if self._faults.bad_json:
            parts = [p[: len(p) // 2] + b"\n" for p in parts]
        self._sent = upto
        self._send(parts)

    def _send(self, parts: list[bytes]) -> None:
        parts = [p for p in parts if p]
        if parts and not self._started:
            self._started = True
            self._connection.start(self._writer.stream_type, parts[0], self._writer.stream_headers)
            parts = parts[1:]
        if parts:
            self._connection.send(parts)

    def _break(self, how: str) -> None:
        connection, writer = self._connection, self._writer
        self._end()
        if how == "stall":
            return  # the connection stays open, and the request keeps its slot for as long as its answer would have taken
        self._node.dropped(self)
        if how == "die" or (how == "end" and not writer.stream):
            connection.abort()
        elif how == "error" and not self._started:
            self._reply(writer.error(Refusal(500, ENGINE_DIED)))
        else:
            self._send(writer.broken() if how == "error" else [])
            if self._started:
                connection.finish()
            else:
                connection.reply(200, b"", writer.stream_type)

    def finished(self, counters: Counters) -> None:
        """The model is done."""
        writer = self._writer
        if self._cut is not None:
            self._write(min(self._cut[1], writer.pieces))
            self._break(self._cut[0])  # the answer was shorter than the fault wanted
            return
        if writer.stream:
            self._write(writer.pieces)
            self._send(writer.final(counters))
            self._connection.finish()
        else:
            self._reply(writer.document(counters))
        self._end()

    def _reply(self, document: Document) -> None:
        body = document.body[: len(document.body) // 2] if self._faults.bad_json else document.body
        self._connection.reply(document.status, body, document.ctype, document.headers)

    def _end(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
