"""`sollol up`."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import click

from sollol.config import Log
from sollol.config_sources import load


@click.command()
@click.option("--host", metavar="H", help="Address to listen on. Default: 127.0.0.1, which only this machine reaches.")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="P", help="Port to listen on. Default: 8000; 0: any free one.")
@click.option("--node", "nodes", multiple=True, metavar="URL", help="A node that is known beforehand. May be repeated.")
@click.option("--no-discovery", is_flag=True, help="Use only the nodes that are named; look for no others.")
@click.option("--demo-if-empty", is_flag=True, help="If no node is found, start three emulated ones to try things with.")
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="Settings. Default: ./sollol.toml.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log. Default: info.")
@click.option("--log-requests/--no-log-requests", default=None, help="A line for each request. Default: not on a terminal.")
def up(
    *,
    host: str | None,
    port: int | None,
    nodes: tuple[str, ...],
    no_discovery: bool,
    demo_if_empty: bool,
    file: Path | None,
    log_level: str | None,
    log_requests: bool | None,
) -> int:
    """Run the gateway until Ctrl-C.

    It looks for nodes (Ollama, llama.cpp, vLLM, LM Studio) on this machine and the local networks, prints what it found and its
    address, and answers Ollama and OpenAI clients there through the best node.
    """
    arguments = {
        "gateway.host": host,
        "gateway.port": port,
        "nodes": list(nodes) or None,
        "discovery.enabled": False if no_discovery else None,
        "discovery.demo_if_empty": True if demo_if_empty else None,
        "log.level": log_level,
        "log.requests": log_requests,
    }
    loaded = load(arguments, file=file)
    for words in loaded.ignored:
        click.echo(f"note: {words}", err=True)
    from sollol.server import run  # noqa: PLC0415 - `sollol up --help` does without the gateway

    return run(loaded.config, announce=say, read=lambda: load(arguments, file=file).config, tell=log_to_stderr)


def say(text: str) -> None:
    """Print a line. That nobody can read it (the terminal was closed, `| head` has enough) is no reason to stop serving."""
    with suppress(OSError):
        click.echo(text)


def log_to_stderr(settings: Log) -> TextIO | None:
    """Write log records as configured: one line each, text or JSON, to standard error. Returns where lines of requests go.

    None where they go nowhere: on a terminal they would stand between what `sollol up` says to the person there.
    """
    from sollol.drivers.request_log import LOGGER, JsonFormatter, TextFormatter  # noqa: PLC0415 - only when something runs

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    wanted = not sys.stderr.isatty() if settings.requests == "auto" else settings.requests
    logging.getLogger(LOGGER).setLevel(logging.NOTSET if wanted else logging.WARNING)
    return sys.stderr if wanted and settings.level in ("debug", "info") else None
