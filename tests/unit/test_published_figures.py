"""The figures in README and documentation are those of the runs that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run_named(pattern: str) -> Any:
    """The one results file that the README names."""
    [name] = set(re.findall(rf"benchmarks/results/({pattern})", README))
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bars() -> dict[tuple[str, str, str], float]:
    """By row, front door and the words of the bar before its limit."""
    found = run_named(r"\d{4}-\d\d-\d\d-\w{7}\.json")["bars"]
    return {(bar["row"], bar["door"], re.split(r" [≤≥]", bar["bar"])[0]): bar["value"] for bar in found}


def row(beginning: str) -> str:
    """The one line of a table in the README that begins so."""
    [line] = [line for line in README.splitlines() if line.startswith(f"| {beginning}")]
    return line


def test_requests_per_second(bars):
    told = row("requests per second, 64 clients")
    for door, words in (("sollol", "{:.2f} × vllm-router, {:.0f} × LiteLLM"), ("sollol compiled", "{:.2f} ×, {:.0f} ×")):
        ratios = [bars["throughput", door, f"requests per second ÷ {peer}'s"] for peer in ("vllm-router", "litellm")]
        assert f"| {words.format(*ratios)} |" in told


def test_added_latency(bars):
    told = row("added latency")
    for door in ("sollol", "sollol compiled"):
        assert f"| {bars['latency', door, 'added latency at one client, median, ms']:.2f} ms |" in told


def test_streams(bars):
    told = row("1,000 streams")
    for door, after in (("sollol", " nginx, nothing lost or reordered"), ("sollol compiled", "")):
        ratio, memory = bars["streams", door, "first byte p99 ÷ nginx's"], bars["streams", door, "memory, MB (RSS)"]
        assert f"| {ratio:.2f} ×{after}; {memory:.0f} MB |" in told
        assert bars["streams", door, "streams lost, reordered, cut or failed"] == 0


def test_slots_that_are_not_configured(bars):
    told = row("three nodes of 100 ms")
    for door in ("sollol", "sollol compiled"):
        assert f"| {bars['unknown-slots', door, 'requests per second ÷ direct']:.2f} " in told


def test_start_idle_and_stop(bars):
    figures = [bars["life", "sollol", what] for what in ("`sollol up` to the first routed reply, s", "idle gateway, MB (RSS)")]
    stop = bars["life", "sollol", "stop when idle, s"]
    assert f"| {figures[0]:.1f} s; {figures[1]:.0f} MB; {stop:.2f} s |" in row("`sollol up` to the first routed reply")


@pytest.mark.parametrize(
    ("beginning", "scenario"),
    [
        ("chat on unequal nodes", "chat-high"),
        ("five models that do not fit", "many-models"),
        ("first burst on a cold gateway", "cold-burst"),
        ("burst on warm nodes", "warm-burst"),
    ],
)
def test_ways_of_choosing_a_node(beginning, scenario):
    runs = run_named(r"simulation-[\d-]+\.json")["scenarios"][scenario]["runs"]
    told = row(beginning)
    for policy in ("ours", "least connections", "round robin"):
        ratio = median(run["mean"] / ideal["mean"] for run, ideal in zip(runs[policy], runs["ideal"], strict=True))
        assert f"| {ratio:.2f} |" in told or f"| {ratio:.0f} |" in told, (policy, ratio)


def test_batches():
    page = (ROOT / "docs" / "decisions" / "0014-nodes-pull-from-a-batch.md").read_text(encoding="utf-8")
    [name] = set(re.findall(r"batches-[\d-]+\.json", page))
    scenarios = json.loads((RESULTS / name).read_text(encoding="utf-8"))["scenarios"]
    pages = {
        "600 items": "600 items, 20 and 110 ms",
        "60 items": "60 items, 20 and 110 ms",
        "30 items": "30 items, 20 and 110 ms",
        "the fast node dies half-way": "the fast node dies half-way",
        "a third node, 300 times slower": "a node 300 times slower",
    }
    for beginning, scenario in pages.items():
        worst = max(run["times_ideal"] for run in scenarios[scenario])
        assert f"| {beginning} | {worst:.2f} × " in page, (beginning, worst)
    for beginning, scenario in (("10,000 vectors", "10,000 vectors as lists"), ("the same", "10,000 vectors as an array")):
        slowest = min(run["per_second"] for run in scenarios[scenario])
        [line] = [line for line in page.splitlines() if line.startswith(f"| {beginning}")]
        assert f"| {slowest:,.0f} a second" in line
