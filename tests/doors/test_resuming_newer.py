"""Anthropic's messages and OpenAI's responses, told in translation: another node goes on where the first one broke."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.front import Front, Reply, front

from sollol.config import NodeSettings
from sollol.core.events import Event, TaskEnded
from sollol.core.types import NodeKind
from sollol.emulator import routes, specs
from sollol.emulator.presets import LLAMA_8B, same
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

QUICK = NodeSpec(prefill=1e6, decode=20_000, slots=8, load_gbps=1e6, models=(replace(LLAMA_8B, answer_tokens=24),))
STORY = "Tell me a story"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
PATHS = (MESSAGES, RESPONSES)
KINDS = (NodeKind.OLLAMA, NodeKind.LLAMACPP)
FAULTS = ("die_after", "error_after", "end_after")
ASKED: dict[str, dict[str, Any]] = {
    MESSAGES: {"messages": [{"role": "user", "content": STORY}], "system": "Be brief", "max_tokens": 500},
    RESPONSES: {"input": STORY, "instructions": "Be brief"},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"name": "look", "description": "Look", "input_schema": SCHEMA}


@pytest.fixture(autouse=True)
def translated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ollama as it was before it had these paths, so that they are translated there too; and it loads at once."""
    monkeypatch.setattr(specs, "LOAD_BASE_SECONDS", 0.001)
    table = {path: methods for path, methods in routes._OLLAMA.items() if path not in PATHS}
    monkeypatch.setitem(routes._TABLES, NodeKind.OLLAMA, (table, routes._OLLAMA_PREFIXES))


def nodes(kind: NodeKind, count: int = 2, **fields: Any) -> list[NodeSpec]:
    return [replace(spec, kind=kind, **fields) for spec in same(count, QUICK)]


def preferred(cluster: EmulatedCluster) -> list[NodeSettings]:
    """The first node is taken while it can be."""
    return [NodeSettings(url, priority=9 if number == 0 else 5) for number, url in enumerate(cluster.urls)]


def listen(gate: Front) -> list[TaskEnded]:
    """The ends of requests from now on."""
    ended: list[TaskEnded] = []

    def heard(event: Event) -> None:
        assert isinstance(event, TaskEnded)
        ended.append(event)

    gate.context.engine.listen(heard, TaskEnded)
    return ended


async def body_of(gate: Front, path: str, **fields: Any) -> dict[str, Any]:
    name = (await gate.ask("GET", "/api/tags")).json["models"][0]["name"]
    return {"model": name, **ASKED[path], **fields}


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The data of each event; its name is what the data says."""
    found = []
    for event in body.split(b"\n\n"):
        if event:
            name, data = event.split(b"\n")
            found.append(json.loads(data.removeprefix(b"data: ")))
            assert name == b"event: " + found[-1]["type"].encode()
    return found


def message_of(events: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Text and usage of a stream of messages, which has to be in order."""
    kinds = [event["type"] for event in events]
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    assert kinds == [
        *("message_start", "content_block_start"),
        *["content_block_delta"] * len(deltas),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert {event["index"] for event in events if "index" in event} == {0}
    return "".join(event["delta"]["text"] for event in deltas), events[-2]


def response_of(events: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Text and last response of a stream of responses, which has to be in order and numbered without a gap."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * len(deltas),
        *("output_text.done", "content_part.done", "output_item.done"),
        kinds[-1],
    ]
    assert kinds[-1] in ("completed", "incomplete")
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    text = "".join(event["delta"] for event in deltas)
    last: dict[str, Any] = events[-1]["response"]
    assert last["output"][0]["content"][0]["text"] == text == events[-4]["text"]
    return text, last


def read(path: str, reply: Reply) -> tuple[str, dict[str, Any]]:
    """Text of a whole reply, and what tells its usage."""
    assert reply.status == 200, reply.body
    if reply.header("content-type").startswith("application/json"):
        assert reply.header("content-length") == str(len(reply.body))
        found: dict[str, Any] = reply.json
        blocks = found["content"] if path == MESSAGES else found["output"][0]["content"]
        return "".join(block["text"] for block in blocks), found
    assert reply.header("content-type") == "text/event-stream"
    events = events_of(reply.body)
    return message_of(events) if path == MESSAGES else response_of(events)


async def first_breaks(cluster: EmulatedCluster, gate: Front, path: str, fault: dict[str, Any], body: Any) -> Reply:
    """Ask with a fault at the node that the request goes to first."""
    cluster.nodes[0].faults.set(**fault)
    reply = await gate.ask("POST", path, body)
    cluster.nodes[0].faults.clear()
    mended = await gate.ask("POST", path, body)  # else its breaker opens in the end
    assert mended.header("x-sollol-host") == cluster.urls[0][7:]
    return reply


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
async def test_the_answer_is_that_of_an_unbroken_one_wherever_it_breaks(path: str, kind: NodeKind, stream: bool) -> None:
    async with EmulatedCluster(nodes(kind)) as cluster, front(*preferred(cluster)) as gate:
        body = await body_of(gate, path, stream=stream)
        text, whole = read(path, await gate.ask("POST", path, body))
        count = whole["usage"]["output_tokens"]
        assert count > 6
        ended = listen(gate)
        for fault in FAULTS:
            for cut in (1, 2, count // 2, count - 1, count):
                reply = await first_breaks(cluster, gate, path, {fault: cut}, body)
                told, last = read(path, reply)
                assert told == text, (fault, cut)
                assert last["usage"]["output_tokens"] == count, (fault, cut)
                assert abs(last["usage"]["input_tokens"] - whole["usage"]["input_tokens"]) <= count, (fault, cut)
                end = ended[-2]
                assert end.outcome == "ok"
                if end.resumed or cut < count:
                    assert last["_sollol_routing"] == {"resumed_from": [cluster.urls[0][7:]]}, (fault, cut)
                    assert (end.resumed, len(end.nodes)) == (1, 2), (fault, cut)
                    assert end.counters is not None
                    assert end.counters.output_tokens == count
        assert all(node.stats.in_flight == 0 for node in cluster.nodes)
