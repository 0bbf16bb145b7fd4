"""A key that a node wants goes to that node, with everything that is sent there, and is shown nowhere."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support.front import front
from tests.support.scripted import ScriptedNode, Seen, scripted

from sollol.cli.main import cli
from sollol.config import Auth, NodeSettings
from sollol.config_sources import load
from sollol.errors import ConfigError

KEY = "sk-of-the-node-17"
MINE = "sk-of-the-client-42"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def _says(seen: Seen) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    seen.reply(body={"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def locked(node: ScriptedNode, key: str = KEY) -> ScriptedNode:
    """The node answers only with its key."""
    plain = node.answer
    node.answers["POST", "/v1/chat/completions"] = _says

    async def answer(seen: Seen) -> None:
        if seen.headers.get("authorization") != f"Bearer {key}":
            seen.reply(401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}})
            return
        await plain(seen)

    node.answer = answer  # type: ignore[method-assign]  # the node of one test
    return node


def keys(node: ScriptedNode) -> set[str]:
    return {seen.headers.get("authorization", "") for seen in node.seen}


async def test_a_nodes_key_goes_to_that_node_with_every_look_and_every_request() -> None:
    async with scripted("m:latest") as one, scripted("m:latest") as two:
        locked(one)
        two.answers["POST", "/v1/chat/completions"] = _says
        nodes = NodeSettings(one.url, name="one", api_key=KEY), NodeSettings(two.url, name="two")
        async with front(*nodes) as door:
            for name in ("one", "two"):
                reply = await door.ask("POST", "/v1/chat/completions", BODY, {"X-SOLLOL-Node": name})
                assert (reply.status, reply.header("x-sollol-node")) == (200, name)
                assert KEY not in str(reply.headers)
        assert keys(one) == {f"Bearer {KEY}"}
        assert {seen.path for seen in one.seen} > {"/api/version", "/api/tags", "/v1/chat/completions"}
        assert keys(two) == {""}


@pytest.mark.parametrize("header", [{"Authorization": f"Bearer {MINE}"}, {"X-Api-Key": MINE}])
@pytest.mark.parametrize("auth", [Auth(), Auth(keys=(MINE,))])
async def test_the_key_of_a_client_does_not_go_to_a_node_with_a_key(header: dict[str, str], auth: Auth) -> None:
    async with scripted("m:latest") as one:
        locked(one)
        async with front(NodeSettings(one.url, api_key=KEY), auth=auth) as door:
            assert (await door.ask("POST", "/v1/chat/completions", BODY, header)).status == 200
        assert keys(one) == {f"Bearer {KEY}"}
        assert not any(MINE in str(seen.headers) for seen in one.seen)


async def test_without_its_key_the_node_is_down_and_says_why() -> None:
    async with scripted("m:latest") as one:
        locked(one)
        async with front(one.url) as door:
            (node,) = (await door.ask("GET", "/api/nodes")).json["nodes"]
            assert node["state"] != "up"
            assert "asks for a key (401)" in node["last_error"]


async def test_a_key_is_given_and_changed_by_request_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[Any] = []
    async with scripted("m:latest") as one, front() as door:
        locked(one)
        wrong = {"url": one.url, "name": "one", "api_key": "sk-wrong-one-99"}
        shown += [await door.ask("POST", "/api/nodes", wrong)]
        assert "401" in shown[-1].json["warning"]
        shown += [await door.ask("PATCH", "/api/nodes/one", {"api_key": KEY})]
        assert shown[-1].status == 200
        await door.looked()
        shown += [await door.ask("GET", path) for path in ("/api/nodes", "/api/nodes/one", "/api/stats", "/metrics")]
        assert shown[2].json["nodes"][0]["state"] == "up"
        assert (await door.ask("POST", "/v1/chat/completions", BODY)).status == 200
        shown += [await door.ask("PATCH", "/api/nodes/one", {"api_key": "with space"})]
        assert shown[-1].status == 400
        shown += [await door.ask("PATCH", "/api/nodes/one", {"api_key": None})]
        await door.looked()
        assert "asks for a key" in (await door.ask("GET", "/api/nodes/one")).json["last_error"]
        text = caplog.text + "".join(str(reply.headers) + reply.body.decode() for reply in shown)
        text += repr(next(iter(door.context.engine.state.nodes.values())).node) + repr(door.context.config)
        assert KEY not in text
        assert "sk-wrong-one-99" not in text


def test_keys_in_the_environment_and_in_the_file_are_shown_to_nobody(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOLLOL_NODES", f"http://gpu1:8000 api_key={KEY} priority=9 name=big, gpu2")
    first, second = load().config.nodes
    assert first == NodeSettings("http://gpu1:8000", name="big", priority=9, api_key=KEY)
    assert second == NodeSettings("gpu2")
    for flags in ((), ("--json",)):
        printed = CliRunner().invoke(cli, ["config", "show", *flags])
        assert printed.exit_code == 0
        assert KEY not in printed.output
        assert "gpu1" in printed.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"gpu1 {KEY}", "nodes[0]: after an address come settings of the node, each as name=value"),
        ("gpu1 api_key=ä", "nodes[0].api_key: a key is one or more printable ASCII characters without spaces"),
        (f"gpu1 apikey={KEY}", "nodes[0].apikey: unknown setting (did you mean api_key?)"),
        ("gpu1 priority=99", "nodes[0].priority: expected an integer from 1 to 10, got 99"),
    ],
)
def test_a_node_that_cannot_be_read_is_one_line_without_its_key(text: str, words: str, tmp_path: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"HOME": str(tmp_path), "SOLLOL_NODES": text})
    assert str(caught.value).startswith(f"SOLLOL_NODES: {words}"[:60])
    assert KEY not in str(caught.value)


async def test_a_key_follows_its_node_through_a_failed_attempt() -> None:
    async def fails(seen: Seen) -> None:
        seen.reply(500, {"error": "broken"})

    async with scripted("m:latest") as one, scripted("m:latest") as two:
        locked(one, "sk-one")
        locked(two, "sk-two")
        one.answers["POST", "/v1/chat/completions"] = fails
        nodes = NodeSettings(one.url, priority=9, api_key="sk-one"), NodeSettings(two.url, api_key="sk-two")
        async with front(*nodes) as door:
            async with asyncio.timeout(10):
                assert (await door.ask("POST", "/v1/chat/completions", BODY)).status == 200
        assert (keys(one), keys(two)) == ({"Bearer sk-one"}, {"Bearer sk-two"})
