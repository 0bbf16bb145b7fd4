"""How long a prompt is and where its messages end: lengths and rolling hashes, never the text itself.

Lengths are bytes of the text as it stands in the JSON (an escape counts as what it takes there): the ratio of characters to
tokens is learned per model, so a steady measure is enough, and decoding the text would cost more than all the rest. Hashes are
CRC-32 chained from message to message: equal in every process, and four times as fast as any digest.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

import msgspec
from msgspec import Raw, Struct

from sollol.core.types import Prompt

from .unreadable import UNREADABLE

NOTHING: Final = Raw(b"")
_BRACKET: Final = ord("[")
_PICTURES: Final = frozenset({"image_url", "image", "input_image"})
_BLOCKS: Final = frozenset({"tool_result", "tool_use", "thinking"})


class Message(Struct):
    """One message of a chat, Ollama's or OpenAI's."""

    role: str | None = None
    content: Raw = NOTHING
    images: Raw = NOTHING
    tool_calls: Raw = NOTHING


class _Part(Struct):
    type: str = ""
    text: Raw = NOTHING
    image_url: Raw = NOTHING
    content: Raw = NOTHING  # what a tool answered
    input: Raw = NOTHING  # what a tool was called with
    thinking: Raw = NOTHING


_parts = msgspec.json.Decoder(list[_Part]).decode
_items = msgspec.json.Decoder(list[Raw]).decode


def of_messages(messages: list[Message], seed: Raw = NOTHING) -> Prompt:
    """Measure a chat. `seed` is what stands before the messages in the rendered prompt (the tools)."""
    chars = len(seed)
    images = 0
    state = crc32(seed) if chars else 0
    boundaries = []
    for message in messages:
        content, role = message.content, message.role
        if role:  # the same text said by another is another prefix
            state ^= len(role) * 131 + ord(role[0])
        state = crc32(content, state)
        if message.images is not NOTHING or (content is not NOTHING and memoryview(content)[0] == _BRACKET):
            more, seen = _with_pictures(message)
            state = crc32(message.images, state)
            chars += more
            images += seen
        elif len(content) > 2:
            chars += len(content) - 2
        if message.tool_calls is not NOTHING:
            state = crc32(message.tool_calls, state)
            chars += len(message.tool_calls)
        boundaries.append((chars, state))
    return Prompt(chars, images, tuple(boundaries))


def _with_pictures(message: Message) -> tuple[int, int]:
    """(text length, pictures) of a message that may have pictures, which are not counted as text."""
    chars, images = _content(message.content)
    return chars, images + count(message.images)


def _content(content: Raw) -> tuple[int, int]:
    """(text length, pictures) of a content that is a string, or a list of OpenAI's parts or of Anthropic's blocks."""
    if starts(content) != b"[":
        return max(0, len(content) - 2), 0
    try:
        parts = _parts(content)
    except UNREADABLE:
        return len(content), 0
    chars = pictures = 0
    for part in parts:
        chars += max(0, len(part.text) - 2)
        if part.type in _PICTURES or part.image_url is not NOTHING:
            pictures += 1
        elif part.type in _BLOCKS:
            more, seen = _content(part.content)
            chars += more + len(part.input) + max(0, len(part.thinking) - 2)
            pictures += seen
    return chars, pictures


def of_texts(texts: tuple[Raw, ...], images: int = 0) -> Prompt:
    """Measure texts that follow each other in one prompt (system, then prompt); each end is a boundary."""
    chars = state = 0
    boundaries = []
    for text in texts:
        if len(text) > 2:
            chars += len(text) - 2
            state = crc32(text, state)
            boundaries.append((chars, state))
    return Prompt(chars, images, tuple(boundaries))


def count(raw: Raw) -> int:
    """Items of a JSON list; 0 for anything else."""
    return len(_items(raw)) if starts(raw) == b"[" else 0


def starts(raw: Raw) -> bytes:
    """The first byte of a value, which tells its type; empty for an absent one."""
    return bytes(memoryview(raw)[:1])
