"""What a real Ollama was recorded to answer, and an emulated node on which the same can be asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sollol.emulator import ModelSpec, NodeSpec, embedder
from sollol.emulator.node import EmulatedNode

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


def spec_for(fact: dict[str, Any]) -> NodeSpec:
    """A node with the models that the recorded one had."""
    models = tuple(m for m in MODELS if not (fact["name"] in AGAIN and m.name == "made-copy:latest"))
    return NodeSpec(models=models, version="0.33.0-rc2", fixed_delay=0.002, contention=0.0, max_loaded=20, pull_gbps=1000)


def prepare(node: EmulatedNode, fact: dict[str, Any]) -> None:
    """The blob that was there when this was recorded."""
    if fact["name"] in WITH_BLOB:
        node.blobs[BLOB] = (9, b"some blob")
