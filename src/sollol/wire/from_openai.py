"""OpenAI's replies as Ollama's: NDJSON lines of a stream, documents, vectors; key order and number formats are Ollama's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .endings import Timings, Usage
from .fields import present
from .prompts import NOTHING

_REASONS: Final = {"length": "length", "max_tokens": "length"}
NS: Final = 1_000_000_000


class Message(Struct):
    """What Ollama's chat says in "message"."""

    role: str
    content: str
    thinking: str | UnsetType = UNSET


class ChatLine(Struct):
    """A line, or the document, of /api/chat; the counters only where the answer ends."""

    model: str
    created_at: str
    message: Message
    done: bool
    done_reason: str | UnsetType = UNSET
    logprobs: Raw | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class GenerateLine(Struct):
    """The same of /api/generate."""

    model: str
    created_at: str
    response: str
    thinking: str | UnsetType = UNSET
    done: bool = False
    done_reason: str | UnsetType = UNSET
    logprobs: Raw | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class Said(Struct):
    """The delta or message of a chat."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Logprobs(Struct):
    """Chat's logprobs; their items are Ollama's too."""

    content: Raw = NOTHING


class Choice(Struct):
    """One answer, whole or a piece of it."""

    delta: Said | None = None
    message: Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Chunk(Struct):
    """One event of a stream, or a document."""

    created: int | float | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Raw = NOTHING


class Vector(Struct):
    """One item of an embeddings reply; the numbers are never built."""

    embedding: Raw
    index: int = 0


class Vectors(Struct):
    """An embeddings reply."""

    data: list[Vector]
    usage: Usage | None = None


chunk: Final = msgspec.json.Decoder(Chunk).decode
vectors: Final = msgspec.json.Decoder(Vectors).decode


def timestamp(wall: float) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go writes it (without zeros at the end)."""
    whole = int(wall // 1)
    nanos = min(int((wall - whole) * NS), NS - 1)
    text = datetime.fromtimestamp(max(0, whole), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{nanos:09d}".rstrip("0").rstrip(".")
    return f"{text}{fraction}Z"


def reason(finish: str | None) -> str:
    """Ollama's done_reason for OpenAI's finish_reason."""
    return _REASONS.get(finish or "", "stop")


def text_of(choice: Choice) -> tuple[str, str]:
    """(text, thinking) of a piece or of a whole answer."""
    said = choice.delta or choice.message
    if said is None:
        return choice.text or "", ""
    return said.content or "", said.reasoning_content or said.reasoning or ""


def logprobs_of(choice: Choice) -> Raw | UnsetType:
    """Ollama's "logprobs" of a piece; UNSET where there are none."""
    told = NOTHING if choice.logprobs is None else choice.logprobs.content
    return told if present(told) else UNSET


def line(chat: bool, model: str, created_at: str, text: str, thinking: str) -> ChatLine | GenerateLine:
    """A line that is not the last."""
    thought = thinking or UNSET
    if chat:
        return ChatLine(model, created_at, Message("assistant", text, thought), False)
    return GenerateLine(model, created_at, text, thought)


class Clocked(Struct):
    """The times of one answer on the caller's clock, seconds: sent, first and last piece."""

    start: float
    first: float | None = None
    last: float | None = None


def close(made: ChatLine | GenerateLine, seen: Chunk, finish: str | None, times: Clocked, now: float) -> None:
    """Make `made` the last line: counters from usage and llama.cpp's timings, durations measured where nothing says them."""
    usage, timings = seen.usage or Usage(), seen.timings or Timings()
    made.done = True
    made.done_reason = reason(finish)
    made.total_duration = _ns(now - times.start)
    made.load_duration = 0
    prompt = usage.prompt_tokens
    if prompt is None and timings.prompt_n is not None:
        prompt = timings.prompt_n + (timings.cache_n or 0)
    first = now if times.first is None else times.first
    made.prompt_eval_count = prompt if prompt is not None else UNSET
    made.prompt_eval_duration = _ns(first - times.start if timings.prompt_ms is None else timings.prompt_ms / 1000)
    output = timings.predicted_n if usage.completion_tokens is None else usage.completion_tokens
    made.eval_count = output if output is not None else UNSET
    spent = (times.last or first) - first if timings.predicted_ms is None else timings.predicted_ms / 1000
    made.eval_duration = _ns(spent)


def loaded(chat: bool, model: str, created_at: str) -> ChatLine | GenerateLine:
    """The reply to a request that only loads."""
    made = line(chat, model, created_at, "", "")
    made.done, made.done_reason = True, "load"
    return made


def embed_document(model: str, seen: Vectors, number: int, seconds: float) -> bytes:
    """The reply of /api/embed."""
    made: dict[str, Any] = {"model": model, "embeddings": in_order(seen)[:number]}
    if number:
        made.update(total_duration=_ns(seconds), load_duration=0)
        if seen.usage is not None and seen.usage.prompt_tokens is not None:
            made["prompt_eval_count"] = seen.usage.prompt_tokens
    return msgspec.json.encode(made)


def in_order(seen: Vectors) -> list[Raw]:
    """The vectors by their index: not every engine keeps the order."""
    return [item.embedding for item in sorted(seen.data, key=lambda item: item.index)]


def _ns(seconds: float) -> int:
    return max(0, round(seconds * NS))
