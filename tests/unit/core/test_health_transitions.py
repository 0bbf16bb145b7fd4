from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.health import FAILURES, NodeHealth, Signal, open_seconds
from sollol.core.types import Health

SEEN, REFUSED, SILENT, WORKED, FAILED = Signal.SEEN, Signal.REFUSED, Signal.SILENT, Signal.WORKED, Signal.FAILED


def after(*signals: Signal, at: float = 0.0) -> NodeHealth:
    health = NodeHealth()
    for signal in signals:
        health.on(signal, at)
    return health


@pytest.mark.parametrize(
    ("signals", "state"),
    [
        ([], Health.UNKNOWN),
        ([SEEN], Health.UP),
        ([WORKED], Health.UP),
        ([REFUSED], Health.DOWN),
        ([SILENT], Health.UNKNOWN),
        ([SILENT, SILENT], Health.DOWN),
        ([SEEN, REFUSED], Health.DOWN),
        ([SEEN, SILENT], Health.UP),
        ([SEEN, SILENT, SEEN, SILENT], Health.UP),
        ([SEEN, SILENT, SILENT], Health.DOWN),
        ([REFUSED, SEEN], Health.UP),
        ([REFUSED, WORKED], Health.UP),
        ([REFUSED, FAILED], Health.DOWN),
        ([SEEN, *[FAILED] * 4], Health.UP),
        ([SEEN, *[FAILED] * 4, WORKED, FAILED], Health.UP),
        ([SEEN, *[FAILED] * 5], Health.OPEN),
        ([*[FAILED] * 5], Health.OPEN),
        ([SEEN, *[FAILED] * 5, SEEN, SEEN], Health.OPEN),
        ([SEEN, *[FAILED] * 5, WORKED], Health.UP),
        ([SEEN, *[FAILED] * 5, REFUSED], Health.DOWN),
        ([SEEN, *[FAILED] * 5, SILENT, SILENT], Health.DOWN),
        ([SEEN, *[FAILED] * 5, REFUSED, SEEN], Health.HALF_OPEN),
        ([SEEN, *[FAILED] * 5, REFUSED, SEEN, REFUSED], Health.DOWN),
        ([SEEN, *[FAILED] * 5, REFUSED, SEEN, SILENT, SILENT], Health.DOWN),
    ],
)
def test_transitions(signals, state):
    assert after(*signals).state is state


def test_breaker_lets_one_through_after_its_interval_and_doubles_it_up_to_a_minute():
    health = after(SEEN, *[FAILED] * FAILURES)
    now = 0.0
    for seconds in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        assert health.retry_at == pytest.approx(now + seconds)
        assert health.at(health.retry_at - 0.01) is Health.OPEN
        now = health.retry_at
        assert health.at(now) is Health.HALF_OPEN
        health.on(Signal.DUE, now)
        assert health.state is Health.HALF_OPEN
        health.on(FAILED, now)
        assert health.state is Health.OPEN
    now = health.retry_at
    assert health.on(WORKED, now)
    assert health.state is Health.UP
    assert (health.failures, health.openings) == (0, 0)


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.9), (0.5, 1.0), (0.999, 1.0998)])
def test_interval_is_spread_by_chance(jitter, factor):
    assert open_seconds(1, jitter) == pytest.approx(5.0 * factor)


@pytest.mark.parametrize(
    ("failures", "of", "seconds"),
    [(0, 10, 60.0), (1, 40, 60.0), (1, 12, 30.0), (1, 1, 15.0), (3, 3, 5.0)],
)
def test_probe_interval_follows_the_failure_rate(failures, of, seconds):
    health = after(SEEN)
    for number in range(of):
        health.success.learn(number >= failures, 0.0)
    assert health.probe_interval(0.0) == seconds


def test_probes_are_due_at_once_then_by_interval_and_every_second_when_down():
    health = NodeHealth()
    assert not health.looks
    assert health.probe_at(123.0) == 123.0
    health.on(SEEN, 123.0)
    health.looked(123.0)
    assert health.probe_at(150.0) == 183.0
    assert health.probe_at(150.0, overdue=True) == 128.0
    health.on(REFUSED, 130.0)
    health.looked(130.0)
    assert health.probe_at(130.5) == 131.0
    health.on(SEEN, 131.0)
    health.looked(131.0)
    health.on(SILENT, 140.0)
    assert health.probe_interval(140.0) == 1.0
    unknown = NodeHealth()
    unknown.looked(0.0)
    assert unknown.probe_interval(0.0) == 5.0


def test_failures_are_forgotten_with_time():
    health = after(SEEN)
    health.success.learn(False, 0.0)
    assert health.failure_rate(0.0) == pytest.approx(0.1)
    assert health.failure_rate(300.0) == pytest.approx(0.05)


def test_draining_shows_unless_the_node_is_down():
    health = after(SEEN)
    health.draining = True
    assert health.state is Health.DRAINING
    assert health.at(1e9) is Health.DRAINING
    health.on(REFUSED, 1.0)
    assert health.state is Health.DOWN


def test_a_withdrawn_failure_closes_the_breaker_that_it_opened():
    health = after(SEEN)
    for _ in range(FAILURES):
        health.success.learn(False, 0.0)
        health.on(FAILED, 0.0)
    before = health.success.value
    assert health.withdraw(1.0)
    assert health.state is Health.UP
    assert health.failures == FAILURES - 1
    assert health.success.value > before
    assert not health.withdraw(1.0)


def test_a_withdrawn_failure_leaves_a_breaker_that_others_opened():
    health = after(SEEN, *[FAILED] * 7)
    assert not health.withdraw(1.0)
    assert health.state is Health.OPEN


@given(st.lists(st.tuples(st.sampled_from(list(Signal)), st.floats(0, 20), st.floats(0, 0.999)), max_size=60))
def test_open_only_after_failures_and_a_good_probe_never_closes_it(steps):
    health, now = NodeHealth(), 0.0
    for signal, seconds, jitter in steps:
        now += seconds
        before = health.at(now)
        changed = health.on(signal, now, jitter)
        state = health.state
        assert changed == (state is not before) or before is Health.HALF_OPEN
        if before is Health.OPEN:
            assert state in {Health.OPEN, Health.DOWN} or signal is WORKED
        if state is Health.OPEN:
            assert health.failures >= FAILURES
            assert health.retry_at - now <= 66.0
        if signal is WORKED:
            assert state is Health.UP
