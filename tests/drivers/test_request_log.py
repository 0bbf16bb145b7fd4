"""The request log: one line a request, from a thread of its own."""

from __future__ import annotations

import io
import json
import logging
import queue
import threading

import pytest

from sollol.core.events import FirstToken, TaskEnded
from sollol.core.types import Counters, Dialect, Kind, Task
from sollol.drivers import request_log
from sollol.drivers.request_log import LOGGER, JsonFormatter, RequestLog, TextFormatter, fields_of


class Lines(logging.Handler):
    """Puts formatted lines into a queue that a test can wait on."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: queue.Queue[str] = queue.Queue()
        self.threads: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.current_thread().name)
        self.lines.put(self.format(record))


def ended(number: int = 1, model: str = "m:latest", **more: object) -> TaskEnded:
    task = Task(
        number,
        Kind.CHAT,
        Dialect.OLLAMA,
        "/api/chat",
        model,
        b'{"messages":"PROMPT"}',
        10.0,
        client="SECRETKEY",
        app="notes",
        headers=((b"authorization", b"Bearer SECRETKEY"),),
    )
    fields = {"queued": 0.0123, "seconds": 2.0, "first_byte": 0.5, "counters": Counters(7, None), **more}
    return TaskEnded(12.0, task, 200, "ok", ("a:1", "b:1"), **fields)  # type: ignore[arg-type]  # fields of any type


def logger_with(handler: logging.Handler, name: str, level: int = logging.INFO) -> logging.Logger:
    logger = logging.Logger(name, level)
    logger.addHandler(handler)
    return logger


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_line_for_each_request_without_secrets(formatter: logging.Formatter) -> None:
    handler = Lines(formatter)
    log = RequestLog(logger_with(handler, "t"))
    log.start()
    log.on_event(ended(1))
    first = handler.lines.get(timeout=5)
    log.on_event(FirstToken(11.0, ended().task, "a:1"))
    log.on_event(ended(2))
    log.close()
    lines = [first, *(handler.lines.get_nowait() for _ in range(handler.lines.qsize()))]
    assert len(lines) == 2
    assert not any(word in line for line in lines for word in ("SECRETKEY", "PROMPT"))
    assert handler.threads == {"sollol-request-log"}


def test_json_fields() -> None:
    handler = Lines(JsonFormatter())
    log = RequestLog(logger_with(handler, "t"))
    log.start()
    log.on_event(ended(text="x" * 1000))
    log.close()
    line = json.loads(handler.lines.get_nowait())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "t",
        "event": "request",
        "id": 1,
        "path": "/api/chat",
        "model": "m:latest",
        "status": 200,
        "outcome": "ok",
        "nodes": "a:1,b:1",
        "seconds": 2.0,
        "queued_ms": 12.3,
        "priority": 5,
        "stream": True,
        "app": "notes",
        "first_byte_ms": 500.0,
        "prompt_tokens": 7,
        "error": "x" * 200,
    }


@pytest.mark.parametrize("model", ["evil\nINFO fake=line", 'a "b" c', "x=1", "tab\there", "", "\x1b[31m"])
def test_a_text_line_stays_one_line(model: str) -> None:
    record = logging.makeLogRecord({"name": "t", "msg": "request", "levelname": "INFO", **fields_of(ended(model=model))})
    line = TextFormatter().format(record)
    assert line.isprintable()
    assert f" model={json.dumps(model)} " in line


def test_a_message_stays_one_line_and_an_exception_is_shown() -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "a\nb", "exc_info": (type(error), error, error.__traceback__)})
    first, *rest = TextFormatter().format(record).split("\n")
    assert first.endswith(" a\\nb")
    assert rest[-1] == "ValueError: why"
    assert json.loads(JsonFormatter().format(record))["exception"].endswith("ValueError: why")


def test_nothing_is_queued_where_nobody_listens() -> None:
    handler = Lines(TextFormatter())
    log = RequestLog(logger_with(handler, "t", logging.WARNING))
    log.on_event(ended())
    log.start()
    log.close()
    assert handler.lines.empty()


def test_the_oldest_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "QUEUE", 3)
    handler = Lines(JsonFormatter())
    log = RequestLog(logger_with(handler, "t"))
    for number in range(5):
        log.on_event(ended(number))
    log.start()
    log.close()
    lines = [json.loads(handler.lines.get_nowait()) for _ in range(handler.lines.qsize())]
    assert (lines[0]["event"], lines[0]["count"]) == ("request lines dropped", 2)
    assert [line["id"] for line in lines[1:]] == [2, 3, 4]


class Stream(io.StringIO):
    """A stream that says when something was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def flush(self) -> None:
        self.written.set()


@pytest.mark.parametrize(
    "more",
    [
        {"resumed": 2, "cache": "hit", "hedged": "c:1", "text": "a b\nc", "counters": Counters(7, 9)},
        {"first_byte": None, "counters": None},
        {"counters": Counters(None, 9), "hedged": "c d"},
    ],
)
def test_the_line_that_is_written_out_says_all_that_the_formatters_say(more: dict[str, object]) -> None:
    for as_json, formatter in ((False, TextFormatter()), (True, JsonFormatter())):
        stream = io.StringIO()
        log = RequestLog(as_json=not as_json)
        log.to(stream, as_json=as_json)
        log.start()
        log.on_event(ended(1, **more))
        log.close()
        record = logging.makeLogRecord({"name": LOGGER, "msg": "request", "levelname": "INFO", **fields_of(ended(1, **more))})
        found, wanted = stream.getvalue().rstrip("\n"), formatter.format(record)
        if as_json:
            assert {**json.loads(found), "time": ""} == {**json.loads(wanted), "time": ""}
        else:
            assert found.split(" ", 1)[1] == wanted.split(" ", 1)[1]


@pytest.mark.parametrize("as_json", [False, True])
def test_lines_for_a_stream_are_those_of_the_formatters(as_json: bool) -> None:
    stream = Stream()
    log = RequestLog(stream=stream, as_json=as_json)
    log.start()
    log.on_event(ended(1))
    assert stream.written.wait(5)
    log.on_event(ended(2, model="a b"))
    log.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    if as_json:
        assert json.loads(lines[1])["model"] == "a b"
        assert json.loads(lines[0])["event"] == "request"
    else:
        record = logging.makeLogRecord({"name": "t", "msg": "request", "levelname": "INFO", **fields_of(ended(1))})
        assert lines[0].split(" ", 1)[1] == TextFormatter().format(record).split(" ", 1)[1]
        assert ' model="a b" ' in lines[1]


def test_a_closed_stream_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    log = RequestLog(stream=stream)
    log.start()
    log.on_event(ended(1))
    log.close()
