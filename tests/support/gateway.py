"""A gateway as an application starts it, for clients that block."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support.wait import wait_until

from sollol import SOLLOL, SOLLOLConfig


@contextmanager
def gateway(*hosts: str | Mapping[str, Any]) -> Iterator[str]:
    """Its address, once it has looked at every node; ended at the end of the block."""
    with SOLLOL(SOLLOLConfig(hosts=list(hosts), gateway_port=0)) as running:
        wait_until_up(running.address, len(hosts))
        yield running.address


def wait_until_up(url: str, count: int) -> None:
    """Wait until so many nodes can be used, ten seconds at most."""
    wait_until(lambda: sum(node["state"] == "up" for node in get_json(f"{url}/api/nodes")["nodes"]) >= count)


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.loads(reply.read())


def post(url: str, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of a POST; also of one that was refused."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()
