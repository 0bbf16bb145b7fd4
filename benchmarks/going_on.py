"""What it costs that an answer could go on elsewhere: the gateway's CPU time per request, for plain text and for other.

    python benchmarks/going_on.py [--seconds 4] [--rounds 3] [--json FILE]

Plain documents are streamed from the node and put together again; plain streams are kept while they pass. The same request with
`"format": "json"`, which is not plain, passes as it is. The node is the stub of the other benchmarks, which answers at once and
minds no format; "chunks" is how many pieces its answer has. The best of the rounds counts: what the machine can do when nothing
else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.native import BODY, Shape, build, pinned, stub_nodes

CHUNKS = (1, 4, 32, 128)
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def gateway(node: str) -> Iterator[tuple[str, int]]:
    """(url, process id) of a gateway that knows the node."""
    with TemporaryDirectory(prefix="going-on-") as folder:
        settings = Path(folder) / "sollol.toml"
        settings.write_text(
            "[gateway]\nport = 0\n[discovery]\nenabled = false\n[log]\nlevel = 'warning'\n"
            f"[[nodes]]\nurl = '{node}'\nname = 'stub'\nslots = 64\n"
        )
        names = [name for name in os.environ if name.startswith("SOLLOL_") or name == "OLLAMA_HOST"]
        environment = {k: v for k, v in os.environ.items() if k not in names} | {"SOLLOL_DATA_DIR": folder}
        command = pinned(0, sys.executable, "-m", "sollol", "up", "--config", settings)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as process:
            assert process.stdout is not None
            try:
                url = next(line.split()[-1] for line in process.stdout if "listens on" in line)
                _wait(url)
                yield url, process.pid
            finally:
                process.kill()


def _wait(url: str) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    for _ in range(200):
        asked = HTTPConnection(host, int(port), timeout=5)
        asked.request("GET", "/api/nodes")
        if any(node["state"] == "up" for node in json.loads(asked.getresponse().read())["nodes"]):
            return
        time.sleep(0.05)  # it looks from outside: nothing tells when the node is found
    raise RuntimeError("the gateway did not find its node")


def measure(url: str, pid: int, chunks: int, seconds: float, *, stream: bool, plain: bool) -> float:
    """CPU microseconds per request of the gateway."""
    body = BODY | {"stream": stream} | ({} if plain else {"format": "json"})
    text = json.dumps(body, separators=(",", ":"))
    command = pinned(1, build("load"), "--url", url, "--path", "/api/chat", "--body", text, "--chunks", str(chunks))
    command += ["--connections", "8", "--duration", str(seconds), "--warmup", "1", "--header", "X-SOLLOL-Cache: no"]
    if stream:
        command += ["--stream", "--ramp", "0.1"]
    seen, result = [], {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                result = json.loads(line)
            else:
                seen.append(cpu_seconds(pid))
    if process.returncode or len(seen) != 2 or result["errors"] or result["non_200"]:
        raise RuntimeError(f"the load generator failed: {result}")
    return 1e6 * (seen[1] - seen[0]) / result["done"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'chunks':>6}  {'asked for':9}  {'plain':>9}  {'not plain':>9}  {'more':>8}   (CPU us a request)")
    for chunks in CHUNKS:
        with stub_nodes(1, Shape(chunks=chunks), 1) as (node,), gateway(node.url) as (url, pid):
            for stream in (False, True):
                taken: dict[bool, list[float]] = {True: [], False: []}
                for _ in range(options.rounds):  # in turn, so that both meet the same noise
                    for plain, found in taken.items():
                        found.append(measure(url, pid, chunks, options.seconds, stream=stream, plain=plain))
                plain_us, other_us = min(taken[True]), min(taken[False])
                asked = "stream" if stream else "document"
                print(f"{chunks:6}  {asked:9}  {plain_us:9.1f}  {other_us:9.1f}  {plain_us - other_us:+8.1f}", flush=True)
                rows.append(
                    {"chunks": chunks, "asked": asked, "plain_us": plain_us, "other_us": other_us, "rounds": taken[True]}
                )
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
