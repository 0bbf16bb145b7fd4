"""Listings through the real door: from what is known, in the recorded shapes, whatever becomes of a node."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.front import front
from tests.support.scripted import Seen, scripted

from sollol.config import NodeSettings
from sollol.core.types import NodeKind
from sollol.gateway.listings import version_key


async def test_root_and_version_with_head() -> None:
    async with (
        scripted("a:latest", version="0.33.0-rc2") as one,
        scripted(version="0.9.6") as two,
        front(one.url, two.url) as door,
    ):
        for method, body in (("GET", b"Ollama is running"), ("HEAD", b"")):
            reply = await door.ask(method, "/")
            assert (reply.status, reply.body, reply.header("content-length")) == (200, body, "17")
            assert reply.header("content-type") == "text/plain; charset=utf-8"
            assert reply.header("x-powered-by") == "SOLLOL"
        reply = await door.ask("GET", "/api/version")
        assert (reply.status, reply.json) == (200, {"version": "0.9.6"})
        assert reply.header("content-type") == "application/json; charset=utf-8"
        assert (await door.ask("HEAD", "/api/version")).header("content-length") == "19"


async def test_without_nodes_everything_is_empty() -> None:
    async with front() as door:
        assert (await door.ask("GET", "/api/version")).json == {"version": "0.33.0"}
        assert (await door.ask("GET", "/api/tags")).json == {"models": []}
        assert (await door.ask("GET", "/api/ps")).json == {"models": []}
        assert (await door.ask("GET", "/v1/models")).json == {"object": "list", "data": []}
        as_anthropic = await door.ask("GET", "/v1/models", headers={"anthropic-version": "2023-06-01"})
        assert as_anthropic.json == {"data": [], "has_more": False, "first_id": None, "last_id": None}


async def test_tags_are_the_union_newest_first_with_the_nodes_own_entries() -> None:
    async with scripted("m:latest", "old:latest", age=1) as one, scripted("m:latest", "new:latest", age=2) as two:
        settings = NodeSettings(one.url, name="one"), NodeSettings(two.url, name="two")
        async with front(*settings) as door:
            models = (await door.ask("GET", "/api/tags")).json["models"]
    assert [model["name"] for model in models] == ["new:latest", "m:latest", "old:latest"]
    by_name = {model["name"]: model for model in models}
    assert by_name["m:latest"]["nodes"] == ["one", "two"]
    assert by_name["old:latest"] == one.tag("old:latest") | {"nodes": ["one"]}
    assert list(by_name["old:latest"])[: len(one.tag("old:latest"))] == list(one.tag("old:latest"))


async def test_one_name_with_two_digests_is_seen_and_show_agrees_with_the_first() -> None:
    async def show(seen: Seen) -> None:
        seen.reply(body={"from": seen.headers["host"]})

    async with scripted("m:latest", age=1) as one, scripted("m:latest", age=2) as two:
        two.models["m:latest"] = "f" * 64
        one.answers["POST", "/api/show"] = two.answers["POST", "/api/show"] = show
        async with front(one.url, two.url) as door:
            models = (await door.ask("GET", "/api/tags")).json["models"]
            assert [(model["digest"], model["nodes"]) for model in models] == [("f" * 64, [two.id]), (f"{1:064x}", [one.id])]
            assert (await door.ask("POST", "/api/show", {"model": "m"})).json == {"from": two.id}
            assert [model["id"] for model in (await door.ask("GET", "/v1/models")).json["data"]] == ["m:latest"]


async def test_ps_names_the_node() -> None:
    entry = {"name": "m:latest", "model": "m:latest", "size": 28720495, "digest": f"{1:064x}", "details": {"format": "gguf"}}
    entry |= {"expires_at": "2318-11-21T05:17:34.32070964Z", "size_vram": 5, "context_length": 4096}
    async with scripted("m:latest") as one, scripted("m:latest") as two:
        one.resident = [entry]
        async with front(one.url, two.url) as door:
            assert (await door.ask("GET", "/api/ps")).json == {"models": [entry | {"node": one.id}]}


async def test_v1_models_in_the_recorded_shape() -> None:
    async with scripted("tiny:latest", "org/b:v1") as node, front(node.url) as door:
        reply = await door.ask("GET", "/v1/models")
        assert reply.header("content-type") == "application/json"
        created = 1793509440
        assert reply.json["data"][0] == {"id": "tiny:latest", "object": "model", "created": created, "owned_by": "library"}
        one = await door.ask("GET", "/v1/models/tiny")
        assert one.body == b'{"id":"tiny","object":"model","created":1793509440,"owned_by":"library"}\n'
        for path in ("/v1/models/org/b:v1", "/v1/models/org%2Fb%3Av1"):
            assert (await door.ask("GET", path)).json["id"] == "org/b:v1"
        missing = await door.ask("GET", "/v1/models/nope")
        assert missing.status == 404
        error = {"message": "model 'nope:latest' not found", "type": "not_found_error", "param": None, "code": None}
        assert missing.json == {"error": error}


async def test_a_node_that_hangs_or_is_down_costs_a_listing_nothing() -> None:
    async def silent(seen: Seen) -> None:
        await seen.gone.wait()

    async with scripted("up:latest") as up, scripted("gone:latest") as gone, front(up.url, gone.url) as door:
        for path in ("/api/version", "/api/tags", "/api/ps", "/"):
            gone.answers["GET", path] = silent
        async with asyncio.timeout(1):
            for path in ("/api/tags", "/api/ps", "/api/version", "/v1/models"):
                assert (await door.ask("GET", path)).status == 200
            assert len((await door.ask("GET", "/api/tags")).json["models"]) == 2
        await door.down(gone)
        assert [model["name"] for model in (await door.ask("GET", "/api/tags")).json["models"]] == ["up:latest"]
        assert (await door.ask("GET", "/v1/models/gone")).status == 404


async def test_when_every_node_is_down_the_last_catalogue_is_shown() -> None:
    async with scripted("m:latest") as node, front(node.url) as door:
        await door.down(node)
        assert [model["name"] for model in (await door.ask("GET", "/api/tags")).json["models"]] == ["m:latest"]
        assert (await door.ask("GET", "/api/ps")).json == {"models": []}
        reply = await door.ask("POST", "/api/show", {"model": "m"})
        assert (reply.status, reply.header("retry-after")) == (503, "1")
        assert node.id in reply.json["error"]


@pytest.mark.parametrize("kind", [NodeKind.LLAMACPP, NodeKind.VLLM])
async def test_models_of_other_servers_are_listed_in_ollamas_shape(kind: NodeKind) -> None:
    async def props(seen: Seen) -> None:
        seen.reply(body={"build_info": "b1-x", "total_slots": 2, "model_path": "/m/Qwen-Q4.gguf"})

    async def models(seen: Seen) -> None:
        entry = {"id": "/m/Qwen-Q4.gguf", "object": "model", "owned_by": "llamacpp", "meta": {"n_params": 7_000_000_000}}
        if kind is NodeKind.VLLM:
            entry = {"id": "Qwen-Q4", "object": "model", "owned_by": "vllm", "max_model_len": 4096}
        seen.reply(body={"object": "list", "data": [entry]})

    async def missing(seen: Seen) -> None:
        seen.reply(404, {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}})

    async with scripted() as node:
        for path in ("/api/version", "/api/tags", "/api/ps"):
            node.answers["GET", path] = missing
        node.answers["GET", "/"] = missing
        node.answers["GET", "/v1/models"] = models
        if kind is NodeKind.LLAMACPP:
            node.answers["GET", "/props"] = props
        async with front(NodeSettings(node.url, name="other")) as door:
            (model,) = (await door.ask("GET", "/api/tags")).json["models"]
            assert (model["name"], model["nodes"]) == ("qwen-q4:latest", ["other"])
            assert model["details"]["families"] == []
            shown = (await door.ask("POST", "/api/show", {"model": "qwen-q4"})).json
            assert shown["details"]["format"] == ("gguf" if kind is NodeKind.LLAMACPP else "safetensors")
            assert shown["model_info"]["general.architecture"]
            assert "completion" in shown["capabilities"]
            if kind is NodeKind.LLAMACPP:
                assert shown["details"]["parameter_size"] == "7.0B"
            else:
                assert any(key.endswith(".context_length") and value == 4096 for key, value in shown["model_info"].items())
            pull = await door.ask("POST", "/api/pull", {"model": "m"})
            assert pull.status == 501
            assert "other" in pull.json["error"]


def test_versions_are_ordered() -> None:
    assert sorted(["0.33.0", "0.9.1", "0.33.0-rc2", "0.10.0"], key=version_key) == ["0.9.1", "0.10.0", "0.33.0-rc2", "0.33.0"]
