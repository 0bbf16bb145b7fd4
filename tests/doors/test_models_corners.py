"""Requests about models where nodes answer badly, are of other kinds or are down; and the small parts on their own."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.canned import LLAMACPP, canned
from tests.support.fakes import FakeExchange, FakeSink
from tests.support.front import Front, front
from tests.support.raw_peer import Told
from tests.support.scripted import ScriptedNode, Seen, scripted
from tests.support.wait import until

from sollol.config import Auth, Config, Discovery, Gateway, Log, NodeSettings
from sollol.core.ports import Outgoing
from sollol.core.types import Endpoint, Node
from sollol.errors import BrokeMidStream, ConfigError
from sollol.gateway import blobs
from sollol.gateway.blobs import BlobPlaces
from sollol.gateway.fanout import Collect, Group, PassChange
from sollol.gateway.naming import Retold
from sollol.gateway.reload import is_loopback, warn_if_open
from sollol.gateway.running import open_gateway
from sollol.gateway.showing import parameter_size

Answer = Callable[[Seen], Awaitable[None]]
NODE = Node("a:1", Endpoint("a", 1), name="n1")
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def says(status: int = 200, body: object = b"", kind: str = "application/json; charset=utf-8") -> Answer:
    async def answer(seen: Seen) -> None:
        seen.reply(status, body, kind)

    return answer


def lines(*parts: object, cut: bool = False) -> Answer:
    """A stream of these lines; text stays as it is. ``cut``: the connection breaks after them."""

    async def answer(seen: Seen) -> None:
        seen.begin()
        for part in parts:
            if isinstance(part, str):
                seen.transport.write(f"{len(part):x}\r\n{part}\r\n".encode())
            else:
                seen.line(part)
        if cut:
            seen.transport.abort() if not parts else seen.transport.close()
        else:
            seen.end()

    return answer


async def breaks(seen: Seen) -> None:
    seen.transport.abort()


def named(*nodes: ScriptedNode) -> list[NodeSettings]:
    return [NodeSettings(node.url, name=f"n{number}") for number, node in enumerate(nodes, 1)]


# who has it


async def test_a_model_that_its_only_owner_has_lost_is_not_found() -> None:
    async with scripted("m:latest") as node, front(*named(node)) as door:
        node.answers["POST", "/api/show"] = says(404, {"error": "gone"})
        reply = await door.ask("POST", "/api/show", {"model": "m"})
        assert (reply.status, reply.json) == (404, {"error": "model 'm:latest' not found"})
        node.answers["POST", "/api/show"] = breaks
        reply = await door.ask("POST", "/api/show", {"model": "m"})
        assert reply.status == 502
        assert "n1" in reply.json["error"] or node.id in reply.json["error"]


OWN = "every node that has 'm:latest' is down: n1"


@pytest.mark.parametrize(
    ("asked", "body", "words"),
    [
        ("POST /api/show", {"model": "m"}, OWN),
        ("POST /api/copy", {"source": "m", "destination": "z"}, OWN),
        ("DELETE /api/delete", {"model": "m"}, OWN),
        ("POST /api/generate", {"model": "m", "keep_alive": 0}, "every node that has 'm' is down: n1"),
        ("POST /api/pull", {"model": "new"}, "no Ollama node is reachable now (known: n1)"),
        ("POST /api/pull", {"model": "new", "nodes": "n1"}, "node 'n1' is not reachable now: "),
    ],
)
async def test_what_only_nodes_have_that_are_down(asked: str, body: dict[str, Any], words: str) -> None:
    async with scripted("m:latest") as node, front(*named(node)) as door:
        await door.down(node)
        reply = await door.ask(*asked.split(), body)
        assert reply.status == 503
        assert reply.json["error"].startswith(words)


@pytest.mark.parametrize(
    ("asked", "body", "status", "words"),
    [
        ("DELETE /api/delete", {"model": "tiny"}, 501, "is only on nodes that do not manage models: n1"),
        ("POST /api/generate", {"model": "tiny", "keep_alive": 0}, 501, "is only on nodes that keep it loaded: n1"),
        (
            "POST /api/pull",
            {"model": "x", "nodes": "n1"},
            400,
            "node 'n1' is no Ollama server (llama.cpp) and cannot manage models",
        ),
    ],
)
async def test_what_only_servers_of_other_kinds_have(asked: str, body: dict[str, Any], status: int, words: str) -> None:
    async with (
        canned(LLAMACPP) as node,
        front(NodeSettings(f"http://127.0.0.1:{node.port}", name="n1")) as door,
    ):
        reply = await door.ask(*asked.split(), body)
        assert (reply.status, words in reply.json["error"]) == (status, True), reply.json


async def test_a_change_goes_to_the_nodes_that_are_named() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two, front(*named(one, two)) as door:
        one.answers["DELETE", "/api/delete"] = two.answers["DELETE", "/api/delete"] = says()
        reply = await door.ask("DELETE", "/api/delete", {"model": "m", "nodes": "n2"})
        assert (reply.status, reply.header("x-sollol-node")) == (200, "n2")
        assert not one.asked("DELETE", "/api/delete")
        assert [seen.json for seen in two.asked("DELETE", "/api/delete")] == [{"model": "m"}]


async def test_unloading_where_one_node_refuses() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two, front(*named(one, two)) as door:
        one.answers["POST", "/api/generate"] = says(200, {"done": True})
        two.answers["POST", "/api/generate"] = says(500, b"out of order", "text/plain")
        reply = await door.ask("POST", "/api/generate", {"model": "m", "keep_alive": 0})
        assert (reply.status, reply.json) == (500, {"error": "n2: out of order"})


# what nodes say about changes


async def pulled(*answers: Answer) -> list[Any]:
    """The lines of a pull to as many nodes."""
    async with scripted() as one, scripted() as two:
        nodes = [one, two][: len(answers)]
        for node, answer in zip(nodes, answers, strict=True):
            node.answers["POST", "/api/pull"] = answer
        async with front(*named(*nodes)) as door:
            found = (await door.ask("POST", "/api/pull", {"model": "x", "nodes": "all"})).lines
            assert isinstance(found, list)
            return found


async def test_lines_that_are_no_json_are_passed_over_and_an_end_without_success_is_a_failure() -> None:
    done = {"status": "success"}
    found = await pulled(lines("oops\n", "\n", "[1]\n", done), lines({"status": "pulling manifest"}))
    assert {"status": "finished", "node": "n1"} in found
    assert found[-1] == {"error": "n2: the answer ended without success"}


async def test_a_node_that_breaks_after_its_success_has_both_told() -> None:
    found = await pulled(lines({"status": "success"}, cut=True))
    assert found[0] == {"status": "success"}
    assert "error" in found[-1]


async def test_a_stream_of_an_unknown_path_passes_as_it_comes() -> None:
    async with scripted("m:latest") as node, front(*named(node)) as door:
        node.answers["POST", "/api/new"] = lines({"a": 1}, "no json\n")
        reply = await door.ask("POST", "/api/new", {"model": "m"})
        assert (reply.status, reply.body) == (200, b'{"a":1}\nno json\n')


@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_a_blob_and_a_node_that_breaks(method: str) -> None:
    async with scripted() as node, front(*named(node)) as door:
        node.answers[method, f"/api/blobs/{EMPTY}"] = breaks
        assert (await door.ask(method, f"/api/blobs/{EMPTY}", b"")).status == 502


async def test_an_empty_blob_is_a_blob() -> None:
    async with scripted() as node, front(*named(node)) as door:
        node.answers["POST", f"/api/blobs/{EMPTY}"] = says(201)
        assert (await door.ask("POST", f"/api/blobs/{EMPTY}", b"")).status == 201


# the parts


async def test_a_reply_that_is_too_long_is_no_reply() -> None:
    receiver = Collect(NODE)
    receiver.on_head(200, ())
    piece = bytes(1 << 24)
    for _ in range(5):
        receiver.on_data(piece)
    receiver.on_end()
    reply = await receiver.done
    assert not reply.ok
    assert reply.text.endswith("a reply of over 64 MB")


async def test_a_client_that_reads_slowly_slows_all_nodes_of_its_request() -> None:
    group = Group()
    exchanges = [FakeExchange(NODE, Outgoing("POST", "/", ()), Told()) for _ in range(2)]
    for exchange in exchanges:
        group.add(exchange)
    group.pause()
    assert [exchange.paused for exchange in exchanges] == [True, True]
    group.resume()
    assert [exchange.paused for exchange in exchanges] == [False, False]


async def test_an_error_after_success_was_kept_back_comes_after_it() -> None:
    sink = FakeSink()
    receiver = PassChange(NODE, sink)
    receiver.on_head(200, [(b"Content-Type", b"application/x-ndjson")])
    receiver.on_data(b'{"status":"success"}\n')
    receiver.on_error(BrokeMidStream("a:1", "gone"))
    receiver.answer()
    told = [json.loads(line) for line in b"".join(sink.pieces).splitlines()]
    assert told[0] == {"status": "success"}
    assert set(told[1]) == {"error"}
    assert (await receiver.done).error is not None


def test_places_of_blobs_are_forgotten_oldest_first() -> None:
    places = BlobPlaces()
    for number in range(blobs.DIGESTS + 1):
        places.put(f"sha256:{number:064x}", ["a"], f"client {number % (blobs.CLIENTS + 1)}", 0.0)
    assert not places.with_all([f"sha256:{0:064x}"])
    assert places.with_all([f"sha256:{1:064x}"]) == {"a"}
    places.put(EMPTY, ["a", "b"], "me", 0.0)
    places.missing(EMPTY, "a")
    assert places.with_all([EMPTY.replace(":", "-").upper().replace("SHA256", "sha256")]) == {"b"}
    assert places.home("me", 0.0) == ("a", "b")


@pytest.mark.parametrize(
    ("count", "text"), [(500, "500"), (478_000, "478K"), (4_920_000, "4.92M"), (7.6e9, "7.6B"), (1.2e12, "1.2T")]
)
def test_sizes_of_models(count: float, text: str) -> None:
    assert parameter_size(count) == text


def test_a_line_without_an_end_is_told_anew_too() -> None:
    sink = FakeSink()
    told = Retold(sink, "mine", {"model": "theirs"})
    told.head(200, [(b"Content-Type", b"application/x-ndjson")])
    told.data(b'{"model":"theirs"}\n{"model":"the')
    told.data(b'irs","done":true}')
    told.end()
    assert [json.loads(line)["model"] for line in b"".join(sink.pieces).splitlines()] == ["mine", "mine"]


# the settings of the door


@pytest.mark.parametrize(
    ("host", "only_here"),
    [("localhost", True), ("127.0.0.5", True), ("[::1]", True), ("0.0.0.0", False), ("::", False), ("gateway.lan", False)],
)
def test_whether_only_this_machine_reaches_it(host: str, only_here: bool, caplog: pytest.LogCaptureFixture) -> None:
    assert is_loopback(host) is only_here
    warn_if_open(Config(gateway=Gateway(host=host)))
    assert ("without keys" in caplog.text) is not only_here
    caplog.clear()
    warn_if_open(Config(gateway=Gateway(host=host), auth=Auth(keys=("sk-1",))))
    assert not caplog.text


async def test_the_port_of_the_metrics_has_only_those_and_the_same_keys(unused_tcp_port: int) -> None:
    async with front(
        gateway=Gateway(port=0, metrics_port=unused_tcp_port, shutdown_seconds=0.0), auth=Auth(keys=("sk-1",))
    ) as door:
        metrics = Front(door.context)
        metrics.port = unused_tcp_port
        key = {"Authorization": "Bearer sk-1"}
        assert (await metrics.ask("GET", "/metrics", b"", key)).status == 200
        assert (await metrics.ask("POST", "/metrics", b"", key)).status == 403
        assert (await metrics.ask("GET", "/api/tags", b"", key)).status == 404
        refused = await metrics.ask("GET", "/metrics")
        assert (refused.status, "a valid key is needed" in refused.json["error"]) == (401, True)


async def test_lines_of_requests_go_where_the_new_settings_say() -> None:
    told: list[tuple[Log, io.StringIO]] = []
    config = Config(gateway=Gateway(port=0, shutdown_seconds=0.0), discovery=Discovery(enabled=False))
    wanted = [msgspec.structs.replace(config, log=Log(format="json"))]

    def tell(settings: Log) -> io.StringIO:
        told.append((settings, io.StringIO()))
        return told[-1][1]

    async with scripted("m:latest") as node:
        config = msgspec.structs.replace(config, nodes=(NodeSettings(node.url),))
        wanted = [msgspec.structs.replace(one, nodes=config.nodes) for one in wanted]
        node.answers["POST", "/api/chat"] = says(200, {"model": "m", "message": {"content": "x"}, "done": True})
        running = await open_gateway(config, read=lambda: wanted[0], tell=tell)
        try:
            door = Front(running.gateway)
            await door.looked()
            for _ in range(2):
                reply = await door.ask("POST", "/api/chat", {"model": "m", "messages": [], "stream": False})
                assert reply.status == 200
                await until(told[-1][1].getvalue)  # a thread writes it, a moment later
                running.reload_as_asked()
        finally:
            await running.close(0.0)
    (_, first), (settings, second) = told
    assert settings.format == "json"
    assert "path=/api/chat" in first.getvalue()
    assert json.loads(second.getvalue())["path"] == "/api/chat"


async def test_a_signal_where_there_is_nothing_to_read_or_it_cannot_be(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def broken() -> Config:
        raise ConfigError("no such thing")

    config = Config(gateway=Gateway(port=0), discovery=Discovery(enabled=False))
    for read, level, words in (
        (None, logging.WARNING, "there is nothing to read again"),
        (broken, logging.ERROR, "nothing was changed: no such thing"),
    ):
        running = await open_gateway(config, read=read)
        caplog.clear()
        running.reload_as_asked()
        await running.close(0.0)
        assert [(record.levelno, words in record.getMessage()) for record in caplog.records] == [(level, True)]
