"""Compare each node asked directly with the same load through SOLLOL.

Usage: python benchmarks/run_benchmarks.py --sollol-url URL --duration SECONDS [--model NAME] [--concurrency C]

The nodes are those that the gateway lists (GET /api/nodes). Every run takes --duration seconds, one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from simple_ollama_benchmark import lines
from sollol.cli.bench import first_model, summarise
from sollol.cli.bench_client import Ask, BadAnswer, Load, get_json
from sollol.core.types import Endpoint
from sollol.errors import ConfigError
from sollol.wire.address import parse_endpoint


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare each node asked directly with the same load through SOLLOL.")
    parser.add_argument("--sollol-url", default="http://127.0.0.1:8000", metavar="URL", help="the running gateway")
    parser.add_argument("--duration", type=float, default=60.0, metavar="SECONDS", help="of each run (default 60)")
    parser.add_argument("--model", help="model to ask (default: the first that the gateway lists)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests under way at once (default 8)")
    parser.add_argument("--api-key", default="", metavar="KEY", help="sent to the gateway as a bearer token")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results as JSON too")
    options = parser.parse_args()
    if options.duration <= 0 or options.concurrency < 1:
        parser.error("--duration has to be over 0, --concurrency at least 1")
    return options


async def node_urls(gateway: Endpoint, api_key: str) -> list[str]:
    """The addresses of the nodes that the gateway knows."""
    listed = (await get_json(gateway, "/api/nodes", api_key)).get("nodes")
    return [str(node["url"]) for node in listed if isinstance(node, dict) and "url" in node] if isinstance(listed, list) else []


def measure(title: str, endpoint: Endpoint, ask: Ask, options: argparse.Namespace) -> dict[str, object]:
    load = Load(endpoint, ask, time.monotonic)
    asyncio.run(load.closed(options.concurrency, options.duration))
    found = summarise(load.record)
    print(f"{title}\n{lines(found)}\n", flush=True)
    return found


def comparison(results: dict[str, dict[str, object]]) -> str:
    """Through SOLLOL against the best node alone, in requests per second; every run had the same number of clients."""
    alone = [float(str(found["rps"])) for title, found in results.items() if title != "SOLLOL"]
    through = float(str(results["SOLLOL"]["rps"]))
    if not alone or not max(alone):
        return f"SOLLOL: {through:.2f} req/s; no node answered directly to compare with"
    return f"SOLLOL: {through:.2f} req/s, {through / max(alone):.2f} × the best node alone ({max(alone):.2f})"


def main() -> int:
    options = arguments()
    try:
        gateway = parse_endpoint(options.sollol_url)
        model = options.model or asyncio.run(first_model(gateway, options.api_key))
        nodes = asyncio.run(node_urls(gateway, options.api_key))
    except (ConfigError, BadAnswer) as error:
        print(f"{options.sollol_url}: {error}", file=sys.stderr)
        return 2
    except (OSError, EOFError) as error:
        print(f"nothing answers at {options.sollol_url}: {error or 'the connection was closed'}", file=sys.stderr)
        return 1
    print(f"model {model}, {options.concurrency} clients, {options.duration:g} s a run, {len(nodes)} nodes\n", flush=True)
    results: dict[str, dict[str, object]] = {}
    try:
        for url in nodes:
            results[url] = measure(f"{url} alone", parse_endpoint(url), Ask(model, stream=False), options)
        results["SOLLOL"] = measure("SOLLOL", gateway, Ask(model, stream=False, api_key=options.api_key), options)
    except KeyboardInterrupt:
        print("stopped")
        return 130
    print(comparison(results))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0 if results["SOLLOL"]["requests"] != results["SOLLOL"]["errors"] else 1


if __name__ == "__main__":
    sys.exit(main())
