"""A real llama.cpp server under a name that others have for its model, with a key, and what it tells of the model."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.front import front

from sollol.config import NodeSettings
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import ModelSpec, NodeSpec

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

KEY = "sk-of-the-llama"
ASK = [{"role": "user", "content": "how are you today"}]
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SEEN = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]


async def test_a_real_server_is_one_model_with_an_ollama_node_in_every_dialect(llama_server: Any) -> None:
    server = llama_server(options=("--api-key", KEY))
    other = NodeSpec("ollama", prefill=1e6, decode=5_000, load_gbps=1e6, models=(ModelSpec("qwen3:32b", answer_tokens=3),))
    async with EmulatedCluster([other]) as cluster:
        nodes = (
            NodeSettings(server.url, name="llama", api_key=KEY, names={"tiny": "qwen3:32b"}),
            NodeSettings(cluster.urls[0], name="ollama"),
        )
        async with front(*nodes, aliases={"gpt-4o": "qwen3:32b"}) as door:
            assert {entry["id"] for entry in (await door.ask("GET", "/v1/models")).json["data"]} == {
                "qwen3:32b",
                "gpt-4o",
            }
            for node in ("llama", "ollama"):
                for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
                    for stream in (False, True):
                        body = {"model": "gpt-4o", "messages": ASK, "max_tokens": 4, "stream": stream}
                        reply = await door.ask("POST", path, body, {"X-SOLLOL-Node": node})
                        assert (reply.status, reply.header("x-sollol-node")) == (200, node), reply.body
                        assert b'"gpt-4o"' in reply.body
                        assert b"tiny" not in reply.body
                        assert reply.header("x-sollol-model") == "qwen3:32b"
            assert KEY not in (await door.ask("GET", "/api/nodes")).body.decode()


async def test_what_a_real_server_tells_of_its_model(llama_server: Any) -> None:
    server = llama_server()
    async with front(NodeSettings(server.url, name="llama")) as door:
        (entry,) = (await door.ask("GET", "/api/tags")).json["models"]
        assert entry["capabilities"] == ["completion"]
        refused = await door.ask("POST", "/v1/chat/completions", {"model": "tiny", "messages": SEEN})
        assert refused.status == 400
        assert refused.json["error"]["message"] == '"tiny" does not support vision; no model here is known to'
        long = [{"role": "user", "content": "how are you today " * 4_000}]
        refused = await door.ask("POST", "/v1/chat/completions", {"model": "tiny", "messages": long})
        assert refused.status == 400
        assert "is longer than the context of 'tiny' (" in refused.json["error"]["message"]
