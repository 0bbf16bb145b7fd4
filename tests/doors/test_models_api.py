"""Show, pull, push, create, copy, delete, unload and unknown paths over several nodes, through the real door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.front import front
from tests.support.scripted import ScriptedNode, Seen, scripted
from tests.support.wait import until

from sollol.config import Limits, NodeSettings
from sollol.core.events import Unloaded

Answer = Callable[[Seen], Awaitable[None]]

PULL = [
    {"status": "pulling manifest"},
    {"status": "pulling 507f54908855", "digest": "sha256:507f", "total": 9856448, "completed": 589824},
    {"status": "verifying sha256 digest"},
    {"status": "writing manifest"},
    {"status": "success"},
]


def progress(*lines: dict[str, Any]) -> Answer:
    async def answer(seen: Seen) -> None:
        seen.begin()
        for line in lines:
            seen.line(line)
        seen.end()

    return answer


def says(status: int = 200, body: object = b"", kind: str = "application/json; charset=utf-8") -> Answer:
    async def answer(seen: Seen) -> None:
        seen.reply(status, body, kind)

    return answer


async def hangs(seen: Seen) -> None:
    seen.begin()
    seen.line({"status": "pulling manifest"})
    await seen.gone.wait()


def named(*nodes: ScriptedNode) -> list[NodeSettings]:
    return [NodeSettings(node.url, name=f"n{number}") for number, node in enumerate(nodes, 1)]


@pytest.mark.parametrize(
    ("asked", "body", "status", "error"),
    [
        ("POST /api/show", b"", 400, "missing request body"),
        ("POST /api/show", b"{}", 400, "model is required"),
        ("POST /api/show", b'{"model": "nope"}', 404, "model 'nope:latest' not found"),
        ("POST /api/show", b'{"model": "a/b/c/d/e"}', 400, "invalid model name"),
        (
            "POST /api/show",
            b'{"model": 1}',
            400,
            "json: cannot unmarshal number into Go struct field ShowRequest.model of type string",
        ),
        ("POST /api/show", b"[" * 10_000, 400, None),
        ("POST /api/show", b'{"model": "\xff"}', 400, None),
        ("POST /api/pull", b'{"model": ""}', 400, "invalid model name"),
        ("POST /api/pull", b"{}", 400, "invalid model name"),
        ("POST /api/push", b"{}", 400, "model is required"),
        ("POST /api/create", b"{", 400, "unexpected EOF"),
        ("POST /api/create", b'{"model": "..bad..//", "from": "made"}', 400, "invalid model name"),
        ("POST /api/copy", b'{"source": "nope", "destination": "z"}', 404, 'model "nope" not found'),
        ("POST /api/copy", b'{"source": "m", "destination": ""}', 400, 'destination "" is invalid'),
        ("DELETE /api/delete", b'{"model": "made-copy"}', 404, "model 'made-copy' not found"),
        ("DELETE /api/delete", b"{}", 400, "model is required"),
        ("POST /api/blobs/xyz", b"some blob", 400, "invalid digest format"),
        ("POST /api/pull", b'{"model": "x", "nodes": ["n9"]}', 400, "node 'n9' is not known (known: n1)"),
        ("POST /api/pull", b'{"model": "x", "nodes": []}', 400, 'nodes is empty: name at least one, or "all" (known: n1)'),
        ("POST /api/pull", b'{"model": "x", "nodes": 7}', 400, None),
    ],
)
async def test_refusals_as_recorded(asked: str, body: bytes, status: int, error: str | None) -> None:
    async with scripted("m:latest") as node, front(*named(node)) as door:
        reply = await door.ask(*asked.split(), body)
        assert reply.status == status
        assert reply.header("content-type") == "application/json; charset=utf-8"
        assert reply.json["error"]
        assert error is None or reply.json == {"error": error}
        assert not [seen for seen in node.seen if seen.method != "GET" and seen.path != "/api/show"]


async def test_show_fails_over_to_another_owner() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two, scripted("x:latest") as three:
        one.answers["POST", "/api/show"] = says(404, {"error": "model 'm:latest' not found"})
        two.answers["POST", "/api/show"] = says(200, {"modelfile": "it"})
        async with front(*named(one, two, three)) as door:
            for _ in range(3):
                reply = await door.ask("POST", "/api/show", {"model": "M", "verbose": True})
                assert (reply.status, reply.json, reply.header("x-sollol-node")) == (200, {"modelfile": "it"}, "n2")
            assert {"model": "M", "verbose": True} in [seen.json for seen in two.asked("POST", "/api/show")]
            one.answers["POST", "/api/show"] = says(500, {"error": "invalid file magic"})
            two.stop()
            reply = await door.ask("POST", "/api/show", {"model": "m"})
            assert (reply.status, reply.json) == (500, {"error": "invalid file magic"})


async def test_pull_from_one_node_passes_untouched() -> None:
    async with scripted() as node, front(node.url) as door:
        node.answers["POST", "/api/pull"] = progress(*PULL)
        sent = b'{ "model" :"llama3.2:1b", "insecure": true}'
        reply = await door.ask("POST", "/api/pull", sent)
        assert reply.status == 200
        assert reply.header("content-type") == "application/x-ndjson"
        assert reply.body == b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in PULL)
        assert node.asked("POST", "/api/pull")[0].body == sent


async def test_after_a_pull_the_model_is_known_at_once() -> None:
    async with scripted() as node, front(node.url) as door:

        async def pull(seen: Seen) -> None:
            node.models["new:latest"] = "a" * 64
            seen.reply(200, {"status": "success"}, "application/json")

        node.answers["POST", "/api/pull"] = pull
        reply = await door.ask("POST", "/api/pull", {"model": "new", "stream": False})
        assert (reply.status, reply.json, reply.header("content-type")) == (200, {"status": "success"}, "application/json")
        async with asyncio.timeout(5):
            await until(lambda: "new:latest" in door.context.engine.state.nodes[node.id].models)


async def test_pull_goes_to_all_that_have_it_else_to_the_one_with_most_room() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two, scripted() as three:
        for node in (one, two, three):
            node.answers["POST", "/api/pull"] = progress(*PULL)
        async with front(*named(one, two), NodeSettings(three.url, name="n3", memory_gb=48)) as door:
            update = await door.ask("POST", "/api/pull", {"model": "m"})
            assert update.header("x-sollol-node") == "n1, n2"
            new = await door.ask("POST", "/api/pull", {"model": "other"})
            assert new.header("x-sollol-node") == "n3"


async def test_progress_of_several_nodes_is_merged() -> None:
    async with scripted() as one, scripted() as two, front(*named(one, two)) as door:
        one.answers["POST", "/api/pull"] = two.answers["POST", "/api/pull"] = progress(*PULL)
        reply = await door.ask("POST", "/api/pull", {"model": "x", "nodes": "all"})
        assert reply.status == 200
        *lines, last = reply.lines
        assert last == {"status": "success"}
        for name in ("n1", "n2"):
            own = [{key: value for key, value in line.items() if key != "node"} for line in lines if line["node"] == name]
            assert own == [*PULL[:-1], {"status": "finished"}]
        for node in (one, two):
            assert [seen.json for seen in node.asked("POST", "/api/pull")] == [{"model": "x"}]


async def test_a_failure_on_one_node_is_told_at_the_end() -> None:
    async with scripted() as one, scripted() as two, front(*named(one, two)) as door:
        one.answers["POST", "/api/pull"] = progress(PULL[0], {"error": "pull model manifest: file does not exist"})
        two.answers["POST", "/api/pull"] = progress(*PULL)
        *lines, last = (await door.ask("POST", "/api/pull", {"model": "x", "nodes": ["n1", two.id]})).lines
        assert last == {"error": "n1: pull model manifest: file does not exist"}
        assert {"status": "finished", "node": "n2"} in lines
        assert not any("error" in line for line in lines)
        one.answers["POST", "/api/pull"] = says(500, {"error": "no room"})
        two.answers["POST", "/api/pull"] = says(200, {"status": "success"})
        whole = await door.ask("POST", "/api/pull", {"model": "x", "nodes": "all", "stream": False})
        assert (whole.status, whole.json) == (500, {"error": "n1: no room"})


async def test_when_all_refuse_before_the_first_line_the_status_is_true() -> None:
    async with scripted() as one, scripted() as two, front(*named(one, two)) as door:
        for node in (one, two):
            node.answers["POST", "/api/pull"] = says(400, {"error": "no"})
        reply = await door.ask("POST", "/api/pull", {"model": "x", "nodes": "all"})
        assert (reply.status, reply.json) == (400, {"error": "n1: no; n2: no"})


async def test_what_changes_a_node_is_never_sent_twice() -> None:
    async def drop(seen: Seen) -> None:
        seen.transport.abort()

    async with scripted("m:latest") as node, front(node.url) as door:
        # A kept connection exists already, which is where a transport would try again by itself.
        node.answers["POST", "/api/pull"] = drop
        reply = await door.ask("POST", "/api/pull", {"model": "x"})
        assert reply.status == 502
        assert len(node.asked("POST", "/api/pull")) == 1
        node.answers["DELETE", "/api/delete"] = drop
        assert (await door.ask("DELETE", "/api/delete", {"model": "m"})).status == 502
        assert len(node.asked("DELETE", "/api/delete")) == 1


async def test_a_stream_that_breaks_ends_with_an_error_line() -> None:
    async def half(seen: Seen) -> None:
        seen.begin()
        seen.line(PULL[0])
        seen.transport.close()

    async with scripted() as node, front(node.url) as door:
        node.answers["POST", "/api/pull"] = half
        first, last = (await door.ask("POST", "/api/pull", {"model": "x"})).lines
        assert first == PULL[0]
        assert "error" in last


@pytest.mark.parametrize("nodes", [None, "all"])
async def test_a_client_that_leaves_closes_every_upstream(nodes: str | None) -> None:
    async with scripted() as one, scripted() as two, front(one.url, two.url) as door:
        one.answers["POST", "/api/pull"] = two.answers["POST", "/api/pull"] = hangs
        request = await door.open("POST", "/api/pull", {"model": "x"} | ({"nodes": nodes} if nodes else {}))
        await request.head()
        await request.chunk()
        running = [seen for node in (one, two) for seen in node.asked("POST", "/api/pull")]
        assert len(running) == (2 if nodes else 1)
        request.leave()
        async with asyncio.timeout(5):
            for seen in running:
                await seen.gone.wait()


async def test_delete_on_every_owner_and_down_ones_are_named() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two, scripted("m:latest") as three:
        for node in (one, two):
            node.answers["DELETE", "/api/delete"] = says()
        async with front(*named(one, two, three)) as door:
            await door.down(three)
            gone: list[str] = []
            door.context.engine.listen(lambda event: gone.append(event.node) if isinstance(event, Unloaded) else None)
            reply = await door.ask("DELETE", "/api/delete", {"name": "m"})
            assert (reply.status, reply.body, reply.header("content-length")) == (200, b"", "0")
            assert reply.header("x-sollol-node") == "n1, n2"
            assert reply.header("x-sollol-skipped") == "n3"
            assert sorted(gone) == sorted([one.id, two.id])
            two.answers["DELETE", "/api/delete"] = says(404, {"error": "model 'm' not found"})
            assert (await door.ask("DELETE", "/api/delete", {"name": "m"})).status == 200
            two.answers["DELETE", "/api/delete"] = says(500, {"error": "disk"})
            reply = await door.ask("DELETE", "/api/delete", {"name": "m"})
            assert (reply.status, reply.json) == (500, {"error": "n2: disk"})


async def test_copy_on_every_owner_and_push_from_one() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two, scripted("x:latest") as three:
        for node in (one, two, three):
            node.answers["POST", "/api/copy"] = says()
            node.answers["POST", "/api/push"] = progress({"status": "retrieving manifest"}, {"status": "success"})
        async with front(*named(one, two, three)) as door:
            reply = await door.ask("POST", "/api/copy", {"source": "m", "destination": "m2"})
            assert (reply.status, reply.body, reply.header("x-sollol-node")) == (200, b"", "n1, n2")
            assert not three.asked("POST", "/api/copy")
            assert (await door.ask("POST", "/api/push", {"model": "m"})).lines[-1] == {"status": "success"}
            assert sum(len(node.asked("POST", "/api/push")) for node in (one, two, three)) == 1
            assert not three.asked("POST", "/api/push")


async def test_create_goes_to_the_base_model_or_to_its_blobs() -> None:
    digest = "sha256:" + "a1" * 32
    async with scripted("other:latest") as one, scripted("base:latest") as two, front(*named(one, two)) as door:
        for node in (one, two):
            node.answers["POST", "/api/create"] = progress({"status": "success"})
            node.answers["HEAD", f"/api/blobs/{digest}"] = says(404, {"error": "blob not found"})
            node.answers["POST", f"/api/blobs/{digest}"] = says(201)
        reply = await door.ask("POST", "/api/create", {"model": "mine", "from": "base"})
        assert reply.header("x-sollol-node") == "n2"
        head = await door.ask("HEAD", f"/api/blobs/{digest}")
        assert (head.status, head.body) == (404, b"")
        blob = await door.ask("POST", f"/api/blobs/{digest}", b"some blob", {"nodes": "n1"})
        assert (blob.status, blob.body, blob.header("content-length")) == (201, b"", "0")
        (holder,) = [node for node in (one, two) if node.asked("POST", f"/api/blobs/{digest}")]
        assert holder.asked("POST", f"/api/blobs/{digest}")[0].body == b"some blob"
        made = await door.ask("POST", "/api/create", {"model": "mine", "files": {"m.gguf": digest}})
        assert made.lines == [{"status": "success"}]
        assert [seen.json["model"] for seen in holder.asked("POST", "/api/create")][-1:] == ["mine"]
        assert holder.asked("POST", "/api/create")[-1].json["files"] == {"m.gguf": digest}


async def test_head_of_a_blob_finds_where_it_is_and_stays_there() -> None:
    digest = "sha256:" + "b2" * 32
    path = f"/api/blobs/{digest}"
    async with scripted() as one, scripted() as two, front(*named(one, two)) as door:
        one.answers["HEAD", path] = says(404)
        two.answers["HEAD", path] = says(200)
        assert (await door.ask("HEAD", path)).status == 200
        two.answers["POST", "/api/create"] = progress({"status": "success"})
        reply = await door.ask("POST", "/api/create", {"model": "x", "files": {"a": digest}})
        assert reply.header("x-sollol-node") == "n2"
        two.answers["HEAD", path] = says(404)
        assert (await door.ask("HEAD", path)).status == 404


async def test_blobs_are_streamed_to_several_nodes_without_a_limit() -> None:
    digest = "sha256:" + "c3" * 32
    path = f"/api/blobs/{digest}"
    limits = Limits(json_body_bytes=1 << 20)
    async with scripted() as one, scripted() as two, front(*named(one, two), limits=limits) as door:
        one.answers["POST", path] = two.answers["POST", path] = says(201)
        size, piece = 8 << 20, b"x" * (1 << 20)
        request = await door.open("POST", f"{path}?nodes=n1,n2", b"", {"Content-Length": str(size)})
        for _ in range(size // len(piece)):
            request.writer.write(piece)
            await request.writer.drain()
        await request.head()
        assert request.status == 201
        request.writer.close()
        assert [len(seen.body) for node in (one, two) for seen in node.asked("POST", path)] == [size, size]


async def test_a_blob_that_is_there_is_answered_before_it_was_sent() -> None:
    path = "/api/blobs/sha256:" + "d4" * 32
    async with scripted() as node, front(node.url) as door:
        node.early.add(path)
        node.answers["POST", path] = says(200)
        request = await door.open("POST", path, b"a beginning", {"Content-Length": "1000000"})
        async with asyncio.timeout(5):
            await request.head()
        assert request.status == 200
        request.leave()


async def test_a_client_that_leaves_in_an_upload_closes_the_upstream() -> None:
    path = "/api/blobs/sha256:" + "e5" * 32
    async with scripted() as node, front(node.url) as door:
        arrived = asyncio.Event()

        async def wait(seen: Seen) -> None:
            arrived.set()
            await seen.gone.wait()

        node.early.add(path)
        node.answers["POST", path] = wait
        request = await door.open("POST", path, b"a beginning", {"Content-Length": "1000000"})
        await arrived.wait()
        request.leave()
        async with asyncio.timeout(5):
            await node.asked("POST", path)[0].gone.wait()


@pytest.mark.parametrize(
    ("path", "more", "key"),
    [("/api/generate", {}, "response"), ("/api/chat", {"messages": []}, "message")],
)
async def test_unload_goes_to_every_owner(path: str, more: dict[str, Any], key: str) -> None:
    done = {"model": "m", "done": True, "done_reason": "unload"}
    async with scripted("m:latest") as one, scripted("m:latest") as two, scripted("m:latest") as three:
        for node in (one, two):
            node.answers["POST", path] = says(200, done)
        async with front(*named(one, two, three)) as door:
            await door.down(three)
            reply = await door.ask("POST", path, {"model": "M", "keep_alive": 0, **more})
            assert reply.status == 200
            assert list(reply.json) == ["model", "created_at", key, "done", "done_reason"]
            assert (reply.json["model"], reply.json["done_reason"]) == ("M", "unload")
            assert reply.header("x-sollol-skipped") == "n3"
            assert [len(node.asked("POST", path)) for node in (one, two)] == [1, 1]
            missing = await door.ask("POST", path, {"model": "nope", "keep_alive": 0, **more})
            assert (missing.status, missing.json) == (404, {"error": "model 'nope' not found"})


async def test_unknown_paths_go_to_a_node_that_knows_them() -> None:
    async with scripted() as one, scripted() as two, front(*named(one, two)) as door:
        two.answers["POST", "/api/me"] = says(503, {"error": "account unavailable"})
        reply = await door.ask("POST", "/api/me", {"a": 1})
        assert (reply.status, reply.json, reply.header("x-sollol-node")) == (503, {"error": "account unavailable"}, "n2")
        two.answers["GET", "/api/experimental/x"] = says(200, {"ok": True})
        assert (await door.ask("GET", "/api/experimental/x?q=1")).json == {"ok": True}
        assert two.seen[-1].path == "/api/experimental/x?q=1"
        for path in ("/api/nope", "/nope", "/v1/images/generations", "/debug/pprof/cmdline"):
            reply = await door.ask("GET", path)
            assert (reply.status, reply.body, reply.header("content-type")) == (404, b"404 page not found", "text/plain")
        sent = len(one.seen) + len(two.seen)
        for path in ("/api/batch/../pull", "/api/x/%2e%2e/pull", "/api/x%2fy", "/api/a/..%5cpull"):
            assert (await door.ask("GET", path)).status == 404
        assert len(one.seen) + len(two.seen) == sent


async def test_an_unknown_path_is_not_sent_to_a_second_node_after_the_first_broke() -> None:
    async def drop(seen: Seen) -> None:
        seen.transport.abort()

    async with scripted() as one, scripted() as two, front(one.url, two.url) as door:
        one.answers["POST", "/api/x"] = two.answers["POST", "/api/x"] = drop
        assert (await door.ask("POST", "/api/x", {})).status == 502
        assert len(one.asked("POST", "/api/x")) + len(two.asked("POST", "/api/x")) == 1


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/generate", "POST"),
        ("POST", "/api/tags", "HEAD, GET"),
        ("GET", "/api/blobs/sha256:1", "HEAD, POST"),
        ("PUT", "/api/delete", "DELETE"),
    ],
)
async def test_wrong_method(method: str, path: str, allow: str) -> None:
    async with front() as door:
        reply = await door.ask(method, path)
        assert (reply.status, reply.body) == (405, b"405 method not allowed")
        assert (reply.header("allow"), reply.header("content-type")) == (allow, "text/plain")


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/..", "/api/tags/../nodes", "/tags", "/v1", "/api/"])
async def test_paths_that_nobody_knows(path: str) -> None:
    async with front() as door:
        reply = await door.ask("GET", path)
        assert (reply.status, reply.body) == (404, b"404 page not found")


async def test_no_ollama_node_at_all() -> None:
    async with front() as door:
        for method, path in (("POST", "/api/pull"), ("POST", "/api/create")):
            reply = await door.ask(method, path, {"model": "x"})
            assert reply.status == 503
            assert "no node is known" in reply.json["error"]
            assert reply.header("retry-after") == "5"


async def test_hops_are_counted_and_a_loop_is_ended() -> None:
    async with scripted() as node, front(node.url) as door:
        node.answers["GET", "/api/x"] = says(200, {})
        await door.ask("GET", "/api/x", headers={"X-SOLLOL-Hops": "1", "X-SOLLOL-Via": "other"})
        seen = node.asked("GET", "/api/x")[0]
        assert (seen.headers["x-sollol-hops"], seen.headers["x-sollol-via"]) == ("2", f"other, {door.context.guard.id}")
        assert seen.headers["host"] == node.id
        for headers in ({"X-SOLLOL-Hops": "4"}, {"X-SOLLOL-Via": door.context.guard.id}):
            reply = await door.ask("GET", "/api/x", headers=headers)
            assert reply.status == 508
            assert "went through" in reply.json["error"]
