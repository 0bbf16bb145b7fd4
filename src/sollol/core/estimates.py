"""Quantities learned from replies: rates, answer lengths, model use, success. Times are seconds on the engine's clock.

Nothing here decides anything. Every collection is bounded, so that names chosen by strangers cannot grow memory.
"""

from __future__ import annotations

from math import exp
from typing import Generic, TypeVar

GIGA = 1e9
SIZE_8B = 4.9 * GIGA
"""Bytes of an 8B model at four bits: what a model of unknown size counts as."""
PRIOR_GPU = (1000.0, 40.0)
PRIOR_CPU = (50.0, 6.0)
"""Prefill and decode rates (tokens/s) of an 8B model on a node nobody knows anything about."""
CONFIRMED = 30.0
"""Seconds for which a learned rate is believed; later it drifts to the best rate seen, with the same half-life."""
SUCCESS_HALF_LIFE = 300.0
SLOW_HALF_LIFE = 45.0
RATE_WINDOW = 300.0
CHARS_PER_TOKEN = 3.7
IMAGE_TOKENS = 600.0
ANSWER_TOKENS = 200.0


def halved(seconds: float, half_life: float) -> float:
    """What is left of 1 after ``seconds``."""
    return exp(-0.6931471805599453 * seconds / half_life)


K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V], Generic[K, V]):
    """A dict that forgets what was written longest ago once it holds more than ``cap`` entries."""

    def __init__(self, cap: int) -> None:
        super().__init__()
        self.cap = cap

    def put(self, key: K, value: V) -> V:
        """Store as the most recent entry; returns ``value``."""
        if self.pop(key, None) is None and len(self) >= self.cap:
            del self[next(iter(self))]
        self[key] = value
        return value


class Speed:
    """One learned rate in tokens/s of a runner alone on its node. EWMA 0.25; unconfirmed it drifts to the best seen."""

    __slots__ = ("at", "best", "value")

    def __init__(self, value: float, at: float) -> None:
        self.value = value
        self.best = value
        self.at = at

    def learn(self, sample: float, at: float) -> None:
        self.value = now = self.rate(at) * 0.75 + sample * 0.25
        self.at = at
        self.best = max(self.best, now)

    def rate(self, now: float) -> float:
        """The rate believed at ``now``."""
        age = now - self.at - CONFIRMED
        if age <= 0.0 or self.best <= self.value:
            return self.value
        return self.best + (self.value - self.best) * halved(age, CONFIRMED)

    def moving(self, now: float) -> bool:
        """Whether `rate` changes with time at ``now``."""
        return self.best > self.value and now - self.at > CONFIRMED


class Contention:
    """How much each other request on the node slows one down: run time alone × (1 + a*b).

    ``a`` starts at the kind's prior and is then the slope of seconds per token over b, from a fading memory of replies at
    different b; kept within 0–1.
    """

    __slots__ = ("_b", "_bb", "_by", "_n", "_y", "a")

    def __init__(self, prior: float) -> None:
        self.a = prior
        self._n = self._b = self._bb = self._y = self._by = 0.0

    def learn(self, b: float, seconds_per_token: float) -> None:
        fade = 0.95
        self._n = n = self._n * fade + 1.0
        self._b = sb = self._b * fade + b
        self._bb = sbb = self._bb * fade + b * b
        self._y = sy = self._y * fade + seconds_per_token
        self._by = sby = self._by * fade + b * seconds_per_token
        spread = n * sbb - sb * sb
        if n < 3.0 or spread < 0.1 * n * n:
            return  # all at much the same b: nothing to tell the slope from
        slope = (n * sby - sb * sy) / spread
        alone = (sy - slope * sb) / n
        if alone > 0.0:
            self.a += 0.25 * (min(1.0, max(0.0, slope / alone)) - self.a)


class Success:
    """Learned share of attempts that worked: EWMA 0.1, forgotten towards 1 with a half-life of 300 s."""

    __slots__ = ("at", "value")

    def __init__(self) -> None:
        self.value = 1.0
        self.at = 0.0

    def rate(self, now: float) -> float:
        """Within 0–1."""
        if self.value >= 1.0:
            return 1.0
        return 1.0 - (1.0 - self.value) * halved(now - self.at, SUCCESS_HALF_LIFE)

    def learn(self, good: bool, now: float) -> None:
        if good and self.value >= 1.0:
            return
        self.value = self.rate(now) * 0.9 + (0.1 if good else 0.0)
        self.at = now
        if self.value > 0.9999:
            self.value = 1.0

    def withdraw(self, now: float) -> None:
        """Take one failure back."""
        self.value = min(1.0, (self.rate(now)) / 0.9)
        self.at = now


class Rates:
    """What is known of one model on one node. ``prefill``/``decode`` None: never seen there."""

    __slots__ = ("contention", "decode", "prefill", "size", "success")

    def __init__(self, size: float, contention: float) -> None:
        self.size = size
        self.prefill: Speed | None = None
        self.decode: Speed | None = None
        self.contention = Contention(contention)
        self.success = Success()

    def learn_prefill(self, sample: float, at: float) -> None:
        if self.prefill is None:
            self.prefill = Speed(sample, at)
        else:
            self.prefill.learn(sample, at)

    def learn_decode(self, sample: float, at: float) -> None:
        if self.decode is None:
            self.decode = Speed(sample, at)
        else:
            self.decode.learn(sample, at)


class Mean:
    """A mean that starts as the plain mean of the first ten samples and is an EWMA of 0.1 from then on."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def learn(self, sample: float) -> None:
        self.count = min(10, self.count + 1)
        self.value += (sample - self.value) / self.count


class ModelStats:
    """Cluster-wide knowledge of one model: answer length, use, characters per token."""

    __slots__ = ("answer", "chars_per_token", "counted", "counted_at", "image_tokens")

    def __init__(self) -> None:
        self.answer = Mean()
        self.chars_per_token = CHARS_PER_TOKEN
        self.image_tokens = IMAGE_TOKENS
        self.counted = 0.0
        self.counted_at = 0.0

    def count(self, now: float) -> None:
        """One more request for the model."""
        self.counted = self.rate(now) * RATE_WINDOW + 1.0
        self.counted_at = now

    def rate(self, now: float) -> float:
        """Requests per second, as a count that decays over 300 s."""
        if self.counted == 0.0:
            return 0.0
        age = now - self.counted_at
        return self.counted * exp(-age / RATE_WINDOW) / RATE_WINDOW


class SlowVerdict:
    """Factor >= 1 by which a node is believed to be behind its learned rates; half-life 90 s."""

    __slots__ = ("at", "value")

    def __init__(self) -> None:
        self.value = 1.0
        self.at = 0.0

    def factor(self, now: float) -> float:
        if self.value == 1.0:
            return 1.0
        factor = 1.0 + (self.value - 1.0) * halved(now - self.at, SLOW_HALF_LIFE)
        return factor if factor > 1.01 else 1.0

    def raise_to(self, ratio: float, now: float) -> None:
        """A request there is ``ratio`` times behind its forecast; a lower ratio than believed changes nothing."""
        if ratio > self.factor(now):
            self.value = min(ratio, 100.0)
            self.at = now

    def shown(self, ratio: float, now: float) -> None:
        """A whole answer took ``ratio`` times as long as learned rates foresee: no more than that is believed any longer."""
        if self.value != 1.0 and ratio < self.factor(now):
            self.value = max(1.0, ratio)
            self.at = now


def scaled_prior(gpu: bool, size: float) -> tuple[float, float]:
    """Prefill and decode tokens/s of a model of ``size`` bytes (0: unknown) on a node without any history."""
    prefill, decode = PRIOR_GPU if gpu else PRIOR_CPU
    scale = SIZE_8B / size if size > 0.0 else 1.0
    return prefill * scale, decode * scale
