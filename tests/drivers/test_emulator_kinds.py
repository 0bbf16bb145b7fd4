"""Emulated nodes as llama.cpp, vLLM and LM Studio, and dialects that only Ollama speaks."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from tests.support.emulated import Got, ask

from sollol.core.types import NodeKind
from sollol.emulator import ModelSpec, NodeSpec, embedder
from sollol.emulator.server import EmulatedCluster

CHAT = ModelSpec("chat:8b", 1_000_000, prefill=1e5, decode=1000, answer_tokens=20, capabilities=("completion", "tools"))
THINK = ModelSpec("think:8b", 1_000_000, prefill=1e5, decode=1000, answer_tokens=20, capabilities=("completion", "thinking"))
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}}


def cluster_of(kind: NodeKind, *models: ModelSpec) -> EmulatedCluster:
    return EmulatedCluster([NodeSpec("n", kind=kind, models=models or (CHAT,), slots=3, load_gbps=1000, version="0.9.1")])


def said(got: Got) -> str:
    deltas = [e["choices"][0]["delta"] for e in got.events[:-1] if e["choices"]]
    return "".join(d.get("content") or "" for d in deltas)


async def test_llama_cpp_shows_what_it_is():
    async with cluster_of(NodeKind.LLAMACPP) as cluster:
        node = cluster.nodes[0]
        props = (await ask(node, "GET", "/props")).json
        assert props["total_slots"] == 3
        assert props["model_path"] == "/models/chat-8b.gguf"
        assert props["build_info"]
        models = (await ask(node, "GET", "/v1/models")).json["data"]
        assert [m["id"] for m in models] == ["/models/chat-8b.gguf"]
        assert (await ask(node, "GET", "/health")).json == {"status": "ok"}
        assert [s["is_processing"] for s in (await ask(node, "GET", "/slots")).json] == [False] * 3
        missing = await ask(node, "GET", "/api/tags")
        assert (missing.status, missing.json["error"]["type"]) == (404, "not_found_error")
        assert (await ask(node, "DELETE", "/props")).status == 404


async def test_llama_cpp_says_that_it_is_loading():
    async with cluster_of(NodeKind.LLAMACPP) as cluster:
        node = cluster.nodes[0]
        node.loading = True
        got = await ask(node, "GET", "/health")
        assert got.status == 503
        assert got.json == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
        node.loading = False
        assert (await ask(node, "GET", "/health")).status == 200


async def test_llama_cpp_continues_what_it_rendered():
    async with cluster_of(NodeKind.LLAMACPP) as cluster:
        node = cluster.nodes[0]
        chat = await ask(node, "POST", "/v1/chat/completions", {"messages": MESSAGES})
        whole = chat.json["choices"][0]["message"]["content"]
        assert chat.json["timings"]["predicted_n"] == chat.json["usage"]["completion_tokens"]
        prompt = (await ask(node, "POST", "/apply-template", {"messages": MESSAGES})).json["prompt"]
        rest = await ask(node, "POST", "/completion", {"prompt": prompt + whole[:30]})
        assert whole[:30] + rest.json["content"] == whole
        stream = await ask(node, "POST", "/completion", {"prompt": prompt, "stream": True, "n_predict": 3})
        assert "".join(e["content"] for e in stream.events) == whole[: len("".join(e["content"] for e in stream.events))]
        assert stream.events[-1]["stop_type"] == "limit"
        assert len((await ask(node, "POST", "/tokenize", {"content": "12345678"})).json["tokens"]) == 2
        assert (await ask(node, "POST", "/completion", {"prompt": 5})).status == 400


@pytest.mark.parametrize("kind", [NodeKind.LLAMACPP, NodeKind.VLLM, NodeKind.LMSTUDIO, NodeKind.OPENAI, NodeKind.OLLAMA])
async def test_every_kind_speaks_openai(kind):
    async with cluster_of(kind) as cluster:
        node = cluster.nodes[0]
        body = {"model": "chat:8b", "messages": MESSAGES}
        document = (await ask(node, "POST", "/v1/chat/completions", body)).json
        text = document["choices"][0]["message"]["content"]
        stream = await ask(node, "POST", "/v1/chat/completions", body | {"stream": True})
        assert said(stream) == text
        assert stream.events[-1] == "[DONE]"
        assert stream.events[-2]["choices"][0]["finish_reason"] == "stop"
        usage = await ask(
            node, "POST", "/v1/chat/completions", body | {"stream": True, "stream_options": {"include_usage": True}}
        )
        assert usage.events[-2]["usage"]["completion_tokens"] == document["usage"]["completion_tokens"]
        plain = (await ask(node, "POST", "/v1/completions", {"model": "chat:8b", "prompt": "sky", "max_tokens": 3})).json
        assert plain["choices"][0]["finish_reason"] == "length"
        parts = await ask(
            node, "POST", "/v1/completions", {"model": "chat:8b", "prompt": "sky", "max_tokens": 3, "stream": True}
        )
        assert "".join(e["choices"][0]["text"] for e in parts.events[:-1]) == plain["choices"][0]["text"]


async def test_vllm_shows_what_it_is():
    async with cluster_of(NodeKind.VLLM) as cluster:
        node = cluster.nodes[0]
        assert (await ask(node, "GET", "/version")).json == {"version": "0.9.1"}
        model = (await ask(node, "GET", "/v1/models")).json["data"][0]
        assert (model["owned_by"], model["max_model_len"]) == ("vllm", CHAT.context_length)
        assert ((await ask(node, "GET", "/health")).status, (await ask(node, "GET", "/health")).body) == (200, b"")
        missing = await ask(node, "POST", "/v1/chat/completions", {"model": "none", "messages": MESSAGES})
        assert missing.json["error"] == {
            "message": "The model `none` does not exist.",
            "type": "NotFoundError",
            "param": None,
            "code": 404,
        }
        assert (await ask(node, "GET", "/none")).json == {"detail": "Not Found"}
        assert (await ask(node, "DELETE", "/version")).status == 405


async def test_lm_studio_shows_what_is_loaded():
    async with cluster_of(NodeKind.LMSTUDIO, CHAT, embedder("me/embed:latest")) as cluster:
        node = cluster.nodes[0]
        await ask(node, "POST", "/v1/chat/completions", {"model": "chat:8b", "messages": MESSAGES})
        models = {m["id"]: m for m in (await ask(node, "GET", "/api/v0/models")).json["data"]}
        assert (models["chat:8b"]["state"], models["chat:8b"]["type"]) == ("loaded", "llm")
        assert (models["me/embed:latest"]["state"], models["me/embed:latest"]["type"]) == ("not-loaded", "embeddings")
        assert (await ask(node, "GET", "/api/v0/models/chat:8b")).json["state"] == "loaded"
        for path in ("/", "/api/tags"):
            assert "Unexpected endpoint" in (await ask(node, "GET", path)).json["error"]


async def test_embeddings_as_numbers_and_packed():
    async with cluster_of(NodeKind.LLAMACPP, embedder("e:latest", dimension=8)) as cluster:
        node = cluster.nodes[0]
        numbers = (await ask(node, "POST", "/v1/embeddings", {"model": "e", "input": "x"})).json["data"][0]["embedding"]
        packed = (await ask(node, "POST", "/v1/embeddings", {"model": "e", "input": "x", "encoding_format": "base64"})).json
        raw = base64.b64decode(packed["data"][0]["embedding"])
        assert struct.unpack("<8f", raw) == pytest.approx(numbers)
        own = (await ask(node, "POST", "/embedding", {"content": ["x", "y"]})).json
        assert own[0]["embedding"][0] == numbers


@pytest.mark.parametrize("stream", [True, False])
async def test_tools_are_called_and_their_results_answered(stream):
    async with cluster_of(NodeKind.OLLAMA) as cluster:
        node = cluster.nodes[0]
        body: dict[str, Any] = {"model": "chat:8b", "messages": MESSAGES, "tools": [TOOL], "stream": stream}
        call = (await ask(node, "POST", "/api/chat", body)).lines[0]["message"]["tool_calls"][0]["function"]
        assert call["name"] == "weather"
        assert isinstance(call["arguments"]["city"], str)
        result = [*MESSAGES, {"role": "assistant", "tool_calls": [{"function": call}]}, {"role": "tool", "content": "20C"}]
        answer = (await ask(node, "POST", "/api/chat", body | {"messages": result})).lines[0]["message"]
        assert "tool_calls" not in answer
        got = await ask(node, "POST", "/v1/chat/completions", body | {"stream": stream})
        openai = got.events[0]["choices"][0]["delta"] if stream else got.json["choices"][0]["message"]
        assert openai["tool_calls"][0]["function"]["name"] == "weather"


async def test_thoughts_stand_apart():
    async with cluster_of(NodeKind.OLLAMA, THINK) as cluster:
        node = cluster.nodes[0]
        body = {"model": "think:8b", "messages": MESSAGES, "stream": False}
        aloud = (await ask(node, "POST", "/api/chat", body)).json["message"]
        assert aloud["thinking"]
        assert aloud["thinking"] not in aloud["content"]
        assert "thinking" not in (await ask(node, "POST", "/api/chat", body | {"think": False})).json["message"]
        openai = (await ask(node, "POST", "/v1/chat/completions", body)).json["choices"][0]["message"]
        assert (openai["reasoning"], openai["content"]) == (aloud["thinking"], aloud["content"])
        generated = await ask(node, "POST", "/api/generate", {"model": "think:8b", "prompt": "x", "think": True})
        assert generated.lines[0]["thinking"]
        blocks = await ask(
            node,
            "POST",
            "/v1/messages",
            body | {"max_tokens": 99, "thinking": {"type": "enabled"}, "system": "s", "stream": True},
        )
        kinds = [e["content_block"]["type"] for e in blocks.events if e["type"] == "content_block_start"]
        assert kinds == ["thinking", "text"]


async def test_schemas_and_stops():
    async with cluster_of(NodeKind.OLLAMA) as cluster:
        node = cluster.nodes[0]
        body: dict[str, Any] = {"model": "chat:8b", "messages": MESSAGES, "stream": False}
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        assert (await ask(node, "POST", "/api/chat", body | {"format": schema})).json["message"]["content"] == '{"n": 4}'
        wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
        openai = await ask(node, "POST", "/v1/chat/completions", body | {"response_format": wanted})
        assert openai.json["choices"][0]["message"]["content"] == '{"n": 4}'
        loose = await ask(node, "POST", "/v1/chat/completions", body | {"response_format": {"type": "json_object"}})
        assert loose.json["choices"][0]["message"]["content"].startswith("{")
        text = (await ask(node, "POST", "/api/chat", body)).json["message"]["content"]
        word = text.split(" ")[4]
        cut = (await ask(node, "POST", "/api/chat", body | {"options": {"stop": [word]}})).json["message"]["content"]
        assert cut == text[: text.index(word)]


async def test_responses():
    async with cluster_of(NodeKind.OLLAMA) as cluster:
        node = cluster.nodes[0]
        body = {"model": "chat:8b", "input": MESSAGES, "instructions": "be brief"}
        document = (await ask(node, "POST", "/v1/responses", body)).json
        text = document["output"][0]["content"][0]["text"]
        stream = await ask(node, "POST", "/v1/responses", body | {"stream": True})
        assert "".join(e["delta"] for e in stream.events if e["type"] == "response.output_text.delta") == text
        assert [e["sequence_number"] for e in stream.events] == list(range(len(stream.events)))


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {"model": "chat:8b", "messages": ["x"]}, 400),
        ("/api/chat", {"model": "chat:8b", "messages": [{"content": [1]}]}, 400),
        ("/v1/chat/completions", {"model": "chat:8b", "messages": ["x"]}, 400),
        ("/v1/completions", {"model": "embed", "prompt": "x"}, 400),
        ("/v1/chat/completions", {"model": "embed", "messages": MESSAGES}, 400),
        ("/v1/messages", {"model": "embed", "messages": MESSAGES, "max_tokens": 1}, 400),
        ("/v1/embeddings", {"model": "chat:8b", "input": "x"}, 501),
        ("/api/generate", {"model": "chat:8b", "prompt": "x" * 99_999, "truncate": False}, 400),
        ("/api/generate", {"model": "chat:8b", "prompt": "x" * 99_999, "shift": False}, 400),
        ("/api/generate", {"model": "other:120b-cloud", "prompt": "x"}, 403),
        ("/api/copy", {"source": "a b", "destination": "x"}, 400),
        ("/api/tags/", {}, 307),
    ],
)
async def test_refusals(path, body, status):
    async with cluster_of(NodeKind.OLLAMA, CHAT, embedder("embed:latest")) as cluster:
        assert (await ask(cluster.nodes[0], "POST", path, body)).status == status


async def test_a_long_prompt_is_cut():
    async with cluster_of(NodeKind.OLLAMA) as cluster:
        body = {"model": "chat:8b", "prompt": "x" * 99_999, "stream": False}
        assert (await ask(cluster.nodes[0], "POST", "/api/generate", body)).json["prompt_eval_count"] == 4096 // 2 + 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "192.168.1.5"}, 200),
        ({"Host": "8.8.8.8"}, 403),
        ({"Host": "node.local"}, 200),
        ({"Host": "example.com"}, 403),
        ({"Origin": "app://obsidian"}, 200),
        ({"Origin": "https://localhost:1"}, 200),
        ({"Origin": "https://example.com"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_who_may_ask(headers, status):
    async with cluster_of(NodeKind.OLLAMA) as cluster:
        assert (await ask(cluster.nodes[0], "GET", "/api/version", headers=headers)).status == status
