"""The own API through the real door."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.support.front import Front, front
from tests.support.scripted import Seen, scripted
from tests.support.wait import until

import sollol
from sollol.config import Auth, Gateway, NodeSettings
from sollol.drivers.survey import ASKED_FOR


async def chat(seen: Seen) -> None:
    seen.begin()
    seen.line(
        {"model": "m", "created_at": "2026-11-21T05:12:37Z", "message": {"role": "assistant", "content": "hi"}, "done": False}
    )
    done = {"model": "m", "created_at": "2026-11-21T05:12:37Z", "message": {"role": "assistant", "content": ""}, "done": True}
    counters = {"total_duration": 5_000_000, "load_duration": 1_000, "prompt_eval_count": 21, "prompt_eval_duration": 1_000_000}
    seen.line(done | {"done_reason": "stop"} | counters | {"eval_count": 9, "eval_duration": 3_000_000})
    seen.end()


ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


async def test_health() -> None:
    async with scripted("m:latest") as one, scripted() as two, front(one.url, two.url) as door:
        reply = await door.ask("GET", "/api/health")
        assert reply.status == 200
        health = reply.json
        assert health["uptime_seconds"] > 0
        assert health == {
            "status": "ok",
            "service": "SOLLOL",
            "version": sollol.__version__,
            "pid": os.getpid(),
            "uptime_seconds": health["uptime_seconds"],
            "nodes": {"known": 2, "usable": 2},
            "address": f"http://127.0.0.1:{door.port}",
        }
        await door.down(two)
        health = (await door.ask("GET", "/api/health")).json
        assert (health["status"], health["nodes"]) == ("degraded", {"known": 2, "usable": 1})
    async with front() as door:
        assert (await door.ask("GET", "/api/health")).json["status"] == "no-nodes"


async def test_statistics_are_measured_or_null() -> None:
    async with scripted("m:latest") as node, front(node.url) as door:
        before = (await door.ask("GET", "/api/stats")).json
        assert before["total_requests"] == 0
        assert before["avg_latency_ms"] is before["success_rate"] is None
        assert before["hosts"][node.id]["latency_ms"] is None
        node.answers["POST", "/api/chat"] = chat
        for _ in range(3):
            assert (await door.ask("POST", "/api/chat", ASKED)).status == 200
        assert (await door.ask("POST", "/api/chat", {"model": "nope", "messages": []})).status == 404
        stats = (await door.ask("GET", "/api/stats")).json
        counts = (stats["total_requests"], stats["successful_requests"], stats["failed_requests"], stats["client_errors"])
        assert counts == (4, 3, 0, 1)
        assert (stats["success_rate"], stats["active_nodes"], stats["http2_enabled"]) == (1.0, 1, False)
        assert stats["avg_latency_ms"] > 0
        assert stats["output_tokens"] == 27
        assert stats["hosts"][node.id]["success_rate"] == 1.0
        assert set(stats["node_performance"][node.id]) == {"latency_ms", "success_rate", "batch_throughput"}
        assert stats["node_performance"][node.id]["batch_throughput"] is None


async def test_metrics_page() -> None:
    async with scripted("m:latest") as node, scripted() as other, front(node.url, other.url) as door:
        node.answers["POST", "/api/chat"] = chat
        await door.ask("POST", "/api/chat", ASKED)
        await door.down(other)
        reply = await door.ask("GET", "/metrics")
        assert reply.header("content-type").startswith("text/plain; version=0.0.4")
        found = {
            (sample.name, sample.labels.get("host")): sample.value
            for family in text_string_to_metric_families(reply.body.decode())
            for sample in family.samples
        }
        assert found["sollol_requests_total", node.id] == 1
        assert found["sollol_latency_seconds_count", node.id] == 1
        assert found["sollol_success_rate", node.id] == 1
        assert found["sollol_time_to_first_token_seconds_count", node.id] == 1
        assert found["sollol_queue_depth", None] == 0
        assert found["sollol_in_flight", node.id] == 0
        assert (found["sollol_node_up", node.id], found["sollol_node_up", other.id]) == (1, 0)


async def test_nodes_are_listed() -> None:
    async with scripted("m:latest", "n:v1") as node, front(NodeSettings(node.url, name="big", priority=7, slots=3)) as door:
        (found,) = (await door.ask("GET", "/api/nodes")).json["nodes"]
        latency = found.pop("latency_ms")
        assert latency > 0
        assert found == {
            "id": node.id,
            "name": "big",
            "url": node.url,
            "kind": "ollama",
            "state": "up",
            "priority": 7,
            "slots": 3,
            "slots_known": True,
            "in_flight": 0,
            "version": "0.33.0",
            "models": ["m:latest", "n:v1"],
            "resident": [],
            "origin": "static",
            "emulated": False,
            "failure_rate": None,
            "last_error": "",
            "draining": False,
            "names": {},
        }
        for name in (node.id, "big", "BIG", node.id.replace(":", "%3A")):
            assert (await door.ask("GET", f"/api/nodes/{name}")).json["id"] == node.id
        missing = await door.ask("GET", "/api/nodes/none")
        assert (missing.status, missing.json) == (404, {"error": "node 'none' is not known (known: big)"})


async def test_a_node_is_added_used_and_removed() -> None:
    async with scripted("m:latest") as node, front() as door:
        node.answers["POST", "/api/chat"] = chat
        added = await door.ask("POST", "/api/nodes", {"url": node.id, "name": "new", "slots": 2, "priority": 3})
        assert added.status == 201
        shown = added.json
        assert (shown["id"], shown["state"], shown["origin"], shown["models"]) == (node.id, "up", "api", ["m:latest"])
        assert "warning" not in shown
        assert (await door.ask("POST", "/api/chat", ASKED)).status == 200
        for same in (node.url, f"localhost:{node.id.partition(':')[2]}"):
            again = await door.ask("POST", "/api/nodes", {"url": same})
            assert again.status == 409
            assert node.id in again.json["error"]
        removed = await door.ask("DELETE", "/api/nodes/new")
        assert (removed.status, removed.json) == (200, {"id": node.id, "removed": True})
        assert (await door.ask("GET", "/api/nodes")).json["nodes"] == []
        assert (await door.ask("DELETE", "/api/nodes/new")).status == 404


async def test_a_node_that_does_not_answer_is_taken_in_and_said_so() -> None:
    async with scripted() as node, front() as door:
        node.stop()
        added = await door.ask("POST", "/api/nodes", {"url": node.url})
        assert added.status == 201
        assert added.json["state"] == "down"
        assert "not reachable now" in added.json["warning"]


async def test_the_gateway_itself_is_no_node() -> None:
    async with front() as door:
        reply = await door.ask("POST", "/api/nodes", {"url": f"127.0.0.1:{door.port}"})
        assert reply.status == 400
        assert "itself" in reply.json["error"]


async def test_a_key_of_a_node_is_sent_there_and_shown_nowhere() -> None:
    async with scripted("m:latest") as node, front() as door:
        reply = await door.ask("POST", "/api/nodes", {"url": node.url, "api_key": "node-secret"})
        assert reply.status == 201
        assert node.seen[-1].headers["authorization"] == "Bearer node-secret"
        for path in ("/api/nodes", f"/api/nodes/{node.id}", "/api/stats", "/metrics", "/api/health"):
            assert b"node-secret" not in (await door.ask("GET", path)).body
        assert b"node-secret" not in reply.body


async def test_changes() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two, front(one.url, two.url) as door:
        for node in (one, two):
            node.answers["POST", "/api/chat"] = chat
        changed = await door.ask("PATCH", f"/api/nodes/{one.id}", {"name": "a", "priority": 9, "slots": 4, "draining": True})
        assert changed.status == 200
        assert {key: changed.json[key] for key in ("name", "priority", "slots", "slots_known", "draining", "state")} == {
            "name": "a",
            "priority": 9,
            "slots": 4,
            "slots_known": True,
            "draining": True,
            "state": "draining",
        }
        for _ in range(3):
            assert (await door.ask("POST", "/api/chat", ASKED)).header("x-sollol-node") == two.id
        back = await door.ask("PATCH", "/api/nodes/a", {"draining": False, "slots": None})
        assert (back.json["state"], back.json["slots_known"], back.json["priority"]) == ("up", False, 9)
        taken = await door.ask("PATCH", f"/api/nodes/{two.id}", {"name": "A"})
        assert (taken.status, taken.json) == (409, {"error": f"the name 'A' is taken by node '{one.id}'"})
        assert (await door.ask("PATCH", "/api/nodes/a", {"name": "a"})).status == 200
        assert (await door.ask("PATCH", "/api/nodes/a", {})).json["name"] == "a"


@pytest.mark.parametrize(
    ("asked", "body", "words"),
    [
        ("POST /api/nodes", b"", "missing request body"),
        ("POST /api/nodes", b"{}", "url"),
        ("POST /api/nodes", b"[]", "object"),
        ("POST /api/nodes", b'{"url": "http://a:0"}', "port"),
        ("POST /api/nodes", b'{"url": "ftp://a"}', "http"),
        ("POST /api/nodes", b'{"url": "http://u:p@h"}', "@"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "priority": 11}', "$.priority"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "slots": 0}', "$.slots"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "api_key": "a\\nb: c"}', "$.api_key"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "colour": 1}', "colour"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "names": {"a": 1}}', "$.names"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "names": {"": "a"}}', "$.names"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "names": {" ": "a"}}', "names: a name is empty"),
        ("POST /api/nodes", b'{"url": "127.0.0.1:9", "names": {"a": "b", "A:latest": "c"}}', "twice"),
        ("PATCH /api/nodes/n", b'{"names": null}', "$.names"),
        ("PATCH /api/nodes/n", b'{"names": ["a"]}', "$.names"),
        ("POST /api/nodes", b'{"url": "\xff"}', "JSON"),
        ("POST /api/nodes", b"[" * 10_000, "array"),
        ("POST /api/nodes", b'{"url": ' + b"[" * 10_000, "array"),
        ("PATCH /api/nodes/n", b'{"priority": 0}', "$.priority"),
        ("PATCH /api/nodes/n", b'{"priority": "5"}', "$.priority"),
        ("PATCH /api/nodes/n", b'{"url": "x"}', "url"),
        ("PATCH /api/nodes/n", b'{"draining": 1}', "$.draining"),
        ("GET /api/routing/explain", b"", "model is required"),
        ("GET /api/routing/explain?model=m&prompt_tokens=x", b"", "$.prompt_tokens"),
        ("GET /api/routing/explain?model=m&priority=11", b"", "$.priority"),
        ("GET /api/routing/explain?model=m&mode=slow", b"", "$.mode"),
        ("GET /api/routing/explain?model=m&mode=null", b"", "$.mode"),
        ("GET /api/routing/explain?model=m&max_tokens=null", b"", "$.max_tokens"),
        ("GET /api/routing/explain?model=m&colour=1", b"", "colour"),
        ("GET /api/routing/explain?model=m&model=n", b"", "twice"),
    ],
)
async def test_bad_input_is_one_clear_line(asked: str, body: bytes, words: str) -> None:
    async with scripted() as node, front(NodeSettings(node.url, name="n")) as door:
        reply = await door.ask(*asked.split(), body)
        assert reply.status == 400
        assert words in reply.json["error"]
        assert len((await door.ask("GET", "/api/nodes")).json["nodes"]) == 1


async def test_explain_sends_nothing_and_names_every_node() -> None:
    async with scripted("m:latest") as one, scripted("x:latest") as two, front(one.url, two.url) as door:
        found = (
            await door.ask("GET", "/api/routing/explain?model=M&prompt_tokens=1000&max_tokens=50&mode=fast&priority=8")
        ).json
        looks = {"/", "/api/version", "/api/tags", "/api/ps", "/api/show", *ASKED_FOR}
        assert {seen.path for node in (one, two) for seen in node.seen} <= looks
        assert (found["model"], found["mode"], found["chosen"]) == ("m:latest", "fast", one.id)
        assert found["reason"].startswith(one.id)
        first, second = found["nodes"]
        assert (first["node"], first["blocked"], first["state"], first["free"]) == (one.id, "", "up", True)
        assert first["eta"] > 0
        assert 0 < first["score"] <= 100
        assert (second["node"], bool(second["blocked"]), second["score"]) == (two.id, True, 0)
        longer = (await door.ask("GET", "/api/routing/explain?model=m&prompt_tokens=2000&max_tokens=50&mode=fast")).json
        assert longer["nodes"][0]["prefill"] == pytest.approx(2 * first["prefill"], rel=0.01)
        nobody = (await door.ask("GET", "/api/routing/explain?model=nope")).json
        assert nobody["chosen"] is None
        assert nobody["reason"]


async def test_queue_of_an_idle_gateway() -> None:
    async with front() as door:
        assert (await door.ask("GET", "/api/queue")).json == {"waiting": 0, "limit": 1000, "requests": []}


async def test_who_waits_is_listed() -> None:
    async def hold(seen: Seen) -> None:
        await seen.gone.wait()

    async with scripted("m:latest") as node, front(NodeSettings(node.url, slots=1)) as door:
        node.answers["POST", "/api/chat"] = hold
        first = await door.open("POST", "/api/chat", ASKED)
        await until(lambda: door.context.engine.state.nodes[node.id].in_flight == 1)
        second = await door.open("POST", "/api/chat", ASKED, {"X-SOLLOL-Priority": "8", "X-SOLLOL-App": "notes"})
        await until(lambda: door.context.admission.waiting == 1)
        queue = (await door.ask("GET", "/api/queue")).json
        assert queue["waiting"] == 1
        (entry,) = queue["requests"]
        assert (entry["model"], entry["priority"], entry["app"]) == ("m:latest", 8, "notes")
        assert (await door.ask("GET", "/api/nodes")).json["nodes"][0]["in_flight"] == 1
        for request in (second, first):
            request.leave()


async def test_keys_at_the_door() -> None:
    auth = Auth(keys=("use",), admin_keys=("boss",))
    async with scripted("m:latest") as node, front(node.url, auth=auth) as door:
        node.answers["POST", "/api/chat"] = chat
        assert (await door.ask("GET", "/")).status == 200
        assert (await door.ask("GET", "/api/health")).status == 200
        native = await door.ask("GET", "/api/tags")
        assert native.status == 401
        assert set(native.json) == {"error"}
        openai = await door.ask("POST", "/v1/chat/completions", ASKED)
        assert openai.status == 401
        assert openai.json["error"]["type"] == "authentication_error"
        user, boss = {"Authorization": "Bearer use"}, {"x-api-key": "boss"}
        assert (await door.ask("POST", "/api/chat", ASKED, user)).status == 200
        assert "authorization" not in node.asked("POST", "/api/chat")[0].headers
        assert (await door.ask("PATCH", f"/api/nodes/{node.id}", {"priority": 2}, user)).status == 403
        assert (await door.ask("DELETE", "/api/delete", {"model": "m"}, user)).status == 403
        assert (await door.ask("PATCH", f"/api/nodes/{node.id}", {"priority": 2}, boss)).status == 200


async def test_origins_and_preflight_at_the_door() -> None:
    async with front(gateway=Gateway(port=0, allowed_origins=("https://chat.home",))) as door:
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            reply = await door.ask("GET", "/api/version", headers=headers)
            assert (reply.status, reply.body, reply.header("content-length")) == (403, b"", "0")
            assert not reply.header("content-type")
        page = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
        reply = await door.ask("OPTIONS", "/api/chat", headers=page)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.header("access-control-allow-origin") == "http://localhost:3000"
        assert reply.header("access-control-allow-methods") == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
        assert reply.header("access-control-max-age") == "43200"
        assert reply.header("allow") == "POST"
        assert reply.header("access-control-allow-headers").startswith("Authorization,Content-Type,User-Agent,Accept,")
        assert sorted(value for key, value in reply.headers if key == "vary") == [
            "Access-Control-Request-Headers",
            "Access-Control-Request-Method",
            "Origin",
        ]
        for path in ("/api/version", "/api/nope", "/v1/models/nope"):
            reply = await door.ask("GET", path, headers={"Origin": "https://chat.home"})
            assert (reply.header("access-control-allow-origin"), reply.header("vary")) == ("https://chat.home", "Origin")
            assert reply.header("x-powered-by") == "SOLLOL"


async def test_openapi_document() -> None:
    async with front() as door:
        document = (await door.ask("GET", "/api/openapi.json")).json
        assert document["openapi"].startswith("3.1")
        assert set(document["paths"]) == {
            "/api/health",
            "/api/stats",
            "/api/nodes",
            "/api/nodes/{node}",
            "/api/queue",
            "/api/cache",
            "/api/reload",
            "/api/routing/explain",
        }
        text = json.dumps(document)
        for reference in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
            assert reference.rpartition("/")[2] in document["components"]["schemas"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "url",
    "name",
    "priority",
    "slots",
    "api_key",
    "draining",
    "model",
    "from",
    "source",
    "destination",
    "files",
    "nodes",
    "stream",
)
PATHS = ("POST /api/nodes", "PATCH /api/nodes/n", "POST /api/show", "POST /api/pull", "POST /api/copy", "DELETE /api/delete")


@given(
    asked=st.sampled_from(PATHS),
    body=st.one_of(
        st.binary(max_size=60),
        st.dictionaries(st.sampled_from(KEYS[1:]), VALUES, max_size=5).map(lambda value: json.dumps(value).encode()),
    ),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_body_makes_a_bug(asked: str, body: bytes) -> None:
    async with scripted("m:latest") as node, front(NodeSettings(node.url, name="n")) as door:
        await _sane(door, asked, body)


async def _sane(door: Front, asked: str, body: bytes) -> None:
    reply = await door.ask(*asked.split(), body)
    assert reply.status in {200, 400, 404, 409, 501}
    if reply.status != 200:
        assert reply.body == b"404 page not found" or "error" in reply.json
    assert (await door.ask("GET", "/api/health")).json["nodes"]["known"] == 1
