"""A real llama.cpp server behind a gateway, asked in every dialect: passed on where it speaks the dialect, and translated."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

import pytest
from tests.support.front import Front, front

from sollol.drivers import survey

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

HELLO = [{"role": "user", "content": "how are you today"}]


def direct(url: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.loads(reply.read())


async def ask(gate: Front, path: str, **body: Any) -> Any:
    reply = await gate.ask("POST", path, {"model": "tiny", **body})
    assert reply.status == 200, reply.body
    return reply.json


async def words(gate: Front) -> dict[str, str]:
    """What it says to the same question in each dialect."""
    chat = await ask(gate, "/v1/chat/completions", messages=HELLO, max_tokens=8, temperature=0)
    native = await ask(gate, "/api/chat", messages=HELLO, stream=False, options={"num_predict": 8, "temperature": 0})
    messages = await ask(gate, "/v1/messages", messages=HELLO, max_tokens=8, temperature=0)
    responses = await ask(gate, "/v1/responses", input=HELLO[0]["content"], max_output_tokens=8, temperature=0)
    assert messages["stop_reason"] == "max_tokens"
    assert (
        messages["usage"]["input_tokens"] + messages["usage"].get("cache_read_input_tokens", 0) == native["prompt_eval_count"]
    )
    assert responses["usage"]["input_tokens"] == native["prompt_eval_count"]
    return {
        "chat": chat["choices"][0]["message"]["content"],
        "native": native["message"]["content"],
        "messages": messages["content"][0]["text"],
        "responses": responses["output"][0]["content"][0]["text"],
    }


@pytest.mark.parametrize("spoken", [True, False], ids=["native", "translated"])
async def test_every_dialect_says_what_the_server_itself_says(
    llama_server, monkeypatch: pytest.MonkeyPatch, spoken: bool
) -> None:
    server = await asyncio.to_thread(llama_server)
    if not spoken:
        monkeypatch.setattr(survey, "ASKED_FOR", ())
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "temperature": 0}
    truth = (await asyncio.to_thread(direct, server.url, "/v1/chat/completions", asked))["choices"][0]["message"]["content"]
    async with front(server.url) as gate:
        (known,) = gate.context.engine.state.nodes.values()
        assert ("/v1/messages" in known.speaks) is spoken
        assert set((await words(gate)).values()) == {truth}
        stream = await gate.ask("POST", "/v1/messages", {**asked, "stream": True})
        seen = [json.loads(line[5:]) for line in stream.body.split(b"\n") if line.startswith(b"data:")]
        kinds = [event["type"] for event in seen if event["type"] not in ("content_block_delta", "ping")]
        order = ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
        assert kinds == order
        assert "".join(event["delta"]["text"] for event in seen if event["type"] == "content_block_delta") == truth
        stream = await gate.ask(
            "POST", "/v1/responses", {"model": "tiny", "input": "how are you today", "stream": True, "max_output_tokens": 8}
        )
        assert stream.body.startswith(b"event: response.created")
        assert b"event: response.incomplete" in stream.body


async def test_a_prompt_is_counted_alike_by_the_path_and_by_its_template(llama_server, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.to_thread(llama_server)
    asked = {
        "model": "tiny",
        "system": "Be brief.",
        "messages": [*HELLO, {"role": "assistant", "content": "fine"}, *HELLO],
        "tools": [{"name": "look", "description": "Looks", "input_schema": {"type": "object", "properties": {"at": {}}}}],
    }
    counts = []
    for paths in (survey.ASKED_FOR, ()):
        monkeypatch.setattr(survey, "ASKED_FOR", paths)
        async with front(server.url) as gate:
            reply = await gate.ask("POST", "/v1/messages/count_tokens", asked)
            assert (reply.status, reply.header("x-sollol-estimated")) == (200, "")
            counts.append(reply.json["input_tokens"])
    assert counts[0] == counts[1] > 20


async def test_rankings_of_a_real_server(llama_server) -> None:
    server = await asyncio.to_thread(llama_server, options=("--reranking",))
    async with front(server.url) as gate:
        found = await ask(gate, "/v1/rerank", query="how", documents=["are you", "today", "how"], top_n=2)
        assert len(found["results"]) == 2
