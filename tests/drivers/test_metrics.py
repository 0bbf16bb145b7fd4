"""Metrics and statistics from events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sollol.core.events import AttemptEnded, FirstToken, NodeRemoved, TaskEnded
from sollol.core.types import Counters, Dialect, Kind, Task
from sollol.drivers.metrics import MAX_MODELS, Gauge, Metrics
from sollol.engine.statistics import Statistics


def task(model: str = "m:latest", inputs: int = 1) -> Task:
    return Task(1, Kind.CHAT, Dialect.OLLAMA, "/api/chat", model, b"", 10.0, inputs=inputs)


def ended(model: str = "m:latest", nodes: tuple[str, ...] = ("a:1",), outcome: str = "ok", **more: object) -> TaskEnded:
    status = {"ok": 200, "client-error": 400, "cancelled": 499}.get(outcome, 502)
    inputs = int(str(more.pop("inputs", 1)))
    fields = {"queued": 0.1, "seconds": 2.0, "first_byte": 0.5, "counters": Counters(7, 20), **more}
    return TaskEnded(12.0, task(model, inputs), status, outcome, nodes, **fields)  # type: ignore[arg-type]  # fields of any type


def values(metrics: Metrics, *gauges: Gauge) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(metrics.page(gauges).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_the_promised_names() -> None:
    metrics = Metrics()
    metrics.on_event(FirstToken(10.5, task(), "a:1"))
    metrics.on_event(AttemptEnded(12.0, task(), "a:1", "ok"))
    metrics.on_event(ended())
    found = values(metrics, Gauge("sollol_success_rate", "", ("host",), [(("a:1",), 1.0)]))
    host, model = ("host", "a:1"), ("model", "m:latest")
    assert found["sollol_requests_total"][host, model] == 1
    assert found["sollol_latency_seconds_count"][(host,)] == 1
    assert found["sollol_latency_seconds_sum"][(host,)] == 2.0
    assert found["sollol_time_to_first_token_seconds_sum"][(host,)] == 0.5
    assert found["sollol_tokens_total"][host, ("kind", "output"), model] == 20
    assert found["sollol_tokens_total"][host, ("kind", "prompt"), model] == 7
    assert found["sollol_attempts_total"][host, ("outcome", "ok")] == 1
    assert found["sollol_success_rate"][(host,)] == 1.0


def test_made_up_model_names_cost_nothing() -> None:
    metrics = Metrics()
    for number in range(2 * MAX_MODELS):
        metrics.on_event(ended(f"x{number}:latest", nodes=(), outcome="client-error"))
    assert values(metrics)["sollol_requests_total"] == {(("host", "none"), ("model", "none")): 2 * MAX_MODELS}


@given(st.lists(st.integers(0, 10_000), max_size=600))
def test_models_are_bounded_and_nothing_is_lost(numbers: list[int]) -> None:
    metrics = Metrics()
    for number in numbers:
        metrics.on_event(ended(f"m{number}:latest"))
    found = values(metrics).get("sollol_requests_total", {})
    assert len(found) <= MAX_MODELS + 1
    assert sum(found.values()) == len(numbers)


def test_a_removed_node_is_forgotten_and_may_come_back() -> None:
    metrics = Metrics()
    metrics.on_event(ended())
    metrics.on_event(AttemptEnded(12.0, task(), "a:1", "failed"))
    metrics.on_event(NodeRemoved(13.0, "a:1"))
    metrics.on_event(NodeRemoved(13.0, "never:1"))
    assert b"a:1" not in metrics.page()
    metrics.on_event(ended())
    assert values(metrics)["sollol_requests_total"] == {(("host", "a:1"), ("model", "m:latest")): 1}


def test_failures_by_status() -> None:
    metrics = Metrics()
    for outcome in ("ok", "client-error", "cancelled", "failed", "failed"):
        metrics.on_event(ended(outcome=outcome))
    assert values(metrics)["sollol_failures_total"] == {(("status", "502"),): 2}


def test_two_registries_do_not_meet() -> None:
    Metrics()
    assert b"a:1" not in Metrics().page()


def test_statistics() -> None:
    statistics = Statistics()
    assert statistics.overall.success_rate is None
    assert statistics.overall.latency_ms is None
    assert statistics.overall.first_byte_ms is None
    statistics.on_event(ended())
    statistics.on_event(ended(seconds=4.0, first_byte=None, counters=None))
    statistics.on_event(ended(nodes=("a:1", "b:1")))
    statistics.on_event(AttemptEnded(12.0, task(), "a:1", "failed"))
    statistics.on_event(AttemptEnded(12.0, task(), "a:1", "cancelled"))
    statistics.on_event(ended(outcome="failed"))
    statistics.on_event(ended(outcome="cancelled"))
    statistics.on_event(ended(outcome="client-error"))
    overall = statistics.overall
    assert (statistics.requests, overall.ok, overall.failed) == (6, 3, 1)
    assert (statistics.client_errors, statistics.cancelled, statistics.retried) == (1, 1, 1)
    assert overall.success_rate == 0.75
    assert overall.latency_ms == pytest.approx(8000 / 3)
    assert overall.first_byte_ms == pytest.approx(500)
    assert (overall.prompt_tokens, overall.output_tokens) == (14, 40)
    assert statistics.nodes["a:1"].success_rate == pytest.approx(2 / 3)
    assert statistics.nodes["b:1"].success_rate == 1.0
    statistics.on_event(NodeRemoved(13.0, "a:1"))
    assert set(statistics.nodes) == {"b:1"}


def test_batch_throughput_is_measured_from_batches_alone() -> None:
    statistics = Statistics()
    statistics.on_event(ended())
    assert statistics.nodes["a:1"].batch_throughput is None
    statistics.on_event(ended(inputs=10, seconds=2.0))
    assert statistics.nodes["a:1"].batch_throughput == 5.0
