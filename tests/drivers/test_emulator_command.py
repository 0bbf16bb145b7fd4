"""`sollol emulate`, as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from tests.support.emulated import Got, ask

from sollol.cli.emulate import chosen
from sollol.cli.main import cli
from sollol.core.types import NodeKind
from sollol.emulator.node import EmulatedNode

DEFAULTS: dict[str, Any] = {
    "preset": None,
    "nodes": None,
    "kind": "ollama",
    "models": None,
    "slots": None,
    "delay": 0.1,
    "speed": 1.0,
}


def specs(**options: Any) -> Any:
    return chosen(**(DEFAULTS | options))


def test_which_nodes_the_options_mean():
    assert [s.name for s in specs()] == [s.name for s in specs(preset="demo")] == ["fast-gpu", "slow-gpu", "cpu"]
    assert [s.name for s in specs(nodes=2)] == [s.name for s in specs(preset="same", nodes=2)] == ["node-1", "node-2"]
    assert [s.fixed_delay for s in specs(preset="instant", delay=0.5)] == [0.5]
    assert [s.slots for s in specs(slots=7)] == [7] * 3
    assert [m.name for m in specs(models="llama3.2:1b, my-embed")[0].models] == ["llama3.2:1b", "my-embed:latest"]
    assert specs(models="my-embed")[0].models[0].embeds
    assert [len(s.models) for s in specs(kind="llama.cpp")] == [1] * 3
    assert {s.kind for s in specs(kind="vllm")} == {NodeKind.VLLM}
    assert specs(speed=2)[0].decode == 2 * specs()[0].decode


@pytest.mark.parametrize("arguments", [["--nodes", "0"], ["--kind", "sollol"], ["--speed", "0"], ["--port", "99999"]])
def test_wrong_options_are_said(arguments):
    result = CliRunner().invoke(cli, ["emulate", *arguments])
    assert result.exit_code == 2
    assert arguments[0] in result.output


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    code = "from sollol.cli.emulate import emulate; emulate()"
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def get(url: str, method: str = "GET", path: str = "/", body: Any = None) -> Got:
    address = SimpleNamespace(host="127.0.0.1", port=int(url.rpartition(":")[2]))
    return asyncio.run(ask(cast("EmulatedNode", address), method, path, body))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_command_prints_addresses_that_answer_and_stops_on_a_signal():
    with started("--nodes", "2", "--port", "0", "--json") as process:
        assert process.stdout is not None
        nodes = json.loads(process.stdout.readline())["nodes"]
        assert [n["name"] for n in nodes] == ["node-1", "node-2"]
        one, other = (n["url"] for n in nodes)
        assert get(one).body == get(other).body == b"Ollama is running"
        # Refusing and healing, on whatever event loop the command runs.
        get(one, "POST", "/_emulator/faults?node=node-2", {"refuse": True})
        with pytest.raises(ConnectionRefusedError):
            get(other)
        get(one, "POST", "/_emulator/faults?node=node-2", {})
        assert get(other).status == 200
        with started("--nodes", "1", "--port", one.rpartition(":")[2]) as busy:
            words = busy.communicate()[1]
        assert busy.returncode == 1
        assert b"try another --port" in words
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b""
        assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_command_prints_words_for_people():
    with started("--port", "0", "--models", "llama3.2:1b") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(5)]
        assert "fast-gpu (emulated ollama): llama3.2:1b" in lines[0]
        assert "Ctrl-C" in lines[4]
        process.terminate()
        process.communicate()
        assert process.returncode == 0
