"""`sollol status`."""

from __future__ import annotations

from typing import Any

import click

from sollol.cli.client import GatewayClient
from sollol.cli.nodes import print_nodes
from sollol.cli.options import json_option, print_json, seconds, url_option


@click.command()
@url_option
@json_option
def status(gateway: GatewayClient, as_json: bool) -> None:
    """Say what runs, which nodes it has, and how they do."""
    health = gateway.health()
    stats = gateway.get("/api/stats")
    nodes = gateway.get("/api/nodes")
    if as_json:
        print_json({"health": health, "stats": stats, "nodes": nodes["nodes"]})
        return
    known = health.get("nodes", {})
    click.echo(
        f"SOLLOL {health.get('version')} at {health.get('address') or gateway.url}, "
        f"up {seconds(health.get('uptime_seconds'))}, process {health.get('pid')}"
    )
    click.echo(f"nodes     {known.get('usable', 0)} of {known.get('known', 0)} can be used")
    click.echo(f"requests  {_requests(stats)}")
    click.echo()
    print_nodes(nodes)


def _requests(stats: dict[str, Any]) -> str:
    total = stats.get("total_requests", 0)
    if not total:
        return "none yet"
    words = f"{total} in all, {stats.get('failed_requests', 0)} failed"
    latency = stats.get("avg_latency_ms")
    return words if latency is None else f"{words}, {seconds(latency / 1_000)} on average"
