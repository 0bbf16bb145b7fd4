"""What an emulated model says: a function of the rendered prompt, so that a lost or doubled token shows.

The answer to a prompt is a chain of words from a hash of it. A prompt that ends with the beginning of an answer, cut
anywhere, is continued from there: for an answer `a` to `p`, `answer(p + a[:k])` is `a[k:]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, shake_128
from math import sqrt
from typing import Any

_WORDS = re.findall(
    r"\w+",
    """amber anchor arrow aspen autumn badger bamboo barley basin beacon birch blossom border bottle branch breeze bridge
    brook bucket butter cabin candle canyon carbon castle cedar chalk cherry circle cliff clover cobalt comet copper coral
    cotton crane creek crystal dawn delta desert dew dragon drift dune eagle echo ember engine fable falcon feather fern
    field flame flint forest fossil fountain garden garnet ginger glacier glass granite gravel grove harbor hazel heather
    hollow honey horizon iris island ivory ivy jade jasmine juniper kernel kettle lagoon lantern laurel lemon lilac linen
    lotus maple marble meadow melon mirror mist mosaic nectar needle nickel oak oasis ocean olive onyx orbit orchard otter
    oyster paper pearl pebble pepper petal pine planet plum pollen prairie prism quartz quiver rain raven ribbon
    river rocket rose""",
)  # 128: one for each value of seven bits
_KNOWN = frozenset(_WORDS)
_STARTS = frozenset(w[:n] for w in _WORDS for n in range(len(w) + 1))
_LONGEST = max(map(len, _WORDS)) + 2

TURN_END = "<|im_end|>\n"
OPENING = "<|im_start|>assistant\n"
NO_THINKING = "<think>\n\n</think>\n\n"
THINKING_TOKENS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """`tokens` in order, the first `thinking` of them thoughts; `reason` is "stop" or "length"."""

    tokens: tuple[str, ...]
    reason: str = "stop"
    thinking: int = 0

    @property
    def text(self) -> str:
        return "".join(self.tokens[self.thinking :])

    @property
    def thoughts(self) -> str:
        return "".join(self.tokens[: self.thinking])


def count_tokens(text: str) -> int:
    """Tokens of `text` as the emulated models count them: four characters each."""
    return (len(text) + 3) // 4


def turn(role: str, content: str) -> str:
    """One message as the models see it."""
    return f"<|im_start|>{role}\n{content}{TURN_END}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the model sees it; `boundaries` are (tokens, rolling hash) after each message, for reuse of prefixes."""

    text: str
    boundaries: tuple[tuple[int, int], ...] = ()

    @property
    def tokens(self) -> int:
        return count_tokens(self.text)

    def after(self, answer: str) -> tuple[int, int]:
        """The boundary after `answer`, equal to that of a later prompt which contains it word for word."""
        last = self.boundaries[-1][1] if self.boundaries else 0
        # Without this prompt's opening, which is part of the next message there.
        return count_tokens(self.text + answer + TURN_END), hash((last, turn("assistant", answer)))


def render_chat(messages: Iterable[tuple[str, str]], *, system: str = "", opening: str = OPENING) -> Rendered:
    """The messages (role, text) as one prompt; a last message of the assistant is left open, to be continued."""
    turns = list(messages)
    if system and not any(role == "system" for role, _ in turns):
        turns.insert(0, ("system", system))
    tail = OPENING + turns.pop()[1] if turns and turns[-1][0] == "assistant" else opening
    parts: list[str] = []
    boundaries: list[tuple[int, int]] = []
    length = value = 0
    for role, content in turns:
        part = turn(role, content)
        parts.append(part)
        length += len(part)
        value = hash((value, part))
        boundaries.append(((length + 3) // 4, value))
    return Rendered("".join(parts) + tail, tuple(boundaries))


def render_template(template: str, *, system: str, prompt: str) -> Rendered:
    """The prompt through a template of plain variables (`{{ .System }}`, `{{ .Prompt }}`)."""
    text = re.sub(r"\{\{-?\s*\.System\s*-?\}\}", lambda _: system, template)
    text = re.sub(r"\{\{-?\s*\.Prompt\s*-?\}\}", lambda _: prompt, text)
    return Rendered(re.sub(r"\{\{.*?\}\}", "", text, flags=re.DOTALL))


def _seed(model: str, prompt: str) -> bytes:
    return blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16, key=model.encode()[:64]).digest()


def _chain(seed: bytes, mean: int) -> list[str]:
    """The whole answer of a seed: between half and one and a half times `mean` tokens."""
    length = max(1, mean // 2 + int.from_bytes(seed[:4], "big") % (mean + 1))
    stream = shake_128(seed).digest(length)
    words = [" " + _WORDS[b & 127] + ("," if b >> 7 and i % 8 == 7 else "") for i, b in enumerate(stream)]
    words[-1] = " " + _WORDS[stream[-1] & 127] + "."
    return words


def _split(model: str, prompt: str, mean: int) -> tuple[list[str], int]:
    """The chain that `prompt` calls for, and how many characters of it the prompt already ends with."""
    marker = prompt.rfind(OPENING)
    start = marker + len(OPENING) if marker >= 0 else -1
    if start == len(prompt):
        return _chain(_seed(model, prompt), mean), 0
    candidates = [start] if start >= 0 else []
    candidates += [i for i in _beginnings(prompt, mean) if i > start]
    for i in candidates:
        words = _chain(_seed(model, prompt[:i]), mean)
        if "".join(words).startswith(prompt[i:]):
            return words, len(prompt) - i
    return _chain(_seed(model, prompt), mean), 0


def _beginnings(prompt: str, mean: int) -> list[int]:
    """Where an answer may have begun that the prompt ends with: spaces from which on there are only words of ours."""
    found: list[int] = []
    end = len(prompt)
    floor = max(0, end - (2 * mean + 2) * _LONGEST)
    known = _STARTS  # the last word may have been cut
    while (space := prompt.rfind(" ", floor, end)) >= 0:
        word = prompt[space + 1 : end]
        if word.rstrip(".,") not in known:
            break
        found.append(space)
        end, known = space, _KNOWN
    return found[::-1]


def answer(
    model: str,
    prompt: str,
    *,
    mean: int = 60,
    limit: int | None = None,
    stop: Sequence[str] = (),
    thinking: bool = False,
) -> Answer:
    """What `model` says to the rendered `prompt`, at most `limit` tokens, cut before the first of the texts in `stop`."""
    words, said = _split(model, prompt, mean)
    tokens = _drop(words, said) if said else words
    reason = "stop"
    if limit is not None and 0 < limit < len(tokens):
        tokens, reason = tokens[:limit], "length"
    if stop:
        tokens, reason = _cut(tokens, stop, reason)
    return Answer(tuple(tokens), reason, min(THINKING_TOKENS, len(tokens) - 1) if thinking and not said else 0)


def _drop(tokens: list[str], characters: int) -> list[str]:
    rest = list(tokens)
    while rest and characters >= len(rest[0]):
        characters -= len(rest.pop(0))
    if rest and characters:
        rest[0] = rest[0][characters:]
    return rest


def _cut(tokens: list[str], stop: Sequence[str], reason: str) -> tuple[list[str], str]:
    text = "".join(tokens)
    at = min((i for s in stop if s and (i := text.find(s)) >= 0), default=-1)
    if at < 0:
        return tokens, reason
    kept: list[str] = []
    for token in tokens:
        if at <= 0:
            break
        kept.append(token[:at])
        at -= len(token)
    return kept, "stop"


def context_of(prompt: str, tokens: Iterable[str]) -> list[int]:
    """Numbers that stand for a prompt and its answer, one per token."""
    numbers = [
        int.from_bytes(blake2b(prompt[i : i + 4].encode(), digest_size=2).digest(), "big") for i in range(0, len(prompt), 4)
    ]
    return numbers + [int.from_bytes(blake2b(t.encode(), digest_size=2).digest(), "big") for t in tokens]


def embedding(model: str, text: str, dimension: int) -> list[float]:
    """A unit vector of `dimension` numbers from the text alone."""
    raw = shake_128(f"{model}\0{text}".encode("utf-8", "surrogatepass")).digest(2 * dimension)
    values = [int.from_bytes(raw[i : i + 2], "big") - 32767.5 for i in range(0, len(raw), 2)]
    norm = sqrt(sum(v * v for v in values))
    return [round(v / norm, 9) for v in values]


def instance_of(schema: Any, seed: str = "") -> Any:
    """The simplest JSON value that fits `schema` (anything that is no schema object: {})."""
    if not isinstance(schema, Mapping):
        return {}
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        return {k: instance_of(v, seed + k) for k, v in properties.items()} if isinstance(properties, Mapping) else {}
    if kind == "string":
        return _WORDS[_seed("schema", seed)[0] & 127]
    plain: dict[str, Any] = {"integer": 4, "number": 4.5, "boolean": True, "null": None, "array": []}
    if kind == "array" and "items" in schema:
        return [instance_of(schema["items"], seed)]
    return plain.get(str(kind), {})


def schema_answer(schema: Any, prompt: str) -> Answer:
    """A JSON document that fits `schema` ("json": any object), in pieces."""
    text = json.dumps({"answer": "amber"} if schema == "json" else instance_of(schema, prompt))
    return Answer(tuple(text[i : i + 4] for i in range(0, len(text), 4)))
