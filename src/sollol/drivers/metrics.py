"""Prometheus metrics, fed by the events: counted here, told in Prometheus's format by its own library when somebody asks.

Counting is on the path of every request, so it is plain numbers: a child of the library's own histogram costs 3 µs for each
observation, these cost 0.3. Nothing goes into the library's global registry.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from sollol.core.events import AttemptEnded, Event, FirstToken, NodeRemoved, TaskEnded
from sollol.core.types import Task

MAX_MODELS: Final = 200
MAX_HOSTS: Final = 1_000
OTHER: Final = "other"
NONE: Final = "none"
CACHE: Final = "cache"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# From a cached embedding to a long answer after a cold load.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_BOUNDS: Final = (*(str(bound) for bound in _SECONDS), "+Inf")


class Gauge(Struct, frozen=True):
    """A figure that is read when somebody asks, not counted: for each set of label values one value."""

    name: str
    text: str
    labels: tuple[str, ...]
    values: Sequence[tuple[tuple[str, ...], float]]


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _gauge(gauge: Gauge) -> Metric:
    family = GaugeMetricFamily(gauge.name, gauge.text, labels=gauge.labels)
    for values, value in gauge.values:
        family.add_metric(values, value)
    return family


class Spread:
    """A histogram of seconds: how many were at most each bound, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as the format wants them."""
        total = 0
        told = []
        for bound, count in zip(_BOUNDS, self.counts, strict=True):
            total += count
            told.append((bound, float(total)))
        return told


class _Host:
    __slots__ = ("attempts", "first", "latency")

    def __init__(self) -> None:
        self.latency = Spread()
        self.first = Spread()
        self.attempts: dict[str, int] = {}


class _Pair:
    """One host and model."""

    __slots__ = ("output", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = self.prompt = self.output = 0


class Metrics:
    """Listens to an engine, with ``on_event`` or with what ``takes`` has for each kind; `page` is the answer of ``/metrics``.

    Label values come from outside, so they are bounded: 200 models and 1,000 hosts, everything beyond is "other"; requests
    that reached no node count under host and model "none", so that made-up names cost nothing; those that got the answer of
    another request count under host "cache".
    """

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._models: set[str] = set()
        self._failures: dict[int, int] = {}
        self._cached: dict[str, int] = {}
        self._hedged = 0
        self._resumed = 0
        self._queued = Spread()
        self.takes: Mapping[type[Event], Callable[..., None]] = {
            TaskEnded: self._ended,
            FirstToken: self._first_token,
            AttemptEnded: self._attempt,
            NodeRemoved: self._forget,
        }

    def page(self, gauges: Sequence[Gauge] = ()) -> bytes:
        """The metrics, and the gauges as they stand now, in Prometheus's text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families([*self._counted(), *map(_gauge, gauges)]))
        return generate_latest(registry)

    def on_event(self, event: Event) -> None:
        """Count one event; quick, and never fails."""
        take = self.takes.get(type(event))
        if take is not None:
            take(event)

    def _counted(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("sollol_requests", "Finished requests", labels=("host", "model"))
        tokens = CounterMetricFamily("sollol_tokens", "Tokens as nodes count them", labels=("host", "model", "kind"))
        for labels, pair in self._pairs.items():
            requests.add_metric(labels, pair.requests)
            tokens.add_metric((*labels, "prompt"), pair.prompt)
            tokens.add_metric((*labels, "output"), pair.output)
        failures = CounterMetricFamily("sollol_failures", "Requests that failed for their client", labels=("status",))
        for status, count in self._failures.items():
            failures.add_metric((str(status),), count)
        attempts = CounterMetricFamily("sollol_attempts", "Attempts on nodes", labels=("host", "outcome"))
        latency = HistogramMetricFamily("sollol_latency_seconds", "Arrival to last byte", labels=("host",))
        first = HistogramMetricFamily("sollol_time_to_first_token_seconds", "Arrival to first byte", labels=("host",))
        for label, host in self._hosts.items():
            for outcome, count in host.attempts.items():
                attempts.add_metric((label, outcome), count)
            latency.add_metric((label,), host.latency.buckets(), host.latency.sum)
            first.add_metric((label,), host.first.buckets(), host.first.sum)
        cached = CounterMetricFamily("sollol_cached", "Requests that got another one's answer", labels=("how",))
        for how, count in self._cached.items():
            cached.add_metric((how,), count)
        hedged = CounterMetricFamily("sollol_hedged", "Requests that ran on two nodes, where the first answer won")
        hedged.add_metric((), self._hedged)
        resumed = CounterMetricFamily("sollol_resumed", "Times that another node went on with an answer in its middle")
        resumed.add_metric((), self._resumed)
        queued = HistogramMetricFamily("sollol_queue_seconds", "Time in the queue")
        queued.add_metric((), self._queued.buckets(), self._queued.sum)
        yield from (requests, failures, attempts, tokens, cached, hedged, resumed, latency, first, queued)

    def _first_token(self, event: FirstToken) -> None:
        self._host(event.node).first.observe(event.at - event.task.arrived)

    def _ended(self, event: TaskEnded) -> None:
        if event.nodes:
            pair = self._pair(event.nodes[-1], event.task)
        elif event.cache:
            self._cached[event.cache] = self._cached.get(event.cache, 0) + 1
            pair = self._bind(CACHE, self._model_label(event.task.model))
        else:
            pair = self._bind(NONE, NONE)
        pair.requests += 1
        if event.hedged:
            self._hedged += 1
        self._resumed += event.resumed
        if event.outcome == "failed" or event.status >= 500:
            self._failures[event.status] = self._failures.get(event.status, 0) + 1
        if not event.nodes:
            return
        self._queued.observe(event.queued)
        if event.outcome == "ok":
            host = self._host(event.nodes[-1])
            host.latency.observe(event.seconds)
            if not event.task.stream and event.first_byte is not None:  # of a stream `FirstToken` has told it
                host.first.observe(event.first_byte)
        counters = event.counters
        if counters is not None:
            pair.prompt += counters.prompt_tokens or 0
            pair.output += counters.output_tokens or 0

    def _attempt(self, event: AttemptEnded) -> None:
        attempts = self._host(event.node).attempts
        attempts[event.outcome] = attempts.get(event.outcome, 0) + 1

    def _host(self, node: str) -> _Host:
        host = self._hosts.get(node)
        if host is not None:
            return host
        return self._hosts.setdefault(self._host_label(node), _Host())

    def _host_label(self, node: str) -> str:
        return node if node in self._hosts or len(self._hosts) < MAX_HOSTS else OTHER

    def _pair(self, node: str, task: Task) -> _Pair:
        pair = self._pairs.get((node, task.model))
        if pair is not None:
            return pair
        self._host(node)
        return self._bind(self._host_label(node), self._model_label(task.model))

    def _model_label(self, model: str) -> str:
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHER
            self._models.add(model)
        return model

    def _bind(self, host: str, model: str) -> _Pair:
        return self._pairs.setdefault((host, model), _Pair())

    def _forget(self, event: NodeRemoved) -> None:
        if self._hosts.pop(event.node, None) is not None:
            self._pairs = {labels: pair for labels, pair in self._pairs.items() if labels[0] != event.node}
