"""Ask one Ollama, llama.cpp server or gateway N times and say how it did.

Usage: python benchmarks/simple_ollama_benchmark.py MODEL N [--url URL] [--concurrency C]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from sollol.cli.bench import summarise
from sollol.cli.bench_client import Ask, Load
from sollol.errors import ConfigError
from sollol.wire.address import parse_endpoint

HOUR = 3600.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Ask one server N times and say how it did.")
    parser.add_argument("model")
    parser.add_argument("requests", type=int, metavar="N", help="how many requests, at least 1")
    parser.add_argument("--url", default="http://127.0.0.1:11434", help="the server (default: Ollama on this machine)")
    parser.add_argument("--concurrency", type=int, default=5, help="requests under way at once (default 5)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    options = parser.parse_args()
    if options.requests < 1 or options.concurrency < 1:
        parser.error("N and --concurrency have to be at least 1")
    return options


def lines(found: dict[str, object]) -> str:
    """The figures of `summarise` as this script has always shown them: success, throughput, mean, p95, p99."""
    requests, errors, latency = found["requests"], found["errors"], found["latency_ms"]
    assert isinstance(requests, int) and isinstance(errors, int) and isinstance(latency, dict)
    rate = (requests - errors) / requests if requests else 0.0
    shown = {name: "–" if latency[name] is None else f"{latency[name]:,.0f} ms" for name in ("mean", "p95", "p99")}
    return (
        f"  success rate     {rate:.1%} ({requests - errors} of {requests})\n"
        f"  throughput       {found['rps']} req/s\n"
        f"  average latency  {shown['mean']}\n  p95 latency      {shown['p95']}\n  p99 latency      {shown['p99']}"
    )


def main() -> int:
    options = arguments()
    try:
        endpoint = parse_endpoint(options.url)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    load = Load(endpoint, Ask(options.model, stream=False), time.monotonic)
    print(f"{options.model} at {endpoint.url}: {options.requests} requests, {options.concurrency} at once", flush=True)
    try:
        asyncio.run(load.closed(min(options.concurrency, options.requests), HOUR, limit=options.requests))
    except KeyboardInterrupt:
        print("stopped; what was measured so far:")
    found = summarise(load.record)
    print(lines(found))
    errors = found["error_texts"]
    for text, count in errors.items() if isinstance(errors, dict) else ():
        print(f"  {count} × {text}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0 if found["requests"] != found["errors"] else 1


if __name__ == "__main__":
    sys.exit(main())
