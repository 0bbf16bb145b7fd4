"""Answers given again and shared, and races between nodes, as clients see them: real sockets, emulated nodes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs
from tests.support.front import Front, front
from tests.support.wait import until

from sollol import hedging
from sollol.config import Auth, Cache, Routing
from sollol.emulator import specs
from sollol.emulator.presets import LLAMA_8B, embedder, same
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec
from sollol.errors import BadValue
from sollol.pool.sync_pool import SyncPool

QUICK = NodeSpec(prefill=100_000, decode=5_000, slots=4, load_gbps=1e6, models=(LLAMA_8B, embedder()))
MODEL = "llama3.1:8b"
EMBEDDER = "nomic-embed-text"


@pytest.fixture(autouse=True)
def loads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about the second that a load takes at least."""
    monkeypatch.setattr(specs, "LOAD_BASE_SECONDS", 0.01)


@pytest.fixture
async def cluster() -> AsyncIterator[EmulatedCluster]:
    async with EmulatedCluster(same(2, QUICK)) as made:
        yield made


def asked(cluster: EmulatedCluster) -> int:
    """How many requests for an answer reached a node."""
    return sum(cluster[name].stats.inference for name in ("node-1", "node-2"))


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Tell me"}], **fields}


FIXED = {"options": {"temperature": 0}}
V1 = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me"}], "temperature": 0}
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "embed": ("/api/embed", {"model": EMBEDDER, "input": ["a", "b"]}),
    "embeddings": ("/api/embeddings", {"model": EMBEDDER, "prompt": "a"}),
    "v1 embeddings": ("/v1/embeddings", {"model": EMBEDDER, "input": "a"}),
    "chat, temperature 0": ("/api/chat", chat(stream=False, **FIXED)),
    "chat, a seed": ("/api/chat", chat(stream=False, options={"seed": 7})),
    "chat, a stream": ("/api/chat", chat(**FIXED)),
    "generate": ("/api/generate", {"model": MODEL, "prompt": "Tell me", **FIXED}),
    "v1 chat": ("/v1/chat/completions", V1),
    "v1 chat, a stream": ("/v1/chat/completions", V1 | {"stream": True}),
    "v1 completions": ("/v1/completions", {"model": MODEL, "prompt": "Tell me", "seed": 1}),
}
NOT_SHARED: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "chance": ("/api/chat", chat(stream=False), {}),
    "a temperature": ("/api/chat", chat(stream=False, options={"temperature": 0.1}), {}),
    "a random seed": ("/api/chat", chat(stream=False, options={"seed": -1}), {}),
    "v1, a random seed": ("/v1/chat/completions", V1 | {"temperature": 1, "seed": 2**32 - 1}, {}),
    "unloads afterwards": ("/api/chat", chat(stream=False, keep_alive=0, **FIXED), {}),
    "only loads": ("/api/generate", {"model": MODEL, **FIXED}, {"X-SOLLOL-Cache": "yes"}),
    "no-store": ("/api/embed", {"model": EMBEDDER, "input": "a"}, {"Cache-Control": "no-store"}),
    "no-cache": ("/api/embed", {"model": EMBEDDER, "input": "a"}, {"Cache-Control": "max-age=5, No-Cache"}),
    "a wish": ("/api/embed", {"model": EMBEDDER, "input": "a"}, {"X-SOLLOL-Cache": "no"}),
    "errors": ("/api/embed", {"model": "nobody", "input": "a"}, {}),
}


@pytest.mark.parametrize("what", SHARED)
async def test_an_answer_that_would_be_the_same_is_given_again(cluster: EmulatedCluster, what: str) -> None:
    path, body = SHARED[what]
    async with front(*cluster.urls) as gate:
        first = await gate.ask("POST", path, body)
        second = await gate.ask("POST", path, body)
        assert (first.status, second.status) == (200, 200)
        assert second.body == first.body
        assert (first.header("x-sollol-cache"), second.header("x-sollol-cache")) == ("miss", "hit")
        for name in ("content-type", "transfer-encoding", "content-length"):
            assert second.header(name) == first.header(name)
        assert second.header("age") == "0"
        assert first.header("x-sollol-node")
        assert not second.header("x-sollol-node")
        assert asked(cluster) == 1


@pytest.mark.parametrize("what", NOT_SHARED)
async def test_other_requests_are_asked_again(cluster: EmulatedCluster, what: str) -> None:
    path, body, headers = NOT_SHARED[what]
    async with front(*cluster.urls) as gate:
        for _ in range(2):
            reply = await gate.ask("POST", path, body, headers)
            assert reply.header("x-sollol-cache") in ("", "miss")
        assert asked(cluster) == (0 if what == "errors" else 2)


async def test_a_client_may_have_an_answer_kept_that_could_have_differed(cluster: EmulatedCluster) -> None:
    async with front(*cluster.urls) as gate:
        replies = [await gate.ask("POST", "/api/chat", chat(), {"X-SOLLOL-Cache": "yes"}) for _ in range(2)]
        assert replies[1].header("x-sollol-cache") == "hit"
        assert replies[1].body == replies[0].body
        refused = await gate.ask("POST", "/api/chat", chat(), {"X-SOLLOL-Cache": "perhaps"})
        assert (refused.status, "X-SOLLOL-Cache" in refused.json["error"]) == (400, True)


async def test_a_stream_and_a_document_are_two_answers(cluster: EmulatedCluster) -> None:
    async with front(*cluster.urls) as gate:
        stream = await gate.ask("POST", "/api/chat", chat(**FIXED))
        document = await gate.ask("POST", "/api/chat", chat(stream=False, **FIXED))
        assert document.header("x-sollol-cache") == "miss"
        assert "".join(line["message"]["content"] for line in stream.lines) == document.json["message"]["content"]


async def test_routing_details_say_that_it_comes_from_the_cache(cluster: EmulatedCluster) -> None:
    async with front(*cluster.urls) as gate:
        for body in (chat(**FIXED), chat(stream=False, **FIXED)):
            first, second = [
                json.loads((await gate.ask("POST", "/api/chat", body, {"X-SOLLOL-Details": "body"})).body.splitlines()[-1])
                for _ in range(2)
            ]
            made, told = first.pop("_sollol_routing"), second.pop("_sollol_routing")
            assert first == second
            assert (told["node"], told["host"], told["cache"]) == (made["node"], made["host"], "hit")
            assert (told["attempts"], told["reason"]) == (0, "answered from the cache")


async def test_a_hit_counts_as_a_request_and_as_no_work_of_a_node(
    cluster: EmulatedCluster, caplog: pytest.LogCaptureFixture
) -> None:
    path, body = SHARED["embed"]
    with caplog.at_level(logging.INFO, "sollol.requests"):
        async with front(*cluster.urls) as gate:
            for _ in range(3):
                await gate.ask("POST", path, body)
            stats = (await gate.ask("GET", "/api/stats")).json
            assert (stats["total_requests"], stats["successful_requests"]) == (3, 3)
            assert sum(host["requests"] for host in stats["hosts"].values()) == 1
            assert stats["cache"] == (await gate.ask("GET", "/api/cache")).json
            cache = stats["cache"]
            assert (cache["enabled"], cache["size"], cache["hits"], cache["misses"]) == (True, 1, 2, 1)
            assert cache["hit_rate"] == pytest.approx(2 / 3, abs=1e-4)
            page = (await gate.ask("GET", "/metrics")).body.decode()
            assert f'sollol_requests_total{{host="cache",model="{EMBEDDER}:latest"}} 2.0' in page
            assert 'sollol_cached_total{how="hit"} 2.0' in page
            assert "sollol_cache_answers 1.0" in page
            assert 'sollol_latency_seconds_count{host="cache"}' not in page
    await until(lambda: sum(getattr(record, "cache", "") == "hit" for record in caplog.records) == 2)


async def test_answers_can_be_cleared(cluster: EmulatedCluster) -> None:
    async with front(*cluster.urls) as gate:
        for path, body in (SHARED["embed"], SHARED["embeddings"], SHARED["generate"]):
            await gate.ask("POST", path, body)
        assert (await gate.ask("DELETE", f"/api/cache?model={MODEL}")).json == {"cleared": 1}
        assert (await gate.ask("DELETE", "/api/cache?model=nobody")).json == {"cleared": 0}
        assert (await gate.ask("DELETE", "/api/cache")).json == {"cleared": 2}
        assert (await gate.ask("GET", "/api/cache")).json["size"] == 0
        for query in ("what=1", "model=", "model=a&model=b"):
            assert (await gate.ask("DELETE", f"/api/cache?{query}")).status == 400


async def test_who_may_clear_them(cluster: EmulatedCluster) -> None:
    async with front(*cluster.urls, auth=Auth(keys=("user",), admin_keys=("admin",))) as gate:
        for key, status in (("user", 403), ("admin", 200)):
            reply = await gate.ask("DELETE", "/api/cache", headers={"Authorization": f"Bearer {key}"})
            assert reply.status == status


async def test_the_words_of_another_key_are_not_given_where_nodes_know_keys(cluster: EmulatedCluster) -> None:
    path, body = SHARED["embed"]
    async with front(*cluster.urls) as gate:
        for key in "aab":
            await gate.ask("POST", path, body, {"Authorization": f"Bearer {key}"})
        assert asked(cluster) == 2


@pytest.mark.parametrize(("keys", "cost"), [((), 2), (("a", "b"), 1)], ids=["nodes know keys", "the gateway knows keys"])
async def test_two_keys_share_an_answer_under_way_only_where_they_stay_here(keys: tuple[str, ...], cost: int) -> None:
    slower = [replace(spec, decode=500) for spec in same(2, QUICK)]
    async with EmulatedCluster(slower) as cluster, front(*cluster.urls, auth=Auth(keys=keys)) as gate:
        body = chat(**FIXED)
        headers = [{"Authorization": f"Bearer {key}"} for key in "abab"]
        replies = await asyncio.gather(*(gate.ask("POST", "/api/chat", body, given) for given in headers))
        assert [reply.status for reply in replies] == [200] * 4
        assert asked(cluster) == cost


async def test_a_model_that_was_made_anew_answers_for_itself(cluster: EmulatedCluster) -> None:
    path, body = "/api/generate", {"model": "mine", "prompt": "Tell me", **FIXED}
    async with front(*cluster.urls) as gate:
        for system in ("a pirate", "a poet"):
            made = await gate.ask("POST", "/api/create", {"model": "mine", "from": MODEL, "system": system, "stream": False})
            assert made.status == 200, made.body
            await gate.looked()
            replies = [await gate.ask("POST", path, body) for _ in range(2)]
            assert [reply.header("x-sollol-cache") for reply in replies] == ["miss", "hit"]
        assert (await gate.ask("DELETE", "/api/delete", {"model": "mine"})).status == 200
        await gate.looked()
        assert (await gate.ask("POST", path, body)).status == 404


async def test_many_at_once_cost_one_answer() -> None:
    slower = [replace(spec, decode=500) for spec in same(2, QUICK)]
    async with EmulatedCluster(slower) as cluster, front(*cluster.urls) as gate:
        replies = await asyncio.gather(*(gate.ask("POST", "/api/chat", chat(**FIXED)) for _ in range(30)))
        assert len({reply.body for reply in replies}) == 1
        assert sorted(reply.header("x-sollol-cache") for reply in replies) == ["miss"] + 29 * ["shared"]
        assert asked(cluster) == 1


async def test_the_first_client_leaves_then_all() -> None:
    slower = [replace(spec, decode=100) for spec in same(1, QUICK)]
    async with EmulatedCluster(slower) as cluster, front(*cluster.urls) as gate:
        node = cluster[slower[0].name]
        first, second = [await gate.open("POST", "/api/chat", chat(**FIXED)) for _ in range(2)]
        for client in (first, second):
            await client.head()
            assert await client.chunk()
        first.leave()
        assert await second.chunk()
        assert (node.stats.in_flight, node.stats.inference) == (1, 1)
        start = asyncio.get_running_loop().time()
        second.leave()
        await until(lambda: node.stats.in_flight == 0)
        assert asyncio.get_running_loop().time() - start < 0.2
        assert node.stats.cancelled == 1


async def test_a_gateway_that_keeps_nothing(cluster: EmulatedCluster) -> None:
    path, body = SHARED["embed"]
    async with front(*cluster.urls) as gate:
        configure(gate, cache=Cache(enabled=False, coalesce=False))
        for _ in range(2):
            reply = await gate.ask("POST", path, body)
            assert reply.header("x-sollol-cache") == ""
        assert asked(cluster) == 2
        assert (await gate.ask("GET", "/api/cache")).json["enabled"] is False


def configure(gate: Front, **sections: Any) -> None:
    """Settings that can be taken while it runs."""
    before = gate.context.config
    gate.context.config = structs.replace(before, **sections)
    cache = gate.context.cache
    assert cache is not None
    cache.enabled = gate.context.config.cache.enabled


# --- races


async def warm(gate: Front, cluster: EmulatedCluster) -> None:
    for url in cluster.urls:
        reply = await gate.ask("POST", "/api/generate", {"model": MODEL}, {"X-SOLLOL-Node": url[7:]})
        assert reply.status == 200


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
async def test_a_silent_node_loses_the_race_and_its_slot_is_free(cluster: EmulatedCluster, stream: bool) -> None:
    async with front(*cluster.urls) as gate:
        await warm(gate, cluster)
        cluster["node-1"].faults.set(hang=True)
        truth = await gate.ask("POST", "/api/chat", chat(stream=stream), {"X-SOLLOL-Node": cluster.urls[1][7:]})
        reply = await gate.ask("POST", "/api/chat", chat(stream=stream), {"X-SOLLOL-Hedge": "2"})
        assert (reply.status, text_of(reply.body)) == (200, text_of(truth.body))
        assert reply.header("x-sollol-hedged") == cluster.urls[0][7:]
        assert reply.header("x-sollol-node") == cluster.urls[1][7:]
        await until(lambda: cluster["node-1"].open_connections == 0, 0.2)
        known = gate.context.engine.state.nodes
        assert [node.in_flight for node in known.values()] == [0, 0]
        assert [node.failed for node in known.values()] == [0, 0]
        page = (await gate.ask("GET", "/metrics")).body.decode()
        assert "sollol_hedged_total 1.0" in page


async def test_a_race_is_asked_for_with_a_small_number(cluster: EmulatedCluster) -> None:
    async with front(*cluster.urls) as gate:
        for wrong in ("0", "5", "two", ""):
            assert (await gate.ask("POST", "/api/chat", chat(), {"X-SOLLOL-Hedge": wrong})).status == 400


def text_of(body: bytes) -> str:
    return "".join(json.loads(line)["message"]["content"] for line in body.splitlines())


async def test_a_program_asks_for_a_race(cluster: EmulatedCluster) -> None:
    loop = asyncio.get_running_loop()

    async def hang() -> None:
        cluster["node-1"].faults.set(hang=True)

    def race() -> Any:
        nodes = [url.removeprefix("http://") for url in cluster.urls]
        with SyncPool(nodes) as pool:
            for node in nodes:
                pool.generate(MODEL, "", node=node)
            asyncio.run_coroutine_threadsafe(hang(), loop).result(5)
            racing = hedging.AdaptiveHedging(num_hedges=2)
            return racing.request_with_hedging(pool=pool, model=MODEL, messages=[{"role": "user", "content": "Quick question"}])

    async with asyncio.timeout(20):
        reply = await asyncio.to_thread(race)
    assert reply["message"]["content"]
    assert reply["_sollol_routing"]["host"] == cluster.urls[1].removeprefix("http://")


@pytest.mark.parametrize("wrong", [0, 5, True, "2"])
def test_numbers_of_nodes_that_make_no_race(wrong: Any) -> None:
    with pytest.raises(BadValue, match="num_hedges"):
        hedging.AdaptiveHedging(num_hedges=wrong)


def test_hedging_is_off_by_default() -> None:
    assert not Routing().hedging
