"""Options and ways of printing that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from sollol.cli.client import GatewayClient
from sollol.config_sources import client

Command = TypeVar("Command", bound=Callable[..., Any])


def url_option(command: Command) -> Command:
    """--url: which gateway to talk to; the command gets a `GatewayClient` as `gateway`."""

    def connect(_context: click.Context, _parameter: click.Parameter, value: str | None) -> GatewayClient:
        return GatewayClient(client(url=value))

    return click.option(
        "--url",
        "gateway",
        metavar="URL",
        callback=connect,
        help="The gateway to talk to. Default: SOLLOL_URL, else the configured host and port.",
    )(command)


def json_option(command: Command) -> Command:
    """--json: print one JSON document instead of words."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [list(titles), *([_cell(value) for value in row] for row in rows)]
    numeric = [all(_is_number(row[column]) for row in cells[1:]) for column in range(len(titles))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    for row in cells:
        parts = [
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())


def seconds(value: float | None) -> str:
    """A duration in few characters: 0.8 ms, 240 ms, 1.35 s, 2.5 min."""
    if value is None:
        return "–"
    if value >= 120:
        return f"{value / 60:.1f} min" if value < 7_200 else f"{value / 3_600:.1f} h"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1_000:.0f} ms" if value >= 0.01 or value == 0 else f"{value * 1_000:.1f} ms"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "–"
    # what a node says of itself must not move the cursor of a terminal
    return "".join(char if char.isprintable() else "?" for char in str(value))


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.replace(".", "", 1).removesuffix(" ms").removesuffix(" s").isdigit()
