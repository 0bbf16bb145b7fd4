"""A streaming client that believes nothing: every chunk of every reply is read, and the whole text is compared.

The emulated nodes say what follows from the prompt alone, so the right text is known beforehand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httptools
import msgspec

from sollol.emulator import text
from sollol.emulator.specs import ModelSpec

ANSWERED, ERROR, WRONG, LOST = "answered", "error", "wrong", "lost"
DEADLINE = 60.0
"""Seconds that every request allows the gateway, in `X-SOLLOL-Timeout`, unless its row says otherwise."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a request is sent, and whether its answer is streamed."""

    path: str
    stream: bool

    @property
    def native(self) -> bool:
        return self.path.startswith("/api/")

    def __str__(self) -> str:
        return f"{self.path} {'stream' if self.stream else 'document'}"


SHAPES = tuple(
    Shape(path, stream) for stream in (True, False) for path in ("/api/chat", "/api/generate", "/v1/chat/completions")
)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``expected`` is the whole right answer; None where it cannot be known (real models)."""

    shape: Shape
    model: str
    prompt: str
    expected: text.Answer | None = None
    limit: int | None = None
    deadline: float = DEADLINE
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self, host: str) -> bytes:
        """The bytes of the request."""
        body: dict[str, Any] = {"model": self.model, "stream": self.shape.stream}
        if self.shape.path == "/api/generate":
            body["prompt"] = self.prompt
        else:
            body["messages"] = [{"role": "user", "content": self.prompt}]
        if self.shape.native:
            body["options"] = {"temperature": 0} | ({"num_predict": self.limit} if self.limit else {})
        else:
            body |= {"temperature": 0} | ({"max_tokens": self.limit} if self.limit else {})
            if self.shape.stream:
                body["stream_options"] = {"include_usage": True}
        data = msgspec.json.encode(body)
        fields = {"Host": host, "X-SOLLOL-Timeout": f"{self.deadline:g}", "Content-Length": str(len(data))} | dict(self.headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.shape.path} HTTP/1.1\r\n{lines}\r\n".encode() + data


def ask(number: int, model: ModelSpec, *, shape: Shape | None = None, limit: int | None = None, **fields: Any) -> Ask:
    """The request of that number: its prompt is its own, its shape the next in turn; `limit` is the most tokens wanted."""
    prompt = f"Tell story number {number} of the {model.name} collection"
    rendered = text.render_chat([("user", prompt)])
    expected = text.answer(model.digest, rendered.text, mean=model.answer_tokens, limit=limit)
    return Ask(shape or SHAPES[number % len(SHAPES)], model.name, prompt, expected, limit, **fields)


class Conversation(asyncio.Protocol):
    """One request on a connection of its own, and all that came of it. Times are seconds on the clock of the loop."""

    def __init__(self, asked: Ask, host: str) -> None:
        self.asked = asked
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[str] = []
        self.times: list[float] = []
        self.last: bytes = b""
        self.error: str | None = None
        self.done = False
        self.counted: int | None = None
        self.complete = False
        self.trouble = ""
        self.over = asyncio.get_running_loop().create_future()
        self.begun = self.ended = 0.0
        self.transport: asyncio.Transport | None = None
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    # from the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.begun = self._loop.time()
        transport.write(self.asked.encoded(self._host))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as problem:
            self.trouble = self.trouble or f"broken framing: {problem}"
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.trouble = self.trouble or (type(exc).__name__ if exc else "closed without an end")
            self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.ended = self._loop.time()
            self.over.set_result(None)
            for _, waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
        if self.transport is not None:
            self.transport.abort()

    # from the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._rest += data
        if self.status != 200 or not self.asked.shape.stream:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            if line:
                self._line(line)

    def on_message_complete(self) -> None:
        self.complete = True
        if self._rest and (self.status != 200 or not self.asked.shape.stream):
            self.last = self._rest
            self._document(self._rest)
        elif self._rest:
            self.trouble = "the last line has no end"
        self._end()

    # the dialects

    def _line(self, line: bytes) -> None:
        self.last = line
        if not self.asked.shape.native:
            if not line.startswith(b"data: "):
                self.trouble = f"no event: {line[:80]!r}"
                return
            line = line[6:]
            if line == b"[DONE]":
                self.done = True
                return
        if self.done or self.error is not None:
            self.trouble = f"something after the end: {line[:80]!r}"
        try:
            self._value(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError) as problem:
            self.trouble = f"{type(problem).__name__}: {problem}: {line[:80]!r}"

    def _document(self, body: bytes) -> None:
        try:
            self._value(msgspec.json.decode(body), document=True)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError) as problem:
            self.trouble = f"{type(problem).__name__}: {problem}: {body[:80]!r}"

    def _value(self, value: Any, *, document: bool = False) -> None:
        if "error" in value:
            self.error = value["error"] if self.asked.shape.native else value["error"]["message"]
            if not isinstance(self.error, str) or not self.error:
                self.trouble = f"an error without words: {value}"
            return
        said = ""
        if self.asked.shape.native:
            said = value["response"] if self.asked.shape.path == "/api/generate" else value["message"]["content"]
            if value["done"]:
                self.done, self.counted = True, value.get("eval_count")
        else:
            if value["choices"]:
                choice = value["choices"][0]
                said = choice["message" if document else "delta"].get("content") or ""
                self.done = self.done or (document and bool(choice["finish_reason"]))
            if value.get("usage"):
                self.counted = value["usage"]["completion_tokens"]
        if said:
            self.pieces.append(said)
            self.times.append(self._loop.time())
            for wanted, waiting in self._waiting:
                if len(self.pieces) >= wanted and not waiting.done():
                    waiting.set_result(None)

    # what a row asks for

    async def said(self, pieces: int) -> None:
        """Wait until so many pieces have come, or the end."""
        if len(self.pieces) < pieces and not self.over.done():
            waiting: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append((pieces, waiting))
            await waiting

    def leave(self) -> None:
        """Go away without a word."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def seconds(self) -> float:
        return self.ended - self.begun

    @property
    def gap(self) -> float:
        """The longest pause between two pieces of a stream."""
        return max((b - a for a, b in zip(self.times, self.times[1:], strict=False)), default=0.0)

    def verdict(self) -> tuple[str, str]:
        """What it is worth, and for everything but a right answer why."""
        if not self.over.done():
            return LOST, "no end before its deadline"
        if self.trouble and (self.complete or self.trouble.startswith(("broken", "no event"))):
            return WRONG, self.trouble
        if not self.complete:
            return LOST, f"{self.trouble} after {len(self.pieces)} pieces (status {self.status})"
        return self._error() if self.error is not None else self._answer()

    def _error(self) -> tuple[str, str]:
        """An error is clear if what came before it was right."""
        expected = self.asked.expected
        if expected is None or expected.text.startswith(self.text):
            return ERROR, f"{self.status} {self.error}"
        return WRONG, f"an error after a wrong text: {self.text[-60:]!r}"

    def _answer(self) -> tuple[str, str]:
        expected = self.asked.expected
        if self.status != 200 or not self.done:
            return WRONG, f"status {self.status}, no end: {self.last[:80]!r}"
        if expected is not None and self.text != expected.text:
            return WRONG, _difference(self.text, expected.text)
        if expected is not None and self.counted != len(expected.tokens):
            return WRONG, f"counted {self.counted} tokens of {len(expected.tokens)}"
        return ANSWERED, ""


def _difference(got: str, wanted: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"at {at} of {len(wanted)}: {got[at : at + 30]!r} instead of {wanted[at : at + 30]!r}"


async def open_one(url: str, asked: Ask) -> Conversation:
    """Send a request; its answer comes by itself. A refused connection is an end like any other."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    conversation = Conversation(asked, f"{host}:{port}")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        await loop.create_connection(lambda: conversation, host, int(port))
    except OSError as problem:
        conversation.begun = begun
        conversation.connection_lost(problem)
    return conversation


async def finish(conversation: Conversation, grace: float = 2.0) -> Conversation:
    """Wait for its end, until its deadline and `grace` seconds more."""
    left = conversation.begun + conversation.asked.deadline + grace - asyncio.get_running_loop().time()
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, left)):
            await asyncio.shield(conversation.over)
    if not conversation.over.done():
        conversation.leave()
    return conversation


async def call(url: str, method: str, path: str, body: Any = None, seconds: float = 10.0) -> tuple[int, Any]:
    """A plain exchange of JSON: status and value. Raises OSError, or TimeoutError."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            data = msgspec.json.encode(body) if body is not None else b""
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            writer.write(head.encode() + data)
            raw = await reader.readuntil(b"\r\n\r\n")
            status = int(raw.split(b" ", 2)[1])
            low = raw.lower()
            if b"chunked" in low:
                found = b""
                while size := int(await reader.readline(), 16):
                    found += (await reader.readexactly(size + 2))[:-2]
            else:
                found = await reader.readexactly(int(low.split(b"content-length: ", 1)[1].split(b"\r\n")[0]))
            return status, msgspec.json.decode(found) if found[:1] in (b"{", b"[") else found
        except asyncio.IncompleteReadError:
            raise ConnectionResetError("cut off") from None
        finally:
            writer.close()


async def eventually(condition: Any, seconds: float, every: float = 0.01) -> float | None:
    """Seconds until the awaitable condition held; None if it did not within `seconds`."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        with suppress(OSError, TimeoutError):
            if await condition():
                return time.perf_counter() - begun
        await asyncio.sleep(every)
    return None
