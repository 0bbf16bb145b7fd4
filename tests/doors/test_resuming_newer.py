"""Anthropic's messages and OpenAI's responses, told in translation: another node goes on where the first one broke."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.canned import LLAMACPP, Canned, canned
from tests.support.front import Front, Reply, ends_of, front

from sollol.config import NodeSettings
from sollol.core import stall
from sollol.core.types import NodeKind
from sollol.emulator import routes, specs
from sollol.emulator.presets import LLAMA_8B, same
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec
from sollol.engine import stall as stalls
from sollol.wire import translate

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
        ended = ends_of(gate)
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
async def test_one_that_stands_still_goes_on_too(path: str, kind: NodeKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "QUIET", 0.3)
    monkeypatch.setattr(stalls, "TICK_SECONDS", 0.05)
    async with EmulatedCluster(nodes(kind)) as cluster, front(*preferred(cluster)) as gate:
        for stream in (True, False):
            body = await body_of(gate, path, stream=stream)
            truth, _ = read(path, await gate.ask("POST", path, body))
            text, last = read(path, await first_breaks(cluster, gate, path, {"stall_after": 7}, body))
            assert text == truth, stream
            assert last["_sollol_routing"] == {"resumed_from": [cluster.urls[0][7:]]}, stream


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
async def test_the_end_alone_is_written_by_the_gateway_when_no_tokens_are_left(path: str, kind: NodeKind, stream: bool) -> None:
    limit = "max_tokens" if path == MESSAGES else "max_output_tokens"
    async with EmulatedCluster(nodes(kind)) as cluster, front(*preferred(cluster)) as gate:
        body = await body_of(gate, path, stream=stream, **{limit: 16})
        truth, whole = read(path, await gate.ask("POST", path, body))
        cluster.nodes[0].faults.set(die_after=16)
        text, last = read(path, await gate.ask("POST", path, body))
        assert text == truth
        assert last["usage"]["output_tokens"] == 16
        assert last["usage"]["input_tokens"] > 0  # how long the prompt was is a guess then
        reason = last.get("delta", last).get("stop_reason")
        assert reason == ("max_tokens" if path == MESSAGES else None)
        assert last.get("status") == whole.get("status")
        assert cluster.nodes[1].stats.inference == 0  # nobody else was asked


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_breaks_twice_is_whole_all_the_same(path: str, stream: bool) -> None:
    async with EmulatedCluster(nodes(NodeKind.LLAMACPP, 3)) as cluster, front(*preferred(cluster)) as gate:
        body = await body_of(gate, path, stream=stream)
        truth, whole = read(path, await gate.ask("POST", path, body))
        ended = ends_of(gate)
        for node in cluster.nodes[:2]:
            node.faults.set(die_after=4)
        text, last = read(path, await gate.ask("POST", path, body))
        assert text == truth
        assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
        assert (ended[-1].outcome, ended[-1].resumed, len(ended[-1].nodes)) == ("ok", 2, 3)
        assert len(last["_sollol_routing"]["resumed_from"]) == 2


def failure_of(path: str, reply: Reply) -> str:
    """What the last event of a broken stream says; it fits to those before it."""
    events = events_of(reply.body)
    if path == MESSAGES:
        assert [event["type"] for event in events if event["type"] in ("message_stop", "error")] == ["error"]
        return str(events[-1]["error"]["message"])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] in ("response.failed", "error")
    told = events[-1]["response"]["error"] if "response" in events[-1] else events[-1]
    return str(told["message"])


def deltas(reply: Reply) -> int:
    """How many pieces of text a broken stream told."""
    return sum(event["type"] in ("content_block_delta", "response.output_text.delta") for event in events_of(reply.body))


REFUSED: dict[str, list[dict[str, Any]]] = {
    MESSAGES: [
        {"tools": [TOOL], "tool_choice": {"type": "none"}},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ],
    RESPONSES: [
        {"tools": [{"type": "function", "name": "look", "parameters": SCHEMA}], "tool_choice": "none"},
        {"text": {"format": {"type": "json_object"}}},
        {"reasoning": {"effort": "none"}},
    ],
}


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("path", PATHS)
async def test_what_is_not_plain_ends_in_the_dialects_error(path: str, number: int) -> None:
    thinks = replace(QUICK.models[0], capabilities=("completion", "tools", "thinking"))
    async with EmulatedCluster(nodes(NodeKind.OLLAMA, models=(thinks,))) as cluster, front(*preferred(cluster)) as gate:
        body = await body_of(gate, path, stream=True, **REFUSED[path][number])
        await gate.ask("POST", path, body)
        before = cluster.nodes[1].stats.inference
        cluster.nodes[0].faults.set(die_after=5)
        reply = await gate.ask("POST", path, body)
        assert reply.status == 200
        assert failure_of(path, reply)
        assert cluster.nodes[1].stats.inference == before


@pytest.mark.parametrize("path", PATHS)
async def test_a_node_with_another_model_of_the_name_does_not_go_on(path: str) -> None:
    specs_of = nodes(NodeKind.OLLAMA)
    specs_of[1] = replace(specs_of[1], models=(replace(specs_of[1].models[0], digest="e" * 64),))
    async with EmulatedCluster(specs_of) as cluster, front(*preferred(cluster)) as gate:
        body = await body_of(gate, path, stream=True)
        cluster.nodes[0].faults.set(die_after=5)
        reply = await gate.ask("POST", path, body)
        assert failure_of(path, reply)
        assert deltas(reply) == 5
        whole = await gate.ask("POST", path, body | {"stream": False})  # nothing of it was shown: it begins anew
        text, last = read(path, whole)
        assert text
        assert "_sollol_routing" not in last
        assert whole.header("x-sollol-host") == cluster.urls[1][7:]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_where_no_prompt_is_rendered_streams_end_in_an_error_and_documents_begin_anew(path: str, stream: bool) -> None:
    async with EmulatedCluster(nodes(NodeKind.VLLM)) as cluster, front(*preferred(cluster)) as gate:
        body = await body_of(gate, path, stream=stream)
        truth = await gate.ask("POST", path, body)
        cluster.nodes[0].faults.set(die_after=5)
        reply = await gate.ask("POST", path, body)
        if stream:
            assert failure_of(path, reply)
            assert deltas(reply) == 5
        else:
            assert read(path, reply)[0] == read(path, truth)[0]


@pytest.mark.parametrize("kind", [NodeKind.LLAMACPP, NodeKind.VLLM])
@pytest.mark.parametrize("path", PATHS)
async def test_a_deadline_in_mid_answer_is_told_in_the_event_that_follows(path: str, kind: NodeKind) -> None:
    async with EmulatedCluster(nodes(kind, 1)) as cluster, front(*cluster.urls) as gate:
        cluster.nodes[0].faults.set(stall_after=5)
        reply = await gate.ask("POST", path, await body_of(gate, path, stream=True), {"X-SOLLOL-Timeout": "0.3"})
        assert "not answered within" in failure_of(path, reply)
        assert deltas(reply) == 5


@pytest.mark.parametrize("path", PATHS)
async def test_where_every_node_breaks_the_text_that_was_right_stays(path: str) -> None:
    async with EmulatedCluster(nodes(NodeKind.OLLAMA)) as cluster, front(*preferred(cluster)) as gate:
        body = await body_of(gate, path, stream=True)
        for node in cluster.nodes:
            node.faults.set(die_after=3)
        reply = await gate.ask("POST", path, body)
        assert failure_of(path, reply)
        assert deltas(reply) == 3  # the other one breaks while it renders
        document = await gate.ask("POST", path, body | {"stream": False})
        assert document.status == 502, document.body


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return (
        b"data: " + json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices}).encode() + b"\n\n"
    )


def streaming(data: bytes) -> dict[str, Canned]:
    """The replies of a llama.cpp server whose chats are this stream."""
    return {**LLAMACPP, "/v1/chat/completions": (200, data, {"Content-Type": "text/event-stream"})}


CHAT = {"messages": [{"role": "user", "content": STORY}], "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_lacks_nothing_but_its_counts_is_complete(path: str, stream: bool) -> None:
    said = chunk(content="It ") + chunk(content="is.") + chunk(finish="stop")
    async with canned(streaming(said)) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        text, last = read(path, await gate.ask("POST", path, await body_of(gate, path, stream=stream)))
        assert text == "It is."
        assert last["usage"]["output_tokens"] == 2
        assert last["usage"]["input_tokens"] > 0


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_stream_of_chat_completions_gets_its_counts_from_the_gateway_if_it_asked_for_them(wanted: bool) -> None:
    said = chunk(role="assistant", content="It ") + chunk(content="is.") + chunk(finish="stop")
    async with canned(streaming(said)) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        asked = {"model": (await body_of(gate, MESSAGES))["model"], "stream": True, **CHAT}
        if not wanted:
            del asked["stream_options"]
        reply = await gate.ask("POST", "/v1/chat/completions", asked)
        assert reply.body.startswith(said)
        assert reply.body.endswith(b"data: [DONE]\n\n")
        rest = reply.body[len(said) : -len(b"data: [DONE]\n\n")]
        if not wanted:
            assert rest == b""
            return
        counts = json.loads(rest.removeprefix(b"data: "))
        assert (counts["id"], counts["choices"], counts["usage"]["completion_tokens"]) == ("chatcmpl-1", [], 2)
        assert counts["usage"]["total_tokens"] == counts["usage"]["prompt_tokens"] + 2 > 2


@pytest.mark.parametrize("path", PATHS)
async def test_what_cannot_be_read_is_told_once_after_what_was_right(path: str) -> None:
    said = chunk(content="It ") + b"data: {nonsense\n\n" + chunk(content="is.") + chunk(finish="stop") + b"data: [DONE]\n\n"
    async with canned(streaming(said)) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        reply = await gate.ask("POST", path, await body_of(gate, path, stream=True))
        assert "not what was asked for" in failure_of(path, reply)
        assert reply.body.count(b"not what was asked for") == 1
        document = await gate.ask("POST", path, await body_of(gate, path))
        assert document.status == 502


PIECES = ("It ", "ís — “x”\n", "\N{GRINNING FACE} no")
RENDERED = "<|user|>Tell me a story<|assistant|>"


def spoken(text: str) -> bytes:
    """A piece of a chat as llama.cpp writes it: what is no ASCII stays as it is."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return b"data: " + json.dumps({"id": "chatcmpl-1", "choices": choices}, ensure_ascii=False).encode() + b"\n\n"


def completion(text: str, finish: str | None = None, **more: Any) -> bytes:
    told = {
        "id": "cmpl-2",
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(told).encode() + b"\n\n"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_what_is_cut_within_an_event_or_a_character_is_said_again_by_the_next(path: str, stream: bool) -> None:
    said = b"".join(map(spoken, PIECES))
    usage = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
    rest = completion(" and") + completion(" on.", "stop") + completion("", usage=usage) + b"data: [DONE]\n\n"
    replies = {**LLAMACPP, "/apply-template": (200, {"prompt": RENDERED})}
    replies["/v1/completions"] = (200, rest, {"Content-Type": "text/event-stream"})
    third = said.index(b"\xf0\x9f")
    for cut in (said.index(b"\n\n") + 2, third - 40, third + 2, len(said) - 1, len(said)):
        whole = "".join(PIECES[: said[:cut].count(b"\n\n")])
        async with (
            canned(streaming(said[:cut])) as one,
            canned(replies) as other,
            front(NodeSettings(f"http://127.0.0.1:{one.port}", priority=9), f"http://127.0.0.1:{other.port}") as gate,
        ):
            text, last = read(path, await gate.ask("POST", path, await body_of(gate, path, stream=stream)))
            assert text == whole + " and on.", cut
            asked = [json.loads(body) for _, target, body in other.asked if target == "/v1/completions" and b"prompt" in body]
            assert [sent["prompt"] for sent in asked] == [RENDERED + whole], cut
            tokens = said[:cut].count(b"\n\n")
            assert last["usage"]["output_tokens"] == tokens + 2, cut
            assert last["usage"]["input_tokens"] == 12 - tokens, cut


@pytest.mark.parametrize("path", PATHS)
async def test_a_document_without_measure_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translate, "GATHERED_BYTES", 600)
    async with EmulatedCluster(nodes(NodeKind.LLAMACPP)) as cluster, front(*preferred(cluster)) as gate:
        reply = await gate.ask("POST", path, await body_of(gate, path))
        assert reply.status == 502
        assert b"cannot be kept" in reply.body
        assert [node.stats.inference for node in cluster.nodes] == [1, 1]


@pytest.mark.parametrize("ends", [True, False])
async def test_what_has_no_words_is_told_once_also_where_the_node_dies_then(ends: bool) -> None:
    """Blocks of messages do not overlap: nothing can be said of a call that goes on when it was over."""

    def call(index: int, text: str, **more: Any) -> bytes:
        return chunk(tool_calls=[{"index": index, **more, "function": {"arguments": text, **({"name": "f"} if more else {})}}])

    said = call(0, "{}", id="a") + call(1, "{}", id="b") + call(0, "more") + chunk(content="unseen")
    end = chunk(finish="tool_calls") + b"data: [DONE]\n\n" if ends else b""
    async with canned(streaming(said + end)) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        reply = await gate.ask("POST", MESSAGES, await body_of(gate, MESSAGES, stream=True))
        assert "went back to a tool call" in failure_of(MESSAGES, reply)
        assert [event["type"] for event in events_of(reply.body)].count("error") == 1
        assert b"unseen" not in reply.body


@pytest.mark.parametrize("path", PATHS)
async def test_a_race_is_won_by_the_first_words(path: str) -> None:
    async with EmulatedCluster(nodes(NodeKind.LLAMACPP)) as cluster, front(*cluster.urls) as gate:
        for stream in (True, False):
            body = await body_of(gate, path, stream=stream)
            truth, _ = read(path, await gate.ask("POST", path, body))
            for node in cluster.nodes:
                node.faults.set(die_after=5)
                text, _ = read(path, await gate.ask("POST", path, body, {"X-SOLLOL-Hedge": "2"}))
                node.faults.clear()
                assert text == truth, stream
