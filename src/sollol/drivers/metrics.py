"""Prometheus metrics, fed by the events. A registry of its own: a library must not write into the global one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sollol.core.events import AttemptEnded, Event, FirstToken, NodeRemoved, TaskEnded
from sollol.core.types import Task

MAX_MODELS: Final = 200
MAX_HOSTS: Final = 1_000
OTHER: Final = "other"
NONE: Final = "none"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# From a cached embedding to a long answer after a cold load.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Gauge(Struct, frozen=True):
    """A figure that is read when somebody asks, not counted: for each set of label values one value."""

    name: str
    text: str
    labels: tuple[str, ...]
    values: Sequence[tuple[tuple[str, ...], float]]


class _Gauges(Collector):
    def __init__(self, gauges: Sequence[Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for gauge in self._gauges:
            family = GaugeMetricFamily(gauge.name, gauge.text, labels=gauge.labels)
            for values, value in gauge.values:
                family.add_metric(values, value)
            yield family


class _Host:
    """The children of one host, bound once: looking one up by its labels costs more than counting."""

    __slots__ = ("attempts", "first", "latency")

    def __init__(self, latency: Histogram, first: Histogram) -> None:
        self.latency = latency
        self.first = first
        self.attempts: dict[str, Counter] = {}


class _HostModel:
    __slots__ = ("output", "prompt", "requests")

    def __init__(self, requests: Counter, prompt: Counter, output: Counter) -> None:
        self.requests = requests
        self.prompt = prompt
        self.output = output


class Metrics:
    """Listens to an engine (``engine.listen(metrics.on_event)``); `page` is what ``GET /metrics`` answers.

    Label values come from outside, so they are bounded: 200 models and 1,000 hosts, everything beyond is "other"; requests
    that reached no node count under host and model "none", so that made-up names cost nothing.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry(auto_describe=False)
        self._registry = registry
        self._requests = Counter("sollol_requests", "Finished requests", ("host", "model"), registry=registry)
        self._failures = Counter("sollol_failures", "Requests that failed for their client", ("status",), registry=registry)
        self._attempts = Counter("sollol_attempts", "Attempts on nodes", ("host", "outcome"), registry=registry)
        self._tokens = Counter("sollol_tokens", "Tokens as nodes count them", ("host", "model", "kind"), registry=registry)
        self._latency = Histogram(
            "sollol_latency_seconds", "Arrival to last byte", ("host",), buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "sollol_time_to_first_token_seconds", "Arrival to first byte", ("host",), buckets=_SECONDS, registry=registry
        )
        self._queued = Histogram("sollol_queue_seconds", "Time in the queue", buckets=_SECONDS, registry=registry)
        self._hosts: dict[str, _Host] = {}
        self._pairs: dict[tuple[str, str], _HostModel] = {}
        self._models: set[str] = set()

    def page(self, gauges: Sequence[Gauge] = ()) -> bytes:
        """The metrics, and the gauges as they stand now, in Prometheus's text format."""
        now = CollectorRegistry()
        now.register(_Gauges(gauges))
        return generate_latest(self._registry) + generate_latest(now)

    def on_event(self, event: Event) -> None:
        """Count one event; quick, and never fails."""
        if isinstance(event, TaskEnded):
            self._ended(event)
        elif isinstance(event, FirstToken):
            self._host(event.node).first.observe(event.at - event.task.arrived)
        elif isinstance(event, AttemptEnded):
            self._attempt(event)
        elif isinstance(event, NodeRemoved):
            self._forget(event.node)

    def _ended(self, event: TaskEnded) -> None:
        pair = self._pair(event.nodes[-1], event.task) if event.nodes else self._bind(NONE, NONE)
        pair.requests.inc()
        if event.outcome == "failed" or event.status >= 500:
            self._failures.labels(str(event.status)).inc()
        if not event.nodes:
            return
        self._queued.observe(event.queued)
        if event.outcome == "ok":
            self._host(event.nodes[-1]).latency.observe(event.seconds)
        if event.counters is not None:
            pair.prompt.inc(event.counters.prompt_tokens or 0)
            pair.output.inc(event.counters.output_tokens or 0)

    def _attempt(self, event: AttemptEnded) -> None:
        host = self._host(event.node)
        child = host.attempts.get(event.outcome)
        if child is None:
            child = host.attempts[event.outcome] = self._attempts.labels(self._host_label(event.node), event.outcome)
        child.inc()

    def _host(self, node: str) -> _Host:
        label = self._host_label(node)
        host = self._hosts.get(label)
        if host is None:
            host = self._hosts[label] = _Host(self._latency.labels(label), self._first.labels(label))
        return host

    def _host_label(self, node: str) -> str:
        return node if node in self._hosts or len(self._hosts) < MAX_HOSTS else OTHER

    def _pair(self, node: str, task: Task) -> _HostModel:
        model = task.model
        if model not in self._models:
            if len(self._models) < MAX_MODELS:
                self._models.add(model)
            else:
                model = OTHER
        self._host(node)
        return self._bind(self._host_label(node), model)

    def _bind(self, host: str, model: str) -> _HostModel:
        pair = self._pairs.get((host, model))
        if pair is None:
            pair = self._pairs[host, model] = _HostModel(
                self._requests.labels(host, model),
                self._tokens.labels(host, model, "prompt"),
                self._tokens.labels(host, model, "output"),
            )
        return pair

    def _forget(self, node: str) -> None:
        host = self._hosts.pop(node, None)
        if host is None:
            return
        self._latency.remove(node)
        self._first.remove(node)
        for outcome in host.attempts:
            self._attempts.remove(node, outcome)
        for pair in [pair for pair in self._pairs if pair[0] == node]:
            del self._pairs[pair]
            self._requests.remove(*pair)
            self._tokens.remove(*pair, "prompt")
            self._tokens.remove(*pair, "output")
