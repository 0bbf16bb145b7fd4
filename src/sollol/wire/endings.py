"""How a reply ended: complete or not, its error, and what it says about its own work."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from sollol.core.types import Counters

from .errors import words

NS: Final = 1e-9
MS: Final = 1e-3
T = TypeVar("T", int, float)


class Ending(Struct, frozen=True):
    """``complete``: the reply has the end that its dialect demands. ``error`` is the node's own, or why the reply is none.

    ``native`` is true when the counters are Ollama's: they carry load and slot times.
    """

    complete: bool
    error: str | None = None
    counters: Counters | None = None
    native: bool = False


class OllamaLine(Struct):
    """A line of Ollama's NDJSON, or one of its documents; only what tells how it ended."""

    error: Raw | UnsetType = UNSET
    done: bool | None = None
    done_reason: str | None = None
    status: str | int | None = None
    total_duration: float | None = None
    load_duration: float | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: float | None = None
    eval_count: int | None = None
    eval_duration: float | None = None
    embeddings: Raw | UnsetType = UNSET
    embedding: Raw | UnsetType = UNSET
    debug: Raw | UnsetType = msgspec.field(default=UNSET, name="_debug_info")


class Details(Struct):
    """Where an engine says how many prompt tokens it did not have to read."""

    cached_tokens: int | None = None


class Usage(Struct):
    """Token counts of OpenAI (chat and responses) and Anthropic."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class Timings(Struct):
    """llama.cpp's own account; milliseconds."""

    cache_n: int | None = None
    prompt_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class Choice(Struct):
    """One answer of an OpenAI reply."""

    finish_reason: str | None = None


class Delta(Struct):
    """The change that Anthropic's `message_delta` tells."""

    stop_reason: str | None = None


class Inner(Struct):
    """The message in Anthropic's first event, the response in those of OpenAI's responses."""

    usage: Usage | None = None
    status: str | None = None
    error: Raw | UnsetType = UNSET


class Frame(Struct):
    """The data of one server-sent event, or a whole document, of OpenAI or Anthropic."""

    type: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Raw | UnsetType = UNSET
    message: Inner | str | None = None
    response: Inner | None = None
    delta: Delta | str | None = None
    data: Raw | UnsetType = UNSET
    status: str | int | None = None
    stop_reason: str | None = None
    stop: Raw = Raw(b"")
    content: Raw | UnsetType = UNSET


ollama_line: Final = msgspec.json.Decoder(OllamaLine).decode
frame: Final = msgspec.json.Decoder(Frame).decode


def error_text(error: Raw | UnsetType) -> str | None:
    """The words of an "error" field; None where there is none."""
    if error is UNSET:
        return None
    return None if bytes(error) in (b"null", b'""') else words(error)


def _sane(value: T | None, unit: T) -> T | None:
    return None if value is None or value < 0 else value * unit


def of_ollama(line: OllamaLine) -> Counters | None:
    """The counters of a last line; None if it has none (loads and unloads)."""
    if line.total_duration is None and line.prompt_eval_count is None and line.eval_count is None:
        return None
    return Counters(
        prompt_tokens=_sane(line.prompt_eval_count, 1),
        output_tokens=_sane(line.eval_count, 1),
        total=_sane(line.total_duration, NS),
        load=_sane(line.load_duration, NS),
        prefill=_sane(line.prompt_eval_duration, NS),
        decode=_sane(line.eval_duration, NS),
        done_reason=line.done_reason or "",
    )


def of_openai(usage: Usage | None, timings: Timings | None, reason: str) -> Counters | None:
    """The counters of a usage and, on llama.cpp, its timings; None if there is neither."""
    if usage is None and timings is None:
        return None
    usage = usage or Usage()
    prompt = _first(usage.prompt_tokens, usage.input_tokens)
    output = _first(usage.completion_tokens, usage.output_tokens)
    details = usage.prompt_tokens_details
    cached = _first(None if details is None else details.cached_tokens, usage.cache_read_input_tokens)
    if timings is None:
        return Counters(_sane(prompt, 1), _sane(output, 1), _sane(cached, 1), done_reason=reason)
    cached = _first(timings.cache_n, cached)
    if prompt is None and timings.prompt_n is not None:
        prompt = timings.prompt_n + (timings.cache_n or 0)
    return Counters(
        prompt_tokens=_sane(prompt, 1),
        output_tokens=_sane(_first(output, timings.predicted_n), 1),
        cached_tokens=_sane(cached, 1),
        prefill=_sane(timings.prompt_ms, MS),
        decode=_sane(timings.predicted_ms, MS),
        done_reason=reason,
    )


def _first(one: int | None, other: int | None) -> int | None:
    return other if one is None else one
