"""The two small scripts under benchmarks/: their command lines, their figures, and what they say when nothing answers."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.support.bench_stub import Seen, bench_stub

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


async def run(script: str, *arguments: str) -> tuple[int, str]:
    command = (sys.executable, str(BENCHMARKS / script), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=asyncio.subprocess.STDOUT)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def good(seen: Seen) -> None:
    seen.reply({"message": {"role": "assistant", "content": "hello"}, "done": True, "eval_count": 3})


async def test_simple_asks_n_times_and_prints_the_figures(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    async with bench_stub(good) as (url, seen):
        status, output = await run(
            "simple_ollama_benchmark.py", "m", "12", "--url", url, "--concurrency", "4", "--output", str(results)
        )
    assert (status, len(seen)) == (0, 12)
    assert "100.0% (12 of 12)" in output
    assert all(word in output for word in ("req/s", "average latency", "p95 latency", "p99 latency"))
    assert json.loads(results.read_text())["requests"] == 12


async def test_simple_counts_failures_and_shows_their_text() -> None:
    async def first_fails(seen: Seen) -> None:
        if len(requests) == 1:
            seen.reply({"error": "model 'm' not found"}, status=404)
        else:
            await good(seen)

    async with bench_stub(first_fails) as (url, requests):
        status, output = await run("simple_ollama_benchmark.py", "m", "4", "--url", url, "--concurrency", "1")
    assert status == 0
    assert "75.0% (3 of 4)" in output
    assert "1 × 404 model 'm' not found" in output


async def test_comparison_runs_every_node_and_then_the_gateway() -> None:
    async with bench_stub(good) as (first, seen_first), bench_stub(good) as (second, seen_second):

        async def gateway(seen: Seen) -> None:
            if seen.path == "/api/nodes":
                seen.reply({"nodes": [{"url": first}, {"url": second}]})
            else:
                await good(seen)

        async with bench_stub(gateway) as (url, seen):
            status, output = await run("run_benchmarks.py", "--sollol-url", url, "--duration", "0.2")
    assert status == 0, output
    assert "model listed:latest" in output
    assert output.index(f"{first} alone") < output.index(f"{second} alone") < output.index("SOLLOL\n")
    assert "× the best node alone" in output
    assert min(len(seen_first), len(seen_second), len(seen)) > 1


async def test_comparison_says_that_no_gateway_answers(unused_tcp_port: int) -> None:
    status, output = await run("run_benchmarks.py", "--sollol-url", f"http://127.0.0.1:{unused_tcp_port}", "--duration", "1")
    assert status == 1
    assert "nothing answers" in output
