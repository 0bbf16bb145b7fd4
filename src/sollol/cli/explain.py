"""`sollol explain`."""

from __future__ import annotations

from typing import Any, Final

import click

from sollol.cli.client import GatewayClient
from sollol.cli.options import json_option, print_json, print_table, seconds, url_option
from sollol.core.types import Mode

CHARS_PER_TOKEN: Final = 3.7  # of English prose; the gateway itself learns it for each model


@click.command()
@click.argument("model")
@click.option("--prompt-tokens", type=click.IntRange(0, 10_000_000), metavar="N", help="Length of the prompt.")
@click.option("--prompt", metavar="TEXT", help="The prompt itself; only its length is sent.")
@click.option("--priority", type=click.IntRange(1, 10), help="Priority of the request. Default: 5.")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="How the terms are weighed.")
@url_option
@json_option
def explain(
    *,
    model: str,
    prompt_tokens: int | None,
    prompt: str | None,
    priority: int | None,
    mode: str | None,
    gateway: GatewayClient,
    as_json: bool,
) -> int:
    """Show where a request for MODEL would go now, and why.

    Each node is shown with what the answer would cost there, in seconds. Nothing is sent to any node.
    The exit code is 1 if no node can answer.
    """
    if prompt is not None:
        if prompt_tokens is not None:
            raise click.UsageError("Give --prompt or --prompt-tokens, not both.")
        prompt_tokens = max(1, round(len(prompt) / CHARS_PER_TOKEN))
    found = gateway.get("/api/routing/explain", model=model, prompt_tokens=prompt_tokens, priority=priority, mode=mode)
    if as_json:
        print_json(found)
    else:
        print_explanation(found)
    return 0 if found["chosen"] else 1


def print_explanation(found: dict[str, Any]) -> None:
    """The decision, its reason, and a row of seconds for each node."""
    names = {node["node"]: node.get("name") or node["node"] for node in found["nodes"]}
    click.echo(f"{found['model']}: {names.get(found['chosen'], 'no node')}")
    click.echo(f"  {found['reason']}")
    if not found["nodes"]:
        return
    click.echo()
    titles = ("NODE", "STATE", "WAIT", "LOAD", "PREFILL", "DECODE", "EVICT", "LOST", "SUCCESS", "COST", "ETA", "SCORE", "NOTE")
    print_table(titles, [_row(node) for node in found["nodes"]])


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    name = node.get("name") or node["node"]
    if node.get("blocked"):
        return (name, node.get("state"), *[None] * 10, node["blocked"])
    terms = [seconds(node.get(term)) for term in ("wait", "load", "prefill", "decode", "evict", "lost")]
    success, slow = node.get("success"), node.get("slow") or 1.0
    return (
        name,
        node.get("state"),
        *terms,
        None if success is None else f"{100 * success:.0f} %",
        seconds(node.get("cost")),
        seconds(node.get("eta")),
        None if node.get("score") is None else f"{node['score']:.1f}",
        ("free now" if node.get("free") else "busy") + (f", {slow:.1f} times slower than usual" if slow > 1 else ""),
    )
