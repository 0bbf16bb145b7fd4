"""A real llama.cpp server with a tiny model, for tests. Use the fixture `llama_server`.

The program is LLAMA_SERVER_PATH, else `llama-server` on PATH, else the one that `scripts/install_test_packages.sh` put into
`.tools/llama.cpp`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from tests.support.make_model import SMALL, Shape, write_model

ROOT = Path(__file__).resolve().parents[2]
HOW = "a llama.cpp server: run `scripts/install_llama_cpp.sh .tools/llama.cpp`, or set LLAMA_SERVER_PATH"
SLOW = Shape(layers=24, width=128, inner=256)  # some hundred tokens a second: time to do something in the middle of an answer
_LISTENING = re.compile(r"listening on (http://[0-9.]+:\d+)")


def find_llama_server() -> Path | None:
    """The program, or None where there is none."""
    named = os.environ.get("LLAMA_SERVER_PATH") or shutil.which("llama-server")
    program = Path(named) if named else ROOT / ".tools" / "llama.cpp" / "bin" / "llama-server"
    return program if program.is_file() else None


class LlamaServer:
    """One running llama-server on 127.0.0.1. `url` is its address, `model` the name it answers to."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        *,
        model: str = "tiny",
        port: int = 0,
        seed: int = 1,
        slots: int = 2,
        shape: Shape = SMALL,
        embeddings: bool = False,
        tools: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        """Start it and wait until it answers. ``slots`` requests are worked on at a time; ``port`` 0 takes a free one.

        With ``tools`` the model calls tools and does nothing else.
        """
        self.model = model
        file = folder / f"{model}-{seed}-{shape.layers}x{shape.width}{'-tools' if tools else ''}.gguf"
        if not file.exists():
            write_model(file, name=model, seed=seed, shape=shape, tools=tools)
        command = [
            program,
            "--model",
            file,
            "--alias",
            model,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--offline",
            "--no-ui",
        ]
        command += ["--ctx-size", str(shape.context * slots), "--parallel", str(slots), "--threads", "1", *options]
        if tools:
            command.append("--jinja")
        if embeddings:
            command += ["--embeddings", "--pooling", "mean"]
        self.log: list[str] = []
        self.url = ""
        self._announced = threading.Event()
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, name=f"log of {model}")
        self._reader.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def stop(self) -> None:
        """End it as a person would, and wait until it is gone."""
        self._process.terminate()
        self._end()

    def kill(self) -> None:
        """End it at once: its connections break."""
        self._process.kill()
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log.append(line)
            found = _LISTENING.search(line)
            if found:
                self.url = found[1]
                self._announced.set()
        self._announced.set()  # it ended: nobody waits for an address any longer

    def _wait_until_ready(self) -> None:
        if not self._announced.wait(30) or not self.url:
            raise RuntimeError("llama-server did not start:\n" + "".join(self.log[-30:]))
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as reply:
            assert reply.status == 200

    def show_log(self) -> None:
        """Write what it said to standard error: pytest shows that where a test failed."""
        sys.stderr.write(f"--- llama-server {self.model} at {self.url}\n" + "".join(self.log[-60:]))
