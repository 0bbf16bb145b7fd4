"""The bytes of OpenAI answers, as Ollama, llama.cpp, vLLM and LM Studio each write them."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Sequence
from typing import Any

from sollol.core.types import Counters, NodeKind
from sollol.emulator.bodies import Body
from sollol.emulator.calls import Document, Refusal, Writer
from sollol.emulator.connection import JSON, SSE, Header, dumps
from sollol.emulator.text import Answer

_PLAIN_JSON = b"application/json"
_DONE = b"data: [DONE]\n\n"
_TYPES = {400: "invalid_request_error", 404: "not_found_error"}


def _number() -> int:
    return time.time_ns() // 1000 % 1000


def event(body: Any) -> bytes:
    """One unnamed server-sent event."""
    return b"data: %s\n\n" % dumps(body)


def error_document(refusal: Refusal) -> Document:
    """Ollama's OpenAI error: its handlers end it with a newline, what comes before them does not."""
    error = {"message": refusal.message, "type": _TYPES.get(refusal.status, "api_error"), "param": None, "code": None}
    raw = dumps({"error": error})
    return Document(raw, refusal.status) if refusal.early else Document(raw + b"\n", refusal.status, _PLAIN_JSON)


def engine_error(refusal: Refusal) -> Document:
    """The error of llama.cpp's server."""
    kinds = {400: "invalid_request_error", 404: "not_found_error", 503: "unavailable_error", 501: "not_supported_error"}
    kind = kinds.get(refusal.status, "server_error")
    return Document(dumps({"error": {"code": refusal.status, "message": refusal.message, "type": kind}}), refusal.status)


def vllm_error(refusal: Refusal) -> Document:
    """vLLM's error."""
    kinds = {400: "BadRequestError", 404: "NotFoundError", 503: "ServiceUnavailableError"}
    kind = kinds.get(refusal.status, "InternalServerError")
    error = {"message": refusal.message, "type": kind, "param": None, "code": refusal.status}
    return Document(dumps({"error": error}), refusal.status, _PLAIN_JSON)


def error_of(kind: NodeKind, refusal: Refusal) -> Document:
    """The error in the words of the node's kind."""
    if kind is NodeKind.LLAMACPP:
        return engine_error(refusal)
    return vllm_error(refusal) if kind is NodeKind.VLLM else error_document(refusal)


def timings(counters: Counters) -> Body:
    """llama.cpp's figures: milliseconds and tokens per second; tokens of the prompt that were reused stand apart."""
    cached = counters.cached_tokens or 0
    read = (counters.prompt_tokens or 0) - cached
    written = counters.output_tokens or 0
    prompt_ms = max(0.001, (counters.prefill or 0.0) * 1e3)
    decode_ms = max(0.001, (counters.decode or 0.0) * 1e3)
    return {
        "cache_n": cached,
        "prompt_n": read,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(1, read),
        "prompt_per_second": 1e3 * read / prompt_ms,
        "predicted_n": written,
        "predicted_ms": decode_ms,
        "predicted_per_token_ms": decode_ms / max(1, written),
        "predicted_per_second": 1e3 * written / decode_ms,
    }


def usage(counters: Counters | None) -> Body:
    """Tokens read and written."""
    prompt = (counters.prompt_tokens or 0) if counters else 0
    written = (counters.output_tokens or 0) if counters else 0
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class ChatWriter(Writer):
    """Chat completions. `calls` are (id, name, arguments as JSON)."""

    stream_type = SSE

    def __init__(self, kind: NodeKind, name: str, said: Answer, body: Body, *, calls: Sequence[tuple[str, str, str]]) -> None:
        self.stream = body.get("stream") is True
        self.pieces = 0 if calls else len(said.tokens)
        self._kind = kind
        self._said = said
        self._calls = [
            {"id": i, "index": k, "type": "function", "function": {"name": n, "arguments": a}}
            for k, (i, n, a) in enumerate(calls)
        ]
        self._usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._logprobs = (body.get("top_logprobs") or 0) if body.get("logprobs") else None
        self._head: Body = {
            "id": f"chatcmpl-{_number()}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": name,
        }
        if kind is NodeKind.OLLAMA:
            self._head["system_fingerprint"] = "fp_ollama"
        elif kind is NodeKind.LLAMACPP:
            self._head["system_fingerprint"] = "b10488-emulated"
        self._reasoning = "reasoning" if kind is NodeKind.OLLAMA else "reasoning_content"

    def _reason(self, counters: Counters) -> str:
        return "tool_calls" if self._calls else counters.done_reason or "stop"

    def _chunk(self, delta: Body, reason: str | None = None, **more: Any) -> bytes:
        choice: Body = {"index": 0, "delta": delta, "finish_reason": reason}
        return event(self._head | {"choices": [choice]} | more)

    def _log(self, tokens: Sequence[str]) -> Body:
        top = self._logprobs
        entries = [{"token": t, "logprob": 0, "bytes": list(t.encode())} for t in tokens]
        return {"content": [e | {"top_logprobs": [dict(e)]} if top else e for e in entries]}

    def _opening(self) -> bytes:
        """Other servers than Ollama send the role in a chunk of its own, when the first token is there."""
        if self._kind is NodeKind.OLLAMA:
            return b""
        return self._chunk({"role": "assistant", "content": None if self._kind is NodeKind.LLAMACPP else ""})

    def piece(self, k: int) -> bytes:
        token = self._said.tokens[k]
        delta: Body = {"role": "assistant"} if k == 0 and self._kind is NodeKind.OLLAMA else {}
        if k < self._said.thinking:
            delta |= ({"content": ""} if self._kind is NodeKind.OLLAMA else {}) | {self._reasoning: token}
        else:
            delta["content"] = token
        more: Body = {}
        if self._logprobs is not None:
            choice = {"index": 0, "delta": delta, "finish_reason": None, "logprobs": self._log([token])}
            more = {"choices": [choice]}
        return (self._opening() if k == 0 else b"") + self._chunk(delta, **more)

    def final(self, counters: Counters) -> list[bytes]:
        parts: list[bytes] = []
        if self._calls:
            parts.append(self._opening() + self._chunk({"role": "assistant", "content": "", "tool_calls": self._calls}))
        extra: Body = {"timings": timings(counters)} if self._kind is NodeKind.LLAMACPP and not self._usage else {}
        last = self._chunk({}, self._reason(counters), **extra)
        if self._usage:
            extra = {"timings": timings(counters)} if self._kind is NodeKind.LLAMACPP else {}
            last += event(self._head | {"choices": [], "usage": usage(counters)} | extra)
        return [*parts, last + _DONE]

    def document(self, counters: Counters) -> Document:
        said = self._said
        message: Body = {"role": "assistant", "content": "" if self._calls else said.text}
        if said.thinking and not self._calls:
            message[self._reasoning] = said.thoughts
        if self._calls:
            message["tool_calls"] = self._calls
        choice: Body = {"index": 0, "message": message, "finish_reason": self._reason(counters)}
        if self._logprobs is not None:
            choice["logprobs"] = self._log(said.tokens)
        body = self._head | {"object": "chat.completion", "choices": [choice], "usage": usage(counters)}
        return whole(self._kind, body, counters)

    def broken(self) -> list[bytes]:
        if self._kind is NodeKind.OLLAMA:
            return [
                event(self._head | {"model": "", "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]})
            ]
        return [event({"error": {"code": 500, "message": "the engine failed", "type": "server_error"}})]

    def error(self, refusal: Refusal) -> Document:
        return error_of(self._kind, refusal)


def whole(kind: NodeKind, body: Body, counters: Counters) -> Document:
    """A document in the framing of the node's kind."""
    if kind is NodeKind.LLAMACPP:
        return Document(dumps(body | {"timings": timings(counters)}), ctype=JSON)
    return Document(dumps(body) + (b"\n" if kind is NodeKind.OLLAMA else b""), ctype=_PLAIN_JSON)


class CompletionWriter(Writer):
    """Text completions."""

    stream_type = SSE

    def __init__(self, kind: NodeKind, name: str, said: Answer, body: Body) -> None:
        self.stream = body.get("stream") is True
        self.pieces = len(said.tokens)
        self._kind = kind
        self._name = name
        self._said = said
        self._usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._head: Body = {"id": f"cmpl-{_number()}", "object": "text_completion", "created": int(time.time())}
        self._tail: Body = {"model": name} | ({"system_fingerprint": "fp_ollama"} if kind is NodeKind.OLLAMA else {})

    def _chunk(self, content: str, reason: str | None, **more: Any) -> bytes:
        body = self._head | {"choices": [{"text": content, "index": 0, "finish_reason": reason}]} | self._tail
        if self._usage and self._kind is NodeKind.OLLAMA:
            body["usage"] = usage(None)
        return event(body | more)

    def piece(self, k: int) -> bytes:
        return self._chunk(self._said.tokens[k], None)

    def final(self, counters: Counters) -> list[bytes]:
        extra: Body = {"timings": timings(counters)} if self._kind is NodeKind.LLAMACPP else {}
        last = self._chunk("", counters.done_reason or "stop", **extra)
        if self._usage:
            last += event(self._head | {"choices": []} | self._tail | {"usage": usage(counters)})
        return [last + _DONE]

    def document(self, counters: Counters) -> Document:
        choice = {"text": "".join(self._said.tokens), "index": 0, "finish_reason": counters.done_reason or "stop"}
        return whole(self._kind, self._head | self._tail | {"choices": [choice], "usage": usage(counters)}, counters)

    def broken(self) -> list[bytes]:
        return [self._chunk("", None, model="")] if self._kind is NodeKind.OLLAMA else []

    def error(self, refusal: Refusal) -> Document:
        return error_of(self._kind, refusal)


class VectorWriter(Writer):
    """Embeddings, as numbers or in base64."""

    def __init__(self, kind: NodeKind, name: str, vectors: list[list[float]], *, packed: bool) -> None:
        self._kind = kind
        self._name = name
        self._vectors = vectors
        self._packed = packed

    def document(self, counters: Counters) -> Document:
        data = [
            {"object": "embedding", "embedding": _packed(v) if self._packed else v, "index": i}
            for i, v in enumerate(self._vectors)
        ]
        read = counters.prompt_tokens or 0
        body = {"object": "list", "data": data, "model": self._name, "usage": {"prompt_tokens": read, "total_tokens": read}}
        return Document(dumps(body) + (b"\n" if self._kind is NodeKind.OLLAMA else b""), ctype=_PLAIN_JSON)

    def error(self, refusal: Refusal) -> Document:
        return error_of(self._kind, refusal)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


NO_CACHE: tuple[Header, ...] = ((b"Cache-Control", b"no-cache"), (b"Connection", b"keep-alive"))
