"""The emulated node against facts of a real Ollama: status, headers and their order, framing, shape, words of errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.emulated import ask
from tests.support.emulator_shapes import headers_of, shape

from sollol.emulator import ModelSpec, NodeSpec, embedder
from sollol.emulator.server import EmulatedCluster

DATA = Path(__file__).parent.parent / "data" / "ollama"
FACTS = [fact for file in sorted(DATA.glob("*.json")) for fact in json.loads(file.read_text())]


def chat_model(name: str, *capabilities: str, **fields: Any) -> ModelSpec:
    return ModelSpec(f"{name}:latest", 1_000_000, answer_tokens=20, capabilities=("completion", *capabilities), **fields)


MODELS = (
    chat_model("hello", parameters="num_ctx 4096"),
    chat_model("tiny"),
    chat_model("slow"),
    chat_model("loop"),
    chat_model("made"),
    chat_model("made3"),
    chat_model("made-copy"),
    chat_model("think", "thinking", "tools"),
    chat_model("tools", "tools"),
    chat_model("registry.example/library/hello"),
    replace(chat_model("tiny2"), name="tiny2:v1", license="none", system="You are tiny.", parameters="num_ctx 1024"),
    embedder("embed:latest", dimension=384),
)
BLOB = "892f65534dbe7134656b9ebe5b56d763abadbd3b7329d76cbafb6690cf8a241e"
WITH_BLOB = {"basic-blob-head-present", "basic-blob-post-again", "basic-create-not-gguf"}
AGAIN = {"basic-delete-unknown"}


def body_of(fact: dict[str, Any]) -> Any:
    body = fact["body"]
    if isinstance(body, dict):
        unit, times = body["of"][body["repeat"]]
        return json.dumps(body["of"] | {body["repeat"]: unit * times})
    return body or (None if fact["method"] in ("GET", "HEAD", "OPTIONS") else "")


@pytest.mark.parametrize("fact", FACTS, ids=lambda f: f["name"])
async def test_answers_like_a_real_node(fact):
    name = fact["name"]
    models = tuple(m for m in MODELS if not (name in AGAIN and m.name == "made-copy:latest"))
    spec = NodeSpec(models=models, version="0.33.0-rc2", fixed_delay=0.002, contention=0.0, max_loaded=20, pull_gbps=1000)
    async with EmulatedCluster([spec]) as cluster:
        node = cluster.nodes[0]
        if name in WITH_BLOB:
            node.blobs[BLOB] = (9, b"some blob")
        got = await ask(node, fact["method"], fact["path"], body_of(fact), fact["headers"])
    content_type = got.header("Content-Type") or ""
    assert got.status == fact["status"]
    assert json.dumps(shape(got.body.decode(), content_type), indent=1) == json.dumps(fact["shape"], indent=1)  # keys in order
    if fact["framing"] != "chunked" or got.framing != "length" or "stream" in content_type or "ndjson" in content_type:
        assert got.framing == fact["framing"]
        assert headers_of(got.headers) == fact["reply_headers"]
    assert got.complete
