"""One catalogue: aliases, nodes that call a model otherwise, and models that may answer in place of another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.front import Front, Reply, front
from tests.support.scripted import Seen, scripted
from tests.support.wait import until

from sollol.config import Config, Discovery, Gateway, NodeSettings
from sollol.core.types import Health, NodeKind
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import ModelSpec, NodeSpec, embedder
from sollol.gateway.running import open_gateway

QWEN = ModelSpec("qwen3:32b", capabilities=("completion", "tools"))
TINY = ModelSpec("tiny:1b", answer_tokens=5)
FILE = ModelSpec("Qwen3-32B-Q4_K_M", capabilities=())
MESSAGES = [{"role": "user", "content": "Say hello."}]


def spec(name: str, *models: ModelSpec, kind: NodeKind = NodeKind.OLLAMA) -> NodeSpec:
    return NodeSpec(name, prefill=1e6, decode=5_000, slots=8, load_gbps=1e6, models=models, kind=kind)


@asynccontextmanager
async def cluster(*specs: NodeSpec, **settings: Any) -> AsyncIterator[tuple[Front, EmulatedCluster]]:
    async with EmulatedCluster(specs) as made:
        nodes = [NodeSettings(node.url, name=node.name) for node in made.nodes]
        async with front(*nodes, **settings) as door:
            yield door, made


def models_of(reply: Reply) -> list[Any]:
    """The model in every line or event of a reply that names one."""
    text = reply.body.decode()
    parts = [part.removeprefix("data: ") for part in text.split("\n") if part.strip() not in ("", "data: [DONE]")]
    found = [json.loads(part) for part in parts if part.startswith("{")]
    inner = [{**part.get("message", {}), **part.get("response", {})} if "model" not in part else part for part in found]
    return [part["model"] for part in inner if "model" in part]


def sent(made: EmulatedCluster, path: str) -> list[Any]:
    """The models that nodes were asked for."""
    return [json.loads(r.body)["model"] for node in made.nodes for r in node.stats.recent if r.path == path]


REQUESTS = [
    ("/api/chat", {"messages": MESSAGES}),
    ("/api/chat", {"messages": MESSAGES, "stream": False}),
    ("/api/generate", {"prompt": "Hello"}),
    ("/api/generate", {"prompt": "Hello", "stream": False}),
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/chat/completions", {"messages": MESSAGES, "stream": True}),
    ("/v1/completions", {"prompt": "Hello", "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=[f"{path} {body.get('stream')}" for path, body in REQUESTS])
@pytest.mark.parametrize("kind", [NodeKind.OLLAMA, NodeKind.LLAMACPP])
async def test_an_alias_is_answered_by_its_model_under_its_own_name(kind: NodeKind, path: str, body: dict[str, Any]) -> None:
    async with cluster(
        spec("one", QWEN, kind=kind), aliases={"gpt-4o": "qwen3-32b" if kind is NodeKind.LLAMACPP else "qwen3:32b"}
    ) as (
        door,
        _,
    ):
        reply = await door.ask("POST", path, {"model": "gpt-4o", **body})
        assert reply.status == 200, reply.body
        assert set(models_of(reply)) == {"gpt-4o"}
        assert reply.header("x-sollol-model") == ("qwen3-32b" if kind is NodeKind.LLAMACPP else "qwen3:32b")
        direct = await door.ask("POST", path, {"model": reply.header("x-sollol-model"), **body})
        assert direct.status == 200
        assert direct.header("x-sollol-model") == ""
        assert len(direct.body.split(b"\n")) == len(reply.body.split(b"\n"))


async def test_an_alias_is_listed_shown_and_marked() -> None:
    async with cluster(spec("one", QWEN), aliases={"GPT-4o": "QWEN3:32b", "gone": "nobody:1b"}) as (door, made):
        tags = {entry["name"]: entry for entry in (await door.ask("GET", "/api/tags")).json["models"]}
        assert set(tags) == {"qwen3:32b", "GPT-4o:latest"}
        alias = tags["GPT-4o:latest"]
        assert (alias["model"], alias["alias_of"], alias["nodes"]) == ("GPT-4o:latest", "qwen3:32b", ["one"])
        assert alias["digest"] == tags["qwen3:32b"]["digest"]
        listed = {entry["id"]: entry for entry in (await door.ask("GET", "/v1/models")).json["data"]}
        assert listed["GPT-4o"]["alias_of"] == "qwen3:32b"
        assert "alias_of" not in listed["qwen3:32b"]
        assert (await door.ask("GET", "/v1/models/gpt-4o")).json["alias_of"] == "qwen3:32b"
        shown = await door.ask("POST", "/api/show", {"model": "gpt-4o"})
        assert shown.status == 200
        assert "tools" in shown.json["capabilities"]
        assert sent(made, "/api/show")[-1] == "qwen3:32b"
        missing = await door.ask("POST", "/api/chat", {"model": "gone", "messages": MESSAGES})
        assert (missing.status, missing.json) == (404, {"error": "model 'nobody:1b' not found"})
        found = (await door.ask("GET", "/api/routing/explain?model=gpt-4o")).json
        assert (found["model"], found["chosen"]) == ("qwen3:32b", made.nodes[0].url.removeprefix("http://"))


async def test_an_alias_can_be_loaded_and_unloaded_but_not_made_or_deleted() -> None:
    async with cluster(spec("one", QWEN), aliases={"gpt-4o": "qwen3:32b"}) as (door, made):
        assert (await door.ask("POST", "/api/generate", {"model": "gpt-4o"})).json["done_reason"] == "load"
        unloaded = await door.ask("POST", "/api/generate", {"model": "gpt-4o", "keep_alive": 0})
        assert (unloaded.status, unloaded.json["model"], unloaded.json["done_reason"]) == (200, "gpt-4o", "unload")
        assert (await door.ask("GET", "/api/ps")).json == {"models": []}
        words = {"error": "'gpt-4o' is an alias of 'qwen3:32b' in the settings of the gateway, and no model of its own"}
        for method, path, body in (
            ("DELETE", "/api/delete", {"model": "gpt-4o"}),
            ("POST", "/api/create", {"model": "gpt-4o", "from": "qwen3:32b"}),
            ("POST", "/api/copy", {"source": "qwen3:32b", "destination": "gpt-4o"}),
        ):
            refused = await door.ask(method, path, body)
            assert (refused.status, refused.json) == (400, words), path
        copied = await door.ask("POST", "/api/copy", {"source": "gpt-4o", "destination": "mine"})
        assert copied.status == 200
        assert "mine:latest" in made.nodes[0].model.models


async def test_requests_by_alias_and_by_name_share_one_answer() -> None:
    async with cluster(spec("one", embedder("bge:latest")), aliases={"text-embedding-3-small": "bge"}) as (door, made):
        first = await door.ask("POST", "/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"})
        again = await door.ask("POST", "/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"})
        assert (first.json["model"], again.json["model"]) == ("text-embedding-3-small", "text-embedding-3-small")
        assert first.json["data"] == again.json["data"]
        assert again.header("x-sollol-cache") == "hit"
        assert len(sent(made, "/v1/embeddings")) == 1


async def test_errors_of_an_aliased_model_pass_in_the_clients_dialect() -> None:
    async with cluster(spec("one", TINY), aliases={"gpt-4o": "tiny:1b"}) as (door, _):
        body = {"model": "gpt-4o", "messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f"}}]}
        refused = await door.ask("POST", "/v1/chat/completions", body)
        assert refused.status == 400
        assert '"tiny:1b" does not support tools' in refused.json["error"]["message"]


async def test_a_name_in_any_case_and_with_or_without_latest_is_one_model() -> None:
    async with scripted("Big:Latest", age=2) as one, scripted("big:latest") as two, front(one.url, two.url) as door:
        two.models["big:latest"] = "f" * 64
        door.context.monitor.look(two.id)
        await door.looked()
        entries = (await door.ask("GET", "/api/tags")).json["models"]
        assert [(entry["name"], entry["nodes"]) for entry in entries] == [("Big:Latest", [one.id]), ("Big:Latest", [two.id])]
        assert [entry["id"] for entry in (await door.ask("GET", "/v1/models")).json["data"]] == ["Big:Latest"]
        for name in ("big", "BIG", "Big:latest"):
            assert (await door.ask("GET", f"/v1/models/{name}")).status == 200


NAMES = {"Qwen3-32B-Q4_K_M.gguf": "qwen3:32b"}


async def test_two_engines_with_one_model_under_two_names_are_one_model() -> None:
    specs = spec("ollama", QWEN), spec("llama", FILE, kind=NodeKind.LLAMACPP)
    async with cluster(*specs, names=NAMES) as (door, made):
        (entry, *more) = (await door.ask("GET", "/api/tags")).json["models"]
        assert {entry["name"], *(other["name"] for other in more)} == {"qwen3:32b"}
        assert [model["id"] for model in (await door.ask("GET", "/v1/models")).json["data"]] == ["qwen3:32b"]
        for node in ("ollama", "llama"):
            for path, body in REQUESTS:
                reply = await door.ask("POST", path, {"model": "Qwen3:32B", **body}, {"X-SOLLOL-Node": node})
                assert (reply.status, reply.header("x-sollol-node")) == (200, node), reply.body
                assert set(models_of(reply)) == {"Qwen3:32B"}
        asked = {json.loads(r.body).get("model") for r in made.nodes[1].stats.recent if r.path.startswith("/v1/chat")}
        assert asked == {"/models/Qwen3-32B-Q4_K_M.gguf"}


async def test_an_ollama_node_is_asked_by_its_own_name_in_everything() -> None:
    own = ModelSpec("my-qwen:q4", capabilities=("completion",))
    async with EmulatedCluster([spec("a", own), spec("b", QWEN)]) as made:
        nodes = (
            NodeSettings(made.nodes[0].url, name="a", names={"my-qwen:q4": "qwen3:32b"}),
            NodeSettings(made.nodes[1].url, name="b"),
        )
        async with front(*nodes) as door:
            a, b = made.nodes
            for path, body in REQUESTS:
                reply = await door.ask("POST", path, {"model": "qwen3:32b", **body}, {"X-SOLLOL-Node": "a"})
                assert (reply.status, set(models_of(reply))) == (200, {"qwen3:32b"}), reply.body
            door.context.monitor.look(door.context.engine.state.nodes[b.url.removeprefix("http://")].id)
            await door.looked()
            (loaded,) = (await door.ask("GET", "/api/ps")).json["models"]
            assert (loaded["name"], loaded["model"], loaded["node"]) == ("qwen3:32b", "qwen3:32b", "a")
            assert (await door.ask("POST", "/api/show", {"model": "qwen3:32b"})).status == 200
            assert (await door.ask("POST", "/api/generate", {"model": "qwen3:32b", "keep_alive": 0})).status == 200
            assert (await door.ask("GET", "/api/ps")).json == {"models": []}
            assert (await door.ask("POST", "/api/copy", {"source": "qwen3:32b", "destination": "two"})).status == 200
            assert "two:latest" in a.model.models
            assert "two:latest" in b.model.models
            assert (await door.ask("DELETE", "/api/delete", {"model": "qwen3:32b"})).status == 200
            assert "my-qwen:q4" not in a.model.models
            assert "qwen3:32b" not in b.model.models


async def test_a_name_that_the_node_has_itself_is_not_taken_over() -> None:
    both = spec("one", QWEN, ModelSpec("mine:latest", digest="9" * 64))
    async with cluster(both, names={"mine": "qwen3:32b"}) as (door, _):
        names = sorted(entry["name"] for entry in (await door.ask("GET", "/api/tags")).json["models"])
        assert names == ["mine:latest", "qwen3:32b"]


async def test_a_fallback_answers_and_says_so() -> None:
    async with cluster(spec("one", TINY), fallbacks={"qwen3:32b": ("other", "tiny:1b")}) as (door, made):
        for path, body in REQUESTS:
            reply = await door.ask("POST", path, {"model": "qwen3:32b", **body})
            assert reply.status == 200, reply.body
            assert set(models_of(reply)) == {"tiny:1b"}
            assert reply.header("x-sollol-model") == "tiny:1b"
            assert reply.header("x-sollol-fallback") == "model 'qwen3:32b' not found; answered by tiny:1b"
        detailed = {"X-SOLLOL-Details": "body"}
        for stream in (True, False):
            body = {"model": "qwen3:32b", "messages": MESSAGES, "stream": stream}
            told = (await door.ask("POST", "/api/chat", body, detailed)).lines[-1]["_sollol_routing"]
            assert (told["model"], told["fallback"]) == ("tiny:1b", "model 'qwen3:32b' not found; answered by tiny:1b")
        assert set(sent(made, "/api/chat")) == {"tiny:1b"}
        listed = (await door.ask("GET", "/api/stats")).json
        assert listed["failed_requests"] == 0


async def test_a_fallback_is_used_only_where_it_is_configured_and_needed() -> None:
    async with cluster(spec("one", QWEN, TINY), fallbacks={"qwen3:32b": ("tiny:1b",)}) as (door, _):
        reply = await door.ask("POST", "/api/chat", {"model": "qwen3:32b", "messages": MESSAGES})
        assert (reply.header("x-sollol-fallback"), models_of(reply)[0]) == ("", "qwen3:32b")
        missing = await door.ask("POST", "/api/chat", {"model": "nobody:1b", "messages": MESSAGES})
        assert (missing.status, missing.header("x-sollol-fallback")) == (404, "")


async def test_without_any_fallback_that_could_answer_the_error_is_the_models_own() -> None:
    async with cluster(spec("one", TINY), fallbacks={"qwen3:32b": ("other",)}) as (door, _):
        missing = await door.ask("POST", "/api/chat", {"model": "qwen3:32b", "messages": MESSAGES})
        assert (missing.status, missing.json) == (404, {"error": "model 'qwen3:32b' not found"})


async def test_an_alias_of_a_model_that_is_down_is_answered_by_the_models_fallback() -> None:
    specs = spec("big", QWEN), spec("small", TINY)
    async with cluster(*specs, aliases={"gpt-4o": "qwen3:32b"}, fallbacks={"qwen3:32b": ("tiny:1b",)}) as (door, made):
        big = made.nodes[0]
        await big.close()
        state = door.context.engine.state.nodes[big.url.removeprefix("http://")]
        door.context.monitor.look(state.id)
        await until(lambda: state.state is Health.DOWN)
        reply = await door.ask("POST", "/v1/chat/completions", {"model": "gpt-4o", "messages": MESSAGES})
        assert (reply.status, reply.json["model"]) == (200, "tiny:1b")
        assert reply.header("x-sollol-fallback") == "no node that has 'qwen3:32b' is up; answered by tiny:1b"


async def test_a_model_whose_nodes_all_fail_is_answered_by_its_fallback() -> None:
    async def fails(seen: Seen) -> None:
        seen.reply(500, {"error": "llama runner process has terminated"})

    async with scripted("big:latest") as one, EmulatedCluster([spec("small", TINY)]) as made:
        one.answers["POST", "/api/chat"] = fails
        async with front(one.url, made.urls[0], fallbacks={"big": ("tiny:1b",)}) as door:
            reply = await door.ask("POST", "/api/chat", {"model": "big", "messages": MESSAGES, "stream": False})
            assert (reply.status, reply.json["model"]) == (200, "tiny:1b")
            assert reply.header("x-sollol-fallback").startswith("all nodes failed: ")


async def test_a_model_whose_nodes_fail_and_whose_fallbacks_fail_too_says_why_itself() -> None:
    async def fails(seen: Seen) -> None:
        seen.reply(500, {"error": "llama runner process has terminated"})

    async with scripted("big:latest") as one, scripted("small:latest") as two:
        one.answers["POST", "/api/chat"] = two.answers["POST", "/api/chat"] = fails
        async with front(one.url, two.url, fallbacks={"big": ("small", "not-there")}) as door:
            reply = await door.ask("POST", "/api/chat", {"model": "big", "messages": MESSAGES, "stream": False})
            assert reply.status >= 500
            assert one.id in reply.json["error"]
            assert two.id not in reply.json["error"]
            assert two.asked("POST", "/api/chat")


async def test_a_client_that_leaves_ends_an_aliased_answer() -> None:
    slow = NodeSpec("one", prefill=1e6, decode=20, load_gbps=1e6, models=(ModelSpec("tiny:1b", answer_tokens=500),))
    async with cluster(slow, aliases={"gpt-4o": "tiny:1b"}) as (door, made):
        request = await door.open("POST", "/api/chat", {"model": "gpt-4o", "messages": MESSAGES})
        await request.head()
        assert b'"model":"gpt-4o"' in await request.chunk()
        request.leave()
        await until(lambda: made.nodes[0].model.running == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_breaks_goes_on_at_a_node_that_calls_the_model_otherwise(stream: bool) -> None:
    one = ModelSpec("qwen3:32b", digest="7" * 64, answer_tokens=24)
    specs = spec("a", one), spec("b", replace(one, name="my-qwen:q4"))
    async with EmulatedCluster(specs) as made:
        settings = (
            NodeSettings(made.urls[0], name="a", priority=9),
            NodeSettings(made.urls[1], name="b", names={"my-qwen:q4": "qwen3:32b"}),
        )
        async with front(*settings) as door:
            body = {"model": "Qwen3:32b", "messages": MESSAGES, "stream": stream}
            whole = await door.ask("POST", "/api/chat", body)
            made.nodes[0].faults.set(die_after=5)
            reply = await door.ask("POST", "/api/chat", body)
            assert reply.status == 200, reply.body
            assert [line["message"]["content"] for line in reply.lines if not line["done"]] == [
                line["message"]["content"] for line in whole.lines if not line["done"]
            ]
            assert set(models_of(reply)) == {"Qwen3:32b"}
            assert "my-qwen:q4" in sent(made, "/api/generate") + sent(made, "/api/chat")


async def test_tokens_of_an_alias_are_counted_and_its_kept_answers_forgotten() -> None:
    async with cluster(spec("one", QWEN, embedder("bge:latest")), aliases={"gpt-4o": "qwen3:32b", "ada": "bge"}) as (door, _):
        counted = await door.ask("POST", "/v1/messages/count_tokens", {"model": "gpt-4o", "messages": MESSAGES})
        assert (counted.status, counted.json["input_tokens"] > 0) == (200, True)
        assert (await door.ask("POST", "/v1/embeddings", {"model": "ada", "input": "x"})).status == 200
        assert (await door.ask("DELETE", "/api/cache?model=ada")).json == {"cleared": 1}


async def test_right_after_the_start_no_fallback_answers_for_a_model_that_is_there() -> None:
    held = asyncio.Event()

    async def later(seen: Seen) -> None:
        await held.wait()
        seen.reply(body={"version": "0.33.0"})

    async def chat(seen: Seen) -> None:
        seen.begin()
        seen.line({"model": "qwen3:32b", "message": {"role": "assistant", "content": "x"}, "done": True, "done_reason": "stop"})
        seen.end()

    async with EmulatedCluster([spec("a", TINY)]) as made, scripted("qwen3:32b") as late:
        late.answers["GET", "/api/version"] = later
        late.answers["POST", "/api/chat"] = chat
        config = Config(
            gateway=Gateway(port=0, shutdown_seconds=0.0),
            nodes=(NodeSettings(made.urls[0]), NodeSettings(late.url)),
            discovery=Discovery(enabled=False),
            fallbacks={"qwen3:32b": ("tiny:1b",)},
            data_dir=Path("/nonexistent"),
        )
        running = await open_gateway(config)
        try:
            door = Front(running.gateway)
            await until(lambda: any(node.surveyed for node in running.gateway.engine.state.nodes.values()))
            asked = asyncio.create_task(door.ask("POST", "/api/chat", {"model": "qwen3:32b", "messages": MESSAGES}))
            answered, _ = await asyncio.wait({asked}, timeout=0.2)
            assert not answered
            held.set()
            reply = await asked
            assert (reply.status, reply.header("x-sollol-fallback")) == (200, "")
        finally:
            await running.close(0.0)


async def test_a_node_that_is_added_brings_names_of_its_own_and_may_get_others() -> None:
    async with EmulatedCluster([spec("one", ModelSpec("mine:8b"))]) as made, front() as door:
        node = {"url": made.nodes[0].url, "name": "one", "names": {"Mine:8b": "Qwen3:8b"}}
        added = await door.ask("POST", "/api/nodes", node)
        assert (added.status, added.json["models"], added.json["names"]) == (201, ["qwen3:8b"], {"mine:8b": "qwen3:8b"})
        for stream in (True, False):
            reply = await door.ask("POST", "/api/chat", {"model": "qwen3:8b", "messages": MESSAGES, "stream": stream})
            assert (reply.status, set(models_of(reply))) == (200, {"qwen3:8b"})
        assert sent(made, "/api/chat") == ["mine:8b"] * 2
        changed = await door.ask("PATCH", "/api/nodes/one", {"names": {"mine:8b": "other"}})
        assert (changed.json["models"], changed.json["names"]) == (["other:latest"], {"mine:8b": "other:latest"})
        reply = await door.ask("POST", "/api/chat", {"model": "other", "messages": MESSAGES})
        assert (reply.status, set(models_of(reply))) == (200, {"other"})
        assert (await door.ask("POST", "/api/chat", {"model": "qwen3:8b", "messages": MESSAGES})).status == 404
        plain = await door.ask("PATCH", "/api/nodes/one", {"names": {}})
        assert (plain.json["models"], plain.json["names"]) == (["mine:8b"], {})


async def test_a_node_cannot_call_a_model_by_an_alias() -> None:
    async with cluster(spec("one", QWEN), aliases={"gpt-4o": "qwen3:32b"}) as (door, _):
        for method, path, more in (("POST", "/api/nodes", {"url": "127.0.0.1:9"}), ("PATCH", "/api/nodes/one", {})):
            reply = await door.ask(method, path, {**more, "names": {"mine": "GPT-4o"}})
            assert reply.status == 400
            assert reply.json["error"] == "names: 'gpt-4o', which is an alias of 'qwen3:32b': name the model itself"
        assert len((await door.ask("GET", "/api/nodes")).json["nodes"]) == 1
