"""A small HTTP client that puts load on a gateway or a node and keeps what it saw; `sollol bench` prints it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import httptools
import msgspec

from sollol.core.types import Endpoint
from sollol.wire.unreadable import UNREADABLE

READ_SIZE = 65_536
CONNECT_SECONDS = 5.0
BEARERS = ("content", "thinking", "reasoning", "reasoning_content")


@dataclass(frozen=True, slots=True)
class Ask:
    """What every request of a run is. ``path`` names the dialect; ``max_tokens`` None leaves the length to the model."""

    model: str
    path: str = "/api/chat"
    prompt: str = "Why is the sky blue? Answer in one sentence."
    stream: bool = True
    max_tokens: int | None = None
    api_key: str = ""

    def body(self) -> bytes:
        """The JSON body in the dialect of ``path``."""
        document: dict[str, object] = {"model": self.model}
        if self.path.endswith(("/chat", "/chat/completions")):
            document["messages"] = [{"role": "user", "content": self.prompt}]
        elif "embed" in self.path:
            document["prompt" if self.path == "/api/embeddings" else "input"] = self.prompt
            return msgspec.json.encode(document)
        else:
            document["prompt"] = self.prompt
        document["stream"] = self.stream
        if self.max_tokens is not None:
            native = self.path.startswith("/api/")
            document |= {"options": {"num_predict": self.max_tokens}} if native else {"max_tokens": self.max_tokens}
        if self.stream and self.path.startswith("/v1/"):
            document["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(document)


@dataclass(slots=True)
class Outcome:
    """One request. Times are seconds from when it was due (not from when it was sent). ``error`` "" means a good reply."""

    due: float
    seconds: float = 0.0
    first: float | None = None
    tokens: int = 0
    status: int = 0
    node: str = ""
    error: str = ""


@dataclass(slots=True)
class Record:
    """What a run has seen so far: kept outside of it, so that it is there when the run is broken off."""

    outcomes: list[Outcome] = field(default_factory=list)
    sent: int = 0
    seconds: float = 0.0

    @property
    def unfinished(self) -> int:
        """Sent, or due and waiting for a place, and not answered."""
        return self.sent - len(self.outcomes)


class _Reply:
    """Parser callbacks of one reply: status, node, the body's lines as they come, or the whole body."""

    def __init__(self) -> None:
        self.status = 0
        self.node = ""
        self.kind = ""
        self.complete = False
        self.keep_alive = True
        self.body = bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"x-sollol-node":
                self.node = value.decode("latin-1")
            case b"content-type":
                self.kind = value.decode("latin-1").lower()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def lines(self) -> list[bytes]:
        """Take the complete lines out of the body (all that is left, once it is complete)."""
        whole, newline, rest = bytes(self.body).rpartition(b"\n")
        self.body[:] = b"" if self.complete else rest
        return (whole + newline + (rest if self.complete else b"")).splitlines()

    @property
    def streams(self) -> bool:
        return "ndjson" in self.kind or "event-stream" in self.kind


class BadAnswer(Exception):
    """The reply was no good answer; the text says why."""


class _Reader:
    """Reads one answer as far as a measurement needs it: text that came, tokens counted, an error, whether it was ended."""

    def __init__(self) -> None:
        self.pieces = 0
        self.counted = 0
        self.ended = False

    def line(self, line: bytes) -> bool:
        """Take one line of a stream; true if it brought text."""
        if line.startswith(b"data:"):
            line = line[5:].strip()
        if not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
            return False
        if line == b"[DONE]":
            self.ended = True
            return False
        return self.document(line)

    def document(self, text: bytes) -> bool:
        """Take one JSON document; true if it brought text. Raises `BadAnswer` for an error or for what is no JSON."""
        try:
            value = msgspec.json.decode(text)
        except UNREADABLE as error:
            raise BadAnswer(f"not JSON: {text[:60].decode(errors='replace')}") from error
        if not isinstance(value, dict):
            raise BadAnswer("JSON, but no object")
        if value.get("error"):
            raise BadAnswer(_error_text(value["error"]))
        self.ended = self.ended or value.get("done") is True
        usage = value.get("usage")
        said = usage.get("completion_tokens") if isinstance(usage, dict) else value.get("eval_count")
        if isinstance(said, int):
            self.counted = said
        brought = _brings_text(value)
        self.pieces += brought
        return brought

    @property
    def tokens(self) -> int:
        """As the node counted them; without that, pieces of the stream."""
        return self.counted or self.pieces


def _error_text(error: object) -> str:
    text = error.get("message", error) if isinstance(error, dict) else error
    return str(text)[:200]


def _brings_text(value: dict[str, object]) -> bool:
    choices = value.get("choices")
    holders: list[object] = [value.get("message")]
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        holders = [choices[0].get("delta"), choices[0].get("message"), {"content": choices[0].get("text")}]
    texts = [holder.get(key) for holder in holders if isinstance(holder, dict) for key in BEARERS]
    return any(isinstance(text, str) and text for text in [*texts, value.get("response")])


class Connection:
    """One keep-alive connection. A reused one that the server had closed meanwhile is opened anew, once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            tls = ssl.create_default_context() if self._endpoint.tls else None
            async with asyncio.timeout(CONNECT_SECONDS):
                self._streams = await asyncio.open_connection(self._endpoint.host, self._endpoint.port, ssl=tls)
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def _request(self, method: str, path: str, body: bytes, api_key: str) -> bytes:
        head = (
            f"{method} {self._endpoint.base}{path} HTTP/1.1\r\nHost: {self._endpoint.authority}\r\nUser-Agent: sollol-bench\r\n"
        )
        head += f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        # What is measured is the making of answers, not the giving again of kept ones.
        head += f"Cache-Control: no-store\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def exchange(self, method: str, path: str, body: bytes, api_key: str, on_data: Callable[[_Reply], None]) -> _Reply:
        """Send one request and read its reply; `on_data` sees the reply each time more of it came.

        Raises OSError (TimeoutError among them), EOFError when the reply breaks off, `httptools.HttpParserError`.
        """
        data = self._request(method, path, body, api_key)
        reused = self._streams is not None
        try:
            return await self._attempt(data, on_data)
        except (ConnectionError, EOFError) as error:
            self.close()
            if not reused or (isinstance(error, EOFError) and error.args):
                raise
            return await self._attempt(data, on_data)

    async def _attempt(self, data: bytes, on_data: Callable[[_Reply], None]) -> _Reply:
        reader, writer = await self._open()
        writer.write(data)
        reply = _Reply()
        parser = httptools.HttpResponseParser(reply)
        came = False
        while not reply.complete:
            piece = await reader.read(READ_SIZE)
            if not piece:
                # arguments mark a reply that had begun: that is never asked for again
                raise EOFError("the connection ended before the reply was complete") if came else EOFError
            came = True
            parser.feed_data(piece)
            reply.status = parser.get_status_code()
            on_data(reply)
        if not parser.should_keep_alive():
            self.close()
        return reply


class Load:
    """Requests of one kind against one endpoint. `now` gives monotonic seconds; outcomes go into ``record``."""

    def __init__(self, endpoint: Endpoint, ask: Ask, now: Callable[[], float]) -> None:
        self.record = Record()
        self._endpoint = endpoint
        self._ask = ask
        self._body = ask.body()
        self._now = now
        self._began = 0.0
        self._idle: list[Connection] = []

    async def closed(self, concurrency: int, duration: float, grace: float = 30.0, limit: int | None = None) -> None:
        """`concurrency` clients that ask again as soon as they are answered, for `duration` seconds or `limit` requests."""
        self._began = self._now()

        async def client() -> None:
            while self._now() - self._began < duration and (limit is None or self.record.sent < limit):
                due = self._now()
                await self._one(due)
                if self.record.outcomes[-1].error:
                    await asyncio.sleep(0.05)  # a server that refuses at once is not asked in a busy loop

        await self._finish({asyncio.create_task(client()) for _ in range(concurrency)}, duration + grace)

    async def open(self, rate: float, duration: float, random: Random, grace: float = 30.0, most: int = 1000) -> None:
        """A Poisson stream of `rate` requests per second, sent when they are due whether or not earlier ones were answered.

        Times count from when a request was due, so a server that stalls cannot hide it. At most `most` are under way at once;
        a request over that waits, and its wait counts.
        """
        self._began = self._now()
        running: set[asyncio.Task[None]] = set()
        places = asyncio.Semaphore(most)
        due = self._began + random.expovariate(rate)
        while due < self._began + duration:
            await asyncio.sleep(max(0.0, due - self._now()))
            await places.acquire()
            task = asyncio.create_task(self._one(due))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _: places.release())
            due += random.expovariate(rate)
        await self._finish(running, duration + grace)

    async def _finish(self, tasks: set[asyncio.Task[None]], limit: float) -> None:
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=max(0.0, self._began + limit - self._now()))
        finally:
            self.record.seconds = self._now() - self._began
            for task in list(tasks):
                task.cancel()
            results = await asyncio.gather(*list(tasks), return_exceptions=True)
            for connection in self._idle:
                connection.close()
            for result in results:
                if isinstance(result, Exception):
                    raise result

    async def _one(self, due: float) -> None:
        self.record.sent += 1
        outcome = Outcome(due - self._began)
        connection = self._idle.pop() if self._idle else Connection(self._endpoint)
        good = False
        try:
            await self._measure(connection, outcome, due)
            good = True
        except BadAnswer as error:
            outcome.error = str(error)
        except TimeoutError:
            outcome.error = "no connection in time"
        except (OSError, EOFError, httptools.HttpParserError) as error:
            outcome.error = str(error) or type(error).__name__
        finally:
            if good:
                self._idle.append(connection)
            else:
                connection.close()
        outcome.seconds = self._now() - due
        self.record.outcomes.append(outcome)
        self.record.seconds = self._now() - self._began

    async def _measure(self, connection: Connection, outcome: Outcome, due: float) -> None:
        reader = _Reader()

        def on_data(reply: _Reply) -> None:
            if not reply.streams or reply.status != 200:
                return
            for line in reply.lines():
                if reader.line(line) and outcome.first is None:
                    outcome.first = self._now() - due

        reply = await connection.exchange("POST", self._ask.path, self._body, self._ask.api_key, on_data)
        outcome.status, outcome.node = reply.status, reply.node
        if reply.status != 200:
            raise BadAnswer(f"{reply.status} {_said(bytes(reply.body))}")
        if not reply.streams:
            reader.document(bytes(reply.body))
        elif not reader.ended:
            raise BadAnswer("the stream ended without its last line")
        outcome.tokens = reader.tokens


def _said(body: bytes) -> str:
    """The error text of a body, in either dialect, or its beginning."""
    with contextlib.suppress(*UNREADABLE):
        value = msgspec.json.decode(body)
        if isinstance(value, dict) and value.get("error"):
            return _error_text(value["error"])
    return body[:200].decode(errors="replace").strip()


async def get_json(endpoint: Endpoint, path: str, api_key: str = "") -> dict[str, object]:
    """GET one JSON object. Raises OSError, EOFError or `BadAnswer`."""
    connection = Connection(endpoint)
    try:
        reply = await connection.exchange("GET", path, b"", api_key, lambda _: None)
        value = msgspec.json.decode(bytes(reply.body))
    except (*UNREADABLE, httptools.HttpParserError) as error:
        raise BadAnswer(f"{path} answered no JSON") from error
    finally:
        connection.close()
    if reply.status != 200 or not isinstance(value, dict):
        raise BadAnswer(f"{path} answered {reply.status} {_said(bytes(reply.body))}")
    return value
