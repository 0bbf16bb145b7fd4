"""What the `ollama` command sends, against emulated nodes that answer like real ones."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest
from tests.support.front import Front, front
from tests.support.wait import until

from sollol.config import NodeSettings
from sollol.core.types import NodeKind
from sollol.emulator.presets import LLAMA_1B, same
from sollol.emulator.server import EmulatedCluster


async def holders(door: Front, model: str) -> list[str]:
    tags = (await door.ask("GET", "/api/tags")).json["models"]
    return [name for tag in tags if tag["name"] == model for name in tag["nodes"]]


async def test_the_life_of_a_model() -> None:
    async with EmulatedCluster(same(2)) as cluster:
        nodes = [NodeSettings(node.url, name=node.name) for node in cluster.nodes]
        async with front(*nodes) as door:
            base = (await door.ask("GET", "/api/tags")).json["models"][0]["name"]
            assert await holders(door, base) == ["node-1", "node-2"]

            # ollama cp: on every owner
            copied = await door.ask("POST", "/api/copy", {"source": base, "destination": "mine"})
            assert (copied.status, copied.body) == (200, b"")
            state = door.context.engine.state.nodes.values()
            async with asyncio.timeout(5):
                await until(lambda: all("mine:latest" in node.models for node in state))
            assert await holders(door, "mine:latest") == ["node-1", "node-2"]

            # ollama show
            shown = await door.ask("POST", "/api/show", {"model": "mine"})
            assert shown.status == 200
            assert shown.json["model_info"]["general.architecture"]

            # ollama rm: show, unload, delete
            unloaded = await door.ask("POST", "/api/generate", {"model": "mine", "keep_alive": 0})
            assert (unloaded.status, unloaded.json["done_reason"]) == (200, "unload")
            deleted = await door.ask("DELETE", "/api/delete", {"model": "mine"})
            assert (deleted.status, deleted.body) == (200, b"")
            async with asyncio.timeout(5):
                await until(lambda: not any("mine:latest" in node.models for node in state))
            missing = await door.ask("POST", "/api/show", {"model": "mine"})
            assert (missing.status, missing.json) == (404, {"error": "model 'mine:latest' not found"})


async def test_blobs_and_create_meet_on_one_node() -> None:
    blob = b"GGUF" + bytes(2_000)
    path = f"/api/blobs/sha256:{hashlib.sha256(blob).hexdigest()}"
    async with EmulatedCluster(same(3)) as cluster, front(*cluster.urls) as door:
        assert (await door.ask("HEAD", path)).status == 404
        assert (await door.ask("POST", path, blob)).status == 201
        assert (await door.ask("HEAD", path)).status == 200
        assert (await door.ask("POST", path, blob)).status == 200
        wrong = await door.ask("POST", path.replace(path[-8:], "00000000"), blob)
        assert wrong.status == 400
        assert wrong.json["error"].startswith("digest mismatch, expected ")
        made = await door.ask("POST", "/api/create", {"model": "t9", "files": {"tiny.gguf": path.removeprefix("/api/blobs/")}})
        assert made.lines[-1] == {"status": "success"}
        assert sum(request.path == "/api/create" for node in cluster.nodes for request in node.stats.recent) == 1
        async with asyncio.timeout(5):
            await until(lambda: any("t9:latest" in node.models for node in door.context.engine.state.nodes.values()))


async def test_pull_everywhere_then_load_ps_and_unload() -> None:
    specs = [spec.faster(50) for spec in same(2)]
    async with EmulatedCluster(specs) as cluster:
        nodes = [NodeSettings(node.url, name=node.name) for node in cluster.nodes]
        async with front(*nodes) as door:
            pulled = await door.ask("POST", "/api/pull", {"model": "qwen3:0.6b", "nodes": "all"})
            assert pulled.lines[-1] == {"status": "success"}
            assert {line["node"] for line in pulled.lines[:-1]} == {"node-1", "node-2"}
            state = door.context.engine.state.nodes.values()
            async with asyncio.timeout(5):
                await until(lambda: all("qwen3:0.6b" in node.models for node in state))
            loaded = await door.ask("POST", "/api/generate", {"model": "qwen3:0.6b"})
            assert (loaded.status, loaded.json["done_reason"]) == (200, "load")
            (entry,) = (await door.ask("GET", "/api/ps")).json["models"]
            assert (entry["name"], entry["node"]) == ("qwen3:0.6b", loaded.header("x-sollol-node"))
            assert (await door.ask("POST", "/api/generate", {"model": "qwen3:0.6b", "keep_alive": 0})).status == 200
            assert (await door.ask("GET", "/api/ps")).json == {"models": []}


@pytest.mark.parametrize("kind", [NodeKind.LMSTUDIO, NodeKind.OLLAMA])
@pytest.mark.parametrize("keep_alive", [-1, "-1s", "1000000h", "2562047h"])
async def test_a_model_that_is_to_stay_for_ever_is_listed(kind: NodeKind, keep_alive: object) -> None:
    async with EmulatedCluster([replace(same(1)[0].faster(50), kind=kind)]) as cluster, front(*cluster.urls) as door:
        asked = {"model": LLAMA_1B.name, "keep_alive": keep_alive, "messages": [{"role": "user", "content": "hi"}]}
        assert (await door.ask("POST", "/api/chat", asked)).status == 200
        (entry,) = (await door.ask("GET", "/api/ps")).json["models"]
        assert entry["name"] == LLAMA_1B.name
        assert entry["expires_at"] > "2100"


async def test_a_version_and_headers_like_one_ollama() -> None:
    async with EmulatedCluster(same(1)) as cluster, front(*cluster.urls) as door:
        own = cluster.nodes[0].spec.version
        reply = await door.ask("GET", "/api/version")
        assert reply.json == {"version": own}
        assert {key for key, _ in reply.headers} == {"date", "content-type", "content-length", "x-powered-by"}
