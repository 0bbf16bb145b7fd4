"""A machine that vanishes without a word: connections to it end in about two seconds, and nobody else waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.netns import ROOT, Lan, environment, lan

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns")]
FAR = "10.77.8.20"


@contextmanager
def program(namespace: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in a namespace; killed at the end of the block."""
    command = ["ip", "netns", "exec", namespace, sys.executable, "-u", "-m", *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline()


def vanish(network: Lan) -> None:
    """Nobody has that address any longer: what is sent there is dropped, and nothing comes back."""
    network.batch(network.there, [f"addr del {FAR}/32 dev lan1"])


def test_a_vanished_machine_fails_in_two_seconds_and_delays_nobody() -> None:
    node = (
        "sollol",
        "emulate",
        "--preset",
        "instant",
        "--delay",
        "0.001",
        "--models",
        "llama3.2:1b",
        "--host",
        FAR,
        "--port",
        "11434",
    )
    with lan() as network:
        network.address("10.77.8.1/24")
        network.others(FAR)
        network.route_back("10.77.8.1/32")
        network.drop([FAR])  # its hardware address stays known, so that packets to it are really sent
        with program(network.there, *node) as far:
            assert FAR in line(far)
            with program(network.here, "tests.support.vanishing", f"{FAR}:11434") as gateway:
                warm = json.loads(line(gateway))["warm"]
                assert [reply["status"] for reply in warm] == [200, 200]
                vanish(network)
                assert gateway.stdin is not None
                gateway.stdin.write("vanished\n")
                gateway.stdin.flush()
                found = json.loads(line(gateway))
    burst, after = found["burst"], found["after"]
    assert [reply["status"] for reply in burst + after] == [200] * 32
    moved = [reply for reply in burst if reply["attempts"] != "1"]
    assert moved  # they were sent to the vanished machine, and answered by the other one
    assert all(1.5 < reply["seconds"] < 4 for reply in moved)
    assert all(reply["seconds"] < 1 for reply in burst if reply["attempts"] == "1")
    assert found["down"] is not None
    assert found["down"] < 4
    assert all((reply["attempts"], reply["seconds"] < 1) == ("1", True) for reply in after)
