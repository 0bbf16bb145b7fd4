"""Emulated nodes and a gateway before them, in this process: what the demonstrations play on, with real requests."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from sollol.cli.client import GatewayClient
from sollol.config import Config, Discovery, NodeSettings
from sollol.config import Gateway as GatewaySettings
from sollol.config_sources import Client
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines
from sollol.server import SOLLOL
from sollol.wire.address import parse_endpoint

T = TypeVar("T")
SETTLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what came back. ``started`` is on `time.perf_counter`. ``error`` "" means a good reply."""

    started: float
    seconds: float
    status: int = 0
    node: str = ""
    attempts: int = 1
    reason: str = ""
    text: str = ""
    error: str = ""

    @property
    def ended(self) -> float:
        return self.started + self.seconds


class Stage:
    """A context manager: on enter the nodes run on a thread with an event loop of its own, and a gateway before them."""

    def __init__(self, specs: Sequence[NodeSpec], *, port: int = 0) -> None:
        """``port`` of the gateway; 0 takes a free one."""
        self._machines = Machines(specs)
        self._port = port
        self._stack = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._machines)
            running = stack.enter_context(SOLLOL(self._config()))
            self.url = running.address
            self.gateway = GatewayClient(Client(self.url))
            poll(lambda: "unknown" not in self.states().values(), SETTLE_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def kill(self, node: str) -> int:
        """The node dies: connections break, nothing listens. Returns how many requests it was working on."""
        return self._machines.stop(node)

    def revive(self, node: str) -> None:
        """The node listens again on its old port; what it had loaded is lost."""
        self._machines.start(node)

    def states(self) -> dict[str, str]:
        """The state of each node as the gateway sees it, by name."""
        return {node["name"]: node["state"] for node in self.gateway.get("/api/nodes")["nodes"]}

    def _config(self) -> Config:
        return Config(
            gateway=GatewaySettings(port=self._port, shutdown_seconds=0.0),
            nodes=tuple(NodeSettings(url=node.url, name=node.name) for node in self._machines.cluster.nodes),
            discovery=Discovery(enabled=False),
        )


def poll(look: Callable[[], T], seconds: float) -> T | None:
    """What ``look`` gives once it is neither None nor false; None after ``seconds``. Nothing tells a client of such changes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(0.01)  # it looks from outside, as any client does
    return None


def ask(
    url: str, model: str, prompt: str, *, tokens: int = 40, path: str = "/api/chat", node: str = "", seconds: float = 60.0
) -> Answer:
    """Send one real request and wait for the whole answer. Nothing raises: what went wrong is in the answer.

    ``node`` names the node that has to answer; an empty prompt to /api/generate only loads the model.
    """
    started = time.perf_counter()
    endpoint = parse_endpoint(url)
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=seconds)
    try:
        # A demonstration shows nodes at work: a kept answer would hide them.
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"} | ({"X-SOLLOL-Node": node} if node else {})
        connection.request("POST", path, _body(model, prompt, tokens, path), headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        return Answer(started, time.perf_counter() - started, error=str(error) or type(error).__name__)
    finally:
        connection.close()
    took = time.perf_counter() - started
    heads = response.headers
    answered, reason = heads.get("X-SOLLOL-Node", ""), heads.get("X-SOLLOL-Reason", "")
    attempts = int(heads.get("X-SOLLOL-Attempts", "1"))
    text = _text(content)
    good = response.status == 200 and (text or not prompt)
    failed = "" if good else f"status {response.status}: {content[:200].decode(errors='replace')}"
    return Answer(started, took, response.status, answered, attempts, reason, text, failed)


def _body(model: str, prompt: str, tokens: int, path: str) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    if path == "/api/embed":
        return msgspec.json.encode({"model": model, "input": prompt})
    if path == "/api/generate":
        return msgspec.json.encode({"model": model, "prompt": prompt, "stream": False})
    if path.startswith("/v1/"):
        return msgspec.json.encode({"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0})
    options = {"num_predict": tokens, "temperature": 0}
    return msgspec.json.encode({"model": model, "messages": messages, "stream": False, "options": options})


def _text(content: bytes) -> str:
    """The answer in a reply of either dialect; "" where there is none."""
    try:
        reply = json.loads(content)
        if "embeddings" in reply:
            return f"{len(reply['embeddings'][0])} numbers"
        message = reply["message"] if "message" in reply else reply["choices"][0]["message"]
        return str(message["content"])
    except (ValueError, LookupError, TypeError):
        return ""
