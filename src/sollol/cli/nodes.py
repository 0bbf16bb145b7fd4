"""`sollol nodes ...`."""

from __future__ import annotations

from typing import Any

import click

from sollol.cli.client import GatewayClient, node_path
from sollol.cli.options import json_option, print_json, print_table, seconds, url_option


@click.group()
def nodes() -> None:
    """List, add, remove, drain or change the nodes of a running gateway.

    A node is named by its id (host:port) or its name, as `sollol nodes list` shows them.
    """


@nodes.command("list")
@url_option
@json_option
def list_nodes(gateway: GatewayClient, as_json: bool) -> None:
    """Show every node that is known."""
    found = gateway.get("/api/nodes")
    if as_json:
        print_json(found)
    else:
        print_nodes(found)


@nodes.command()
@click.argument("address")
@click.option("--name", help="What to call it.")
@click.option("--priority", type=click.IntRange(1, 10), help="Higher is preferred; 1 is the last resort. Default: 5.")
@click.option("--slots", type=click.IntRange(1, 4_096), help="Requests it works on at a time. Default: learned.")
@click.option("--api-key", metavar="KEY", help="The key that this node wants.")
@url_option
@json_option
def add(
    *,
    address: str,
    name: str | None,
    priority: int | None,
    slots: int | None,
    api_key: str | None,
    gateway: GatewayClient,
    as_json: bool,
) -> None:
    """Add the node at ADDRESS ("host", "host:port" or a URL)."""
    given = {"url": address, "name": name, "priority": priority, "slots": slots, "api_key": api_key}
    _print_one(
        gateway.call("POST", "/api/nodes", {key: value for key, value in given.items() if value is not None}), "added", as_json
    )


@nodes.command()
@click.argument("node")
@url_option
@json_option
def remove(node: str, gateway: GatewayClient, as_json: bool) -> None:
    """Forget NODE. What it works on now is finished."""
    reply = gateway.call("DELETE", node_path(node))
    if as_json:
        print_json(reply)
    else:
        click.echo(f"removed {node}")


@nodes.command()
@click.argument("node")
@url_option
@json_option
def drain(node: str, gateway: GatewayClient, as_json: bool) -> None:
    """Send NODE nothing new; what it works on is finished."""
    _print_one(gateway.call("PATCH", node_path(node), {"draining": True}), "draining", as_json)


@nodes.command()
@click.argument("node")
@url_option
@json_option
def undrain(node: str, gateway: GatewayClient, as_json: bool) -> None:
    """Use NODE again after `drain`."""
    _print_one(gateway.call("PATCH", node_path(node), {"draining": False}), "in use again:", as_json)


@nodes.command("set")
@click.argument("node")
@click.option("--name", help="What to call it.")
@click.option("--priority", type=click.IntRange(1, 10), help="Higher is preferred; 1 is the last resort.")
@click.option("--slots", type=click.IntRange(1, 4_096), help="Requests it works on at a time.")
@url_option
@json_option
def change(
    *, node: str, name: str | None, priority: int | None, slots: int | None, gateway: GatewayClient, as_json: bool
) -> None:
    """Change the name, priority or slots of NODE."""
    given = {"name": name, "priority": priority, "slots": slots}
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("Nothing to change: give --name, --priority or --slots.")
    _print_one(gateway.call("PATCH", node_path(node), changes), "changed", as_json)


def print_nodes(found: dict[str, Any]) -> None:
    """The nodes as a table, or where they were looked for when there is none."""
    if not found["nodes"]:
        click.echo("No node is known. Add one: `sollol nodes add URL`.")
        for words in found.get("searched", ()):
            click.echo(f"  searched: {words}")
        return
    titles = ("NODE", "NAME", "KIND", "STATE", "PRIORITY", "SLOTS", "BUSY", "LATENCY", "MODELS", "NOTE")
    print_table(titles, [_row(node) for node in found["nodes"]])


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    slots = node.get("slots")
    latency = node.get("latency_ms")
    return (
        node["id"],
        node.get("name") if node.get("name") != node["id"] else None,
        node.get("kind"),
        "draining" if node.get("draining") else node.get("state"),
        node.get("priority"),
        slots if slots is None or node.get("slots_known", True) else f"~{slots}",
        node.get("in_flight"),
        None if latency is None else seconds(latency / 1_000),
        len(node.get("models", ())),
        "emulated" if node.get("emulated") else node.get("last_error"),
    )


def _print_one(node: dict[str, Any], done: str, as_json: bool) -> None:
    if as_json:
        print_json(node)
        return
    name = node.get("name")
    click.echo(f"{done} {node['id']}" + (f" ({name})" if name and name != node["id"] else ""))
    if node.get("warning"):
        click.echo(f"note: {node['warning']}", err=True)
