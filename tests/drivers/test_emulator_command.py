"""`sollol emulate`, as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from tests.support.emulated import ask

from sollol.cli.emulate import chosen, emulate
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
    result = CliRunner().invoke(emulate, arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output


async def started(*arguments: str) -> asyncio.subprocess.Process:
    code = "from sollol.cli.emulate import emulate; emulate()"
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments, stdout=-1, stderr=-1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_the_command_prints_addresses_that_answer_and_stops_on_a_signal():
    process = await started("--nodes", "2", "--port", "0", "--json")
    assert process.stdout is not None
    nodes = json.loads(await process.stdout.readline())["nodes"]
    assert [n["name"] for n in nodes] == ["node-1", "node-2"]
    for node in nodes:
        host, _, port = node["url"].removeprefix("http://").partition(":")
        address = cast("EmulatedNode", SimpleNamespace(host=host, port=int(port)))
        assert (await ask(address, "GET", "/")).body == b"Ollama is running"
    # A node that refuses and is healed, on whatever event loop the command runs.
    one, other = (cast("EmulatedNode", SimpleNamespace(host="127.0.0.1", port=int(n["url"].rpartition(":")[2]))) for n in nodes)
    await ask(one, "POST", "/_emulator/faults?node=node-2", {"refuse": True})
    with pytest.raises(ConnectionRefusedError):
        await ask(other, "GET", "/")
    await ask(one, "POST", "/_emulator/faults?node=node-2", {})
    assert (await ask(other, "GET", "/")).status == 200
    busy = await started("--nodes", "1", "--port", nodes[0]["url"].rpartition(":")[2])
    _, words = await busy.communicate()
    assert busy.returncode == 1
    assert b"try another --port" in words
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_the_command_prints_words_for_people():
    process = await started("--port", "0", "--models", "llama3.2:1b")
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(5)]
    assert "fast-gpu (emulated ollama): llama3.2:1b" in lines[0]
    assert "Ctrl-C" in lines[4]
    process.terminate()
    await process.communicate()
    assert process.returncode == 0
