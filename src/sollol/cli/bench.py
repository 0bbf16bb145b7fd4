"""`sollol bench`: load on a running gateway or node, and what it did with it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from math import ceil
from random import Random

import click
import msgspec

from sollol.cli.bench_client import Ask, BadAnswer, Load, Record, get_json
from sollol.config_sources import client
from sollol.core.types import Endpoint
from sollol.errors import ConfigError
from sollol.wire.address import parse_endpoint

PATHS = (
    "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
)  # fmt: skip
INTERRUPTED = 130


def quantile(values: Sequence[float], q: float) -> float | None:
    """The nearest-rank quantile of sorted values; None of nothing."""
    return values[min(len(values) - 1, max(0, ceil(q * len(values)) - 1))] if values else None


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(values)
    found = {f"p{round(q * 100)}": quantile(ordered, q) for q in (0.5, 0.95, 0.99)}
    found["mean"] = sum(ordered) / len(ordered) if ordered else None
    return {name: None if value is None else round(value * 1e3, 3) for name, value in found.items()}


def summarise(record: Record) -> dict[str, object]:
    """The figures of a run: times in ms, rates per second, shares of nodes from 0 to 1. Only good replies give latencies."""
    good = [outcome for outcome in record.outcomes if not outcome.error]
    seconds = max(record.seconds, 1e-9)
    nodes = Counter(outcome.node for outcome in good if outcome.node)
    return {
        "requests": len(record.outcomes),
        "errors": len(record.outcomes) - len(good),
        "unfinished": record.unfinished,
        "seconds": round(record.seconds, 3),
        "rps": round(len(good) / seconds, 2),
        "latency_ms": _spread([outcome.seconds for outcome in good]),
        "first_token_ms": _spread([outcome.first for outcome in good if outcome.first is not None]),
        "tokens": sum(outcome.tokens for outcome in good),
        "tokens_per_second": round(sum(outcome.tokens for outcome in good) / seconds, 2),
        "nodes": {node: round(count / len(good), 4) for node, count in nodes.most_common()},
        "error_texts": dict(Counter(outcome.error for outcome in record.outcomes if outcome.error).most_common(5)),
    }


def _milliseconds(value: object) -> str:
    return "–" if not isinstance(value, int | float) else f"{value:,.1f} ms" if value < 10_000 else f"{value / 1e3:,.1f} s"


def _spread_line(title: str, spread: object) -> str:
    if not isinstance(spread, dict) or spread["p50"] is None:
        return f"{title:<20} –"
    return f"{title:<20} " + "   ".join(f"{name} {_milliseconds(spread[name])}" for name in ("p50", "p95", "p99", "mean"))


def render(found: dict[str, object]) -> str:
    """The figures as a person reads them."""
    unfinished = f", {found['unfinished']} unfinished" if found["unfinished"] else ""
    lines = [
        f"{'requests':<20} {found['requests']}, {found['errors']} errors{unfinished}, in {found['seconds']} s",
        f"{'requests per second':<20} {found['rps']}",
        _spread_line("latency", found["latency_ms"]),
        _spread_line("first token", found["first_token_ms"]),
        f"{'tokens per second':<20} {found['tokens_per_second']} ({found['tokens']} tokens)",
    ]
    nodes, errors = found["nodes"], found["error_texts"]
    if isinstance(nodes, dict) and nodes:
        lines += ["nodes", *(f"  {node:<40} {share:6.1%}" for node, share in nodes.items())]
    if isinstance(errors, dict) and errors:
        lines += ["errors", *(f"  {count:>5} × {text}" for text, count in errors.items())]
    return "\n".join(lines)


async def _progress(record: Record) -> None:
    """Once a second, over the last line of the terminal."""
    before = 0
    while True:
        await asyncio.sleep(1)
        done = len(record.outcomes)
        errors = sum(1 for outcome in record.outcomes if outcome.error)
        text = f"{done} answered, {done - before}/s, {record.sent - done} under way, {errors} errors"
        click.echo(f"\r{text:<70}", nl=False, err=True)
        before = done


async def _run(load: Load, concurrency: int, rate: float | None, duration: float, show: bool) -> None:
    progress = asyncio.create_task(_progress(load.record)) if show else None
    try:
        if rate is None:
            await load.closed(concurrency, duration)
        else:
            await load.open(rate, duration, Random())
    finally:
        if progress:
            progress.cancel()
            click.echo(f"\r{'':<70}\r", nl=False, err=True)


async def first_model(endpoint: Endpoint, api_key: str) -> str:
    """The first model that the server lists. Raises what `get_json` raises, `BadAnswer` where there is none."""
    listed = (await get_json(endpoint, "/v1/models", api_key)).get("data")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        return str(listed[0].get("id", ""))
    raise BadAnswer("it lists no model")


def _found_model(endpoint: Endpoint, model: str | None, api_key: str) -> str:
    """Ask the server once before any load, so that nothing there is said plainly."""
    try:
        first = asyncio.run(first_model(endpoint, api_key))
    except TimeoutError:
        raise click.ClickException(f"nothing answers at {endpoint.url}: no connection within 5 s") from None
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "the connection was closed"
        raise click.ClickException(f"nothing answers at {endpoint.url}: {reason}. Start a gateway with: sollol up") from None
    except BadAnswer as error:
        if model:
            return model
        raise click.ClickException(f"{endpoint.url} answers, but {error}; name a model with --model") from None
    return model or first


@click.command()
@click.argument("url", required=False)
@click.option("--model", metavar="NAME", help="Model to ask; default: the first that the server lists.")
@click.option("--path", type=click.Choice(PATHS), default="/api/chat", show_default=True, metavar="PATH", help=", ".join(PATHS))
@click.option(
    "--concurrency", type=click.IntRange(1, 10_000), default=8, show_default=True, help="Clients that ask again when answered."
)
@click.option("--rate", type=click.FloatRange(0, 100_000, min_open=True), help="Instead: requests per second, at random times.")
@click.option(
    "--duration",
    type=click.FloatRange(0.1, 86_400),
    default=10.0,
    show_default=True,
    help="Seconds in which requests are sent.",
)
@click.option("--stream/--no-stream", default=True, show_default=True, help="Whether replies are streamed.")
@click.option("--prompt", default=Ask.__dataclass_fields__["prompt"].default, metavar="TEXT", help="What to ask.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="Longest answer; default: as the model pleases.")
@click.option("--api-key", default="", envvar="SOLLOL_API_KEY", metavar="KEY", help="Sent as a bearer token.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    *,
    url: str | None,
    model: str | None,
    path: str,
    concurrency: int,
    rate: float | None,
    duration: float,
    stream: bool,
    prompt: str,
    max_tokens: int | None,
    api_key: str,
    as_json: bool,
) -> None:
    """Put load on the gateway or node at URL and print what it did. Default: SOLLOL_URL, else the configured gateway.

    With --concurrency, each client asks again as soon as it is answered. With --rate, requests are due at random (Poisson)
    times, and their latency counts from then, so that a stall shows in full. Ctrl-C prints what was measured so far.
    """
    try:
        endpoint = parse_endpoint(url or client().url)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    ask = Ask(_found_model(endpoint, model, api_key), path, prompt, stream, max_tokens, api_key)
    load = Load(endpoint, ask, time.monotonic)
    show = not as_json and sys.stderr.isatty()
    if not as_json:
        how = f"{rate:g} requests/s" if rate else f"{concurrency} clients"
        click.echo(f"{endpoint.url}{path}, model {ask.model}, {how}, {duration:g} s")
    interrupted = False
    try:
        asyncio.run(_run(load, concurrency, rate, duration, show))
    except KeyboardInterrupt:
        interrupted = True
    found = summarise(load.record)
    click.echo(msgspec.json.encode(found).decode() if as_json else render(found))
    if interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    if found["requests"] == found["errors"]:
        raise click.exceptions.Exit(1)
