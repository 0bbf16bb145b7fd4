"""What kind of work a request is, in words for people. Nothing is routed by it: the cost of a node is worked out in seconds.

It is a reading of a bounded sample of the text by signs that people use when they ask for such work (English), so it can be
wrong; it is worked out only where somebody asks for details.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from .types import Kind, Task

SAMPLE: Final = 4_000
MAX_BODY: Final = 1_000_000
CHARS_PER_TOKEN: Final = 3.7
LEVELS: Final = ("low", "medium", "high")

_SIGNS: Final = (
    (
        "summarization",
        r"summar(?:y|i[sz]\w*)|tl;?dr|condense|key (?:points|takeaways)|in (?:a few|one|two|three) sentences?|the gist",
    ),
    ("classification", r"classif\w+|categori[sz]\w+|sentiment|which (?:category|label|class)|label (?:the|this|each)|spam or"),
    (
        "extraction",
        r"extract\w*|named entit\w+|pull out|list all (?:the )?(?:names|dates|people|places|numbers)|find all (?:the )?\w+ in",
    ),
    (
        "code",
        r"```|\b(?:def|class) \w+\s*[(:]|\bimport \w+\n|#include|\brefactor\w*|\bdebug\b|unit tests?|stack ?trace|regex|"
        r"(?:python|javascript|typescript|java|rust|golang|c\+\+|sql|bash|html|css)\b.{0,40}\b(?:code|function|script|program|query)|"
        r"(?:write|implement|fix) .{0,40}\b(?:code|function|script|program|class|algorithm|method|bug)\b",
    ),
    (
        "analysis",
        r"analy[sz]\w+|\bcompare\b|evaluate|pros and cons|assess|critique|trade-?offs?|root cause|explain (?:why|how)",
    ),
    (
        "generation",
        r"(?:write|compose|draft|create|generate|invent) (?:me )?(?:an?|the|some|\d+)\b|continue (?:the|this) (?:story|text)",
    ),
)
_PATTERNS: Final = tuple((name, re.compile(signs, re.IGNORECASE | re.DOTALL)) for name, signs in _SIGNS)
_DEMANDING: Final = frozenset({"code", "analysis"})


class Analysis(Struct, frozen=True):
    """``task_type``: chat, generation, summarization, code, embedding, classification, extraction or analysis.

    ``complexity``: "low", "medium" or "high". ``needs_gpu``: whether a machine without one would be slow at it.
    """

    task_type: str
    complexity: str
    needs_gpu: bool


class _Message(Struct):
    role: str | None = None
    content: Raw = Raw(b"")


class _Body(Struct):
    messages: list[_Message] | None = None
    prompt: Raw = Raw(b"")
    system: Raw = Raw(b"")


class _Part(Struct):
    text: str = ""


_body: Final = msgspec.json.Decoder(_Body).decode


def analyze(task: Task) -> Analysis:
    """What `task` asks for, from at most `SAMPLE` characters of its text. Never raises: what cannot be read is a chat."""
    task_type = classify(task.kind, sample(task.body))
    level = complexity(task_type, task.prompt.chars / CHARS_PER_TOKEN, task.max_tokens, task.inputs)
    return Analysis(task_type, level, needs_gpu=level != "low" or "vision" in task.needs)


def classify(kind: Kind, text: str) -> str:
    """The task type of a text; embedding requests are known by their kind."""
    if kind is Kind.EMBED:
        return "embedding"
    found = [(len(pattern.findall(text)), -place, name) for place, (name, pattern) in enumerate(_PATTERNS)]
    count, _, name = max(found)
    if count:
        return name
    return "generation" if kind is Kind.GENERATE else "chat"


def complexity(task_type: str, prompt_tokens: float, max_tokens: int | None, inputs: int) -> str:
    """How much work it is: the length of the prompt, the answer that is allowed, and the kind; for embeddings their number."""
    if task_type == "embedding":
        return LEVELS[(inputs > 32) + (inputs > 512 or prompt_tokens > 100_000)]
    level = (prompt_tokens > 300) + (prompt_tokens > 2_000) + (task_type in _DEMANDING) + ((max_tokens or 0) > 1_024)
    return LEVELS[min(level, 2)]


def sample(body: bytes) -> str:
    """The part of a request's text that says what is wanted: the system's beginning, and both ends of the last message."""
    if len(body) > MAX_BODY:
        return body[-SAMPLE:].decode("utf-8", "replace")
    try:
        seen = _body(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    texts = [_text(seen.system)[: SAMPLE // 4]]
    messages = seen.messages or []
    if messages and messages[0].role == "system":
        texts.append(_text(messages[0].content)[: SAMPLE // 4])
    last = next((m.content for m in reversed(messages) if m.role == "user"), seen.prompt)
    text = _text(last)
    half = SAMPLE // 4
    texts.append(text if len(text) <= 2 * half else text[:half] + "\n" + text[-half:])
    return "\n".join(part for part in texts if part)


def _text(raw: Raw) -> str:
    """The text of a content: a string, or the text parts of a list."""
    try:
        value = msgspec.json.decode(raw, type=str | list[_Part])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return value if isinstance(value, str) else "\n".join(part.text for part in value)
