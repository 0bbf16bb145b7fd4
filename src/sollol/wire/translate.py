"""A client of one dialect, a node of another: the request as the node wants it, and the reply as the client wants it.

Here: Ollama's clients at nodes that speak only OpenAI's dialect (llama.cpp, vLLM, LM Studio). Tables of every field are in
`fates`, requests in `to_openai`, replies in `from_openai`; another pair of dialects is another class with the same methods, and
a row in `translation`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from sollol.core.types import NodeKind, Task
from sollol.errors import Unsupported

from . import from_openai as replies
from . import to_openai as requests
from .errors import message
from .fields import present
from .from_openai import ChatLine, Chunk, Clocked, GenerateLine
from .sse import Events
from .unreadable import UNREADABLE

_CHAT = "/v1/chat/completions"
_COMPLETION = "/v1/completions"
_LATEST = 253_402_300_000  # the end of the year 9999, in seconds


class Translation(Protocol):
    """What to send (``path``, ``body``) and how to turn the reply round. ``problem`` says why a stream is not complete.

    Times are on the caller's clock, in seconds; all of them on the same one as `Task.arrived`.
    """

    path: str
    body: bytes
    problem: str | None

    def feed(self, data: bytes, now: float) -> bytes:
        """A piece of the node's stream, in the client's dialect; empty when it holds no complete event."""
        ...

    def finish(self, now: float) -> bytes:
        """The end of the stream; empty when the node's stream was not complete, and ``problem`` is set."""
        ...

    def document(self, body: bytes, now: float) -> bytes:
        """A whole reply. Raises ValueError if it is not the document that is due."""
        ...

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """Status and body of an error reply."""
        ...


def translation(task: Task, native: str, kind: NodeKind = NodeKind.LLAMACPP) -> Translation:
    """The translation for `task` on a node that calls the model `native`.

    Raises `Unsupported` for what cannot be carried over and changes the answer, `BadRequest` for wrong types.
    """
    if task.path in ("/api/embed", "/api/embeddings"):
        return _Embedding(task, native)
    if task.path in ("/api/chat", "/api/generate"):
        return _Text(task, native, kind)
    raise Unsupported(f"{task.path} cannot be answered by this kind of node")


class _Asked(msgspec.Struct):
    model: str = ""


def _asked_model(task: Task) -> str:
    """The model as the client wrote it: replies name it so."""
    return msgspec.json.decode(task.body, type=_Asked).model


def _error(status: int, body: bytes) -> tuple[int, bytes]:
    """An error in Ollama's shape, with the node's own words."""
    return status, msgspec.json.encode({"error": message(body)})


class _Text:
    """/api/chat and /api/generate by /v1/chat/completions or /v1/completions."""

    def __init__(self, task: Task, native: str, kind: NodeKind) -> None:
        self._chat = task.path == "/api/chat"
        self._model = _asked_model(task)
        self._load = task.load_only
        self._times = Clocked(task.arrived)
        self._events = Events()
        self._seen = Chunk()
        self._finish: str | None = None
        self._done = False
        self._wall: float | None = None
        self.problem: str | None = None
        self.path, self.body = self._request(task, native, kind)

    def _request(self, task: Task, native: str, kind: NodeKind) -> tuple[str, bytes]:
        fields = requests.fields_of(task.path, task.body)
        if task.load_only:
            return _COMPLETION, requests.load_body(native, task.stream)
        if self._chat:
            return _CHAT, requests.chat_body(fields, native, kind, task.stream)
        if requests.value_of(fields, "raw") is True:
            return _COMPLETION, requests.raw_body(fields, native, kind, task.stream)
        return _CHAT, requests.generate_body(fields, native, kind, task.stream)

    def feed(self, data: bytes, now: float) -> bytes:
        return b"".join([self._event(event.data, now) for event in self._events.feed(data)])

    def finish(self, now: float) -> bytes:
        tail = b"".join([self._event(event.data, now) for event in self._events.finish()])
        if not (self._done and self._finish):
            self.problem = self.problem or "the node's stream ended without its end"
            return tail
        made = self._last("", "", now)
        return tail + msgspec.json.encode(made) + b"\n"

    def document(self, body: bytes, now: float) -> bytes:
        seen = replies.chunk(body)
        if not seen.choices:
            raise ValueError("the node's reply holds no answer")
        choice = seen.choices[0]
        self._seen, self._finish = seen, choice.finish_reason
        self._note(seen, now)
        text, thinking = replies.text_of(choice)
        made = self._last(text, thinking, now)
        made.logprobs = replies.logprobs_of(choice)
        return msgspec.json.encode(made)

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        return _error(status, body)

    def _event(self, data: bytes, now: float) -> bytes:
        """The line for one event; empty for those that carry no text."""
        if data == b"[DONE]":
            self._done = True
            return b""
        try:
            seen = replies.chunk(data)
        except UNREADABLE:
            self.problem = self.problem or "the node's stream is not what was asked for"
            return b""
        if present(seen.error):
            self.problem = message(data)
            return b""
        self._note(seen, now)
        choice = seen.choices[0] if seen.choices else None
        if choice is None:
            return b""
        self._finish = choice.finish_reason or self._finish
        text, thinking = replies.text_of(choice)
        if self._load or not (text or thinking):
            return b""
        if self._times.first is None:
            self._times.first = now
        self._times.last = now
        made = replies.line(self._chat, self._model, self._stamp(now), text, thinking)
        made.logprobs = replies.logprobs_of(choice)
        return msgspec.json.encode(made) + b"\n"

    def _note(self, seen: Chunk, now: float) -> None:
        """Keep what the last line needs; the node's `created` sets our clock to the calendar."""
        if self._wall is None and seen.created and 0 < seen.created < _LATEST:
            self._wall = seen.created - now
        self._seen.usage = seen.usage or self._seen.usage
        self._seen.timings = seen.timings or self._seen.timings

    def _last(self, text: str, thinking: str, now: float) -> ChatLine | GenerateLine:
        if self._load:
            return replies.loaded(self._chat, self._model, self._stamp(now))
        made = replies.line(self._chat, self._model, self._stamp(now), text, thinking)
        replies.close(made, self._seen, self._finish, self._times, now)
        return made

    def _stamp(self, now: float) -> str:
        return replies.timestamp((self._wall or 0.0) + now)


class _Embedding:
    """/api/embed and /api/embeddings by /v1/embeddings. There is no stream."""

    path = "/v1/embeddings"

    def __init__(self, task: Task, native: str) -> None:
        self._legacy = task.path == "/api/embeddings"
        self._model = _asked_model(task)
        self._start = task.arrived
        self.problem: str | None = None
        fields = requests.fields_of(task.path, task.body)
        self.body, self._number = requests.embed_body(fields, native, "prompt" if self._legacy else "input")

    def feed(self, data: bytes, now: float) -> bytes:
        raise Unsupported("embeddings are not streamed")

    def finish(self, now: float) -> bytes:
        return b""

    def document(self, body: bytes, now: float) -> bytes:
        seen = replies.vectors(body)
        if len(seen.data) < self._number:
            raise ValueError(f"the node gave {len(seen.data)} vectors for {self._number} texts")
        if self._legacy:
            return msgspec.json.encode({"embedding": replies.in_order(seen)[0] if self._number else []})
        return replies.embed_document(self._model, seen, self._number, now - self._start)

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        return _error(status, body)
