"""A node that breaks in the middle of an answer: another one goes on, and the client reads the text of an unbroken answer."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.emulated import ask
from tests.support.front import Front, Reply, ends_of, front

from sollol.config import NodeSettings
from sollol.core.types import NodeKind
from sollol.emulator import specs
from sollol.emulator.presets import LLAMA_8B, same
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

MODEL = LLAMA_8B.name
QUICK = NodeSpec(prefill=1e6, decode=20_000, slots=8, load_gbps=1e6, models=(replace(LLAMA_8B, answer_tokens=24),))
STORY = "Tell me a story"
ASKED: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": STORY}]},
    "/api/generate": {"prompt": STORY, "system": "Be brief"},
    "raw": {"prompt": f"<|im_start|>user\n{STORY}<|im_end|>\n<|im_start|>assistant\n", "raw": True},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": STORY}], "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": STORY, "stream_options": {"include_usage": True}},
}
FAULTS = ("die_after", "error_after", "end_after")
COUNTERS = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "created_at"}


@pytest.fixture(autouse=True)
def loads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about the second that a load takes at least."""
    monkeypatch.setattr(specs, "LOAD_BASE_SECONDS", 0.001)


def nodes(kind: NodeKind = NodeKind.OLLAMA, count: int = 2, **fields: Any) -> list[NodeSpec]:
    return [replace(spec, kind=kind, **fields) for spec in same(count, QUICK)]


def body_of(name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return ("/api/generate" if name == "raw" else name), {"model": MODEL, **ASKED[name], **fields}


def text_of(reply: Reply) -> str:
    """All that a reply says; it must be whole."""
    if reply.header("content-type").startswith("application/json"):
        seen = [reply.json]
    elif b"data: " in reply.body[:8]:
        datas = [line.removeprefix(b"data: ") for line in reply.body.split(b"\n\n") if line]
        assert datas.pop() == b"[DONE]"
        choices = [choice for data in datas for choice in json.loads(data)["choices"]]
        assert choices[-1]["finish_reason"]
        return "".join((choice.get("text") or choice.get("delta", {}).get("content")) or "" for choice in choices)
    else:
        seen = reply.lines
    assert [line["done"] for line in seen] == [False] * (len(seen) - 1) + [True], reply.body[-300:]
    return "".join(line["message"]["content"] if "message" in line else line["response"] for line in seen)


def last_of(reply: Reply) -> dict[str, Any]:
    return dict(json.loads(reply.body.splitlines()[-1]))


async def model_of(gate: Front) -> str:
    """The name that the nodes give their model: llama.cpp's is that of its file."""
    return str((await gate.ask("GET", "/api/tags")).json["models"][0]["name"])


async def first_breaks(cluster: EmulatedCluster, gate: Front, name: str, fault: dict[str, Any], **fields: Any) -> Reply:
    """Ask with a fault at the node that the request goes to first."""
    path, body = body_of(name, **fields)
    cluster.nodes[0].faults.set(**fault)
    reply = await gate.ask("POST", path, body)
    cluster.nodes[0].faults.clear()
    mended = await gate.ask("POST", path, body)  # else its breaker opens in the end
    assert mended.header("x-sollol-host") == cluster.urls[0][7:]
    return reply


def preferred(cluster: EmulatedCluster) -> list[NodeSettings]:
    """The first node is taken while it can be."""
    return [NodeSettings(url, priority=9 if number == 0 else 5) for number, url in enumerate(cluster.urls)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["/api/chat", "/api/generate", "raw"])
async def test_the_text_is_that_of_an_unbroken_answer_wherever_it_breaks(name: str, fault: str) -> None:
    async with EmulatedCluster(nodes()) as cluster, front(*preferred(cluster)) as gate:
        path, body = body_of(name)
        truth = await gate.ask("POST", path, body)
        count = last_of(truth)["eval_count"]
        ended = ends_of(gate)
        for cut in (*range(1, count + 1, 3), count - 1, count):
            for stream in (True, False):
                reply = await first_breaks(cluster, gate, name, {fault: cut}, stream=stream)
                assert reply.status == 200, (cut, stream, reply.body)
                assert text_of(reply) == text_of(truth), (cut, stream)
                told = last_of(reply)
                assert told["eval_count"] == count, (cut, stream, told)
                assert told["_sollol_routing"] == {"resumed_from": [cluster.urls[0][7:]]}
                assert abs(told["prompt_eval_count"] - last_of(truth)["prompt_eval_count"]) <= count
                assert set(told) >= set(last_of(truth)) - {"context", "load_duration"}, (cut, stream)
                end = ended[-2]
                assert (end.outcome, end.resumed, len(end.nodes)) == ("ok", 1, 2), (cut, stream, end)
                assert end.counters is not None
                assert end.counters.output_tokens == count
        assert all(node.stats.in_flight == 0 for node in cluster.nodes)


def chunks_of(reply: Reply) -> list[dict[str, Any]]:
    """The events of a stream of OpenAI's dialect."""
    return [json.loads(line[6:]) for line in reply.body.split(b"\n\n") if line and line != b"data: [DONE]"]


@pytest.mark.parametrize("kind", [NodeKind.OLLAMA, NodeKind.LLAMACPP])
@pytest.mark.parametrize("name", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_of_events_goes_on_as_the_same_stream(name: str, kind: NodeKind) -> None:
    async with EmulatedCluster(nodes(kind)) as cluster, front(*preferred(cluster)) as gate:
        fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "model": await model_of(gate)}
        path, body = body_of(name, **fields)
        truth = await gate.ask("POST", path, body)
        count = chunks_of(truth)[-1]["usage"]["completion_tokens"]
        ended = ends_of(gate)
        for number, cut in enumerate((1, 2, count // 2, count - 1, count)):
            fault = {FAULTS[number % len(FAULTS)]: cut}
            reply = await first_breaks(cluster, gate, name, fault, **fields)
            assert reply.status == 200, (fault, reply.body)
            assert text_of(reply) == text_of(truth), (fault, reply.body[-600:])
            chunks = chunks_of(reply)
            for field in ("id", "object", "created", "model"):
                assert len({chunk[field] for chunk in chunks}) == 1, (fault, field)
            (last,) = [chunk for chunk in chunks if "_sollol_routing" in chunk]
            assert last["choices"][0]["finish_reason"] == "stop"
            assert last["_sollol_routing"] == {"resumed_from": [cluster.urls[0][7:]]}
            usage = chunks[-1]["usage"]
            assert usage["completion_tokens"] == count, fault
            assert abs(usage["prompt_tokens"] - chunks_of(truth)[-1]["usage"]["prompt_tokens"]) <= count
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            choices = [choice for chunk in chunks for choice in chunk["choices"]]
            assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"], fault
            beginnings = [choice.get("delta", {}).get("role") for choice in choices[cut + 1 :]]
            assert not any(beginnings), fault  # what another node said says so once at most
            end = ended[-2]
            assert (end.outcome, end.resumed, len(end.nodes)) == ("ok", 1, 2), (fault, end)
            assert end.counters is not None
            assert end.counters.output_tokens == count
        assert all(node.stats.in_flight == 0 for node in cluster.nodes)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_end_alone_is_written_by_the_gateway_when_no_tokens_are_left(stream: bool) -> None:
    async with EmulatedCluster(nodes()) as cluster, front(*preferred(cluster)) as gate:
        path, body = body_of("/api/chat", stream=stream, options={"num_predict": 8})
        truth = await gate.ask("POST", path, body)
        cluster.nodes[0].faults.set(die_after=8)
        reply = await gate.ask("POST", path, body)
        assert text_of(reply) == text_of(truth)
        told = last_of(reply)
        assert (told["done_reason"], told["eval_count"]) == ("length", 8)
        assert cluster.nodes[1].stats.inference == 0  # nobody else was asked


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("kind", [NodeKind.OLLAMA, NodeKind.LLAMACPP])
@pytest.mark.parametrize("name", ["/v1/chat/completions", "/v1/completions"])
async def test_the_end_of_a_stream_of_events_too(name: str, kind: NodeKind, wanted: bool) -> None:
    async with EmulatedCluster(nodes(kind)) as cluster, front(*preferred(cluster)) as gate:
        path, body = body_of(name, stream=True, max_tokens=8, model=await model_of(gate))
        if not wanted:
            del body["stream_options"]
        truth = await gate.ask("POST", path, body)
        cluster.nodes[0].faults.set(die_after=8)
        reply = await gate.ask("POST", path, body)
        assert text_of(reply) == text_of(truth)
        reasons = [choice["finish_reason"] for chunk in chunks_of(reply) for choice in chunk["choices"]]
        assert [reason for reason in reasons if reason] == ["length"]
        counts = [chunk["usage"] for chunk in chunks_of(reply) if not chunk["choices"]]
        assert [count["completion_tokens"] for count in counts] == ([8] if wanted else [])
        if wanted:  # that of the prompt is a guess
            assert counts[0]["total_tokens"] == counts[0]["prompt_tokens"] + 8 > 8


async def test_a_node_with_another_model_of_the_name_does_not_go_on() -> None:
    specs_of = nodes(count=2)
    specs_of[1] = replace(specs_of[1], models=(replace(specs_of[1].models[0], digest="e" * 64),))
    async with EmulatedCluster(specs_of) as cluster, front(*preferred(cluster)) as gate:
        cluster.nodes[0].faults.set(die_after=5)
        path, body = body_of("/api/chat", stream=True)
        reply = await gate.ask("POST", path, body)
        assert reply.lines[-1]["error"]
        assert len(reply.lines) == 6
        whole = await gate.ask("POST", path, body | {"stream": False})  # nothing of it was shown: it begins anew
        assert whole.json["done"]
        assert whole.header("x-sollol-host") == cluster.urls[1][7:]


@pytest.mark.parametrize("stream", [True, False])
async def test_details_that_were_asked_for_tell_who_began(stream: bool) -> None:
    async with EmulatedCluster(nodes()) as cluster, front(*preferred(cluster)) as gate:
        cluster.nodes[0].faults.set(die_after=5)
        path, body = body_of("/api/chat", stream=stream)
        reply = await gate.ask("POST", path, body, {"X-SOLLOL-Details": "body"})
        told = last_of(reply)["_sollol_routing"]
        assert (told["resumed_from"], told["host"]) == ([cluster.urls[0][7:]], cluster.urls[1][7:])
        assert b"sollol_resumed_total 1.0" in (await gate.ask("GET", "/metrics")).body


@pytest.mark.parametrize(
    ("name", "kind", "resumed"),
    [
        ("/api/chat", NodeKind.OLLAMA, 1),  # the second node breaks already while it renders the prompt
        ("/v1/chat/completions", NodeKind.OLLAMA, 1),
        ("raw", NodeKind.OLLAMA, 2),
        ("/api/chat", NodeKind.LLAMACPP, 2),
        ("/v1/chat/completions", NodeKind.LLAMACPP, 2),
    ],
)
async def test_an_answer_that_breaks_twice_is_whole_all_the_same(name: str, kind: NodeKind, resumed: int) -> None:
    async with EmulatedCluster(nodes(kind, count=3)) as cluster, front(*preferred(cluster)) as gate:
        path, body = body_of(name, stream=True, model=await model_of(gate))
        truth = await gate.ask("POST", path, body)
        ended = ends_of(gate)
        for node in cluster.nodes[:2]:
            node.faults.set(die_after=4)
        reply = await gate.ask("POST", path, body)
        assert text_of(reply) == text_of(truth)
        assert (ended[-1].outcome, ended[-1].resumed, len(ended[-1].nodes)) == ("ok", resumed, 3)


@pytest.mark.parametrize("name", ["/api/chat", "/v1/chat/completions"])
async def test_an_answer_that_every_node_breaks_ends_with_an_error_after_what_was_right(name: str) -> None:
    async with EmulatedCluster(nodes(count=2)) as cluster, front(*cluster.urls) as gate:
        path, body = body_of(name, stream=True)
        for node in cluster.nodes:
            node.faults.set(die_after=3)
        reply = await gate.ask("POST", path, body)
        assert reply.status == 200
        last = reply.body.rstrip().splitlines()[-1].removeprefix(b"data: ")
        assert json.loads(last)["error"]
        assert reply.body.count(b'"content":') == 3  # the other one breaks while it renders


@pytest.mark.parametrize("name", ["/api/chat", "/api/generate", "raw"])
async def test_a_document_put_together_from_a_stream_is_the_one_that_the_node_would_give(name: str) -> None:
    async with EmulatedCluster(nodes(count=1)) as cluster, front(*cluster.urls) as gate:
        path, body = body_of(name, stream=False)
        direct = await _direct(cluster, path, body)
        reply = await gate.ask("POST", path, body)
        assert list(reply.json) == list(direct)
        assert {key: value for key, value in reply.json.items() if key not in COUNTERS} == {
            key: value for key, value in direct.items() if key not in COUNTERS
        }
        types = [value for key, value in reply.headers if key == "content-type"]
        assert types == ["application/json; charset=utf-8"]
        assert reply.header("content-length") == str(len(reply.body))
        assert not reply.body.endswith(b"\n")


async def _direct(cluster: EmulatedCluster, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return dict((await ask(cluster.nodes[0], "POST", path, body)).json)
