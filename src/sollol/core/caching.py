"""Answers that may be given again: which requests may share one, under which key, and the store that keeps them.

The key covers everything that can change an answer. Whoever could make two different requests share a key could have somebody
else's request answered with words of his own choice, so what is not surely irrelevant is part of it.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

from msgspec import Struct

from .ports import Headers
from .types import Kind, Task

MOST_BODY: Final = 4 << 20
"""Requests with more bytes than this are not shared."""
EXACT_BODY: Final = 16 << 10
"""Longer bodies are the same only byte for byte: taking them apart would take longer than a millisecond."""

# What is said of the way of an answer and not of the answer. `stream` is part of the key by what it means.
_IRRELEVANT: Final = frozenset({"stream", "priority", "keep_alive"})
# Headers that go on to a node and change no answer; all others do, above all those by which a node knows whom it serves.
_NOISE: Final = frozenset(
    b"accept accept-charset accept-language cache-control content-type date dnt pragma priority traceparent tracestate "
    b"user-agent via x-real-ip x-request-id x-requested-with".split()
)
_NOISY: Final = (b"sec-", b"x-forwarded-", b"x-sollol-", b"x-stainless-")


def may_share(task: Task, asked: bool | None) -> bool:
    """Whether a client's wish that its request may share an answer can be met though the choice of words is not fixed.

    A request that is there for its effect (loading a model, or unloading it afterwards) must reach a node.
    """
    return asked is True and not task.load_only and task.keep_alive != 0 and task.kind is not Kind.OTHER


def key(path: str, body: bytes, *, stream: bool, details: bool = False, headers: Headers = ()) -> bytes:
    """What all requests have in common that may share one answer, as 32 bytes; empty for a body that is too long.

    ``details``: routing details are put into the body. ``headers`` are those that go on to the node. The order of the body's
    fields and its white space do not matter up to 16 KB, nor do "stream" (what it means counts), "priority" and "keep_alive".
    """
    if len(body) > MOST_BODY:
        return b""
    digest = blake2b(digest_size=32)
    digest.update(repr((path, stream, details, _telling(headers))).encode())
    digest.update(_canonical(body))
    return digest.digest()


def _telling(headers: Headers) -> list[tuple[bytes, bytes]]:
    return sorted([(name, value) for name, value in headers if name not in _NOISE and not name.startswith(_NOISY)])


def _canonical(body: bytes) -> bytes:
    """The same bytes for bodies that mean the same to every engine, different ones for all others.

    Names that differ in case only, and names that come twice, are kept in their order: Go, in which Ollama is written, takes
    the case lightly, and engines differ in what they make of a second one.
    """
    if len(body) > EXACT_BODY:
        return body
    try:
        fields = json.loads(body, object_pairs_hook=tuple)
        if not isinstance(fields, tuple):
            return body
        kept = sorted([field for field in fields if field[0] not in _IRRELEVANT], key=_folded)
        return repr(kept).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return body


def _folded(field: tuple[str, object]) -> str:
    return field[0].casefold()


class Answer(Struct, frozen=True):
    """A complete answer: what the client saw of it but for what is said of its way. ``at`` is on the engine's clock."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    model: str
    digest: str
    at: float
    stream: bool = False

    @property
    def size(self) -> int:
        """Bytes that it takes, roughly."""
        return len(self.body) + 500


class Bounds(Struct, frozen=True):
    """``seconds`` an answer may be given again, ``entries`` and ``size`` (bytes) of all that is kept."""

    seconds: float = 3600.0
    entries: int = 1_000
    size: int = 64 << 20

    @property
    def largest(self) -> int:
        """Bytes of the longest answer that is kept: one must not drive out all others."""
        return self.size // 8


class Counts(Struct):
    """What came of the requests that looked: ``shared`` got the answer of another one that was under way."""

    hits: int = 0
    misses: int = 0
    shared: int = 0
    stored: int = 0
    evicted: int = 0
    expired: int = 0
    outdated: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the look-ups that found an answer, 0 to 1; 0 before the first."""
        looked = self.hits + self.misses
        return self.hits / looked if looked else 0.0


class Store:
    """Answers by key. The one that was used longest ago goes first when there are too many, or too many bytes."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.counts = Counts()
        self.bytes = 0
        self._bounds = bounds or Bounds()
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._models: dict[str, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def bounds(self) -> Bounds:
        """May be set while it is in use: what is too much goes at once."""
        return self._bounds

    @bounds.setter
    def bounds(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._shrink()

    @property
    def models(self) -> Iterable[str]:
        """Models of which there are answers."""
        return self._models

    def get(
        self, key: bytes, now: float, max_age: float = float("inf"), holds: Callable[[Answer], bool] | None = None
    ) -> Answer | None:
        """The answer kept under ``key``, if it is at most ``max_age`` seconds old (0: none is) and its time is not over.

        ``holds`` says whether it is still what a node would say; one that is not goes.
        """
        found = self._answers.get(key)
        if found is not None:
            age = now - found.at
            if age > self._bounds.seconds:
                self._drop(key)
                self.counts.expired += 1
            elif holds is not None and not holds(found):
                self._drop(key)
                self.counts.outdated += 1
            elif 0.0 < max_age >= age:
                self._answers.move_to_end(key)
                self.counts.hits += 1
                return found
        self.counts.misses += 1
        return None

    def put(self, key: bytes, answer: Answer) -> bool:
        """Keep an answer in the place of an older one; False if it is too long for that."""
        self._drop(key)
        if answer.size > self._bounds.largest:
            return False
        self._answers[key] = answer
        self._models.setdefault(answer.model, set()).add(key)
        self.bytes += answer.size
        self.counts.stored += 1
        self._shrink()
        return True

    def forget(self, model: str, unless: Callable[[Answer], bool] | None = None) -> int:
        """Drop the answers of a model, but for those that ``unless`` speaks for; how many went."""
        keys = [key for key in self._models.get(model, ()) if unless is None or not unless(self._answers[key])]
        for key in keys:
            self._drop(key)
        return len(keys)

    def clear(self) -> int:
        """Drop everything; how many answers went."""
        gone = len(self._answers)
        self._answers.clear()
        self._models.clear()
        self.bytes = 0
        return gone

    def saved(self, now: float) -> list[Saved]:
        """All answers, oldest use first, to be kept elsewhere; their age instead of the clock, which ends with the process."""
        return [
            Saved(key, now - answer.at, answer.status, answer.headers, answer.body, answer.model, answer.digest, answer.stream)
            for key, answer in self._answers.items()
        ]

    def restore(self, saved: Iterable[Saved], now: float) -> int:
        """Take back what `saved` gave; how many answers are in time and fit."""
        return sum(
            one.age <= self._bounds.seconds
            and self.put(
                one.key, Answer(one.status, one.headers, one.body, one.model, one.digest, now - max(0.0, one.age), one.stream)
            )
            for one in saved
        )

    def _shrink(self) -> None:
        bounds = self._bounds
        while self._answers and (len(self._answers) > bounds.entries or self.bytes > bounds.size):
            self._drop(next(iter(self._answers)))
            self.counts.evicted += 1

    def _drop(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is None:
            return
        self.bytes -= answer.size
        of_model = self._models[answer.model]
        of_model.discard(key)
        if not of_model:
            del self._models[answer.model]


class Saved(Struct, frozen=True):
    """An answer as it is exported; ``age`` in seconds. As JSON its bytes are base64."""

    key: bytes
    age: float
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    model: str
    digest: str
    stream: bool = False
