"""What an answer at the usual speed says about the verdict that its node is slow."""

from __future__ import annotations

import pytest

from sollol.core.estimates import SLOW_HALF_LIFE, SlowVerdict


def test_half_of_the_verdict_is_forgotten_in_its_half_life():
    verdict = SlowVerdict()
    verdict.raise_to(11.0, 0.0)
    assert verdict.factor(SLOW_HALF_LIFE) == pytest.approx(6.0)


@pytest.mark.parametrize(("shown", "left"), [(0.8, 1.0), (1.0, 1.0), (3.0, 3.0), (20.0, 10.0)])
def test_an_answer_lowers_the_verdict_and_never_raises_it(shown, left):
    verdict = SlowVerdict()
    verdict.raise_to(10.0, 5.0)
    verdict.shown(shown, 5.0)
    assert verdict.factor(5.0) == pytest.approx(left)


def test_without_a_verdict_a_slow_answer_makes_none():
    verdict = SlowVerdict()
    verdict.shown(4.0, 0.0)
    assert verdict.factor(0.0) == 1.0
