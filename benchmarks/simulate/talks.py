"""Conversations: each prompt is what was said before and something new, and comes a while after the last answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.simulate.clusters import CHAT
from benchmarks.simulate.traffic import Request, lognormal
from benchmarks.simulate.world import World

CHARS_PER_TOKEN = 3.9


@dataclass(frozen=True, slots=True)
class Habits:
    """Tokens of the system prompt (the same for all), of the first message, of a later one and of an answer (means), and the
    mean seconds between an answer and the next message."""

    system: int
    opening: float
    message: float
    answer: float
    pause: float


class Talk:
    """One conversation. `next` gives the request that comes at a time, after the answer to the one before."""

    def __init__(self, number: int, client: str, turns: int, habits: Habits, random: Random) -> None:
        self._number = number
        self._client = client
        self._left = turns
        self._habits = habits
        self._random = random
        self._ends = [(habits.system, hash((0, habits.system)))]

    def next(self, at: float, id_: int) -> Request | None:
        """The next turn; None after the last."""
        if not self._left:
            return None
        self._left -= 1
        habits, random = self._habits, self._random
        mean = habits.opening if len(self._ends) == 1 else habits.message
        self._say(max(4, round(mean * lognormal(random, 0.6))))
        ends = tuple(self._ends)
        answer = max(4, round(habits.answer * lognormal(random, 0.6)))
        after = self._say(answer)
        return Request(
            id_,
            at,
            self._client,
            CHAT.name,
            ends[-1][0],
            answer,
            round(ends[-1][0] * CHARS_PER_TOKEN),
            char_boundaries=tuple((round(tokens * CHARS_PER_TOKEN), value) for tokens, value in ends),
            token_boundaries=ends,
            after=after,
        )

    def _say(self, tokens: int) -> tuple[int, int]:
        so_far, value = self._ends[-1]
        said = (so_far + tokens, hash((value, self._number, tokens, len(self._ends))))
        self._ends.append(said)
        return said

    def pause(self) -> float:
        """Seconds until the next message."""
        return self._random.expovariate(1.0 / self._habits.pause)


def converse(world: World, begins: list[tuple[float, Talk]]) -> None:
    """Let the conversations happen, each beginning at its time."""
    talks: dict[int, Talk] = {}
    count = 0

    def turn(talk: Talk, at: float) -> None:
        nonlocal count
        request = talk.next(at, count + 1)
        if request is not None:
            count += 1
            talks[request.id] = talk
            world.arrive(request)

    def answered(request: Request) -> None:
        talk = talks.pop(request.id)
        turn(talk, world.now + talk.pause())

    world.on_end = answered
    for at, talk in begins:
        turn(talk, at)


def spread(seed: str, count: int, rate: float, make: Callable[[int, Random], Talk]) -> list[tuple[float, Talk]]:
    """``count`` conversations that begin at random times, ``rate`` a second."""
    random = Random(seed)
    begins, at = [], 0.0
    for number in range(count):
        at += random.expovariate(rate)
        begins.append((at, make(number, random)))
    return begins
