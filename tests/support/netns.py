"""Two network namespaces of the test's own, joined by a wire: no packet leaves them. Needs root and iproute2 (mark: netns)."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()


def _ip(*arguments: str, text: str | None = None) -> None:
    subprocess.run(["ip", *arguments], check=True, input=text, text=True, capture_output=True, timeout=20)


class Lan:
    """``here`` is the namespace of the machine that searches, ``there`` the one in which all other machines live."""

    def __init__(self, here: str, there: str) -> None:
        self.here = here
        self.there = there

    def batch(self, namespace: str, commands: Sequence[str]) -> None:
        """Run many `ip` commands in one namespace."""
        _ip("-n", namespace, "-batch", "-", text="\n".join(commands) + "\n")

    def address(self, address: str) -> None:
        """Give the searching machine an address with its prefix length, "10.77.1.1/24"."""
        _ip("-n", self.here, "addr", "add", address, "dev", "lan0")

    def others(self, *addresses: str) -> None:
        """Addresses of machines that answer: with what listens there, else "connection refused"."""
        self.batch(self.there, [f"addr add {address}/32 dev lan1" for address in addresses])

    def route_back(self, network: str) -> None:
        """The other machines reach the network through the wire."""
        _ip("-n", self.there, "route", "add", network, "dev", "lan1")

    def refuse(self, network: str) -> None:
        """Every address of the network is a machine that refuses connections."""
        _ip("-n", self.there, "route", "add", "local", network, "dev", "lo")

    def drop(self, addresses: Sequence[str]) -> None:
        """Machines that are there and drop what comes. All other addresses do not even exist."""
        mac = json.loads(subprocess.check_output(["ip", "-n", self.there, "-j", "link", "show", "lan1"], timeout=20))[0][
            "address"
        ]
        self.batch(self.here, [f"neigh add {address} lladdr {mac} dev lan0" for address in addresses])

    def run(self, *arguments: str, seconds: float = 30.0) -> Any:
        """Run `tests.support.inside` with these arguments on the searching machine; its JSON output."""
        command = _command(self.here, arguments)
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment(), capture_output=True, timeout=seconds)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    @contextlib.contextmanager
    def serving(self, namespace: str, *arguments: str) -> Iterator[None]:
        """Run `tests.support.inside` in the background from when it says "ready" to the end of the block."""
        command = _command(namespace, arguments)
        with subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdin is not None
            try:
                assert server.stdout.readline() == b"ready\n"
                yield
            finally:
                server.stdin.close()
                server.wait(10)


def _command(namespace: str, arguments: Sequence[str]) -> list[str]:
    return ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.support.inside", *arguments]


def environment() -> dict[str, str]:
    """Searching is not restricted there: the namespace is the restriction."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SOLLOL_", "OLLAMA_"))}


@contextlib.contextmanager
def lan() -> Iterator[Lan]:
    """Two namespaces with loopback and a wire between them (lan0 here, lan1 there); removed at the end, whatever happened."""
    name = f"sollol-test-{os.getpid()}-{next(_numbers)}"
    here, there = f"{name}-here", f"{name}-there"
    made = []
    try:
        for namespace in (here, there):
            _ip("netns", "add", namespace)
            made.append(namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", here, "link", "add", "lan0", "type", "veth", "peer", "name", "lan1", "netns", there)
        _ip("-n", here, "link", "set", "lan0", "up")
        _ip("-n", there, "link", "set", "lan1", "up")
        yield Lan(here, there)
    finally:
        for namespace in made:
            _ip("netns", "del", namespace)
