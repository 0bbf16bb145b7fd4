"""What every dialect says, in no dialect: one request (`Asked`) and the pieces of its answer (`Piece`, `End`).

A dialect of clients is a parser to `Asked` and a writer of pieces; a dialect of nodes is a renderer of `Asked` and a reader of
pieces. So a new dialect is four functions at most, and not a pair with every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Kind
from sollol.errors import BadRequest, RequestError, Untranslatable

from .prompts import NOTHING, starts
from .unreadable import UNREADABLE

_MIMES: Final = (("iVBOR", "png"), ("/9j/", "jpeg"), ("R0lGOD", "gif"), ("UklGR", "webp"), ("Qk0", "bmp"))
_QUOTE: Final = ord('"')
_LEVELS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}


class OptionType(RequestError):
    """Ollama's own status for an option of a wrong type."""

    status = 500


class Image(Struct, frozen=True):
    """A picture: base64 text, and its media type."""

    data: str
    mime: str = "image/png"


Content = str | Raw | Image


class Call(Struct, frozen=True):
    """A call of a tool. ``arguments`` is JSON text: what a model wrote may be no JSON at all."""

    id: str
    name: str
    arguments: str = "{}"


class Message(Struct):
    """One message. ``parts`` are texts and pictures in order, no two texts side by side. A text that is `Raw` is as it stood in
    the client's JSON, quotes and all: most texts are only passed on, and long.

    ``role`` is "system", "user", "assistant" or "tool" (others pass as they are). ``call_id`` and ``tool`` name the call that a
    tool's message answers.
    """

    role: str
    parts: list[Content] = []
    thinking: str = ""
    calls: list[Call] = []
    call_id: str = ""
    tool: str = ""


class Tool(Struct):
    """A function that the model may call; ``parameters`` is its JSON schema."""

    name: str
    description: str | None = None
    parameters: Raw = NOTHING
    strict: bool | None = None


class Format(Struct):
    """The answer is to be JSON; of the kind of ``schema``, where there is one."""

    schema: Raw = NOTHING
    name: str = "answer"
    strict: bool | None = True


class Choice(Struct, frozen=True):
    """Which tools may or must be called. ``mode``: "auto", "none" or "required". ``only``: the names that are allowed."""

    mode: str = "auto"
    only: tuple[str, ...] = ()


class Asked(Struct):
    """One request. ``model`` is as the client wrote it: replies name it so.

    ``sampling`` has the names and types of Ollama's options; ``limit`` is the most tokens of the answer. ``prompt`` and
    ``suffix`` are those of a plain completion, ``inputs`` the texts to embed as they stand in the JSON, ``number`` how many.
    ``think`` is None (not said), a bool, or "low", "medium", "high". ``usage``: a stream is to end with its counts. ``base64``:
    vectors are wanted as base64. ``echo`` is what the reply repeats of the request.
    """

    kind: Kind
    stream: bool
    model: str = ""
    messages: list[Message] = []
    prompt: str = ""
    suffix: str = ""
    inputs: Raw = NOTHING
    number: int = 0
    dimensions: int | None = None
    base64: bool = False
    limit: int | None = None
    sampling: dict[str, Any] = {}
    tools: list[Tool] = []
    choice: Choice = Choice()
    parallel: bool | None = None
    format: Format | None = None
    think: bool | str | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    usage: bool = False
    echo: dict[str, Any] = {}


class CallPiece(Struct):
    """A piece of a call: the first of an ``index`` has ``id`` and ``name``; the ``arguments`` are put together."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Piece(Struct):
    """A piece of an answer, or all of it. ``logprobs`` is the list that Ollama and OpenAI's chat have in common."""

    text: str = ""
    thinking: str = ""
    calls: list[CallPiece] = []
    logprobs: Raw = NOTHING


class End(Struct):
    """What is known when an answer ends. Counts are tokens, durations seconds; None where the node does not say.

    ``finish`` is "stop", "length", "tool_calls", "content_filter", or empty while the answer has no end. ``created`` is the
    node's calendar, in seconds. ``stopped_by`` is the stop sequence that ended the answer. ``resumed_from`` names the nodes
    that said its beginning.
    """

    finish: str = ""
    prompt: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    load: float | None = None
    prefill: float | None = None
    decode: float | None = None
    created: float | None = None
    stopped_by: str | None = None
    resumed_from: Sequence[str] = ()


# --- what parsers of every dialect need


def joined(texts: Sequence[Content]) -> list[Content]:
    """Parts with neighbouring texts made one, a line for each: engines do the same with lists of texts."""
    made: list[Content] = []
    for part in texts:
        if isinstance(part, str) and made and isinstance(made[-1], str):
            made[-1] = f"{made[-1]}\n{part}"
        elif part != "":
            made.append(part)
    return made


def text_in(content: Raw) -> list[Content] | None:
    """A content as the parts of a message; None where it is no string."""
    if len(content) < 2 or memoryview(content)[0] != _QUOTE:
        return None
    return [content] if len(content) > 2 else []


def text_of(message: Message) -> str | Raw:
    """All the text of a message, to be written into JSON. One that is `Raw` stands alone, but for pictures."""
    texts = [part for part in message.parts if not isinstance(part, Image)]
    return texts[0] if len(texts) == 1 else "\n".join([text for text in texts if isinstance(text, str)])


def mime_of(data: str) -> str:
    """The media type of a base64 picture by its first bytes; PNG if they say nothing."""
    return "image/" + next((name for start, name in _MIMES if data.startswith(start)), "png")


def picture(url: str) -> Image:
    """The picture in a data URL. Raises `Untranslatable` for an address: nothing is fetched for a client."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:"):
        raise Untranslatable("pictures are not fetched from an address: send the picture itself, as a data URL")
    if not comma or not head.endswith(";base64"):
        raise BadRequest("a picture must be a data URL with base64: data:image/png;base64,...")
    return Image(data, head[5:-7] or mime_of(data))


def arguments_text(raw: Raw) -> str:
    """The arguments of a call as JSON text, whether they were sent as a string or as an object."""
    first = starts(raw)
    if first == b'"':
        text: str = msgspec.json.decode(raw)
        return text or "{}"
    return bytes(raw).decode() if first == b"{" else "{}"


def arguments_object(text: str) -> Raw:
    """The arguments of a call as a JSON object, on one line. Raises ValueError for what is none."""
    if not text.strip():
        return Raw(b"{}")
    try:
        msgspec.json.decode(text, type=dict[str, Raw])
    except UNREADABLE as error:
        raise ValueError(f"the arguments of a tool call are no JSON object: {error}") from None
    return on_one_line(Raw(text.encode()))


def on_one_line(value: Raw) -> Raw:
    """The same JSON without line breaks: it is put into lines and events, and clients and models like to set theirs out."""
    written = bytes(value)
    return Raw(msgspec.json.format(written, indent=-1)) if b"\n" in written or b"\r" in written else value


def level(effort: str) -> bool | str:
    """What a word for effort means: a level of thinking, or False for none. Raises `BadRequest` for other words."""
    if effort == "none":
        return False
    if effort not in _LEVELS:
        raise BadRequest(f"effort must be one of none, {', '.join(_LEVELS)}")
    return _LEVELS[effort]


def paired(messages: list[Message]) -> list[Message]:
    """Give calls without an id one, and each answer of a tool the id and the name of its call.

    Ollama's older clients say only names, or nothing but the order; the others say only ids.
    """
    waiting: list[Call] = []
    number = 0
    for message in messages:
        if not message.calls and message.role != "tool":
            continue
        for at, call in enumerate(message.calls):
            if not call.id:
                number += 1
                message.calls[at] = Call(f"call_{number}", call.name, call.arguments)
        waiting += message.calls
        if message.role == "tool":
            call = _answered(message, waiting)
            message.call_id, message.tool = message.call_id or call.id, message.tool or call.name
    return messages


def _answered(message: Message, waiting: list[Call]) -> Call:
    for at, call in enumerate(waiting):
        if message.call_id == call.id if message.call_id else (not message.tool or message.tool == call.name):
            return waiting.pop(at)
    return Call(message.call_id or "call_0", message.tool)
