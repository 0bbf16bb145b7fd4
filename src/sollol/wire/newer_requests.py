"""A look at the bodies of the paths that came later: Anthropic's messages, OpenAI's responses, rankings and transcriptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Dialect, Kind, Prompt
from sollol.errors import BadRequest

from . import forms
from .control import Control
from .fields import decode, none_present, option, present, settled, type_of
from .peek import NO_NEEDS, Peek, dialect_of, model_of, priority_of
from .prompts import NOTHING, Message, count, of_messages, of_texts, starts

MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
RESPONSES: Final = "/v1/responses"
RERANK: Final = "/v1/rerank"
TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"


class _Hosted(Struct):
    model: str | None = None
    stream: bool | None = None
    priority: Raw = NOTHING
    temperature: Raw = NOTHING
    tools: Raw = NOTHING


class _Messages(_Hosted):
    messages: list[Message] | None = None
    system: Raw = NOTHING
    max_tokens: Raw = NOTHING
    thinking: Raw = NOTHING
    output_config: Raw = NOTHING


class _Item(Struct):
    """One item of a responses' input: a message, a call, or its answer."""

    role: str | None = None
    content: Raw = NOTHING
    arguments: Raw = NOTHING
    output: Raw = NOTHING


class _Responses(_Hosted):
    input: Raw = NOTHING
    instructions: Raw = NOTHING
    max_output_tokens: Raw = NOTHING
    reasoning: Raw = NOTHING
    text: Raw = NOTHING
    include: Raw = NOTHING
    top_logprobs: Raw = NOTHING
    previous_response_id: Raw = NOTHING


class _Text(Struct):
    """What a response is to be like."""

    format: Raw = NOTHING


class _Rerank(Struct):
    model: str | None = None
    priority: Raw = NOTHING
    query: Raw = NOTHING
    documents: Raw = NOTHING


def _read_messages(path: str, body: bytes, asked: Control) -> Peek:
    seen, body = decode(_messages, body, "MessagesRequest", openai=True)
    if not seen.messages:
        raise BadRequest("messages is required")
    prompt = of_messages(seen.messages, seen.tools)
    system = of_messages([Message("system", seen.system)]) if present(seen.system) else Prompt()
    if system.chars:
        marks = tuple((chars + system.chars, mark) for chars, mark in prompt.boundaries)
        prompt = Prompt(prompt.chars + system.chars, prompt.images + system.images, marks)
    thinks = present(seen.thinking) and type_of(seen.thinking) != "disabled"
    plain = not thinks and none_present(seen.output_config)
    return _peek(seen, path, body, asked, prompt=prompt, limit=seen.max_tokens, plain=plain)


def _read_responses(path: str, body: bytes, asked: Control) -> Peek:
    seen, body = decode(_responses, body, "ResponsesRequest", openai=True)
    if not present(seen.input):
        raise BadRequest("input is required")
    if starts(seen.input) == b"[":
        items, _ = decode(_items, bytes(seen.input), "ResponsesRequest.input", openai=True)
        said = [Message(item.role, item.output if item.content is NOTHING else item.content) for item in items]
        for message, item in zip(said, items, strict=True):
            message.tool_calls = item.arguments
        prompt = of_messages([Message("system", seen.instructions), *said], seen.tools)
    else:
        prompt = of_texts((seen.tools, seen.instructions, seen.input))
    plain = none_present(seen.reasoning, seen.include, seen.top_logprobs, seen.previous_response_id) and not _formed(seen.text)
    return _peek(seen, path, body, asked, prompt=prompt, limit=seen.max_output_tokens, plain=plain)


def _formed(text: Raw) -> bool:
    """Whether a response is to be JSON."""
    if not present(text):
        return False
    wanted = _text(bytes(text)).format if starts(text) == b"{" else text
    return present(wanted) and type_of(wanted) != "text"


def _peek(seen: _Hosted, path: str, body: bytes, asked: Control, *, prompt: Prompt, limit: Raw, plain: bool) -> Peek:
    needs = frozenset({"tools"}) if present(seen.tools) else NO_NEEDS
    if prompt.images:
        needs |= {"vision"}
    return Peek(
        Kind.CHAT,
        dialect_of(path),
        path,
        model_of(seen.model),
        body,
        stream=seen.stream is True,
        priority=priority_of(asked, seen.priority),
        control=asked,
        max_tokens=option(limit),
        needs=needs,
        prompt=prompt,
        plain=plain and not needs,
        repeatable=settled(seen.temperature, NOTHING),
    )


def _read_rerank(path: str, body: bytes, asked: Control) -> Peek:
    """Rankings are made as vectors are: by reading alone."""
    seen, body = decode(_rerank, body, "RerankRequest", openai=True)
    return Peek(
        Kind.EMBED,
        Dialect.OPENAI,
        path,
        model_of(seen.model),
        body,
        stream=False,
        priority=priority_of(asked, seen.priority),
        control=asked,
        needs=frozenset({"rerank"}),
        prompt=of_texts((seen.query, seen.documents)),
        inputs=max(1, count(seen.documents)),
        repeatable=True,
    )


def _read_transcription(path: str, body: bytes, asked: Control) -> Peek:
    """A form with a sound in it; of its fields only two concern us."""
    fields = forms.texts(body, ("model", "stream"))
    return Peek(
        Kind.OTHER,
        Dialect.OPENAI,
        path,
        model_of(fields.get("model")),
        body,
        stream=fields.get("stream", "").lower() in ("true", "1"),
        priority=asked.priority,
        control=asked,
        needs=frozenset({"transcription"}),
    )


_messages: Final = msgspec.json.Decoder(_Messages)
_responses: Final = msgspec.json.Decoder(_Responses)
_items: Final = msgspec.json.Decoder(list[_Item])
_text: Final = msgspec.json.Decoder(_Text).decode
_rerank: Final = msgspec.json.Decoder(_Rerank)

READERS: Final[dict[str, Callable[[str, bytes, Control], Peek]]] = {
    MESSAGES: _read_messages,
    COUNT_TOKENS: _read_messages,
    RESPONSES: _read_responses,
    RERANK: _read_rerank,
    TRANSCRIPTIONS: _read_transcription,
}
