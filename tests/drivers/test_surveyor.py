from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import pytest
from tests.support.canned import LLAMACPP, LMSTUDIO, LOADING, OLLAMA, OTHER, VLLM, canned

from sollol.core.types import Endpoint, Model, Node, NodeKind
from sollol.drivers import survey as survey_module
from sollol.drivers.clock import SystemClock
from sollol.drivers.http import HttpTransport
from sollol.drivers.survey import ASKED_FOR, HttpSurveyor
from sollol.errors import BadReply, NodeBusy, NodeClosed, NodeError, NodeFailed, NodeSilent, NodeUnreachable


@asynccontextmanager
async def surveying(seconds: float = 3.0):
    transport = HttpTransport()
    try:
        yield HttpSurveyor(transport, SystemClock(), seconds)
    finally:
        await transport.close()


def node(port: int, **settings) -> Node:
    return Node("n", Endpoint("127.0.0.1", port), **settings)


async def look(replies, **settings):
    async with canned(replies) as server, surveying() as surveyor:
        return await surveyor.survey(node(server.port, **settings)), server


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (OLLAMA, (NodeKind.OLLAMA, "0.33.0", "tiny:latest", None)),
        (LLAMACPP, (NodeKind.LLAMACPP, "b6000", "tiny:latest", 4)),
        (VLLM, (NodeKind.VLLM, "0.20.1", "qwen/q:latest", None)),
        (LMSTUDIO, (NodeKind.LMSTUDIO, "", "q:latest", None)),
        (OTHER, (NodeKind.OPENAI, "", "some-model:latest", None)),
    ],
)
@pytest.mark.parametrize("believed", list(NodeKind))
async def test_every_kind_is_found_out_whatever_it_was_believed_to_be(replies, expected, believed):
    found, _ = await look(replies, kind=believed)
    assert (found.kind, found.version, found.models[0].name, found.slots) == expected
    assert 0 < found.latency < 1
    assert not found.emulated
    assert not found.loading


async def test_the_kind_that_was_found_is_asked_for_first_the_next_time():
    async with canned(LLAMACPP) as server, surveying() as surveyor:
        await surveyor.survey(node(server.port))
        assert server.paths == ["/api/version", "/props", "/v1/models", *ASKED_FOR]
        await surveyor.survey(node(server.port))
        assert server.paths[3 + len(ASKED_FOR) :] == ["/props", "/v1/models"]
        server.replies = dict(OLLAMA)
        assert (await surveyor.survey(node(server.port))).kind is NodeKind.OLLAMA


async def test_an_ollama_in_the_place_of_a_vllm_or_another_is_seen():
    models = {"/v1/models": (200, {"data": [{"id": "tiny:latest", "owned_by": "library"}]})}
    async with canned(VLLM) as server, surveying() as surveyor:
        for before in (VLLM, OTHER):
            server.replies = dict(before)
            await surveyor.survey(node(server.port))
            server.replies = {**OLLAMA, **models}
            assert (await surveyor.survey(node(server.port))).kind is NodeKind.OLLAMA


async def test_an_ollama_is_asked_three_cheap_things():
    _, server = await look(OLLAMA)
    assert server.paths == ["/api/version", "/api/tags", "/api/ps", *ASKED_FOR]


WRONG = (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "model is required"}})
NEWER = {
    "ollama": ({**OLLAMA, "/v1/messages": WRONG, "/v1/responses": WRONG}, {"/v1/messages", "/v1/responses"}),
    "llama.cpp": (
        {
            **LLAMACPP,
            "/v1/messages": (500, {"error": {"code": 500, "message": "'messages' is required", "type": "server_error"}}),
            "/v1/responses": (400, {"error": {"code": 400, "message": "'input' is required"}}),
            "/v1/rerank": (501, {"error": {"code": 501, "message": "This server does not support reranking."}}),
        },
        {"/v1/messages", "/v1/responses"},
    ),
    "vllm": ({**VLLM, "/v1/rerank": (422, {"detail": []}), "/v1/messages": (404, {"detail": "Not Found"})}, {"/v1/rerank"}),
    "lm studio": (LMSTUDIO, set()),
    "other": ({**OTHER, "/v1/responses": (500, b"oops")}, set()),
}


@pytest.mark.parametrize("name", NEWER)
async def test_which_newer_paths_a_node_has_is_asked_with_requests_that_cost_nothing(name):
    replies, speaks = NEWER[name]
    found, server = await look(replies)
    assert found.speaks == speaks
    assert {body for _, path, body in server.asked if path in ASKED_FOR} == {b"{}"}


async def test_newer_paths_are_asked_about_again_after_an_update_or_a_restart():
    async with canned(OLLAMA) as server, surveying() as surveyor:
        assert not (await surveyor.survey(node(server.port))).speaks
        server.replies["/v1/messages"] = WRONG
        assert not (await surveyor.survey(node(server.port))).speaks
        server.replies["/api/version"] = (200, {"version": "0.34.0"})
        assert (await surveyor.survey(node(server.port))).speaks == {"/v1/messages"}
        version = server.replies["/api/version"]
        del server.replies["/v1/messages"]
        server.replies["/api/version"] = (500, b"")
        with pytest.raises(NodeError):
            await surveyor.survey(node(server.port))
        server.replies["/api/version"] = version
        assert not (await surveyor.survey(node(server.port))).speaks


FLAGS = {
    "slots": {"total_slots": 8},
    "context": {"default_generation_settings": {"n_ctx": 1024}},
    "a file for pictures": {"modalities": {"vision": True}},
    "build": {"build_info": "b6001"},
}


@pytest.mark.parametrize("flag", FLAGS)
async def test_newer_paths_are_asked_about_again_when_a_server_shows_that_it_has_other_flags(flag):
    async with canned(LLAMACPP) as server, surveying() as surveyor:
        assert not (await surveyor.survey(node(server.port))).speaks
        server.replies["/v1/rerank"] = WRONG
        assert not (await surveyor.survey(node(server.port))).speaks
        server.replies["/props"] = (200, LLAMACPP["/props"][1] | FLAGS[flag])
        assert (await surveyor.survey(node(server.port))).speaks == {"/v1/rerank"}


@pytest.mark.parametrize("how", ["it loads", "it was told", "time"])
async def test_newer_paths_are_asked_about_again_after_a_restart_that_shows_nothing(how, monkeypatch):
    async with canned(LLAMACPP) as server, surveying() as surveyor:
        assert not (await surveyor.survey(node(server.port))).speaks
        server.replies["/v1/rerank"] = WRONG
        if how == "it loads":
            server.replies, before = dict(LOADING), server.replies
            assert (await surveyor.survey(node(server.port))).loading
            server.replies = before
        elif how == "it was told":
            surveyor.forget(node(server.port))
        else:
            monkeypatch.setattr(survey_module, "SPOKEN_SECONDS", 0.0)
        assert (await surveyor.survey(node(server.port))).speaks == {"/v1/rerank"}


async def test_what_is_loaded_and_for_how_long_by_the_nodes_own_clock():
    loaded = {"name": "tiny:latest", "size": 5, "size_vram": 3, "expires_at": "2020-01-01T00:05:00.5Z"}
    date = {"Date": "Wed, 01 Jan 2020 00:00:00 GMT"}
    found, _ = await look({**OLLAMA, "/api/ps": (200, {"models": [loaded]}, date)})
    assert found.resident[0].expires_in == pytest.approx(300.5)
    found, _ = await look({**OLLAMA, "/api/ps": (200, {"models": [loaded]}, {"Date": "yesterday"})})
    assert found.resident[0].expires_in == 0.0


async def test_an_old_ollama_without_ps():
    replies = {path: reply for path, reply in OLLAMA.items() if path != "/api/ps"}
    found, _ = await look(replies)
    assert found.resident == ()


async def test_another_sollol_is_told_by_its_header_on_any_reply():
    found, _ = await look({**OLLAMA, "/api/tags": (*OLLAMA["/api/tags"], {"x-powered-by": "SOLLOL"})})
    assert found.kind is NodeKind.SOLLOL
    assert len(found.models) == 1


async def test_an_emulated_node_says_so():
    found, _ = await look({**LLAMACPP, "/props": (*LLAMACPP["/props"], {"X-SOLLOL-Emulated": "1"})})
    assert found.emulated


@pytest.mark.parametrize("replies", [LOADING, {**LLAMACPP, "/v1/models": LOADING["*"]}, {"/props": LOADING["*"]}])
async def test_a_llamacpp_that_loads_its_model_is_a_node(replies):
    found, _ = await look(replies)
    assert (found.kind, found.loading, found.models) == (NodeKind.LLAMACPP, True, ())


async def test_the_context_of_a_slot_is_that_of_what_is_loaded():
    found, _ = await look(LLAMACPP)
    assert found.resident[0].context_length == 512
    assert found.models[0].context_length == 2048


@pytest.mark.parametrize(
    ("replies", "error", "words"),
    [
        ({}, BadReply, "no node of a known kind: /v1/models gave 404"),
        ({"*": (200, b"<html>hello</html>")}, BadReply, "no node of a known kind"),
        ({"*": (200, [])}, BadReply, "no node of a known kind"),
        ({"*": (301, b"", {"Location": "http://127.0.0.1:1/"})}, BadReply, "no node of a known kind"),
        ({"*": (401, {"error": {"message": "Invalid API Key"}})}, BadReply, "asks for a key"),
        ({"*": (500, {"error": "broken"})}, NodeFailed, "gave 500 broken"),
        ({"*": (503, {"error": "server busy"})}, NodeBusy, "gave 503 server busy"),
        ({**OLLAMA, "/api/tags": (200, b'{"models":[')}, BadReply, "tags"),
        ({**OLLAMA, "/api/tags": (200, b'{"models":[{"name":"x","size":-1}]}')}, BadReply, "size"),
        ({**OLLAMA, "/api/tags": (200, {"models": [{"name": "x"}] * 10_001})}, BadReply, "10,000"),
        ({**OLLAMA, "/api/tags": (200, b" " * ((16 << 20) + 1))}, BadReply, "more than 16,777,216 bytes"),
        ({**OLLAMA, "/api/tags": (404, b"")}, BadReply, "/api/tags gave 404"),
        ({**OLLAMA, "/api/tags": (500, {"error": "disk"})}, NodeFailed, "/api/tags gave 500 disk"),
        ({**OLLAMA, "/api/ps": (503, {"error": "busy"})}, NodeBusy, "/api/ps gave 503 busy"),
        ({**OLLAMA, "/api/ps": (200, b"[]")}, BadReply, "ps"),
        ({**LLAMACPP, "/v1/models": (500, {"error": {"message": "no"}})}, NodeFailed, "/v1/models gave 500 no"),
    ],
)
async def test_what_is_no_node_or_cannot_be_read(replies, error, words):
    with pytest.raises(error) as caught:
        await look(replies)
    assert type(caught.value) is error
    assert words in caught.value.text


async def test_a_node_that_is_not_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with surveying() as surveyor:
            with pytest.raises(NodeUnreachable):
                await surveyor.survey(node(unused.getsockname()[1]))


async def test_a_node_that_takes_the_connection_and_says_nothing():
    async with canned({"*": (200, None)}) as server, surveying(0.2) as surveyor:
        started = time.monotonic()
        with pytest.raises(NodeSilent, match=r"no reply to GET /api/version within 0\.2 s"):
            await surveyor.survey(node(server.port))
        assert time.monotonic() - started < 2
        assert server.paths == ["/api/version"]


async def test_a_node_that_hangs_up():
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, surveying() as surveyor:
        with pytest.raises(NodeClosed):
            await surveyor.survey(node(server.sockets[0].getsockname()[1]))


async def test_the_nodes_key_and_base_path_are_used():
    async with canned({f"/base{path}": reply for path, reply in OLLAMA.items()}) as server, surveying() as surveyor:
        await surveyor.survey(Node("n", Endpoint("127.0.0.1", server.port, base="/base"), api_key="k1"))
        assert all(b"\r\nAuthorization: Bearer k1\r\n" in request for request in server.requests)


SHOW = {"capabilities": ["completion", "tools"], "model_info": {"llama.context_length": 99, "general.parameter_count": 12}}


async def test_show():
    async with canned({"/api/show": (200, SHOW)}) as server, surveying() as surveyor:
        shown = await surveyor.show(node(server.port), Model("tiny:latest", "Tiny"))
        assert shown == Model(
            "tiny:latest", "Tiny", capabilities=frozenset({"completion", "tools"}), context_length=99, parameters=12
        )
        assert server.asked == [("POST", "/api/show", b'{"model":"Tiny"}')]


@pytest.mark.parametrize(
    ("reply", "words"), [((404, {"error": "model 'x' not found"}), "gave 404 model 'x' not found"), ((200, b"[]"), "show")]
)
async def test_show_refused(reply, words):
    async with canned({"/api/show": reply}) as server, surveying() as surveyor:
        with pytest.raises(BadReply, match=words):
            await surveyor.show(node(server.port), Model("x:latest", "x"))


async def test_many_kinds_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("sollol.drivers.survey._REMEMBERED", 1)
    async with canned(LLAMACPP) as one, canned(VLLM) as other, surveying() as surveyor:
        for server in (one, other, one, other):
            await surveyor.survey(node(server.port))
        assert one.paths.count("/api/version") == 2
