"""Splitting streams into server-sent events, whatever the cut of the reads."""

from __future__ import annotations

from msgspec import Struct


class Event(Struct, frozen=True):
    """One server-sent event; ``data`` has its lines joined by a line feed."""

    data: bytes
    event: str = ""


class Events:
    """Puts server-sent events together: comments and unknown fields are dropped, an event ends at an empty line."""

    __slots__ = ("_data", "_event", "_rest")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._data: list[bytes] = []
        self._event = ""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        if b"\n" not in data:
            self._rest.append(data)
            return []
        if self._rest:
            data = b"".join((*self._rest, data))
            self._rest = []
        lines = data.split(b"\n")
        if lines[-1]:
            self._rest.append(lines[-1])
        del lines[-1]
        events = []
        for line in lines:
            event = self._line(line.rstrip(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            event = Event(b"\n".join(self._data), self._event) if self._data else None
            self._data, self._event = [], ""
            return event
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            self._event = line[6:].strip().decode("utf-8", "replace")
        return None

    def finish(self) -> list[Event]:
        """The event that stood open at the end of the stream: engines that leave out the last empty line mean it."""
        return self.feed(b"\n\n")
