"""How long a prompt is: by the tokenizer of a node, and marked where it is only estimated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.canned import LLAMACPP, OLLAMA, VLLM, Canned, canned
from tests.support.front import front
from tests.support.scripted import Seen, scripted

PATH = "/v1/messages/count_tokens"
TEXT = "how are you today " * 40
ASKED: dict[str, Any] = {
    "system": "Be brief.",
    "messages": [
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "it is green"}]},
    ],
    "tools": [{"name": "look", "input_schema": {"type": "object"}}],
}


async def test_llama_cpp_renders_the_prompt_and_counts_it() -> None:
    replies: dict[str, Canned] = {
        **LLAMACPP,
        "/apply-template": (200, {"prompt": "<s>rendered"}),
        "/tokenize": (200, {"tokens": [1, 2, {"id": 3, "piece": "x"}]}),
    }
    async with canned(replies) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        reply = await gate.ask("POST", PATH, {"model": "tiny", **ASKED})
        assert (reply.status, reply.json, reply.header("x-sollol-estimated")) == (200, {"input_tokens": 3}, "")
        sent = {path: body for _, path, body in node.asked}
        assert b'"tool_call_id":"t1"' in sent["/apply-template"]
        assert b'"tools":[' in sent["/apply-template"]
        assert b'"<s>rendered"' in sent["/tokenize"]


async def test_vllm_counts_a_chat_by_its_own_name_of_the_model() -> None:
    replies: dict[str, Canned] = {**VLLM, "/tokenize": (200, {"count": 42, "max_model_len": 4096, "tokens": []})}
    async with canned(replies) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        reply = await gate.ask("POST", PATH, {"model": "qwen/q", **ASKED})
        assert (reply.status, reply.json) == (200, {"input_tokens": 42})
        assert b'"model":"Qwen/Q"' in {path: body for _, path, body in node.asked}["/tokenize"]


async def test_a_node_that_has_the_path_is_asked_first_and_with_the_very_request() -> None:
    async with scripted("m:latest") as other, scripted("m:latest") as node:
        node.answers["POST", PATH] = _counting(200, {"input_tokens": 7})
        async with front(other.url, node.url) as gate:
            reply = await gate.ask("POST", PATH, {"model": "m:latest", **ASKED})
            assert (reply.status, reply.json, reply.header("x-sollol-node")) == (200, {"input_tokens": 7}, node.id)
            node.answers["POST", PATH] = _counting(400, {"type": "error", "error": {"type": "x", "message": "bad block"}})
            reply = await gate.ask("POST", PATH, {"model": "m", **ASKED})
            assert (reply.status, reply.json["error"]["message"]) == (400, "bad block")


@pytest.mark.parametrize("broken", [(500, {"error": "no"}), (200, {"no": "tokens"}), (404, b"File Not Found")])
async def test_an_estimate_is_marked_as_one(broken: Canned) -> None:
    for replies in (OLLAMA, {**LLAMACPP, "/apply-template": (200, {"prompt": "x"}), "/tokenize": broken}):
        async with canned(replies) as node, front(f"http://127.0.0.1:{node.port}") as gate:
            if broken[0] == 200 and replies is not OLLAMA:
                node.replies["/tokenize"] = (200, b"oops")
            reply = await gate.ask("POST", PATH, {"model": "tiny", **ASKED})
            assert (reply.status, reply.header("x-sollol-estimated")) == (200, "input_tokens")
            assert 0.15 < reply.json["input_tokens"] / len(TEXT) < 0.6


async def test_refusals() -> None:
    async with canned(OLLAMA) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        for asked, status, words in (
            ({"model": "nope", **ASKED}, 404, "model 'nope' not found"),
            ({"model": "tiny"}, 400, "messages is required"),
            ({**ASKED}, 400, "model is required"),
        ):
            reply = await gate.ask("POST", PATH, asked)
            assert (reply.status, reply.json["type"], reply.json["error"]["message"]) == (status, "error", words)
        reply = await gate.ask("POST", PATH, {"model": "tiny", **ASKED}, {"X-SOLLOL-Node": "nobody"})
        assert reply.status == 400
    async with front() as gate:
        assert (await gate.ask("POST", PATH, {"model": "tiny", **ASKED})).status == 503
    async with canned(LLAMACPP) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        picture = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x/a.png"}}]}]
        reply = await gate.ask("POST", PATH, {"model": "tiny", "messages": picture})
        assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")


def _counting(status: int, answer: Any) -> Callable[[Seen], Awaitable[None]]:
    async def count(seen: Seen) -> None:
        if seen.body == b"{}":
            seen.reply(400, {"error": {"message": "model is required"}})
        else:
            seen.reply(status, answer)

    return count


async def test_an_alias_and_a_node_that_is_named() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two:
        one.answers["POST", PATH] = _counting(200, {"input_tokens": 1})
        two.answers["POST", PATH] = _counting(200, {"input_tokens": 2})
        async with front(one.url, two.url, aliases={"mine": "m"}) as gate:
            for node, tokens in ((one, 1), (two, 2)):
                reply = await gate.ask("POST", PATH, {"model": "mine", **ASKED}, {"X-SOLLOL-Node": node.id})
                assert (reply.status, reply.json, reply.header("x-sollol-node")) == (200, {"input_tokens": tokens}, node.id)
            assert one.asked("POST", PATH)[-1].json["model"] == "m:latest"


async def test_the_estimate_of_a_gateway_behind_this_one_is_no_count() -> None:
    async def guesses(seen: Seen) -> None:
        if seen.body == b"{}":  # a look at what it can do
            seen.reply(400, {"error": {"message": "model is required"}})
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-SOLLOL-Estimated: input_tokens\r\n"
        seen.transport.write(head + b'Content-Length: 18\r\n\r\n{"input_tokens":9}')

    async with scripted("m:latest") as node:
        node.answers["POST", PATH] = guesses
        async with front(node.url) as gate:
            reply = await gate.ask("POST", PATH, {"model": "m", **ASKED})
            assert (reply.status, reply.header("x-sollol-estimated")) == (200, "input_tokens")
            assert reply.json["input_tokens"] != 9
            assert len(node.asked("POST", PATH)) > 1
