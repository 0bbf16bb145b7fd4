"""Replies of OpenAI's chat completions, completions and embeddings, written from neutral pieces as Ollama's /v1 does."""

from __future__ import annotations

from base64 import b64encode
from struct import pack
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from sollol.core.types import Dialect

from ..errors import told
from ..fields import present
from ..neutral import CallPiece, End, Piece
from .calls import Calls, Name

DONE: Final = b"data: [DONE]\n\n"


class _Call(Struct):
    index: int
    id: str | UnsetType
    type: str | UnsetType
    function: dict[str, str]


class _Said(Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[_Call] | UnsetType = UNSET


class _Logprobs(Struct):
    content: Raw


class _Delta(Struct):
    index: int
    delta: _Said
    finish_reason: str | None = None
    logprobs: _Logprobs | UnsetType = UNSET


class _Chunk(Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[_Delta]


class _Alternative(Struct):
    token: str
    logprob: float


class _Logprob(Struct):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = []


_logprobs: Final = msgspec.json.Decoder(list[_Logprob]).decode


def usage_of(end: End) -> dict[str, Any]:
    """Counts as OpenAI's older paths tell them."""
    prompt, output = end.prompt or 0, end.output or 0
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if end.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": end.cached}
    return usage


def failure_event(text: str, status: int) -> bytes:
    """The event that ends a stream which broke."""
    return b"data: " + told(Dialect.OPENAI, status, text)[2] + b"\n\n"


class ChatWriter:
    """Writes the reply to /v1/chat/completions. ``usage``: a stream ends with its counts."""

    def __init__(self, name: Name, *, usage: bool) -> None:
        self._name, self._usage = name, usage
        self._id = f"chatcmpl-{name.id}"
        self._calls = Calls(name)
        self._begun = False

    def piece(self, piece: Piece, now: float) -> bytes:
        """The event for one piece."""
        said = _Said(content=piece.text)
        if not self._begun:
            self._begun, said.role = True, "assistant"
        if piece.thinking:
            said.reasoning = piece.thinking
        if piece.calls:
            said.tool_calls = [self._call(call) for call in piece.calls]
        delta = _Delta(0, said)
        if present(piece.logprobs):
            delta.logprobs = _Logprobs(piece.logprobs)
        return self._event(delta, now)

    def close(self, end: End, now: float) -> bytes:
        """The events that end the stream."""
        said = _Said() if self._begun else _Said("assistant", "")
        tail = self._event(_Delta(0, said, end.finish), now)
        if self._usage:
            head = self._head("chat.completion.chunk", now)
            tail += b"data: " + msgspec.json.encode({**head, "choices": [], "usage": usage_of(end)}) + b"\n\n"
        return tail + DONE

    def document(self, piece: Piece, end: End, now: float) -> bytes:
        """The whole reply."""
        said: dict[str, Any] = {"role": "assistant", "content": piece.text}
        if piece.thinking:
            said["reasoning"] = piece.thinking
        for call in piece.calls:
            self._calls.add(call)
        if self._calls:
            said["tool_calls"] = [
                {"id": call.id, "index": call.index, "type": "function", "function": _function(call)}
                for call in self._calls.whole()
            ]
        choice: dict[str, Any] = {"index": 0, "message": said, "finish_reason": end.finish}
        if present(piece.logprobs):
            choice["logprobs"] = {"content": piece.logprobs}
        return msgspec.json.encode({**self._head("chat.completion", now), "choices": [choice], "usage": usage_of(end)})

    def failure(self, text: str, status: int) -> bytes:
        """The event that ends a stream which broke."""
        return failure_event(text, status)

    def _call(self, piece: CallPiece) -> _Call:
        if not self._calls.add(piece):
            return _Call(piece.index, UNSET, UNSET, {"arguments": piece.arguments})
        call = self._calls.named(piece.index)
        return _Call(piece.index, call.id, "function", {"name": call.name, "arguments": piece.arguments})

    def _event(self, delta: _Delta, now: float) -> bytes:
        chunk = _Chunk(self._id, "chat.completion.chunk", int(self._name.wall(now)), self._name.model, [delta])
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _head(self, kind: str, now: float) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": int(self._name.wall(now)), "model": self._name.model}


def _function(call: CallPiece) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments or "{}"}


class TextWriter:
    """Writes the reply to /v1/completions. ``usage``: a stream ends with its counts."""

    def __init__(self, name: Name, *, usage: bool) -> None:
        self._name, self._usage = name, usage
        self._offset = 0

    def piece(self, piece: Piece, now: float) -> bytes:
        """The event for one piece; thoughts have no place in a plain completion."""
        return self._event([self._choice(piece, None)], now) if piece.text else b""

    def close(self, end: End, now: float) -> bytes:
        """The events that end the stream."""
        tail = self._event([self._choice(Piece(), end.finish)], now)
        if self._usage:
            tail += self._event([], now, usage=usage_of(end))
        return tail + DONE

    def document(self, piece: Piece, end: End, now: float) -> bytes:
        """The whole reply."""
        return msgspec.json.encode(self._body([self._choice(piece, end.finish)], now, usage=usage_of(end)))

    def failure(self, text: str, status: int) -> bytes:
        """The event that ends a stream which broke."""
        return failure_event(text, status)

    def _choice(self, piece: Piece, finish: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"text": piece.text, "index": 0, "finish_reason": finish}
        if present(piece.logprobs):
            choice["logprobs"] = self._lists(piece.logprobs)
        return choice

    def _lists(self, raw: Raw) -> dict[str, Any]:
        """The four lists of this path for the list that Ollama and chat completions have."""
        items = _logprobs(raw)
        offsets = []
        for item in items:
            offsets.append(self._offset)
            self._offset += len(item.token)
        return {
            "tokens": [item.token for item in items],
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [{other.token: other.logprob for other in item.top_logprobs} for item in items],
            "text_offset": offsets,
        }

    def _event(self, choices: list[dict[str, Any]], now: float, **more: Any) -> bytes:
        return b"data: " + msgspec.json.encode(self._body(choices, now, **more)) + b"\n\n"

    def _body(self, choices: list[dict[str, Any]], now: float, **more: Any) -> dict[str, Any]:
        name = self._name
        head = {"id": f"cmpl-{name.id}", "object": "text_completion", "created": int(name.wall(now)), "model": name.model}
        return {**head, "choices": choices, **more}


def embed_document(name: Name, vectors: list[Raw], end: End, *, base64: bool) -> bytes:
    """The reply of /v1/embeddings; ``base64``: each vector as little-endian numbers of four bytes. Raises ValueError."""
    shown: list[Any] = [_packed(vector) for vector in vectors] if base64 else list(vectors)
    prompt = end.prompt or 0
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [{"object": "embedding", "embedding": vector, "index": at} for at, vector in enumerate(shown)],
            "model": name.model,
            "usage": {"prompt_tokens": prompt, "total_tokens": prompt},
        }
    )


def _packed(vector: Raw) -> str:
    numbers = msgspec.json.decode(vector, type=list[float])
    return b64encode(pack(f"<{len(numbers)}f", *numbers)).decode()
