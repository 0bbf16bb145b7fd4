"""`sollol up`."""

from __future__ import annotations

import logging
from pathlib import Path

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
def up(
    *,
    host: str | None,
    port: int | None,
    nodes: tuple[str, ...],
    no_discovery: bool,
    demo_if_empty: bool,
    file: Path | None,
    log_level: str | None,
) -> int:
    """Run the gateway until Ctrl-C.

    It looks for nodes (Ollama, llama.cpp, vLLM, LM Studio) on this machine and the local networks, prints what it found and its
    address, and answers Ollama and OpenAI clients there through the best node.
    """
    loaded = load(
        {
            "gateway.host": host,
            "gateway.port": port,
            "nodes": list(nodes) or None,
            "discovery.enabled": False if no_discovery else None,
            "discovery.demo_if_empty": True if demo_if_empty else None,
            "log.level": log_level,
        },
        file=file,
    )
    for words in loaded.ignored:
        click.echo(f"note: {words}", err=True)
    log_to_stderr(loaded.config.log)
    from sollol.server import run  # noqa: PLC0415 - `sollol up --help` does without the gateway

    return run(loaded.config, announce=click.echo)


def log_to_stderr(settings: Log) -> None:
    """Write log records as configured: one line each, text or JSON, to standard error."""
    from sollol.drivers.request_log import JsonFormatter, TextFormatter  # noqa: PLC0415 - loaded only when something runs

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
