"""One line per finished request, written by a thread of its own, so that a slow disk or terminal never delays an answer."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO

import msgspec

from sollol.core.events import Event, TaskEnded

LOGGER: Final = "sollol.requests"
QUEUE: Final = 10_000
BATCH_SECONDS: Final = 0.1
_TEXT_LIMIT: Final = 200
_NEEDS_QUOTES: Final = re.compile(r"[\s\"'=\\]").search


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, event, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00Z INFO request model=m node=n status=200 …``; text with spaces or worse is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        # A message may quote what a client sent: a line stays one line.
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"{time} {record.levelname} {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class RequestLog:
    """Listens to an engine and tells of each `TaskEnded`. Neither prompt nor answer nor key is in a line.

    With a ``stream`` the lines go there, as the formatters above would make them: formatted at once (3 µs) and written in
    batches by a thread, which then holds the interpreter only while it joins them. Without one each goes as an INFO record to
    the logger ``sollol.requests``, from the thread; where nobody listens at INFO nothing is queued. When 10,000 wait the
    oldest are dropped and their number is told.
    """

    def __init__(self, logger: logging.Logger | None = None, stream: TextIO | None = None, *, as_json: bool = False) -> None:
        self._logger = logger or logging.getLogger(LOGGER)
        self._stream = stream
        self._line = _json_line if as_json else _text_line
        self._lines: deque[TaskEnded | str] = deque(maxlen=QUEUE)
        self._dropped = 0
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._write, name="sollol-request-log", daemon=True)
        self._thread.start()

    def to(self, stream: TextIO | None, *, as_json: bool) -> None:
        """Lines of later requests go there, as `__init__` has it."""
        self._stream, self._line = stream, _json_line if as_json else _text_line

    def close(self) -> None:
        """Write what is queued and end the thread; waits up to 2 s."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None

    def on_event(self, event: Event) -> None:
        """Queue one event; quick, and never fails."""
        if not isinstance(event, TaskEnded):
            return
        if self._stream is None and not self._logger.isEnabledFor(logging.INFO):
            return
        if len(self._lines) == QUEUE:
            self._dropped += 1
        self._lines.append(event if self._stream is None else self._line(event))
        if not self._wake.is_set():
            self._wake.set()

    def _write(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            # Collect for a moment: one wake-up of this thread for many requests.
            self._stop.wait(BATCH_SECONDS)
            self._wake.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._logger.warning("request lines dropped", extra={"count": dropped})
        whole = []
        for _ in range(len(self._lines)):
            line = self._lines.popleft()
            if isinstance(line, str):
                whole.append(line)
            else:
                self._logger.info("request", extra=fields_of(line))
        if whole and self._stream is not None:
            with suppress(OSError, ValueError):  # nobody reads any more, or the stream is closed: no reason to stop serving
                self._stream.write("".join(whole))
                self._stream.flush()


def _json_line(event: TaskEnded) -> str:
    head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": "info", "logger": LOGGER, "event": "request"}
    return msgspec.json.encode(head | fields_of(event)).decode() + "\n"


def _text_line(event: TaskEnded) -> str:
    """The line that `TextFormatter` makes of `fields_of`, written out: it is made once a request, and so takes a third."""
    task, counters = event.task, event.counters
    line = (
        f"{_second(int(time.time()))} INFO request id={task.id} path={_word(task.path)} model={_word(task.model)}"
        f" status={event.status} outcome={event.outcome} nodes={_word(','.join(event.nodes))}"
        f" seconds={round(event.seconds, 4)} queued_ms={event.queued * 1000:.1f}"
        f" priority={task.priority} stream={task.stream}"
    )
    if task.app:
        line += f" app={_word(task.app)}"
    if event.first_byte is not None:
        line += f" first_byte_ms={event.first_byte * 1000:.1f}"
    if counters is not None:
        if counters.prompt_tokens is not None:
            line += f" prompt_tokens={counters.prompt_tokens}"
        if counters.output_tokens is not None:
            line += f" output_tokens={counters.output_tokens}"
    if event.resumed:
        line += f" resumed={event.resumed}"
    if event.cache:
        line += f" cache={event.cache}"
    if event.hedged:
        line += f" hedged={_plain(event.hedged)}"
    if event.text:
        line += f" error={_plain(event.text[:_TEXT_LIMIT])}"
    return line + "\n"


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fields_of(event: TaskEnded) -> dict[str, Any]:
    """The fields of a request's line. Seconds and milliseconds as their names say.

    The client's key of fairness is left out, because it may be its API key.
    """
    task = event.task
    fields: dict[str, Any] = {
        "id": task.id,
        "path": task.path,
        "model": task.model,
        "status": event.status,
        "outcome": event.outcome,
        "nodes": ",".join(event.nodes),
        "seconds": round(event.seconds, 4),
        "queued_ms": round(event.queued * 1000, 1),
        "priority": task.priority,
        "stream": task.stream,
    }
    if task.app:
        fields["app"] = task.app
    if event.first_byte is not None:
        fields["first_byte_ms"] = round(event.first_byte * 1000, 1)
    if event.counters is not None:
        counted = {"prompt_tokens": event.counters.prompt_tokens, "output_tokens": event.counters.output_tokens}
        fields.update({key: value for key, value in counted.items() if value is not None})
    if event.resumed:
        fields["resumed"] = event.resumed
    if event.cache:
        fields["cache"] = event.cache
    if event.hedged:
        fields["hedged"] = event.hedged
    if event.text:
        fields["error"] = event.text[:_TEXT_LIMIT]
    return fields


_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _plain(value: Any) -> str:
    if isinstance(value, str) and (_NEEDS_QUOTES(value) or not value or not value.isprintable()):
        return msgspec.json.encode(value).decode()
    return str(value)


_known = lru_cache(maxsize=1024)(_plain)


def _word(text: str) -> str:
    """As `_plain`, for what comes again with the next request: paths and the names of models and nodes."""
    return _known(text) if len(text) < _TEXT_LIMIT else _plain(text)
