"""What a look at a request's body finds, whatever its dialect."""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct

from sollol.core.types import Dialect, Kind, Prompt
from sollol.errors import BadRequest, NoNodeForModel

from . import control as controls
from .control import Control
from .fields import any_value
from .prompts import NOTHING

NO_NEEDS: Final[frozenset[str]] = frozenset()


class Peek(Struct, frozen=True):
    """What one scan of a body found.

    ``model`` is as the client wrote it. ``priority`` is the header's, else the body's, else None. ``keep_alive`` is in seconds,
    inf for "for ever", None if absent. ``needs`` is of "tools", "vision", "thinking", "insert", "embedding". ``plain``: text
    without tools, schema, thinking, images or anything else that forbids resuming or re-assembling. ``load_only``: an empty
    prompt, which only loads; ``unload``: the same with keep_alive 0. ``inputs`` counts the texts to embed. ``usage`` is true if
    an OpenAI stream should end with its usage. ``repeatable``: asked again the answer would be the same, because vectors are
    wanted or the choice of words is fixed (temperature 0 or a seed), and the request has no other effect. ``body`` is what to
    send on: the client's own bytes, except that escaped halves of surrogate pairs are repaired.
    """

    kind: Kind
    dialect: Dialect
    path: str
    model: str
    body: bytes
    stream: bool = True
    priority: int | None = None
    control: Control = Control()
    num_ctx: int | None = None
    max_tokens: int | None = None
    keep_alive: float | None = None
    needs: frozenset[str] = NO_NEEDS
    prompt: Prompt = Prompt()
    inputs: int = 1
    plain: bool = False
    load_only: bool = False
    unload: bool = False
    usage: bool = False
    repeatable: bool = False


def dialect_of(path: str) -> Dialect:
    """The dialect in which a path is asked and its errors are told."""
    if not path.startswith("/v1/"):
        return Dialect.OLLAMA
    openai = Dialect.RESPONSES if path.startswith("/v1/responses") else Dialect.OPENAI
    return Dialect.ANTHROPIC if path.startswith("/v1/messages") else openai


def model_of(name: str | None, known: type[NoNodeForModel] | None = None) -> str:
    """The model's name; without one, Ollama says 404 on generate and embed, 400 elsewhere."""
    if name:
        return name
    raise known("") if known else BadRequest("model is required")


def priority_of(asked: Control, body: Raw) -> int | None:
    """The header's wish, else that of the body."""
    if asked.priority is not None or body is NOTHING:
        return asked.priority
    value = any_value(body)
    return None if value is None else controls.priority(value)
