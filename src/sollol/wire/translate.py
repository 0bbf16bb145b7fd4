"""A client of one dialect, a node of another: the request as the node wants it, and the reply as the client wants it.

Every request is parsed into a neutral one and rendered from it, every reply read into neutral pieces and written from them
(`neutral`, `dialects`); what becomes of each field stands in `fates`. `translation` is the one way in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sollol.core.types import Dialect, Kind, NodeKind, Task
from sollol.errors import Untranslatable

from .dialects import (
    anthropic_request,
    ollama_read,
    ollama_render,
    ollama_request,
    openai_read,
    openai_render,
    openai_request,
    responses_request,
)
from .dialects.anthropic_write import MessagesWriter
from .dialects.calls import Name
from .dialects.infill_read import INFILL, InfillReader
from .dialects.ollama_read import OllamaReader
from .dialects.ollama_write import OllamaWriter, embed_document, embedding_document
from .dialects.openai_read import OpenAIReader
from .dialects.openai_write import ChatWriter, TextWriter
from .dialects.openai_write import embed_document as openai_embed_document
from .dialects.responses_write import ResponsesWriter
from .errors import message, told
from .neutral import Asked, End, Piece
from .requests import dialect_of

_NDJSON: Final = b"application/x-ndjson"
_EVENTS: Final = b"text/event-stream"
_JSON: Final = {Dialect.OLLAMA: b"application/json; charset=utf-8"}
_OLLAMA_SPEAKERS: Final = frozenset({NodeKind.OLLAMA, NodeKind.SOLLOL})
GATHERED_BYTES: Final = 64 << 20
"""A stream of a node that should become a document ends in an error when it is longer."""


class Translation(Protocol):
    """What to send (``path``, ``body``) and how to turn the reply round. ``problem`` says why a stream is not complete.

    ``dialect`` is the node's: its stream is watched in that, before it is fed to this. ``content_type`` is the reply's. Times
    are on the caller's clock, in seconds; all of them on the same one as `Task.arrived`.
    """

    path: str
    body: bytes
    dialect: Dialect
    content_type: bytes
    problem: str | None

    def feed(self, data: bytes, now: float) -> bytes:
        """A piece of the node's stream, in the client's dialect; empty when it holds nothing to show."""
        ...

    def finish(self, now: float) -> bytes:
        """The end of the stream; no end when the node's stream was not complete, and ``problem`` is set."""
        ...

    def document(self, body: bytes, now: float) -> bytes:
        """A whole reply. Raises ValueError if it is not the document that is due."""
        ...

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        """Status and body of an error reply, with the node's own words."""
        ...

    def failure(self, text: str, status: int = 502) -> bytes:
        """The last bytes of a stream that broke; they fit to what was sent before (events are numbered on)."""
        ...

    def resumed(self, nodes: Sequence[str]) -> None:
        """What is fed from now on comes from another node and goes on after what ``nodes`` said; its counts are the whole's."""
        ...


def translation(task: Task, native: str, kind: NodeKind = NodeKind.LLAMACPP, *, gathered: bool = False) -> Translation:
    """The translation for `task` on a node of `kind` that calls the model `native`. ``gathered``: the client wants a document,
    and the node is asked for a stream; `Translation.feed` gives nothing then, and `Translation.finish` the document.

    Raises `Untranslatable` for what cannot be carried over and changes the answer (and for paths that are not translated, or
    that the node speaks itself), `BadRequest` for wrong types.
    """
    node = Dialect.OLLAMA if kind in _OLLAMA_SPEAKERS else Dialect.OPENAI
    parse = _PARSERS[node].get(task.path)
    if parse is None:
        raise Untranslatable(f"{task.path} cannot be answered by this kind of node")
    asked = parse(task.path, task.body, task.stream or gathered)
    if asked.kind is Kind.EMBED:
        return _Embedding(task, asked, native, kind)
    return (_Gathered if gathered else _Text)(task, asked, native, kind)


_Parser = Callable[[str, bytes, bool], Asked]


def _messages(node: Dialect) -> _Parser:
    return lambda path, body, stream: anthropic_request.parse(path, body, stream, node)


def _responses(node: Dialect) -> _Parser:
    return lambda path, body, stream: responses_request.parse(path, body, stream, node)


_PARSERS: Final[dict[Dialect, dict[str, _Parser]]] = {
    Dialect.OPENAI: {
        **dict.fromkeys(("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"), ollama_request.parse),
        anthropic_request.MESSAGES: _messages(Dialect.OPENAI),
        responses_request.RESPONSES: _responses(Dialect.OPENAI),
        # The node's own, but llama.cpp ignores a suffix there: what has one is an insertion.
        openai_request.TEXT: openai_request.parse,
    },
    Dialect.OLLAMA: {
        **dict.fromkeys((openai_request.CHAT, openai_request.TEXT, openai_request.EMBED), openai_request.parse),
        anthropic_request.MESSAGES: _messages(Dialect.OLLAMA),
        responses_request.RESPONSES: _responses(Dialect.OLLAMA),
    },
}


class Reader(Protocol):
    """Reads the reply of a node: `OpenAIReader`, `OllamaReader`."""

    end: End
    problem: str | None

    def feed(self, data: bytes) -> list[Piece]: ...
    def finish(self) -> list[Piece]: ...
    def document(self, body: bytes) -> Piece: ...


class Writer(Protocol):
    """Writes the reply of a client. Its methods raise ValueError for what its dialect cannot tell."""

    def piece(self, piece: Piece, now: float) -> bytes: ...
    def close(self, end: End, now: float) -> bytes: ...
    def document(self, piece: Piece, end: End, now: float) -> bytes: ...
    def failure(self, text: str, status: int) -> bytes: ...


def _writer(task: Task, asked: Asked, name: Name) -> Writer:
    if task.path == anthropic_request.MESSAGES:
        return MessagesWriter(name)
    if task.path == responses_request.RESPONSES:
        return ResponsesWriter(name, asked)
    if task.path == openai_request.CHAT:
        return ChatWriter(name, usage=asked.usage)
    if task.path == openai_request.TEXT:
        return TextWriter(name, usage=asked.usage)
    return OllamaWriter(name, chat=task.path == ollama_request.CHAT, loads=task.load_only)


class _Asking:
    """What all translations have: the request, the name of the reply, and its errors."""

    def __init__(self, task: Task, asked: Asked, native: str, kind: NodeKind) -> None:
        self.dialect = Dialect.OLLAMA if kind in _OLLAMA_SPEAKERS else Dialect.OPENAI
        self.problem: str | None = None
        self._client = dialect_of(task.path)
        stream = _NDJSON if self._client is Dialect.OLLAMA else _EVENTS
        self.content_type = stream if task.stream else _JSON.get(self._client, b"application/json")
        self._name = Name(f"{int(task.arrived * 1e6):x}{task.id:x}", asked.model, task.arrived)
        self.path: str
        self.body: bytes
        if task.load_only and self.dialect is Dialect.OPENAI:
            self.path, self.body = openai_request.TEXT, openai_render.load_body(native, asked.stream)
        elif self.dialect is Dialect.OLLAMA:
            self.path, self.body = ollama_render.render(asked, native)
        else:
            self.path, self.body = openai_render.render(asked, native, kind)

    def error(self, status: int, body: bytes) -> tuple[int, bytes]:
        if status == 501 and (self._client is not Dialect.OLLAMA or self.path == INFILL):
            status = 400  # clients try again what fails from 500 on
        return status, told(self._client, status, message(body))[2]


class _Text(_Asking):
    """Chats and completions."""

    def __init__(self, task: Task, asked: Asked, native: str, kind: NodeKind) -> None:
        super().__init__(task, asked, native, kind)
        single = asked.parallel is False
        if self.dialect is Dialect.OLLAMA:
            self._reader: Reader = OllamaReader(single=single)
        else:
            self._reader = InfillReader() if self.path == INFILL else OpenAIReader()
        self._writer = _writer(task, asked, self._name)

    def feed(self, data: bytes, now: float) -> bytes:
        pieces = self._reader.feed(data)
        if self._name.offset is None:
            self._name.note(self._reader.end, now)
        return self._written(pieces, now) if pieces else b""

    def finish(self, now: float) -> bytes:
        tail = self._written(self._reader.finish(), now)
        self.problem = self.problem or self._reader.problem
        if self.problem is not None:
            return tail
        try:
            return tail + self._writer.close(self._reader.end, now)
        except ValueError as error:
            return tail + self._broken(error)

    def document(self, body: bytes, now: float) -> bytes:
        piece = self._reader.document(body)
        self._name.note(self._reader.end, now)
        return self._writer.document(piece, self._reader.end, now)

    def failure(self, text: str, status: int = 502) -> bytes:
        return self._writer.failure(text, status)

    def resumed(self, nodes: Sequence[str]) -> None:
        self._reader.end.resumed_from = nodes

    def _written(self, pieces: list[Piece], now: float) -> bytes:
        if self.problem is not None:
            return b""
        out = b""
        try:
            for piece in pieces:
                out += self._writer.piece(piece, now)
        except ValueError as error:
            out += self._broken(error)
        return out

    def _broken(self, error: ValueError) -> bytes:
        """The node said what cannot be told: the client's stream ends here, and without its end."""
        self.problem = str(error)
        return self._writer.failure(self.problem, 502)


class _Gathered(_Text):
    """A document that is put together from a stream of its node. All of it is read at the end, which takes less time."""

    def __init__(self, task: Task, asked: Asked, native: str, kind: NodeKind) -> None:
        super().__init__(task, asked, native, kind)
        self._kept: list[bytes] = []
        self._size = 0
        self._since: float | None = None

    def feed(self, data: bytes, now: float) -> bytes:
        if self._since is None:
            self._since = now
        self._size += len(data)
        if self._size <= GATHERED_BYTES:
            self._kept.append(data)
        elif self.problem is None:
            self.problem = f"a reply of over {GATHERED_BYTES >> 20} MB cannot be kept"
            self._kept.clear()
        return b""

    def finish(self, now: float) -> bytes:
        pieces = self._reader.feed(b"".join(self._kept)) + self._reader.finish()
        self._kept.clear()
        self.problem = self.problem or self._reader.problem
        if self.problem is not None:
            return b""
        self._name.note(self._reader.end, now if self._since is None else self._since)
        whole = Piece("".join([piece.text for piece in pieces]), "".join([piece.thinking for piece in pieces]))
        whole.calls = [call for piece in pieces for call in piece.calls]
        try:
            return self._writer.document(whole, self._reader.end, now)
        except ValueError as error:
            self.problem = str(error)
            return b""


class _Embedding(_Asking):
    """Vectors. There is no stream."""

    def __init__(self, task: Task, asked: Asked, native: str, kind: NodeKind) -> None:
        super().__init__(task, asked, native, kind)
        self._asked = asked
        self._to = task.path

    def feed(self, data: bytes, now: float) -> bytes:
        raise Untranslatable("embeddings are not streamed")

    def finish(self, now: float) -> bytes:
        return b""

    def failure(self, text: str, status: int = 502) -> bytes:
        return told(self._client, status, text)[2]

    def resumed(self, nodes: Sequence[str]) -> None:
        raise Untranslatable("embeddings are not streamed")

    def document(self, body: bytes, now: float) -> bytes:
        end = End()
        found = ollama_read.vectors(body, end) if self.dialect is Dialect.OLLAMA else openai_read.vectors(body, end)
        number = self._asked.number
        if len(found) < number:
            raise ValueError(f"the node gave {len(found)} vectors for {number} texts")
        if self._to == openai_request.EMBED:
            return openai_embed_document(self._name, found[:number], end, base64=self._asked.base64)
        if self._to == ollama_request.EMBED:
            return embed_document(self._name, found[:number], end, now)
        return embedding_document(found[:number])
