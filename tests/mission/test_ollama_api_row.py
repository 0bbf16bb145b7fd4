"""Row B10: what a real Ollama was recorded to answer the gateway answers too: status, type, shape and the words of errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.emulator_shapes import shape
from tests.support.front import front
from tests.support.recorded import FACTS, body_of, prepare, spec_for

from sollol.emulator.server import EmulatedCluster

# The gateway has figures of its own there, and models of Ollama's cloud belong to no node. It answers where Ollama redirects.
OWN = ("basic-no-metrics", "basic-show-cloud", "basic-generate-cloud-model", "errors-trailing-slash", "errors-double-slash")
# Dialects that the gateway does not speak.
OTHER_DIALECTS = ("/v1/responses", "/v1/messages", "/v1/audio/")
# Refused before a node is asked, with the recorded status and in words of our own.
OWN_WORDS = {
    "basic-generate-suffix-unsupported": "does not support insert",
    "basic-generate-image-text-model": "does not support vision",
    "basic-chat-tools-unsupported": "does not support tools",
    "basic-chat-image-text-model": "does not support vision",
    "basic-chat-bad-image": "does not support vision",
    "basic-v1-chat-image": "does not support vision",
    "basic-v1-chat-tools-unsupported": "does not support tools",
    "basic-chat-think-unsupported": "does not support thinking",
    "basic-generate-think-unsupported": "does not support thinking",
}
ASKED = [fact for fact in FACTS if fact["name"] not in OWN and not fact["path"].startswith(OTHER_DIALECTS)]


@pytest.mark.parametrize("fact", ASKED, ids=lambda fact: fact["name"])
async def test_b10_answers_like_one_ollama(fact: dict[str, Any]) -> None:
    body = body_of(fact)
    async with EmulatedCluster([spec_for(fact)]) as cluster, front(*cluster.urls) as gate:
        prepare(cluster.nodes[0], fact)
        sent = b"" if body is None else body.encode() if isinstance(body, str) else body
        got = await gate.ask(fact["method"], fact["path"], sent, fact["headers"])
    assert got.status == fact["status"], got.body
    assert got.header("x-powered-by") == "SOLLOL"
    words = OWN_WORDS.get(fact["name"])
    if words is not None:
        assert words in json.dumps(got.json["error"])
        return
    kind = got.header("content-type")
    assert json.dumps(shape(got.body.decode(), kind), indent=1) == json.dumps(fact["shape"], indent=1)  # keys in order
    recorded = [line.removeprefix("Content-Type: ") for line in fact["reply_headers"] if line.startswith("Content-Type: ")]
    assert kind.partition(";")[0] == (recorded or [""])[0].partition(";")[0]


async def test_b10_lists_say_on_which_nodes() -> None:
    """The two listings are made by the gateway: the nodes' own entries, and one key more."""
    fact = {"name": ""}
    async with EmulatedCluster([spec_for(fact)]) as cluster, front(*cluster.urls) as gate:
        assert (await gate.ask("POST", "/api/generate", {"model": "hello"})).json["done_reason"] == "load"
        listed = (await gate.ask("GET", "/api/tags")).json["models"]
        loaded = (await gate.ask("GET", "/api/ps")).json["models"]
    assert {tuple(entry["nodes"]) for entry in listed} == {(cluster.urls[0][7:],)}
    assert [*listed[0]][:6] == ["name", "model", "modified_at", "size", "digest", "details"]
    assert [(entry["name"], entry["node"]) for entry in loaded] == [("hello:latest", cluster.urls[0][7:])]
