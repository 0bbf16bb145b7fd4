"""What a model can do decides where a request may go; what nobody here can do is said, with who can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.front import Front, front
from tests.support.scripted import scripted
from tests.support.wait import until

from sollol.config import Models, NodeSettings
from sollol.core.digests import Digests
from sollol.core.types import NodeKind
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import ModelSpec, NodeSpec, embedder

PLAIN = ModelSpec("plain:1b", capabilities=("completion",), answer_tokens=3)
ABLE = ModelSpec("able:1b", capabilities=("completion", "tools", "thinking", "insert"), answer_tokens=3)
SIGHTED = ModelSpec("sighted:latest", capabilities=("completion", "vision"), answer_tokens=3)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ASK = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
SEEN = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]}]


def spec(name: str, *models: ModelSpec, kind: NodeKind = NodeKind.OLLAMA) -> NodeSpec:
    return NodeSpec(name, prefill=1e6, decode=5_000, slots=8, load_gbps=1e6, models=models, kind=kind)


@asynccontextmanager
async def known(*specs: NodeSpec, **settings: Any) -> AsyncIterator[Front]:
    """A gateway that knows already what each model can do."""
    async with EmulatedCluster(specs) as cluster:
        nodes = [NodeSettings(node.url, name=node.name) for node in cluster.nodes]
        async with front(*nodes, **settings) as door:
            ollama = [node for node in door.context.engine.state.nodes.values() if node.kind is NodeKind.OLLAMA]
            await until(lambda: all(name in node.shown for node in ollama for name in node.models))
            yield door


REFUSED = [
    ("/api/chat", {"messages": ASK, "tools": TOOLS}, "tools", "able:1b"),
    ("/api/chat", {"messages": ASK, "think": True}, "thinking", "able:1b"),
    ("/api/chat", {"messages": [{"role": "user", "content": "Hi", "images": [PIXEL]}]}, "vision", "sighted"),
    ("/api/generate", {"prompt": "Hi", "images": [PIXEL]}, "vision", "sighted"),
    ("/api/generate", {"prompt": "Hi", "suffix": "."}, "insert", "able:1b"),
    ("/v1/chat/completions", {"messages": ASK, "tools": TOOLS}, "tools", "able:1b"),
    ("/v1/chat/completions", {"messages": SEEN}, "vision", "sighted"),
    ("/v1/messages", {"messages": ASK, "max_tokens": 5, "tools": [{"name": "f", "input_schema": {}}]}, "tools", "able:1b"),
]


@pytest.mark.parametrize(("path", "body", "need", "able"), REFUSED, ids=[f"{path} {need}" for path, _, need, _ in REFUSED])
async def test_what_a_model_cannot_do_is_a_400_that_names_those_that_can(path, body, need, able):
    async with known(spec("one", PLAIN), spec("two", ABLE, SIGHTED)) as door:
        refused = await door.ask("POST", path, {"model": "plain:1b", **body})
        assert refused.status == 400, refused.body
        error = refused.json["error"]
        words = error if isinstance(error, str) else error["message"]
        assert words == f'"plain:1b" does not support {need}; models here that do: {able}'
        if path.startswith("/v1/"):
            assert error["type"] == "invalid_request_error"
        assert (refused.json.get("type") == "error") is (path == "/v1/messages")
        assert (await door.ask("POST", path, {"model": able, **body})).status == 200


async def test_where_no_model_can_it_says_so():
    async with known(spec("one", PLAIN)) as door:
        refused = await door.ask("POST", "/api/chat", {"model": "plain:1b", "messages": ASK, "tools": TOOLS})
        assert refused.json == {"error": '"plain:1b" does not support tools; no model here is known to'}


async def test_many_models_that_can_are_not_all_named():
    models = [ModelSpec(f"able{number}:latest", capabilities=("completion", "tools")) for number in range(8)]
    async with known(spec("one", PLAIN, *models)) as door:
        refused = await door.ask("POST", "/api/chat", {"model": "plain:1b", "messages": ASK, "tools": TOOLS})
        assert refused.json["error"].endswith("that do: able0, able1, able2, able3, able4, and 3 more")


async def test_a_request_goes_only_to_the_nodes_whose_model_can():
    deaf = ModelSpec("m:latest", capabilities=("completion",), answer_tokens=3)
    able = ModelSpec("m:latest", capabilities=("completion", "tools"), answer_tokens=3, digest="9" * 64)
    async with known(spec("deaf", deaf), spec("able", able)) as door:
        for number in range(4):
            body = {"model": "m", "messages": [{"role": "user", "content": f"Hi {number}"}], "tools": TOOLS}
            assert (await door.ask("POST", "/api/chat", body)).header("x-sollol-node") == "able"
        pinned = await door.ask("POST", "/api/chat", body, {"X-SOLLOL-Node": "deaf"})
        assert pinned.status == 400


async def test_what_llama_cpp_tells_of_its_model_is_believed_and_the_rest_is_left_to_it():
    blind = ModelSpec("blind", capabilities=("completion", "tools"), answer_tokens=3)
    async with known(spec("llama", blind, kind=NodeKind.LLAMACPP)) as door:
        (entry,) = (await door.ask("GET", "/api/tags")).json["models"]
        assert entry["capabilities"] == ["completion"]
        refused = await door.ask("POST", "/v1/chat/completions", {"model": "blind", "messages": SEEN})
        assert refused.status == 400
        assert '"blind" does not support vision' in refused.json["error"]["message"]
        assert (
            await door.ask("POST", "/v1/chat/completions", {"model": "blind", "messages": ASK, "tools": TOOLS})
        ).status == 200


async def test_what_nobody_tells_of_a_model_is_not_held_against_it():
    async with known(spec("vllm", PLAIN, kind=NodeKind.VLLM)) as door:
        for body in ({"messages": SEEN}, {"messages": ASK, "tools": TOOLS}):
            reply = await door.ask("POST", "/v1/chat/completions", {"model": "plain:1b", **body})
            assert reply.header("x-sollol-node") == "vllm", "the node was asked, whatever it says"


LONG = [{"role": "user", "content": "word " * 20_000}]


@pytest.mark.parametrize("kind", [NodeKind.LLAMACPP, NodeKind.VLLM])
async def test_a_prompt_longer_than_every_context_is_refused_where_the_engine_would(kind):
    short = ModelSpec("m:latest", context_length=2_048, answer_tokens=3)
    async with known(spec("one", short, kind=kind)) as door:
        model = (await door.ask("GET", "/v1/models")).json["data"][0]["id"]
        refused = await door.ask("POST", "/v1/chat/completions", {"model": model, "messages": LONG})
        assert refused.status == 400
        words = refused.json["error"]["message"]
        assert words.startswith("the prompt of about ")
        assert words.endswith(f"tokens is longer than the context of '{model.removesuffix(':latest')}' (2048 at most)")


async def test_the_context_that_a_model_was_loaded_with_counts():
    short = ModelSpec("m:latest", context_length=131_072, answer_tokens=3)
    async with known(spec("one", short, kind=NodeKind.LLAMACPP)) as door:
        refused = await door.ask("POST", "/v1/chat/completions", {"model": "m-latest", "messages": LONG})
        assert refused.status == 400
        assert "(4096 at most)" in refused.json["error"]["message"]


async def test_ollama_cuts_prompts_itself():
    short = ModelSpec("m:latest", context_length=2_048, answer_tokens=3)
    async with known(spec("one", short)) as door:
        assert (await door.ask("POST", "/api/chat", {"model": "m", "messages": LONG, "stream": False})).status == 200


async def test_vectors_are_asked_only_of_models_that_make_them():
    vectors = embedder("bge:latest")
    async with known(spec("studio", PLAIN, kind=NodeKind.LMSTUDIO), spec("one", vectors)) as door:
        refused = await door.ask("POST", "/v1/embeddings", {"model": "plain:1b", "input": "x"})
        assert refused.status == 501
        words = refused.json["error"]["message"]
        assert words == "this model does not support embeddings ('plain:1b'); models here that do: bge"
        assert (await door.ask("POST", "/v1/embeddings", {"model": "bge", "input": "x"})).status == 200


# --- one name, several digests


@pytest.mark.parametrize(
    ("rule", "chosen"), [(Digests.ONE, {"old", "new"}), (Digests.NEWEST, {"new"}), (Digests.REFUSE, set())]
)
async def test_one_name_with_two_digests_by_the_rule_that_is_set(rule, chosen):
    async def chat(seen):
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        seen.reply(body={"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    async with scripted("m:latest", age=1) as old, scripted("m:latest", age=2) as new:
        new.models["m:latest"] = "f" * 64
        for node in (old, new):
            node.answers["POST", "/v1/chat/completions"] = chat
        nodes = NodeSettings(old.url, name="old"), NodeSettings(new.url, name="new")
        async with front(*nodes, models=Models(digests=rule)) as door:
            entries = (await door.ask("GET", "/api/tags")).json["models"]
            assert [(entry["digest"][:1], entry["nodes"]) for entry in entries] == [("f", ["new"]), ("0", ["old"])]
            replies = [
                await door.ask("POST", "/v1/chat/completions", {"model": "m", "messages": ASK}, {"X-SOLLOL-Node": name})
                for name in ("old", "new")
            ]
            assert {reply.header("x-sollol-node") for reply in replies if reply.status == 200} == chosen
            free = await door.ask("POST", "/v1/chat/completions", {"model": "m", "messages": ASK})
            if chosen:
                assert free.header("x-sollol-node") in chosen
                return
            assert free.status == 409
            words = "model 'm' differs between nodes (old 000000000000, new ffffffffffff): pull it again on all of them"
            assert free.json["error"]["message"].startswith(words)
