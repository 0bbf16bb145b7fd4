"""The bytes of native Ollama answers."""

from __future__ import annotations

import time

import msgspec

from sollol.core.types import Counters
from sollol.emulator.bodies import Body
from sollol.emulator.calls import ENGINE_DIED, Document, Refusal, Writer
from sollol.emulator.connection import dumps
from sollol.emulator.text import Answer


def stamp() -> str:
    """This moment as Go writes it, to the nanosecond."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanos:09d}".rstrip("0").rstrip(".") + "Z"


def error_document(refusal: Refusal) -> Document:
    """A native error."""
    return Document(dumps({"error": refusal.message}), refusal.status)


def durations(counters: Counters) -> Body:
    """The closing figures of a native reply, in nanoseconds; what is 0 is left out, as Go does."""
    load = (counters.load or 0.0) + 5e-4  # what a real node needs to look at a request
    figures = {
        "total_duration": int(((counters.total or 0.0) + 6e-4) * 1e9),
        "load_duration": int(load * 1e9),
        "prompt_eval_count": counters.prompt_tokens or 0,
        "prompt_eval_duration": max(1000, int((counters.prefill or 0.0) * 1e9)) if counters.prompt_tokens else 0,
        "eval_count": counters.output_tokens or 0,
        "eval_duration": max(1000, int((counters.decode or 0.0) * 1e9)) if counters.output_tokens else 0,
    }
    return {k: v for k, v in figures.items() if v}


def logprob(token: str, top: int) -> Body:
    """The log probability of a token that was certain."""
    entry: Body = {"token": token, "logprob": 0, "bytes": list(token.encode())}
    return entry | {"top_logprobs": [dict(entry)]} if top else entry


class NativeWriter(Writer):
    """Answers of generate and chat."""

    def __init__(
        self, name: str, said: Answer, body: Body, *, chat: bool, context: list[int] | None, tools: list[Body]
    ) -> None:
        self.stream = body.get("stream") is not False
        self.pieces = 0 if tools else len(said.tokens)
        self._name = dumps(name)
        self._said = said
        self._chat = chat
        self._context = context
        self._tools = tools
        self._top: int | None = (body.get("top_logprobs") or 0) if body.get("logprobs") else None

    def _head(self) -> bytes:
        return b'{"model":%s,"created_at":"%s",' % (self._name, stamp().encode())

    def _text(self, content: str, thoughts: str, tools: list[Body] | None = None) -> bytes:
        if not self._chat:
            extra = b',"thinking":%s' % dumps(thoughts) if thoughts else b""
            return b'"response":%s%s' % (dumps(content), extra)
        message: Body = {"role": "assistant", "content": content}
        if thoughts:
            message["thinking"] = thoughts
        if tools:
            message["tool_calls"] = tools
        return b'"message":%s' % dumps(message)

    def piece(self, k: int) -> bytes:
        token = self._said.tokens[k]
        thought = k < self._said.thinking
        tail = b',"done":false}\n'
        if self._top is not None:
            tail = b',"done":false,"logprobs":%s}\n' % dumps([logprob(token, self._top)])
        return self._head() + self._text("" if thought else token, token if thought else "") + tail

    def _closing(self, counters: Counters, logprobs: bytes = b"") -> bytes:
        parts = [b',"done":true,"done_reason":"%s"' % (counters.done_reason or "stop").encode()]
        if self._chat:
            parts.append(logprobs)
        if self._context is not None:
            parts.append(b',"context":%s' % msgspec.json.encode(self._context))
        parts.append(b"," + msgspec.json.encode(durations(counters))[1:-1])
        if not self._chat:
            parts.append(logprobs)
        return b"".join([*parts, b"}"])

    def final(self, counters: Counters) -> list[bytes]:
        return [self._head() + self._text("", "", self._tools) + self._closing(counters) + b"\n"]

    def document(self, counters: Counters) -> Document:
        said = self._said
        logprobs = b""
        if self._top is not None:
            logprobs = b',"logprobs":%s' % dumps([logprob(t, self._top) for t in said.tokens])
        content = ("", "") if self._tools else (said.text, said.thoughts)
        return Document(self._head() + self._text(*content, self._tools) + self._closing(counters, logprobs))

    def broken(self) -> list[bytes]:
        return [dumps({"error": ENGINE_DIED}) + b"\n"]

    def error(self, refusal: Refusal) -> Document:
        return error_document(refusal)


class LoadWriter(Writer):
    """The answer to an empty prompt: the model is loaded."""

    def __init__(self, name: str, reason: str, *, chat: bool) -> None:
        self._body: Body = {"model": name, "created_at": ""}
        self._body |= {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
        self._body |= {"done": True, "done_reason": reason}

    def document(self, counters: Counters) -> Document:
        return Document(dumps(self._body | {"created_at": stamp()}))

    def error(self, refusal: Refusal) -> Document:
        return error_document(refusal)


class RenderWriter(LoadWriter):
    """The rendered prompt instead of an answer."""

    def __init__(self, name: str, prompt: str, *, chat: bool) -> None:
        super().__init__(name, "", chat=chat)
        if chat:
            self._body["message"] = {"role": "", "content": ""}
        del self._body["done_reason"]
        self._body |= {"done": False, "_debug_info": {"rendered_template": prompt}}


class EmbedWriter(Writer):
    """Vectors; `legacy` is the shape of /api/embeddings."""

    def __init__(self, name: str, vectors: list[list[float]], *, legacy: bool = False) -> None:
        self._name = name
        self._vectors = vectors
        self._legacy = legacy

    def document(self, counters: Counters) -> Document:
        if self._legacy:
            return Document(dumps({"embedding": self._vectors[0] if self._vectors else []}))
        figures = durations(counters)
        kept = {k: figures[k] for k in ("total_duration", "load_duration", "prompt_eval_count") if k in figures}
        return Document(dumps({"model": self._name, "embeddings": self._vectors, **kept}))

    def error(self, refusal: Refusal) -> Document:
        return error_document(refusal)
