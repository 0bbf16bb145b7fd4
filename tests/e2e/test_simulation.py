"""The short form of the simulation: what is promised of the decision holds, in virtual time and from fixed seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.simulate.__main__ import SHORT_SCALE, SHORT_SEEDS, main
from benchmarks.simulate.measure import Outcome, play, run
from benchmarks.simulate.scenarios import IDEAL, OURS, SIMPLE, Bar, all_scenarios

SCENARIOS = all_scenarios()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SCENARIOS)
def test_what_is_promised_holds(name: str) -> None:
    outcome = play(SCENARIOS[name], range(1, 1 + SHORT_SEEDS), SHORT_SCALE)
    assert outcome.broken() == []


def test_every_scenario_is_compared_with_the_simple_policies_and_the_ideal() -> None:
    for scenario in SCENARIOS.values():
        assert {OURS, IDEAL, *SIMPLE} <= set(scenario.policies)
        assert {bar.versus for bar in scenario.promises} >= set(SIMPLE)


@pytest.mark.parametrize("policy", [OURS, IDEAL, *SIMPLE])
def test_equal_seeds_give_equal_figures(policy: str) -> None:
    scenario = SCENARIOS["chat-high"]
    assert run(scenario, policy, 3, 0.05) == run(scenario, policy, 3, 0.05)
    assert run(scenario, policy, 3, 0.05) != run(scenario, policy, 4, 0.05)


def test_a_broken_promise_is_said() -> None:
    scenario = SCENARIOS["chat-high"]
    figures = {policy: [run(scenario, policy, 1, 0.05)] for policy in scenario.policies}
    swapped = Outcome(scenario, figures | {OURS: figures[SIMPLE[0]], IDEAL: figures[OURS]})
    assert any(line.startswith("chat-high: mean is ") and "promised ≤ 1.1" in line for line in swapped.broken())
    assert Bar("mean", IDEAL, 1.10) in scenario.promises


def test_the_command_prints_tables_and_writes_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main(["--short", "--scenario", "cold-burst", "--details", "--seed", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| first burst, cold gateway |" in printed
    assert "mean ≤ 1.15 × ideal" in printed
    written = json.loads(file.read_text())
    assert written["broken"] == []
    runs = written["scenarios"]["cold-burst"]["runs"]
    assert set(runs) == {OURS, IDEAL, *SIMPLE}
    assert all(figures["refused"] == figures["lost"] == 0 for one in runs.values() for figures in one)
