"""What a request may insist on, and what is left to the node to say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.front import front

from sollol.config import NodeSettings
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

MODEL = LLAMA_1B.name
SPECS = [NodeSpec(name, prefill=1e6, decode=5_000, load_gbps=1e6, models=(LLAMA_1B,)) for name in ("a", "b")]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "Hi"}], "stream": False}, lambda error: error),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, lambda error: error["message"]),
    ],
)
async def test_a_node_that_nobody_knows_is_refused_with_the_names_of_those_that_are(path, body, words):
    async with EmulatedCluster(SPECS) as cluster:
        nodes = [NodeSettings(cluster.urls[0], name="fast"), NodeSettings(cluster.urls[1])]
        async with front(*nodes) as gate:
            asked: dict[str, Any] = {"model": MODEL, **body}
            other = cluster.urls[1].removeprefix("http://")
            reply = await gate.ask("POST", path, asked, {"X-SOLLOL-Node": "fats"})
            assert reply.status == 400
            assert words(reply.json["error"]) == f"X-SOLLOL-Node: node 'fats' is not known (known: fast, {other})"
            for name in ("fast", other):
                assert (await gate.ask("POST", path, asked, {"X-SOLLOL-Node": name})).status == 200


@pytest.mark.parametrize(("path", "field", "status"), [("/api/embeddings", "prompt", 500), ("/api/embed", "input", 501)])
async def test_what_an_ollama_says_about_vectors_of_a_chat_model_is_passed_on(path, field, status):
    """Older ones make vectors with every model, so it is theirs to say. It counts against nobody."""
    async with EmulatedCluster(SPECS) as cluster, front(*cluster.urls) as gate:
        reply = await gate.ask("POST", path, {"model": MODEL, field: "x"})
        assert reply.status == status
        assert reply.json == {"error": "This server does not support embeddings. Start it with `--embeddings`"}
        assert reply.header("x-sollol-attempts") == "1"
        assert [node.failed for node in gate.context.engine.state.nodes.values()] == [0, 0]
