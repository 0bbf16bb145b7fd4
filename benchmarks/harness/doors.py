"""The front doors that are compared: how each is started for a set of nodes, and where it cannot be, why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from harness.native import BODY, MODEL, ROOT, Node, pinned

COMPILED = ROOT / ".tools" / "compiled"
"""Where `scripts/install_compiled.sh` puts the package with its core compiled."""
PEERS = Path(os.environ.get("SOLLOL_BENCH_PEERS", ROOT / ".tools" / "peers"))


class Unavailable(Exception):
    """This front door is not here or did not start; the text is what the report says."""


@dataclass
class Running:
    """A front door that answers. ``pid`` is None where there is none (direct)."""

    name: str
    urls: list[str]
    pid: int | None = None
    started_in: float = 0.0
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Door:
    """What may be started. ``openai_only`` marks those that do not pass Ollama's native paths on."""

    name: str
    openai_only: bool = False
    start_limit: float = 30.0


DIRECT = Door("direct")
NGINX = Door("nginx")
SOLLOL = Door("sollol")
SOLLOL_COMPILED = Door("sollol compiled")
SOLLOL_ASYNCIO = Door("sollol without uvloop")
VLLM_ROUTER = Door("vllm-router", openai_only=True, start_limit=60)
LITELLM = Door("litellm", openai_only=True, start_limit=180)
DOORS = (DIRECT, NGINX, SOLLOL, SOLLOL_COMPILED, SOLLOL_ASYNCIO, VLLM_ROUTER, LITELLM)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def ask(url: str, path: str, body: object = None, timeout: float = 5.0) -> tuple[int, bytes]:
    """One request without any library of ours; raises OSError or HTTPException."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        data = None if body is None else json.dumps(body)
        connection.request("POST" if data else "GET", path, data, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def await_reply(url: str, process: subprocess.Popen[bytes], limit: float, every: float = 0.01) -> None:
    """Until a chat completion is answered with 200; `Unavailable` when the process ends or `limit` seconds pass."""
    deadline = time.monotonic() + limit
    last = "no connection"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Unavailable(f"ended with {process.returncode} before it answered")
        try:
            status, text = ask(url, "/v1/chat/completions", BODY)
            if status == 200:
                return
            last = f"{status} {text[:200].decode(errors='replace')}"
        except (OSError, HTTPException) as error:
            last = str(error)
        time.sleep(every)  # no front door tells when it is ready
    raise Unavailable(f"no good reply within {limit:.0f} s: {last}")


def plain(text: str) -> str:
    """A text without the paths of this machine."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def stop(process: subprocess.Popen[bytes]) -> float:
    """Ask it to end, wait up to 5 s, insist; returns the seconds it took."""
    began = time.monotonic()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return time.monotonic() - began


@contextmanager
def opened(door: Door, nodes: Sequence[Node], core: int, slots: int | None = 1024) -> Iterator[Running]:
    """Start `door` for `nodes` on `core`, and end it with the block. `slots` (None: unknown) is told to those that ask."""
    urls = [node.url for node in nodes]
    if door is DIRECT:
        yield Running(door.name, urls)
        return
    with TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        command, environment = COMMANDS[door.name](Path(folder), port, urls, slots)
        log = Path(folder) / "log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                pinned(core, *command), stdout=output, stderr=output, env=os.environ | environment, cwd=folder
            )
        try:
            url = f"http://127.0.0.1:{port}"
            try:
                await_reply(url, process, door.start_limit)
            except Unavailable as error:
                tail = " / ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
                raise Unavailable(plain(f"{error}; its last words: {tail}")) from error
            yield Running(door.name, [url], process.pid, time.monotonic() - began)
        finally:
            stop(process)


Command = tuple[list[str], dict[str, str]]


def _nginx(folder: Path, port: int, urls: Sequence[str], _slots: int | None) -> Command:
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if not program:
        raise Unavailable("not installed (apt-get install nginx-light)")
    servers = "".join(f"server {urlsplit(url).netloc};" for url in urls)
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors warn;\n"
        "events { worker_connections 8192; }\n"
        f"http {{ access_log off; {temporary} client_body_buffer_size 1m; keepalive_requests 1000000000;\n"
        f"  upstream nodes {{ {servers} keepalive 2048; keepalive_requests 1000000000; }}\n"
        f"  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://nodes; proxy_http_version 1.1;\n"
        '    proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 600s; } } }\n'
    )
    return [program, "-p", str(folder), "-e", str(folder / "errors"), "-c", str(folder / "nginx.conf")], {}


def _sollol(
    folder: Path, port: int, urls: Sequence[str], slots: int | None, *, uvloop: bool = True, installed: Path | None = None
) -> Command:
    known = "" if slots is None else f"slots = {slots}\n"
    config = folder / "sollol.toml"
    config.write_text("".join(f'[[nodes]]\nurl = "{url}"\nkind = "ollama"\n{known}\n' for url in urls))
    program = (installed or Path(sys.executable).parent) / "sollol"
    if not program.exists():
        raise Unavailable("the command `sollol` is not installed " + ("there" if installed else "beside this python"))
    environment = {
        "SOLLOL_UVLOOP": "1" if uvloop else "0",
        "SOLLOL_DATA_DIR": str(folder / "data"),
        "SOLLOL_DISCOVERY_NETWORKS": "127.0.0.0/8",
    }
    return [
        str(program),
        "up",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-discovery",
        "--config",
        str(config),
    ], environment


def _sollol_asyncio(folder: Path, port: int, urls: Sequence[str], slots: int | None) -> Command:
    return _sollol(folder, port, urls, slots, uvloop=False)


def _sollol_compiled(folder: Path, port: int, urls: Sequence[str], slots: int | None) -> Command:
    return _sollol(folder, port, urls, slots, installed=COMPILED / "bin")


def peer(name: str) -> Path:
    program = PEERS / name / "bin" / name
    if not program.exists():
        raise Unavailable(f"not installed (benchmarks/setup_peers.sh {name})")
    return program.absolute()


def _vllm_router(_folder: Path, port: int, urls: Sequence[str], _slots: int | None) -> Command:
    return [
        str(peer("vllm-router")), "--host", "127.0.0.1", "--port", str(port), "--worker-urls", *urls, "--policy", "round_robin",
        "--worker-startup-check-interval", "1", "--prometheus-port", str(free_port()), "--log-level", "warning",
    ], {}  # fmt: skip


def _litellm(folder: Path, port: int, urls: Sequence[str], _slots: int | None) -> Command:
    models = [
        {"model_name": MODEL, "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"}}
        for url in urls
    ]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": models}))  # JSON is YAML
    command = [str(peer("litellm")), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return command, {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, for the run; keys would cost it time
    }


COMMANDS: dict[str, Callable[[Path, int, Sequence[str], int | None], Command]] = {
    "nginx": _nginx,
    "sollol": _sollol,
    "sollol compiled": _sollol_compiled,
    "sollol without uvloop": _sollol_asyncio,
    "vllm-router": _vllm_router,
    "litellm": _litellm,
}
