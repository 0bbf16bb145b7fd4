"""Every dialect of clients before every kind of node: answers, streams that break, refusals, keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.support.canned import LLAMACPP, Canned, canned
from tests.support.front import Front, Reply, front
from tests.support.scripted import Seen, scripted

from sollol.config import Auth, NodeSettings
from sollol.core.types import NodeKind
from sollol.emulator import routes, specs
from sollol.emulator.node import EmulatedNode
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

HELLO = [{"role": "user", "content": "Tell me a story"}]
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": HELLO, "options": {"num_predict": 12}},
    "/api/generate": {"prompt": "Tell me a story", "options": {"num_predict": 12}},
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 12},
    "/v1/completions": {"prompt": "Tell me a story", "max_tokens": 12},
    "/v1/responses": {"input": "Tell me a story", "max_output_tokens": 12},
    "/v1/messages": {"messages": HELLO, "max_tokens": 12},
}
NEWER = ("/v1/messages", "/v1/responses")
OLDER = "ollama before /v1/messages"
NODES = [*(kind.value for kind in NodeKind if kind is not NodeKind.SOLLOL), OLDER]


@dataclass
class One:
    """A gateway with one emulated node."""

    gate: Front
    node: EmulatedNode

    async def ask(self, path: str, stream: bool = False, headers: dict[str, str] | None = None, **fields: Any) -> Reply:
        (known,) = self.gate.context.engine.state.nodes.values()
        body = {"model": next(iter(known.models)), "stream": stream, **BODIES[path], **fields}
        return await self.gate.ask("POST", path, body, headers)


@asynccontextmanager
async def one(name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[One]:
    monkeypatch.setattr(specs, "LOAD_BASE_SECONDS", 0.01)
    if name == OLDER:
        table = {path: methods for path, methods in routes._OLLAMA.items() if path not in NEWER}
        monkeypatch.setitem(routes._TABLES, NodeKind.OLLAMA, (table, routes._OLLAMA_PREFIXES))
    kind = NodeKind.OLLAMA if name == OLDER else NodeKind(name)
    spec = NodeSpec("one", kind=kind, prefill=1e6, decode=5_000, slots=4, load_gbps=1e6, models=(LLAMA_1B,))
    async with EmulatedCluster([spec]) as cluster, front(*cluster.urls) as gate:
        yield One(gate, cluster["one"])


def events(data: bytes) -> list[Any]:
    """The data of each event, or each line; "[DONE]" as it is."""
    lines = [
        line.removeprefix(b"data:").strip() for line in data.split(b"\n") if line and not line.startswith((b"event:", b":"))
    ]
    return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]


def ended(path: str, seen: list[Any]) -> bool:
    """Whether a stream has the end that its dialect wants."""
    if path.startswith("/api/"):
        return seen[-1].get("done") is True
    if path == "/v1/messages":
        return seen[-1] == {"type": "message_stop"}
    if path == "/v1/responses":
        return seen[-1]["type"] in ("response.completed", "response.incomplete")
    finished = any(choice.get("finish_reason") for event in seen[:-1] for choice in event.get("choices", ()))
    return seen[-1] == "[DONE]" and finished


def said(path: str, seen: list[Any]) -> str:
    """The text of a stream."""
    if path == "/api/chat":
        return "".join(line["message"]["content"] for line in seen)
    if path == "/api/generate":
        return "".join(line["response"] for line in seen)
    if path == "/v1/messages":
        return "".join(event["delta"]["text"] for event in seen if event["type"] == "content_block_delta")
    if path == "/v1/responses":
        return "".join(event["delta"] for event in seen if event["type"] == "response.output_text.delta")
    choices = [choice for event in seen if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def whole(path: str, found: dict[str, Any]) -> str:
    """The text of a document."""
    if path == "/api/chat":
        return str(found["message"]["content"])
    if path == "/api/generate":
        return str(found["response"])
    if path == "/v1/messages":
        return "".join(block["text"] for block in found["content"])
    if path == "/v1/responses":
        return "".join(part["text"] for item in found["output"] for part in item["content"])
    return str(found["choices"][0].get("text") or found["choices"][0]["message"]["content"])


@pytest.mark.parametrize("name", NODES)
async def test_every_client_is_answered_by_every_kind_of_node(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with one(name, monkeypatch) as house:
        for path in BODIES:
            document, stream = await house.ask(path), await house.ask(path, stream=True)
            assert (document.status, stream.status) == (200, 200), (path, document.body, stream.body)
            seen = events(stream.body)
            assert ended(path, seen), path
            assert said(path, seen) == whole(path, document.json) != "", path
            kind = "application/x-ndjson" if path.startswith("/api/") else "text/event-stream"
            assert stream.header("content-type").startswith(kind)
            assert document.header("content-type").startswith("application/json")
        (known,) = house.gate.context.engine.state.nodes.values()
        assert (known.failed, known.in_flight) == (0, 0)


@pytest.mark.parametrize("path", NEWER)
async def test_where_a_node_speaks_the_dialect_its_bytes_go_through_untouched(path: str) -> None:
    answer = {"type": "message", "weird": [1.50, "\u00e9"], "status": "completed"}

    async def speak(seen: Seen) -> None:
        if seen.body == b"{}":
            seen.reply(400, {"error": {"message": "model is required"}})
        else:
            seen.reply(body=answer)

    async with scripted("m:latest") as node:
        node.answers["POST", path] = speak
        async with front(node.url) as gate:
            asked = b'{ "model":"m",  "messages":[{"role":"user","content":"\xc3\xa9"}], "input":"hi", "unknown": 1.50 }'
            reply = await gate.ask(
                "POST", path + "?beta=true", asked, {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}
            )
            assert reply.body == json.dumps(answer, separators=(",", ":")).encode()
            sent = node.asked("POST", path)[-1]
            assert sent.body == asked
            assert (sent.headers["anthropic-version"], sent.headers["anthropic-beta"]) == ("2023-06-01", "x")


BREAKS: dict[str, dict[str, int]] = {"dies": {"die_after": 5}, "error": {"error_after": 5}, "no end": {"end_after": 5}}


def told_error(path: str, seen: list[Any]) -> str:
    """The words of the error that ends a stream, in the shape of its dialect."""
    last = seen[-1]
    if path.startswith("/api/"):
        return str(last["error"])
    if path == "/v1/messages":
        assert last["type"] == "error"
        assert last["error"]["type"] == "api_error"
    if path == "/v1/responses":
        assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
        if last["type"] == "error":
            return str(last["message"])
        assert last["type"] == "response.failed"
        return str(last["response"]["error"]["message"])
    return str(last["error"]["message"])


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("name", NODES)
async def test_a_stream_without_its_end_is_a_failure_in_every_pair(
    name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one(name, monkeypatch) as house:
        for path in BODIES:
            (known,) = house.gate.context.engine.state.nodes.values()
            failed = known.failed
            house.node.faults.set(**BREAKS[fault])  # a look at the node would use up a single one
            reply = await house.ask(path, stream=True)
            assert reply.status == 200, path
            seen = events(reply.body)
            assert not ended(path, seen), path
            assert told_error(path, seen), path
            assert known.failed == failed + 1, path


ERRORS: dict[str, Callable[[Any], str]] = {
    "/api/chat": lambda told: told["error"],
    "/v1/chat/completions": lambda told: told["error"]["message"],
    "/v1/responses": lambda told: told["error"]["message"],
    "/v1/messages": lambda told: told["error"]["message"] if told["type"] == "error" else "",
}


@pytest.mark.parametrize("path", ERRORS)
async def test_errors_are_told_in_the_dialect_of_the_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with one("llama.cpp", monkeypatch) as house:
        unknown = await house.ask(path, model="nope")
        assert (unknown.status, ERRORS[path](unknown.json)) == (404, "model 'nope' not found")
        if path == "/v1/messages":
            assert unknown.json["error"]["type"] == "not_found_error"
        broken = await house.gate.ask("POST", path, b"{")
        assert broken.status == 400
        assert ERRORS[path](broken.json)
        house.node.faults.set(status=500)
        failed = await house.ask(path)
        assert failed.status in (500, 502)
        assert ERRORS[path](failed.json)


CANNOT: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": [{"role": "user", "content": "x"}], "_debug_render_only": True},
    "/v1/responses": {"previous_response_id": "resp_1"},
    "/v1/messages": {"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]},
}


@pytest.mark.parametrize("path", CANNOT)
async def test_what_cannot_be_carried_over_is_refused_once_and_clearly(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """400: clients try everything from 500 on again."""
    async with one("llama.cpp", monkeypatch) as house:
        reply = await house.ask(path, **CANNOT[path])
        assert reply.status == 400
        assert "cannot be answered by this node" in ERRORS[path](reply.json)
        (known,) = house.gate.context.engine.state.nodes.values()
        assert known.failed == 0
        assert house.node.stats.in_flight == 0


async def test_keys_of_anthropics_clients() -> None:
    async with scripted("m:latest") as node, front(node.url, auth=Auth(keys=("sk-1",))) as gate:
        asked = {"model": "m", "max_tokens": 5, "messages": HELLO}
        for headers, status in (({}, 401), ({"x-api-key": "no"}, 401), ({"x-api-key": "sk-1"}, 404)):
            reply = await gate.ask("POST", "/v1/messages", {**asked, "model": "nope"}, headers)
            assert reply.status == status
            assert reply.json["type"] == "error"
            assert reply.json["error"]["type"] == ("authentication_error" if status == 401 else "not_found_error")


# --- what is passed on to a node that has it


async def test_rankings_go_to_a_node_that_makes_them() -> None:
    ranked = {"object": "list", "results": [{"index": 1, "relevance_score": 0.9}], "usage": {"prompt_tokens": 8}}
    async with scripted("m:latest") as without, scripted("m:latest") as having:
        having.answers["POST", "/v1/rerank"] = _either(400, ranked)
        async with front(without.url, having.url) as gate:
            asked = {"model": "m", "query": "x", "documents": ["a", "b"]}
            for _ in range(4):
                reply = await gate.ask("POST", "/v1/rerank", asked)
                assert (reply.status, reply.json) == (200, ranked)
        async with front(without.url) as gate:
            reply = await gate.ask("POST", "/v1/rerank", asked)
            assert reply.status == 400
            assert reply.json["error"]["message"].startswith('"m" does not support rerank')


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"RIFF\xff\xfe\x00\r\n\r\n--y\r\n--x--\r\n"
)


async def test_a_sound_goes_to_a_node_that_writes_it_down() -> None:
    async with scripted("m:latest") as without, scripted("m:latest") as having:
        having.answers["POST", "/v1/audio/transcriptions"] = _either(422, {"text": "hello"})
        async with front(without.url, NodeSettings(having.url, name="ears")) as gate:
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            reply = await gate.ask("POST", "/v1/audio/transcriptions", FORM, headers)
            assert (reply.status, reply.json, reply.header("x-sollol-node")) == (200, {"text": "hello"}, "ears")
            sent = having.asked("POST", "/v1/audio/transcriptions")[-1]
            assert sent.body == FORM
            assert sent.headers["content-type"] == "multipart/form-data; boundary=x"
            for wrong in (b"{}", FORM.replace(b'"model"', b'"madel"')):
                refused = await gate.ask("POST", "/v1/audio/transcriptions", wrong, headers)
                assert refused.status == 400
                assert refused.json["error"]["message"]


def _either(empty: int, answer: Any) -> Callable[[Seen], Awaitable[None]]:
    """Answers the empty request of a look with that status, every other with ``answer``."""

    async def speak(seen: Seen) -> None:
        if seen.body == b"{}":
            seen.reply(empty, {"error": {"message": "no"}})
        else:
            seen.reply(body=answer)

    return speak


# --- insertions


@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions"])
async def test_what_belongs_between_two_texts_is_asked_of_llama_cpp_where_it_can_do_that(path: str) -> None:
    made = {"content": "middle", "stop": True, "stop_type": "eos", "tokens_evaluated": 9, "tokens_predicted": 2}
    asked = {"model": "tiny", "prompt": "a", "suffix": "b", "stream": False}
    async with canned({**LLAMACPP, "/infill": (200, made)}) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        reply = await gate.ask("POST", path, asked)
        assert (reply.status, whole(path, reply.json)) == (200, "middle")
        sent = json.loads(next(body for _, target, body in node.asked if target == "/infill"))
        assert (sent["input_prefix"], sent["input_suffix"]) == ("a", "b")
        node.replies["/infill"] = (501, {"error": {"code": 501, "message": "Infill is not supported by this model"}})
        reply = await gate.ask("POST", path, asked)
        assert reply.status == 400
        assert "Infill is not supported" in reply.body.decode()


# --- what cannot be told


def _chunk(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode() + b"\n\n"


def _call(index: int, text: str, **more: Any) -> bytes:
    return _chunk(tool_calls=[{"index": index, **more, "function": {"arguments": text, **({"name": "f"} if more else {})}}])


async def test_a_stream_that_cannot_be_told_is_a_failure_and_is_told_once() -> None:
    """Anthropic's blocks do not overlap: a node that goes back to a call which was over has no words there."""
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\ndata: [DONE]\n\n'
    calls = _call(0, "{}", id="a") + _call(1, "{}", id="b") + _call(0, "more") + _chunk(content="unseen") + end
    replies: dict[str, Canned] = {**LLAMACPP, "/v1/chat/completions": (200, calls, {"Content-Type": "text/event-stream"})}
    async with canned(replies) as node, front(f"http://127.0.0.1:{node.port}") as gate:
        asked = {"model": "tiny", "max_tokens": 9, "messages": HELLO, "stream": True}
        reply = await gate.ask("POST", "/v1/messages", asked)
        seen = events(reply.body)
        assert [event["type"] for event in seen].count("error") == 1
        assert seen[-1]["error"]["message"] == "the node went back to a tool call that was over"
        assert b"unseen" not in reply.body
        (known,) = gate.context.engine.state.nodes.values()
        assert (known.failed, known.in_flight) == (1, 0)


@pytest.mark.parametrize("path", NEWER)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
async def test_a_kept_answer_is_given_again_in_the_newer_dialects_too(
    path: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with one("llama.cpp", monkeypatch) as house:
        first = await house.ask(path, stream, {"X-SOLLOL-Cache": "yes"}, temperature=0)
        again = await house.ask(path, stream, {"X-SOLLOL-Cache": "yes"}, temperature=0)
        assert (first.status, first.header("x-sollol-cache"), again.header("x-sollol-cache")) == (200, "miss", "hit")
        assert again.body == first.body
        assert again.header("content-type") == first.header("content-type")
