"""Requests drawn from a seed: who asks, when, how long the prompt and the answer are. Equal seeds give equal requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from sollol.core.types import Mode
from sollol.emulator.specs import NodeSpec


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the world knows it. ``counted`` false: it only warms up. ``chars`` is what a gateway sees of the prompt.

    ``char_boundaries`` and ``token_boundaries`` are the same message boundaries in characters and in tokens. ``watched``: not
    among the counted, but looked at by itself.
    """

    id: int
    at: float
    client: str
    model: str
    prompt_tokens: int
    output_tokens: int
    chars: int
    priority: int = 5
    mode: Mode = Mode.BALANCED
    num_ctx: int | None = None
    char_boundaries: tuple[tuple[int, int], ...] = ()
    token_boundaries: tuple[tuple[int, int], ...] = ()
    after: tuple[int, int] | None = None
    counted: bool = True
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """A program with habits of its own: mean answer, mean prompt, characters per token, share of the requests."""

    name: str
    answer: float
    prompt: float
    chars_per_token: float
    share: float


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody who asks, and how often they ask for which model (name -> weight)."""

    clients: tuple[Client, ...]
    models: tuple[tuple[str, float], ...]

    @property
    def answer(self) -> float:
        """Mean answer tokens of a request."""
        return sum(c.answer * c.share for c in self.clients) / sum(c.share for c in self.clients)

    @property
    def prompt(self) -> float:
        """Mean prompt tokens of a request."""
        return sum(c.prompt * c.share for c in self.clients) / sum(c.share for c in self.clients)


ANSWER_SPREAD, PROMPT_SPREAD = 0.6, 0.8
"""Sigma of the lognormal lengths within one client."""


def people(models: Sequence[tuple[str, float]], count: int = 8, answer: float = 150.0, prompt: float = 500.0) -> Population:
    """``count`` clients, the first ones busier than the last; answers of 0.4 to 2 × the mean. The same for every seed."""
    random = Random("people")
    clients = []
    for number in range(count):
        long = 0.4 + 1.6 * number / max(1, count - 1)
        wordy = random.uniform(0.5, 1.5)
        clients.append(Client(f"client-{number}", answer * long, prompt * wordy, random.uniform(3.2, 4.4), 1.0 / (number + 2)))
    return Population(tuple(clients), tuple(models))


def capacity(nodes: Sequence[NodeSpec], population: Population) -> float:
    """Requests per second that the nodes together can answer, every slot busy, nothing loading."""
    total = 0.0
    weights = sum(weight for _, weight in population.models)
    for node in nodes:
        known = {model.name: model for model in node.models}
        alone = 0.0
        for name, weight in population.models:
            spec = known[name]
            alone += (
                weight / weights * (population.prompt / node.prefill_rate(spec) + population.answer / node.decode_rate(spec))
            )
        total += node.slots / ((1.0 + node.contention * (node.slots - 1)) * alone)
    return total


class Source:
    """Draws requests one after the other; ids count up from ``first``."""

    def __init__(self, population: Population, seed: str, first: int = 1) -> None:
        self._random = Random(seed)
        self._people = population
        self._next = first
        self._shares = list(accumulate(client.share for client in population.clients))
        self._names = [name for name, _ in population.models]
        self._weights = list(accumulate(weight for _, weight in population.models))

    def draw(self, at: float, *, counted: bool = True) -> Request:
        """One request that arrives at ``at``."""
        random = self._random
        client = random.choices(self._people.clients, cum_weights=self._shares)[0]
        model = random.choices(self._names, cum_weights=self._weights)[0]
        prompt = max(8, round(client.prompt * lognormal(random, PROMPT_SPREAD)))
        answer = max(2, round(client.answer * lognormal(random, ANSWER_SPREAD)))
        chars = round(prompt * client.chars_per_token * random.uniform(0.9, 1.1))
        number, self._next = self._next, self._next + 1
        return Request(number, at, client.name, model, prompt, min(answer, 4000), chars, counted=counted)

    def steady(self, rate: float, count: int, start: float = 0.0, *, counted: bool = True) -> list[Request]:
        """``count`` requests at random times, ``rate`` a second on average."""
        requests, at = [], start
        for _ in range(count):
            at += self._random.expovariate(rate)
            requests.append(self.draw(at, counted=counted))
        return requests

    def burst(self, count: int, start: float, seconds: float = 1.0) -> list[Request]:
        """``count`` requests within ``seconds``."""
        times = sorted(self._random.uniform(start, start + seconds) for _ in range(count))
        return [self.draw(at) for at in times]


def lognormal(random: Random, sigma: float) -> float:
    """A lognormal number of mean 1."""
    return random.lognormvariate(-sigma * sigma / 2.0, sigma)
