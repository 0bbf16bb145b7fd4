"""Going on with an answer that another node began: the requests for it, and its reply in the shape of the one that broke off.

A node renders the prompt as its model sees it; that text and what was said so far are the prompt of a raw completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Dialect, NodeKind, Task

from .bodies import changed
from .routing import DETAILS
from .said import SaidLines
from .said_events import SaidEvents, event
from .unreadable import UNREADABLE

NS: Final = 1_000_000_000
COMPLETIONS: Final = "/v1/completions"
CHAT_COMPLETIONS: Final = "/v1/chat/completions"
_OLLAMA_CHAT: Final = "/api/chat"
_OLLAMA_GENERATE: Final = "/api/generate"
# Of a chat body: what is no option of a plain completion.
_CHAT_ONLY: Final = ("messages", "max_completion_tokens", "chat_template_kwargs", "response_format", "reasoning_effort")
# What shapes the prompt of a generate and is refused, or counted twice, with raw; and what is asked anew.
_RENDERED: Final = ("system", "template", "context", "suffix", "images", "_debug_render_only", "priority")
# What Ollama takes for options that a request in OpenAI's dialect leaves out; its own dialect has others.
_OPENAI_OPTIONS: Final = {"temperature": Raw(b"1.0"), "top_p": Raw(b"1.0")}

_fields: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.encode

Said = SaidLines | SaidEvents


class Before(Struct, frozen=True):
    """What broken attempts did: ``tokens`` they made, seconds of ``prefill`` and ``decode``, ``elapsed`` seconds in all."""

    tokens: int = 0
    prefill: float = 0.0
    decode: float = 0.0
    elapsed: float = 0.0


def said_by(task: Task) -> Said | None:
    """The record for `task`, if it is one whose answer can be continued, or put together from a stream."""
    if task.dialect is Dialect.OLLAMA:
        return SaidLines(whole=not task.stream) if task.path in (_OLLAMA_CHAT, _OLLAMA_GENERATE) else None
    return SaidEvents() if task.stream and task.path in (CHAT_COMPLETIONS, COMPLETIONS) else None


def said_at(dialect: Dialect, task: Task) -> Said:
    """The record of what a node says in `dialect`, where that is told in another one."""
    whole = not task.stream
    return SaidLines(whole=whole) if dialect is Dialect.OLLAMA else SaidEvents(sign=False, whole=whole)


def counts(prompt: float, tokens: int) -> dict[str, int]:
    """The usage of an answer whose node told none: of the ``prompt`` it is only guessed how many tokens it has."""
    return {"prompt_tokens": max(1, round(prompt)), "completion_tokens": tokens}


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Usage(Struct):
    stream_options: _StreamOptions | None = None


def wants_counts(task: Task) -> bool:
    """Whether a stream of OpenAI's older paths is to end with its counts. The body is read anew: few are asked for this."""
    if task.dialect is not Dialect.OPENAI or b"include_usage" not in task.body:
        return False
    seen = msgspec.json.decode(task.body, type=_Usage).stream_options
    return seen is not None and seen.include_usage is True


class _Raw(Struct):
    raw: bool | None = None
    prompt: str | None = None


def raw_prompt(task: Task, kind: NodeKind) -> str | None:
    """The prompt of a request that no template touches at a node of `kind`; None where the node has to render it.

    Ollama puts plain completions of OpenAI's dialect through its template, llama.cpp does not.
    """
    if task.path == COMPLETIONS:
        return None if kind is NodeKind.OLLAMA else msgspec.json.decode(task.body, type=_Raw).prompt or ""
    if task.path == _OLLAMA_GENERATE:
        seen = msgspec.json.decode(task.body, type=_Raw)
        return (seen.prompt or "") if seen.raw else None
    return None


# --- Ollama's nodes


def as_native(translated: bytes) -> bytes:
    """The translated body of a request in OpenAI's dialect as Ollama itself reads one: by its template, with its defaults."""
    options = msgspec.json.decode(_fields(translated).get("options") or b"{}", type=dict[str, Raw])
    return changed(translated, {"options": {**_OPENAI_OPTIONS, **options}}, ("raw",))


def rendering(body: bytes) -> bytes:
    """The body that has an Ollama node render the prompt of a chat or generate. One that would have to be cut is refused."""
    return changed(body, {"_debug_render_only": True, "stream": False, "truncate": False}, ("priority",))


class _Debug(Struct):
    rendered_template: str


class _Rendered(Struct):
    debug: _Debug = msgspec.field(name="_debug_info")


def rendered(reply: bytes) -> str:
    """The prompt in the reply to that. Raises `msgspec.DecodeError`: it holds none."""
    return msgspec.json.decode(reply, type=_Rendered).debug.rendered_template


def going_on(body: bytes, prompt: str, left: int | None) -> bytes:
    """The body for /api/generate that goes on after `prompt` with at most `left` tokens (None: as many as it likes)."""
    fields = _fields(body)
    put: dict[str, Any] = {"prompt": prompt, "raw": True, "stream": True, "truncate": False}
    if left is not None:
        options = msgspec.json.decode(fields.get("options") or b"{}", type=dict[str, Raw])
        put["options"] = {**options, "num_predict": left}
    return changed(body, put, (*_RENDERED, "messages"))


# --- nodes that speak only OpenAI's dialect


def template_body(body: bytes) -> bytes:
    """The body of llama.cpp's /apply-template for a chat body."""
    fields = _fields(body)
    return _encode({name: fields[name] for name in ("messages", "chat_template_kwargs", "reasoning_effort") if name in fields})


class _Template(Struct):
    prompt: str


def templated(reply: bytes) -> str:
    """The prompt in the reply to that. Raises `msgspec.DecodeError`: it holds none."""
    return msgspec.json.decode(reply, type=_Template).prompt


def completing(body: bytes, prompt: str, left: int | None) -> bytes:
    """The body for /v1/completions that goes on after `prompt`, made of the body of a chat or of a completion."""
    limit = {} if left is None else {"max_tokens": left}
    return changed(body, {"prompt": prompt, "stream": True, **limit}, _CHAT_ONLY)


# --- replies


class AsChat:
    """Lines of /api/generate as those of /api/chat."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes, now: float) -> bytes:
        """The complete lines of `data`; an incomplete one is kept back."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join([_chat_line(line) for line in lines])

    def finish(self, now: float) -> bytes:
        rest, self._rest = self._rest, b""
        return _chat_line(rest)

    def document(self, body: bytes, now: float) -> bytes:
        return _chat_line(body)


def _chat_line(line: bytes) -> bytes:
    """One line; nothing of one that cannot be read."""
    try:
        fields = _fields(line)
    except UNREADABLE:
        return b""
    if "response" not in fields:
        return line + b"\n"
    thoughts = fields.pop("thinking", None)
    extra = b"" if thoughts is None else b',"thinking":' + bytes(thoughts)
    message = Raw(b'{"role":"assistant","content":' + bytes(fields["response"]) + extra + b"}")
    told = {"message" if name == "response" else name: message if name == "response" else v for name, v in fields.items()}
    return _encode(told) + b"\n"


class Sum:
    """Adds to the counters of an Ollama answer's last line what broken attempts did, and takes off the prompt what they said.

    ``translated``: the line's total is ours already, and counts from the beginning. ``nodes`` said the beginning: the line
    tells that, unless they are left out.
    """

    def __init__(self, before: Before, translated: bool, nodes: Sequence[str] = ()) -> None:
        self._rest = b""
        self._nodes = nodes
        self._adds = {
            "total_duration": 0 if translated else _ns(before.elapsed),
            "prompt_eval_count": -before.tokens,
            "prompt_eval_duration": _ns(before.prefill),
            "eval_count": before.tokens,
            "eval_duration": _ns(before.decode),
        }

    def feed(self, data: bytes, now: float) -> bytes:
        """The complete lines of `data`, the last one of the answer with its sums; an incomplete one is kept back."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join([self._line(line) + b"\n" for line in lines])

    def finish(self, now: float) -> bytes:
        rest, self._rest = self._rest, b""
        return self._line(rest)

    def document(self, body: bytes, now: float) -> bytes:
        return self._line(body)

    def _line(self, line: bytes) -> bytes:
        if b'"done":true' not in line:
            return line
        fields: dict[str, Any] = dict(_fields(line))
        for name, more in self._adds.items():
            fields[name] = max(1, (msgspec.json.decode(fields[name], type=int) if name in fields else 0) + more)
        if self._nodes:
            fields[DETAILS] = {"resumed_from": self._nodes}
        return _encode(fields)


class AsChunks:
    """Events of /v1/completions, or translated ones, as those of the stream that broke off: its id, its shape, the sum of its
    usage, and no second beginning. The one with the end tells which ``nodes`` said the beginning, unless they are left out.
    """

    def __init__(self, said: SaidEvents, before: Before, nodes: Sequence[str] = ()) -> None:
        self._nodes = nodes
        self._head = said.head
        self._chat = bytes(said.head.get("object", Raw(b""))) != b'"text_completion"'
        self._tokens = before.tokens
        self._rest = b""

    def feed(self, data: bytes, now: float) -> bytes:
        """The complete events of `data`; an incomplete one is kept back."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join([self._event(line[5:].strip()) for line in lines if line.startswith(b"data:")])

    def finish(self, now: float) -> bytes:
        rest, self._rest = self._rest, b""
        return self._event(rest[5:].strip()) if rest.startswith(b"data:") else b""

    def document(self, body: bytes, now: float) -> bytes:
        return body

    def _event(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            return b"data: [DONE]\n\n"
        try:
            told = msgspec.json.decode(data, type=dict[str, Any])
        except UNREADABLE:
            return b""
        usage = told.get("usage")
        if isinstance(usage, dict):
            self._add(usage)
        choices = told.get("choices")
        if isinstance(choices, list):
            choices = [choice for choice in choices if isinstance(choice, dict)]
            if self._chat:
                told["choices"] = [_chat_choice(choice) for choice in choices]
            if self._nodes and any(choice.get("finish_reason") for choice in choices):
                told[DETAILS] = {"resumed_from": self._nodes}
        return event({**told, **self._head})

    def _add(self, usage: dict[str, Any]) -> None:
        for name, more in (("prompt_tokens", -self._tokens), ("completion_tokens", self._tokens)):
            if isinstance(usage.get(name), int):
                usage[name] = max(1, usage[name] + more)


def _chat_choice(choice: dict[str, Any]) -> dict[str, Any]:
    if isinstance(choice.get("delta"), dict):
        return {**choice, "delta": {name: value for name, value in choice["delta"].items() if name != "role"}}
    text = choice.get("text") or ""
    delta = {"content": text} if text or not choice.get("finish_reason") else {}
    return {"index": 0, "delta": delta, "finish_reason": choice.get("finish_reason")}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * NS))
