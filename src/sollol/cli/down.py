"""`sollol down`."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
import psutil

from sollol.cli.client import GatewayClient
from sollol.config_sources import Client, client, load
from sollol.errors import SollolError

SPARE_SECONDS: Final = 2.0


@click.command()
@click.option(
    "--url", metavar="URL", help="Which gateway to stop. Default: SOLLOL_URL, else the one that `sollol up` recorded."
)
def down(url: str | None) -> None:
    """Stop the gateway that `sollol up` started on this machine. Running answers may finish."""
    settings = load().config
    patience = settings.gateway.shutdown_seconds + SPARE_SECONDS
    where, pid = _find(settings.data_dir, client(url=url), asked=bool(url))
    process = _asked_to_end(where, pid)
    if not _ended(process, patience):
        raise SollolError(f"The gateway at {where.url} (process {pid}) is still finishing after {patience:.0f} s.")
    click.echo(f"stopped the gateway at {where.url} (process {pid})")


def _ended(process: psutil.Process, seconds: float) -> bool:
    """Wait until the process has ended; one that only waits for its parent to notice has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            process.wait(0.02)
            return True
        except psutil.TimeoutExpired:
            with suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_ZOMBIE:
                    return True
    return False


def _find(folder: Path, where: Client, *, asked: bool) -> tuple[Client, int]:
    """Where the gateway answers, and its process; the record and the gateway itself have to agree."""
    records = _records(folder)
    if not asked and where.url not in {record["url"] for record in records}:
        # it was started on another port than the configured one; if there is just one such, that is meant
        alive = [record for record in records if _answers(Client(record["url"], where.key)) == record["pid"]]
        if len(alive) > 1:
            raise SollolError(
                "Several gateways run: " + ", ".join(record["url"] for record in alive) + ". Name one with --url."
            )
        if alive:
            return Client(alive[0]["url"], where.key), alive[0]["pid"]
    pid = GatewayClient(where).health(5.0).get("pid")
    if not any(record["pid"] == pid for record in records):
        raise SollolError(
            f"The gateway at {where.url} was not started by `sollol up` on this machine with this data folder ({folder}): "
            "stop it where it was started."
        )
    assert isinstance(pid, int)
    return where, pid


def _answers(where: Client) -> int | None:
    try:
        pid = GatewayClient(where).health(5.0).get("pid")
    except SollolError:
        return None
    return pid if isinstance(pid, int) else None


def _records(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("gateway-*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and isinstance(record.get("url"), str) and isinstance(record.get("pid"), int):
            found.append(record)
    return found


def _asked_to_end(where: Client, pid: int) -> psutil.Process:
    try:
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGTERM)  # on Windows this is TerminateProcess: running answers are cut off there
    except (psutil.NoSuchProcess, ProcessLookupError):
        raise SollolError(
            f"The gateway at {where.url} says that it is process {pid}, which is not on this machine: "
            "stop it where it was started."
        ) from None
    except PermissionError:
        raise SollolError(f"The gateway at {where.url} (process {pid}) belongs to another user, who can stop it.") from None
    return process
