"""One look at a request's body: what routing needs, and nothing else. The bytes themselves go on untouched.

Errors are worded as Ollama words them (its recorded replies are the tests); `wire.errors` gives them the shape of the dialect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.ports import Headers
from sollol.core.types import Dialect, Kind, Prompt
from sollol.errors import BadRequest, NoNodeForModel

from . import control as controls
from .bodies import changed, strip_priority, with_model
from .control import Control
from .fields import (
    check_utf8,
    decode,
    inputs,
    keep_alive,
    must_be_text,
    none_present,
    option,
    present,
    settled,
    single,
    type_of,
)
from .newer_requests import READERS, TRANSCRIPTIONS
from .peek import NO_NEEDS, Peek, dialect_of, model_of, priority_of
from .prompts import NOTHING, Message, count, of_messages, of_texts, starts

__all__ = ["Peek", "changed", "dialect_of", "read", "strip_priority", "with_model"]
_EMBEDDING: Final = frozenset({"embedding"})


class _Options(Struct):
    num_ctx: Raw = NOTHING
    num_predict: Raw = NOTHING
    temperature: Raw = NOTHING
    seed: Raw = NOTHING


_NO_OPTIONS: Final = _Options()


class _Ollama(Struct):
    model: str | None = None
    stream: bool | None = None
    priority: Raw = NOTHING
    options: _Options | None = None
    keep_alive: Raw = NOTHING
    think: Raw = NOTHING
    format: Raw = NOTHING
    logprobs: Raw = NOTHING
    debug: Raw = msgspec.field(default=NOTHING, name="_debug_render_only")


class _Generate(_Ollama):
    prompt: Raw = NOTHING
    system: Raw = NOTHING
    suffix: Raw = NOTHING
    images: Raw = NOTHING
    context: Raw = NOTHING
    raw: bool | None = None


class _Chat(_Ollama):
    messages: list[Message] | None = None
    tools: Raw = NOTHING


class _Embed(_Ollama):
    input: Raw = NOTHING
    prompt: Raw = NOTHING


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _OpenAI(Struct):
    model: str | None = None
    stream: bool | None = None
    priority: Raw = NOTHING
    stream_options: _StreamOptions | None = None
    max_tokens: Raw = NOTHING
    max_completion_tokens: Raw = NOTHING
    n: Raw = NOTHING
    logprobs: Raw = NOTHING
    temperature: Raw = NOTHING
    seed: Raw = NOTHING


class _OpenAIChat(_OpenAI):
    messages: list[Message] | None = None
    tools: Raw = NOTHING
    functions: Raw = NOTHING
    response_format: Raw = NOTHING


class _OpenAIText(_OpenAI):
    prompt: Raw = NOTHING
    suffix: Raw = NOTHING
    echo: Raw = NOTHING


class _OpenAIEmbed(_OpenAI):
    input: Raw = NOTHING


class _Other(Struct):
    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    priority: Raw = NOTHING


def read(path: str, body: bytes, headers: Headers = (), asked: Control | None = None) -> Peek:
    """Look at a request to `path` (normalised: no doubled or trailing slash). Raises `RequestError` in Ollama's words.

    `asked`: what the control headers say, where that is known already.
    """
    if asked is None:
        asked = controls.control(headers)
    if not body.isascii() and path != TRANSCRIPTIONS:
        check_utf8(body)
    reader = _READERS.get(path, _read_other)
    return reader(path, body, asked)


def _read_generate(path: str, body: bytes, asked: Control) -> Peek:
    seen, body = decode(_generate, body, "GenerateRequest")
    model = model_of(seen.model, known=NoNodeForModel)
    must_be_text(seen.prompt, "GenerateRequest.prompt")
    must_be_text(seen.system, "GenerateRequest.system")
    images = count(seen.images)
    needs = _ollama_needs(seen, images, NOTHING, seen.suffix)
    load_only = len(seen.prompt) <= 2 or bytes(seen.prompt) == b"null"
    lasting = keep_alive(seen.keep_alive)
    return Peek(
        Kind.GENERATE,
        Dialect.OLLAMA,
        path,
        model,
        body,
        stream=seen.stream is not False,
        priority=priority_of(asked, seen.priority),
        control=asked,
        num_ctx=option((seen.options or _NO_OPTIONS).num_ctx),
        max_tokens=option((seen.options or _NO_OPTIONS).num_predict),
        keep_alive=lasting,
        needs=needs,
        prompt=of_texts((seen.system, seen.prompt), images),
        plain=not (needs or load_only) and none_present(seen.format, seen.logprobs, seen.debug, seen.context),
        load_only=load_only,
        unload=load_only and lasting == 0,
        repeatable=not load_only and lasting != 0 and _settled(seen.options),
    )


def _read_chat(path: str, body: bytes, asked: Control) -> Peek:
    seen, body = decode(_chat, body, "ChatRequest")
    model = model_of(seen.model)
    messages = seen.messages or []
    prompt = of_messages(messages, seen.tools)
    needs = _ollama_needs(seen, prompt.images, seen.tools, NOTHING)
    lasting = keep_alive(seen.keep_alive)
    return Peek(
        Kind.CHAT,
        Dialect.OLLAMA,
        path,
        model,
        body,
        stream=seen.stream is not False,
        priority=priority_of(asked, seen.priority),
        control=asked,
        num_ctx=option((seen.options or _NO_OPTIONS).num_ctx),
        max_tokens=option((seen.options or _NO_OPTIONS).num_predict),
        keep_alive=lasting,
        needs=needs,
        prompt=prompt,
        plain=not needs and bool(messages) and none_present(seen.format, seen.logprobs, seen.debug),
        load_only=not messages,
        unload=not messages and lasting == 0,
        repeatable=bool(messages) and lasting != 0 and _settled(seen.options),
    )


def _read_embed(path: str, body: bytes, asked: Control) -> Peek:
    legacy = path == "/api/embeddings"
    seen, body = decode(_embed, body, "EmbeddingRequest" if legacy else "EmbedRequest")
    model = model_of(seen.model, known=NoNodeForModel)
    must_be_text(seen.prompt, "EmbeddingRequest.prompt")
    number, prompt = (1, of_texts((seen.prompt,))) if legacy else inputs(seen.input, tokens=False)
    lasting = keep_alive(seen.keep_alive)
    return Peek(
        Kind.EMBED,
        Dialect.OLLAMA,
        path,
        model,
        body,
        stream=False,
        priority=priority_of(asked, seen.priority),
        control=asked,
        num_ctx=option((seen.options or _NO_OPTIONS).num_ctx),
        keep_alive=lasting,
        needs=_EMBEDDING,
        prompt=prompt,
        inputs=number,
        repeatable=number > 0 and lasting != 0,
    )


def _read_openai_chat(path: str, body: bytes, asked: Control) -> Peek:
    seen, body = decode(_openai_chat, body, "ChatCompletionRequest")
    if not seen.messages:
        raise BadRequest("[] is too short - 'messages'")
    tools = seen.functions if seen.tools is NOTHING else seen.tools
    prompt = of_messages(seen.messages, tools)
    needs = NO_NEEDS
    if tools is not NOTHING and present(tools):
        needs |= {"tools"}
    if prompt.images:
        needs |= {"vision"}
    schema = present(seen.response_format) and type_of(seen.response_format) != "text"
    plain = not (needs or schema) and none_present(seen.logprobs) and single(seen.n)
    return _openai_peek(seen, path, body, asked, kind=Kind.CHAT, needs=needs, prompt=prompt, plain=plain)


def _read_openai_text(path: str, body: bytes, asked: Control) -> Peek:
    seen, body = decode(_openai_text, body, "CompletionRequest")
    insert = frozenset({"insert"}) if present(seen.suffix) else NO_NEEDS
    one = starts(seen.prompt) == b'"'
    plain = one and not insert and none_present(seen.logprobs, seen.echo) and single(seen.n)
    prompt = of_texts((seen.prompt,))
    return _openai_peek(seen, path, body, asked, kind=Kind.GENERATE, needs=insert, prompt=prompt, plain=plain)


def _openai_peek(
    seen: _OpenAI,
    path: str,
    body: bytes,
    asked: Control,
    *,
    kind: Kind,
    needs: frozenset[str],
    prompt: Prompt,
    plain: bool,
) -> Peek:
    limit = seen.max_tokens if seen.max_completion_tokens is NOTHING else seen.max_completion_tokens
    return Peek(
        kind,
        Dialect.OPENAI,
        path,
        model_of(seen.model),
        body,
        stream=seen.stream is True,
        priority=asked.priority if seen.priority is NOTHING else priority_of(asked, seen.priority),
        control=asked,
        max_tokens=None if limit is NOTHING else option(limit),
        needs=needs,
        prompt=prompt,
        plain=plain,
        usage=seen.stream_options is not None and seen.stream_options.include_usage is True,
        repeatable=settled(seen.temperature, seen.seed),
    )


def _read_openai_embed(path: str, body: bytes, asked: Control) -> Peek:
    seen, body = decode(_openai_embed, body, "EmbedRequest")
    if not present(seen.input):
        raise BadRequest("invalid input")
    model = model_of(seen.model)
    number, prompt = inputs(seen.input, tokens=True)
    return Peek(
        Kind.EMBED,
        Dialect.OPENAI,
        path,
        model,
        body,
        stream=False,
        priority=priority_of(asked, seen.priority),
        control=asked,
        needs=_EMBEDDING,
        prompt=prompt,
        inputs=number,
        repeatable=True,
    )


def _read_other(path: str, body: bytes, asked: Control) -> Peek:
    """Any other path with a JSON body: only its model (or legacy name) and whether it streams."""
    seen, body = decode(_other, body, "Request", openai=path.startswith("/v1/"))
    return Peek(
        Kind.OTHER,
        dialect_of(path),
        path,
        seen.model or seen.name or "",
        body,
        stream=seen.stream is True if path.startswith("/v1/") else seen.stream is not False,
        priority=priority_of(asked, seen.priority),
        control=asked,
    )


_READERS: Final[dict[str, Callable[[str, bytes, Control], Peek]]] = {
    "/api/generate": _read_generate,
    "/api/chat": _read_chat,
    "/api/embed": _read_embed,
    "/api/embeddings": _read_embed,
    "/v1/chat/completions": _read_openai_chat,
    "/v1/completions": _read_openai_text,
    "/v1/embeddings": _read_openai_embed,
    **READERS,
}


def _settled(options: _Options | None) -> bool:
    return options is not None and settled(options.temperature, options.seed)


def _ollama_needs(seen: _Ollama, images: int, tools: Raw, suffix: Raw) -> frozenset[str]:
    if not images and tools is NOTHING and suffix is NOTHING and seen.think is NOTHING:
        return NO_NEEDS
    asked = (
        ("vision", images > 0),
        ("tools", present(tools)),
        ("insert", present(suffix)),
        ("thinking", present(seen.think)),
    )
    return frozenset(need for need, wanted in asked if wanted)


_generate: Final = msgspec.json.Decoder(_Generate)
_chat: Final = msgspec.json.Decoder(_Chat)
_embed: Final = msgspec.json.Decoder(_Embed)
_openai_chat: Final = msgspec.json.Decoder(_OpenAIChat)
_openai_text: Final = msgspec.json.Decoder(_OpenAIText)
_openai_embed: Final = msgspec.json.Decoder(_OpenAIEmbed)
_other: Final = msgspec.json.Decoder(_Other)
