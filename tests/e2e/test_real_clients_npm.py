"""The packages from npm, as they are: through a gateway each gets what it gets from an engine that speaks its dialect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.kinds import EMBEDDER, KINDS, MODEL, Kinds, every_kind
from tests.support.npm import run_client

from sollol.core.types import NodeKind

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients from npm")]


@pytest.fixture(scope="module")
def kinds() -> Iterator[Kinds]:
    with every_kind() as opened:
        yield opened


def run(package: str, hosts: list[str]) -> list[Any]:
    """What the package got at each host; one process asks all of them, since starting it takes longer than asking."""
    got = run_client(package, {"hosts": hosts, "model": MODEL, "embedder": EMBEDDER})
    return [got[host] for host in hosts]


def test_ollama_from_npm(kinds):
    direct, *through = run("ollama", [kinds.nodes[NodeKind.OLLAMA], *kinds.gateways.values()])
    assert direct["stream"] == {
        "text": direct["chat"]["text"], "several": True, "endings": 1, "reason": "length", "written": 20, "timed": True
    }  # fmt: skip
    assert direct["tools"][0]["name"] == "get_weather"
    assert direct["answered"]
    assert set(direct["structured"]) == {"colour", "number"}
    assert (direct["error"]["name"], direct["error"]["status"]) == ("ResponseError", 404)
    for kind, got in zip(kinds.gateways, through, strict=True):
        assert got == direct, f"before a node of kind {kind}"


def test_openai_from_npm(kinds):
    count = len(KINDS)
    results = run("openai", [*kinds.nodes.values(), *kinds.gateways.values()])
    direct, through = dict(zip(KINDS, results[:count], strict=True)), dict(zip(KINDS, results[count:], strict=True))
    expected = direct[NodeKind.OPENAI]
    assert expected["stream"]["text"] == expected["chat"]["text"]
    assert expected["tools"] == expected["streamedTools"]
    assert (expected["reason"], expected["streamedReason"]) == ("tool_calls", "tool_calls")
    assert expected["error"] == {"kind": "NotFoundError", "status": 404, "type": "not_found_error"}
    direct[NodeKind.VLLM]["error"] = expected["error"]  # vLLM has a type of its own for what is not there, the gateway has not
    for kind in KINDS:
        assert through[kind] == direct[kind], f"before a node of kind {kind}"
        assert through[kind] == expected, f"a node of kind {kind} and one of another"
