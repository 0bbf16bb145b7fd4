"""A node that fails before the first byte costs the client nothing; one that breaks later ends in the dialect's own words."""

import asyncio
import json
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from tests.support.front import Front, front
from tests.support.wait import until

from sollol.core.types import Health, NodeKind
from sollol.emulator import specs
from sollol.emulator.presets import LLAMA_1B, LLAMA_8B, embedder, same
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

QUICK = NodeSpec(prefill=100_000, decode=5_000, slots=4, load_gbps=1e6, models=(LLAMA_8B, LLAMA_1B, embedder()))
MODEL = "llama3.1:8b"


@pytest.fixture(autouse=True)
def loads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about the second that a load takes at least."""
    monkeypatch.setattr(specs, "LOAD_BASE_SECONDS", 0.01)


def nodes(count: int, kind: NodeKind = NodeKind.OLLAMA) -> list[NodeSpec]:
    return [replace(spec, kind=kind) for spec in same(count, QUICK)]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Tell me a story"}], **fields}


async def pinned_first(gate: Front, cluster: EmulatedCluster, name: str) -> None:
    """Make the node that will fail the one that is preferred: it alone has the model loaded."""
    reply = await gate.ask(
        "POST", "/api/generate", {"model": MODEL}, {"X-SOLLOL-Node": cluster[name].url.removeprefix("http://")}
    )
    assert reply.status == 200, reply.body


def text_of(body: bytes) -> str:
    return "".join(json.loads(line).get("message", {}).get("content", "") for line in body.splitlines())


BEFORE_THE_FIRST_BYTE = {
    "refused": {"refuse": True},
    "reset": {"reset": True},
    "500": {"status": 500},
    "502": {"status": 502},
    "busy": {"status": 503},
    "dies before the first byte": {"die_after": 0},
    "bad framing": {"bad_framing": True},
    "bad JSON": {"bad_json": True},
    "error line first": {"error_after": 0},
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_BYTE)
async def test_another_node_answers(fault: str, stream: bool) -> None:
    async with EmulatedCluster(nodes(2)) as cluster, front(*cluster.urls) as gate:
        truth = await gate.ask("POST", "/api/chat", chat(stream=stream), {"X-SOLLOL-Node": cluster.urls[1][7:]})
        await pinned_first(gate, cluster, "node-1")
        cluster["node-1"].faults.set(**BEFORE_THE_FIRST_BYTE[fault])
        replies = [await gate.ask("POST", "/api/chat", chat(stream=stream)) for _ in range(4)]
        for reply in replies:
            assert reply.status == 200, reply.body
            assert text_of(reply.body) == text_of(truth.body)
            assert reply.header("x-sollol-node") == cluster.urls[1][7:]


async def test_a_dead_node_is_down_at_once_and_used_again_when_it_returns() -> None:
    async with EmulatedCluster(nodes(2)) as cluster, front(*cluster.urls) as gate:
        await pinned_first(gate, cluster, "node-1")
        first = cluster.urls[0][7:]
        await cluster["node-1"].stop()
        reply = await gate.ask("POST", "/api/chat", chat())
        assert reply.status == 200
        assert reply.header("x-sollol-attempts") == "2"
        assert gate.context.engine.state.nodes[first].state is Health.DOWN
        again = await gate.ask("POST", "/api/chat", chat())
        assert again.header("x-sollol-attempts") == "1"
        await cluster["node-1"].start()
        await until(lambda: gate.context.engine.state.nodes[first].state is Health.UP, 3)


async def test_a_stale_catalogue_moves_the_request_and_is_corrected() -> None:
    async with EmulatedCluster(nodes(2)) as cluster, front(*cluster.urls) as gate:
        await pinned_first(gate, cluster, "node-1")
        await asyncio.to_thread(_delete_at, cluster.urls[0], MODEL)
        reply = await gate.ask("POST", "/api/chat", chat())
        assert (reply.status, reply.header("x-sollol-attempts")) == (200, "2")
        first = gate.context.engine.state.nodes[cluster.urls[0][7:]]
        assert MODEL not in first.models
        assert first.failed == 0


def _delete_at(url: str, model: str) -> None:
    """Delete a model behind the gateway's back."""
    body = json.dumps({"model": model}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/api/delete", body, method="DELETE"), timeout=5).close()


async def test_an_unknown_model_is_404_in_the_words_of_the_dialect() -> None:
    async with EmulatedCluster(nodes(1)) as cluster, front(*cluster.urls) as gate:
        native = await gate.ask("POST", "/api/chat", {**chat(), "model": "nope"})
        assert (native.status, native.json) == (404, {"error": "model 'nope' not found"})
        openai = await gate.ask("POST", "/v1/chat/completions", {**chat(), "model": "nope"})
        assert openai.status == 404
        assert openai.json["error"]["message"] == "model 'nope' not found"


async def test_all_busy_is_503_with_retry_after_and_names_every_node() -> None:
    async with EmulatedCluster(nodes(2)) as cluster, front(*cluster.urls) as gate:
        for node in cluster.nodes:
            node.faults.set(status=503)
        reply = await gate.ask("POST", "/api/chat", chat())
        assert reply.status == 503
        assert int(reply.header("retry-after")) >= 1
        for url in cluster.urls:
            assert url[7:] in reply.json["error"]


async def test_the_same_500_from_two_nodes_is_the_requests_own_fault() -> None:
    async with EmulatedCluster(nodes(3)) as cluster, front(*cluster.urls) as gate:
        for node in cluster.nodes:
            node.faults.set(status=500)
        reply = await gate.ask("POST", "/api/chat", chat())
        assert reply.status == 500
        assert sum(node.stats.paths["POST /api/chat"] for node in cluster.nodes) == 2
        for node in gate.context.engine.state.nodes.values():
            assert node.failed == 0


AFTER_THE_FIRST_BYTE = {"dies": {"die_after": 5}, "error line": {"error_after": 5}, "no end": {"end_after": 5}}


@pytest.mark.parametrize("fault", AFTER_THE_FIRST_BYTE)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_stream_that_breaks_ends_with_an_error(path: str, fault: str) -> None:
    async with EmulatedCluster(nodes(1)) as cluster, front(*cluster.urls) as gate:
        cluster["node-1"].faults.set(**AFTER_THE_FIRST_BYTE[fault])
        reply = await gate.ask("POST", path, chat(stream=True, options={"num_predict": 30}, max_tokens=30))
        assert reply.status == 200
        last = reply.body.strip().splitlines()[-1].removeprefix(b"data: ")
        assert b"[DONE]" not in reply.body
        error = json.loads(last)["error"]
        assert (error if path.startswith("/api") else error["message"]) != ""
        assert '"done":true' not in reply.body.decode()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
@pytest.mark.parametrize("when", ["waiting", "before the first byte", "streaming"])
async def test_a_client_that_leaves_frees_the_node_at_once(when: str, stream: bool) -> None:
    slow = NodeSpec(
        "slow",
        prefill=10 if when == "before the first byte" else 100_000,
        decode=50,
        slots=1,
        load_gbps=1e6,
        models=(LLAMA_8B,),
    )
    async with EmulatedCluster([slow]) as cluster, front(*cluster.urls) as gate:
        node = cluster["slow"]
        body = chat(stream=stream, options={"num_predict": 500})
        leaving = await gate.open("POST", "/api/chat", body)
        await until(lambda: node.stats.in_flight == 1)
        if when == "streaming" and stream:
            await leaving.head()
            await leaving.chunk()
        waiting = []
        if when == "waiting":
            waiting = [await gate.open("POST", "/api/chat", body) for _ in range(5)]
            await until(lambda: gate.context.admission.waiting >= 3)
            for client in waiting:
                client.leave()
            await until(lambda: gate.context.admission.waiting == 0)
        leaving.leave()
        await until(lambda: node.stats.in_flight == 0)
        assert gate.context.engine.state.nodes[node.url[7:]].in_flight == 0
        assert node.stats.finished == 0


async def test_without_any_node_it_says_so_in_the_dialect() -> None:
    async with front() as gate:
        reply = await gate.ask("POST", "/api/chat", chat())
        assert reply.status == 503
        assert "no node" in reply.json["error"]
        openai = await gate.ask("POST", "/v1/chat/completions", chat())
        assert openai.json["error"]["type"]


async def test_a_model_whose_only_node_is_down_waits_for_it() -> None:
    async with EmulatedCluster(nodes(1)) as cluster, front(*cluster.urls) as gate:
        await cluster["node-1"].stop()
        request = await gate.open("POST", "/api/chat", chat())
        await until(lambda: gate.context.admission.waiting == 1)
        await cluster["node-1"].start()
        await request.head()
        assert request.status == 200
        assert b'"done":true' in await request.rest()
        request.leave()


async def test_the_deadline_ends_a_wait() -> None:
    slow = NodeSpec("slow", prefill=10, decode=5, slots=1, models=(LLAMA_8B,))
    async with EmulatedCluster([slow]) as cluster, front(*cluster.urls) as gate:
        reply = await gate.ask("POST", "/api/chat", chat(), {"X-SOLLOL-Timeout": "0.2"})
        assert reply.status == 504
        await until(lambda: cluster["slow"].stats.in_flight == 0)
