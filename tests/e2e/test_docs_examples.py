"""Every example in README and docs that can be run is run, against a gateway before emulated nodes.

What a fence says decides. ``sh`` and ``python`` are run. Of ``console`` the lines after ``$`` are run, and what they print has
to look like what is shown. ``toml`` has to be a valid configuration, ``json`` valid JSON. The rest is only read.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.need import require
from tests.support.wait import wait_until

from sollol.cli.client import GatewayClient
from sollol.config_sources import Client, load
from sollol.emulator.presets import demo
from sollol.emulator.threaded import Machines
from sollol.server import SOLLOL, SOLLOLConfig

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
RUN = {"sh", "console", "python"}
READ = {"toml", "json", "text", "ini", "yaml"}
ADDRESS = "127.0.0.1:8000"
CLIENTS = ("clients.md", "langchain.md", "llamaindex.md")
SECONDS = 30
ALIKE = 0.8


@dataclass(frozen=True)
class Block:
    """One fenced block; ``line`` is where its text begins."""

    page: str
    line: int
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        whole = path.read_text(encoding="utf-8")
        for found in FENCE.finditer(whole):
            text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
            line = whole.count("\n", 0, found.start("text")) + 1
            yield Block(str(path.relative_to(ROOT)), line, found["info"].strip(), text)


BLOCKS = list(blocks())


def of(*kinds: str) -> list[Block]:
    return [block for block in BLOCKS if block.info in kinds]


def pages() -> list[object]:
    """The pages with something to run, in one test each: later examples build on earlier ones."""
    names = list(dict.fromkeys(block.page for block in of(*RUN)))
    return [pytest.param(name, marks=pytest.mark.clients) if name.endswith(CLIENTS) else name for name in names]


def test_every_block_says_what_it_is():
    assert [f"{block}: {block.info!r}" for block in BLOCKS if block.info not in RUN | READ] == []


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_is_valid(block):
    json.loads(block.text)


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_configuration_is_valid(block, tmp_path):
    file = tmp_path / "sollol.toml"
    file.write_text(block.text)
    loaded = load(file=file, environ={"HOME": str(tmp_path)})
    assert set(loaded.sources.values()) > {"default"}, "it sets nothing"


@pytest.mark.parametrize("page", pages())
def test_examples_run(page, tmp_path):
    require(shutil.which("curl") and shutil.which("bash"), "curl and bash: `apt-get install curl`")
    with gateway() as (url, nodes):
        for block in of(*RUN):
            if block.page == page:
                run(block, url, nodes, tmp_path)


@contextmanager
def gateway() -> Iterator[tuple[str, list[str]]]:
    """The addresses of a gateway, whose settings can be read again, and of the three emulated nodes that it knows."""
    specs = [spec.faster(20) for spec in demo()]
    with Machines(specs) as machines:
        hosts = [{"url": url, "name": spec.name} for url, spec in zip(machines.urls, specs, strict=True)]
        with SOLLOL(SOLLOLConfig(hosts=hosts, gateway_port=0)) as running:
            seen = GatewayClient(Client(running.address))
            wait_until(lambda: all(node["state"] == "up" for node in seen.get("/api/nodes")["nodes"]))
            yield running.address, machines.urls


def run(block: Block, url: str, nodes: list[str], folder: Path) -> None:
    text = block.text.replace(ADDRESS, url.removeprefix("http://"))
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SOLLOL_") and name != "OLLAMA_HOST"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "SOLLOL_URL": url,
        "SOLLOL_PORT": "0",
        "SOLLOL_DATA_DIR": str(folder / "data"),
        "SOLLOL_DISCOVERY_NETWORKS": "127.0.0.0/8",
    }
    if block.info == "python":
        environ |= {"SOLLOL_NODES": ",".join(nodes), "SOLLOL_DISCOVERY_ENABLED": "false"}
        finished(block, [sys.executable, "-c", text], folder, environ)
    elif block.info == "console":
        for command, shown in transcript(text):
            wanted_error = '"error"' in shown
            said = finished(block, bash(command if wanted_error else strict(command)), folder, environ)
            compare(block, shown, said)
    elif stays(text):
        started(block, elsewhere(text), folder, environ)
    else:
        finished(block, bash(strict(elsewhere(text))), folder, environ)


def bash(script: str) -> list[str]:
    return ["bash", "-e", "-o", "pipefail", "-c", script]


def strict(script: str) -> str:
    """curl is to fail where the server says that something went wrong."""
    return re.sub(r"\bcurl ", "curl --fail-with-body ", script)


def elsewhere(script: str) -> str:
    """No example takes a port that somebody may use."""
    script = re.sub(r"(?<= )--port \d+", "--port 0", script)
    return re.sub(r"^sollol (emulate|demo)\b(?!.*--port)", r"sollol \1 --port 0", script, flags=re.MULTILINE)


def stays(script: str) -> bool:
    """Whether it is one command that runs until it is stopped."""
    line = script.strip()
    return (
        "\n" not in line
        and bool(re.match(r"sollol (up|emulate|demo)\b", line))
        and not re.search(r"--(once|failover|help)", line)
    )


def transcript(text: str) -> list[tuple[str, str]]:
    """The commands of a transcript, each with what is shown after it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a transcript begins with a command"
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts[1:])]


def finished(block: Block, command: list[str], folder: Path, environ: dict[str, str]) -> str:
    ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, f"{block}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"
    assert ran.stdout.strip(), f"{block} prints nothing\n{ran.stderr}"
    return ran.stdout


def started(block: Block, line: str, folder: Path, environ: dict[str, str]) -> None:
    """Start it, wait until it says something, and stop it as a person would."""
    with subprocess.Popen(
        shlex.split(line), cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline().strip(), f"{block} says nothing: {process.stderr.read()}"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, f"{block}: exit code {process.returncode}\n{errors}"
        finally:
            if process.poll() is None:
                process.kill()


def compare(block: Block, shown: str, said: str) -> None:
    """Most words of what is shown are there; numbers, dates and addresses differ from run to run."""
    words = set(re.findall(r"[A-Za-z_]{3,}", shown))
    there = words & set(re.findall(r"[A-Za-z_]{3,}", said))
    assert len(there) >= ALIKE * len(words), f"{block}: not printed any more: {sorted(words - there)}\n{said[:2000]}"
