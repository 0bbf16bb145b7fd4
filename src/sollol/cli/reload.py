"""`sollol reload`."""

from __future__ import annotations

from typing import Any

import click

from sollol.cli.client import GatewayClient
from sollol.cli.options import json_option, print_json, url_option


@click.command()
@url_option
@json_option
def reload(gateway: GatewayClient, as_json: bool) -> None:
    """Make the gateway read its settings again. No request is dropped; with a broken file nothing changes."""
    done = gateway.call("POST", "/api/reload", {})
    if as_json:
        print_json(done)
        return
    lines = list(_lines(done))
    for line in lines or ["nothing has changed"]:
        click.echo(line)


def _lines(done: dict[str, Any]) -> list[str]:
    nodes = done["nodes"]
    found = (
        ("changed", done["changed"]),
        ("nodes added", nodes["added"]),
        ("nodes removed", nodes["removed"]),
        ("nodes changed", nodes["changed"]),
        ("after a restart", done["restart"]),
    )
    lines = [f"{title + ':':<17}{', '.join(names)}" for title, names in found if names]
    return [*lines, *(f"note: {note}" for note in nodes["notes"])]
