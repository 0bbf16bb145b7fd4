"""Events, layers, and what an error reply means."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.support.core_cluster import a_node, a_survey, a_task
from tests.support.fakes import FakeSink, FakeTransport, LoopClock, answers, house

from sollol.core.events import Event, HealthChanged, NodeAdded, NodeSurveyed, ProbeFailed, TaskArrived, TaskEnded, TaskRefused
from sollol.core.node import NodeState
from sollol.core.ports import Sink
from sollol.core.scheduler import Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import Cost, Decision, Model, NodeKind, Task
from sollol.engine.attempt import Plan
from sollol.engine.engine import Engine
from sollol.engine.judge import judge, outcome_of
from sollol.engine.pipeline import Handler, Outcome, compose
from sollol.engine.plan import plan
from sollol.errors import (
    BrokeMidStream,
    CannotCarry,
    LoadFailed,
    ModelGone,
    NodeBusy,
    NodeClosed,
    NodeError,
    NodeFailed,
    NodeLoading,
    NoNodes,
    RequestError,
    Unsupported,
)
from sollol.wire.requests import dialect_of

pytestmark = pytest.mark.looptime


def engine() -> Engine:
    state = ClusterState()
    return Engine(state, Scheduler(state), FakeTransport(), LoopClock())


# --- events


def test_who_listens_hears_only_the_kinds_that_it_names_and_after_the_change() -> None:
    made = engine()
    heard: list[Event] = []
    everything: list[Event] = []
    made.listen(heard.append, HealthChanged, ProbeFailed)
    made.listen(everything.append)
    known: list[int] = []
    made.listen(lambda event: known.append(len(made.state.nodes)), NodeAdded)
    made.publish(NodeAdded(0.0, a_node("a")))
    made.publish(NodeSurveyed(1.0, "a", a_survey()))
    made.publish(ProbeFailed(2.0, "a", refused=True, text="no"))
    assert [type(event) for event in heard] == [HealthChanged, ProbeFailed, HealthChanged]
    assert [type(event) for event in everything] == [NodeAdded, NodeSurveyed, HealthChanged, ProbeFailed, HealthChanged]
    assert known == [1]
    made.listen(heard.append, NodeAdded)
    made.publish(NodeAdded(3.0, a_node("b")))
    assert isinstance(heard[-1], NodeAdded)


# --- layers


def test_the_first_layer_is_the_outermost() -> None:
    seen: list[str] = []

    class Layer:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __call__(self, task: Task, sink: Sink, *, call_next: Handler) -> Outcome:
            seen.append(self.name)
            return await call_next(task, sink)

    async def last(task: Task, sink: Sink) -> Outcome:
        seen.append("last")
        return Outcome(200)

    outcome = asyncio.run(compose([Layer("one"), Layer("two")], last)(a_task(1), FakeSink()))  # type: ignore[arg-type]  # Layer is a Middleware by its shape
    assert (seen, outcome.status) == (["one", "two", "last"], 200)


async def test_the_beginning_and_the_end_of_every_request_are_told() -> None:
    async with house() as here:
        await here.ask().error()
        here.add("a", answers)
        await here.ask().outcome()
        first, second = here.of(TaskEnded)
        assert (first.status, first.outcome, first.nodes) == (503, "failed", ())
        assert (second.status, second.outcome, second.nodes) == (200, "ok", ("a",))
        assert second.seconds == pytest.approx(0.3)
        assert second.first_byte == 0.0
        assert len(here.of(TaskArrived)) == 2
        (refused,) = here.of(TaskRefused)
        assert isinstance(await here.requests[0].error(), NoNodes)
        assert refused.status == 503


# --- verdicts


@pytest.mark.parametrize(
    ("status", "body", "kind", "outcome"),
    [
        (503, b'{"error":"busy"}', NodeBusy, "busy"),
        (503, b"", NodeBusy, "busy"),
        (503, b'{"error":{"message":"Loading model"}}', NodeLoading, "loading"),
        (429, b"{}", NodeBusy, "busy"),
        (404, b'{"error":"model \'m\' not found"}', ModelGone, "model-gone"),
        (404, b"404 page not found", None, ""),
        (408, b"", NodeFailed, "failed"),
        (500, b'{"error":"x"}', NodeFailed, "failed"),
        (500, b"\xff\xfe", NodeFailed, "failed"),
        (502, b"<html>", NodeFailed, "failed"),
        (500, b'{"error":"llama-server process has terminated"}', LoadFailed, "load-failed"),
        (500, b'{"error":"option \\"seed\\" must be of type integer"}', None, ""),
        (501, b"", None, ""),
        (400, b"{}", None, ""),
        (302, b"", None, ""),
    ],
)
def test_what_an_error_reply_means(status: int, body: bytes, kind: type[NodeError] | None, outcome: str) -> None:
    error = judge("a", status, body)
    assert type(error) is (kind or type(None))
    if error is not None:
        assert outcome_of(error) == outcome
        assert error.text
        assert error.node == "a"


def test_the_words_for_how_an_attempt_ended() -> None:
    assert outcome_of(None) == "ok"
    assert outcome_of(NodeClosed("a", "x")) == outcome_of(BrokeMidStream("a", "x")) == "failed"
    assert outcome_of(CannotCarry("a", Unsupported("x"))) == "cancelled", "never sent: nothing to learn from"


# --- plans


def planned(
    path: str, kind: NodeKind, body: bytes, native: str = "m", speaks: frozenset[str] = frozenset(), **fields: object
) -> Plan:
    task = a_task(1, body=body, **fields)
    task.path = path
    task.dialect = dialect_of(path)
    known = NodeState(a_node("a", kind=kind), 1)
    known.speaks = speaks
    known.put_model(Model(task.model, native))
    return plan(task, known, Decision(task, "a", (Cost("a"),)))


CHAT = b'{"model":"m","priority":3,"messages":[{"role":"user","content":"hi"}]}'


def test_a_node_that_speaks_the_clients_dialect_gets_the_very_bytes() -> None:
    made = planned("/api/chat", NodeKind.OLLAMA, CHAT)
    assert made.outgoing.body is CHAT
    assert (made.outgoing.target, made.filters, made.translated) == ("/api/chat", (), False)
    assert planned("/v1/chat/completions", NodeKind.OLLAMA, CHAT).outgoing.body is CHAT
    assert planned("/api/chat", NodeKind.OLLAMA, CHAT, stream=False).watch is None


def test_another_engine_gets_its_own_name_of_the_model_and_not_our_priority() -> None:
    made = planned("/v1/chat/completions", NodeKind.VLLM, CHAT, "org/M")
    assert json.loads(made.outgoing.body) == {"model": "org/M", "messages": [{"role": "user", "content": "hi"}]}
    same = planned("/v1/chat/completions", NodeKind.VLLM, CHAT.replace(b'"priority":3,', b""))
    assert same.outgoing.body == CHAT.replace(b'"priority":3,', b"")


def test_ollamas_dialect_is_translated_for_another_engine() -> None:
    made = planned("/api/chat", NodeKind.LLAMACPP, CHAT, "native.gguf")
    assert (made.outgoing.target, made.translated) == ("/v1/chat/completions", True)
    assert json.loads(made.outgoing.body)["model"] == "native.gguf"
    assert made.content_type == b"application/x-ndjson"
    with pytest.raises(RequestError):
        planned("/api/chat", NodeKind.LLAMACPP, b'{"model":"m","messages":[],"tools":[{}]}')


def test_details_are_added_for_those_who_ask_in_ollamas_dialect() -> None:
    assert len(planned("/api/chat", NodeKind.OLLAMA, CHAT, details=True).filters) == 1
    assert len(planned("/api/chat", NodeKind.LLAMACPP, CHAT, details=True).filters) == 2
    assert planned("/v1/chat/completions", NodeKind.OLLAMA, CHAT, details=True).filters == ()


MESSAGE = b'{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}'
RESPONSE = b'{"model":"m","stream":true,"input":"hi"}'


@pytest.mark.parametrize(("path", "body"), [("/v1/messages", MESSAGE), ("/v1/responses", RESPONSE)])
def test_a_newer_path_goes_through_untouched_where_the_node_has_it(path: str, body: bytes) -> None:
    for kind in (NodeKind.OLLAMA, NodeKind.LLAMACPP, NodeKind.VLLM, NodeKind.LMSTUDIO, NodeKind.SOLLOL):
        if (path, kind) == ("/v1/responses", NodeKind.LLAMACPP):
            continue
        made = planned(path, kind, body, speaks=frozenset({path}))
        assert made.outgoing.body is body
        assert (made.outgoing.target, made.filters, made.translated) == (path, (), False)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", RESPONSE),  # its events lack the places by which clients put an answer together
        ("/v1/messages", MESSAGE.replace(b"{", b'{"output_config":{"format":{"type":"json_schema","schema":{}}},', 1)),
    ],
)
def test_a_path_is_translated_where_the_engine_passes_over_a_part_of_it(path: str, body: bytes) -> None:
    made = planned(path, NodeKind.LLAMACPP, body, speaks=frozenset({path}))
    assert (made.outgoing.target, made.translated) == ("/v1/chat/completions", True)


@pytest.mark.parametrize(("path", "body"), [("/v1/messages", MESSAGE), ("/v1/responses", RESPONSE)])
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (NodeKind.OLLAMA, "/api/chat"),
        (NodeKind.LLAMACPP, "/v1/chat/completions"),
        (NodeKind.VLLM, "/v1/chat/completions"),
        (NodeKind.LMSTUDIO, "/v1/chat/completions"),
    ],
)
def test_elsewhere_it_is_translated(path: str, body: bytes, kind: NodeKind, target: str) -> None:
    made = planned(path, kind, body, "native", headers=((b"content-type", b"text/plain"), (b"user-agent", b"x")))
    assert (made.outgoing.target, made.translated, made.content_type) == (target, True, b"text/event-stream")
    assert json.loads(made.outgoing.body)["model"] == "native"
    assert made.outgoing.headers == ((b"user-agent", b"x"), (b"content-type", b"application/json"))


def test_a_form_is_passed_on_with_the_nodes_name_of_the_model() -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\xff\x00\r\n'
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
    )
    path = "/v1/audio/transcriptions"
    made = planned(path, NodeKind.VLLM, form, "org/whisper", speaks=frozenset({path}), stream=False)
    assert made.outgoing.body == form.replace(b"\r\nm\r\n", b"\r\norg/whisper\r\n")
    assert made.document(b"plain words").complete
    assert not made.document(b"").complete


def test_an_error_of_an_engine_is_told_in_the_shape_of_the_path() -> None:
    made = planned("/v1/messages", NodeKind.LLAMACPP, MESSAGE, speaks=frozenset({"/v1/messages"}))
    assert made.refusal is not None
    status, told = made.refusal(400, b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}')
    shape = {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}}
    assert (status, json.loads(told)) == (400, shape)
    own = json.dumps(shape).encode()
    assert made.refusal(400, own)[1] is own
