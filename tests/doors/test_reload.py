"""New settings while the gateway runs: what they change, what they leave alone, and that no request notices."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.front import Front, nothing_left_running
from tests.support.gateway import get_json, post, wait_until_up
from tests.support.processes import python
from tests.support.wait import until

from sollol import SOLLOL
from sollol.config import Config, Discovery
from sollol.config import Gateway as GatewaySettings
from sollol.config_sources import leaves, load
from sollol.core.types import Mode
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines
from sollol.gateway.reload import LIVE
from sollol.gateway.running import RunningGateway, open_gateway

MODEL = LLAMA_1B.name
FIXED = """
[gateway]
port = 0
shutdown_seconds = 0.0
[discovery]
enabled = false
"""
_numbers = count()


def spec(name: str, decode: float = 5_000) -> NodeSpec:
    return NodeSpec(name, prefill=1e6, decode=decode, slots=64, load_gbps=1e6, models=(LLAMA_1B,))


def node(url: str, **fields: Any) -> str:
    """One node as a table of the file."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"url": url, **fields}.items()]
    return "\n[[nodes]]\n" + "\n".join(lines) + "\n"


def chat(tokens: int = 3, *, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Hello number {next(_numbers)}!"}]
    return {"model": MODEL, "messages": messages, "stream": stream, "options": {"num_predict": tokens}}


class Reloaded(Front):
    """A gateway that reads its settings from ``file``."""

    def __init__(self, running: RunningGateway, file: Path) -> None:
        super().__init__(running.gateway)
        self.running = running
        self.file = file

    def write(self, text: str) -> None:
        self.file.write_text(FIXED + text)

    async def reload(self, text: str, headers: dict[str, str] | None = None) -> Any:
        self.write(text)
        reply = await self.ask("POST", "/api/reload", b"", headers)
        assert reply.status == 200, reply.body
        await self.looked()
        return reply.json

    async def nodes(self) -> dict[str, Any]:
        return {found["name"]: found for found in (await self.ask("GET", "/api/nodes")).json["nodes"]}


@asynccontextmanager
async def opened(folder: Path, text: str = "") -> AsyncIterator[Reloaded]:
    file = folder / "sollol.toml"
    file.write_text(FIXED + text)

    def read() -> Config:
        return load(file=file, environ={"HOME": str(folder)}).config

    async with nothing_left_running():
        running = await open_gateway(read(), read=read)
        try:
            gate = Reloaded(running, file)
            await gate.looked()
            yield gate
        finally:
            await running.close(0.0)


async def test_names_that_were_given_with_a_node_stay(tmp_path):
    async with EmulatedCluster([spec("a")]) as cluster, opened(tmp_path) as gate:
        added = await gate.ask("POST", "/api/nodes", {"url": cluster.urls[0], "name": "a", "names": {MODEL: "mine:1b"}})
        assert added.json["models"] == ["mine:1b"]
        await gate.reload('[aliases]\n"gpt" = "mine:1b"\n')
        for name in ("mine:1b", "gpt"):
            reply = await gate.ask("POST", "/api/chat", chat() | {"model": name})
            assert (reply.status, reply.json["model"]) == (200, name)
        await gate.reload('[aliases]\n"mine:1b" = "other"\n')  # the settings go before
        assert (await gate.ask("POST", "/api/chat", chat() | {"model": "mine:1b"})).status == 404


async def test_nothing_new_changes_nothing(tmp_path):
    async with EmulatedCluster([spec("a")]) as cluster, opened(tmp_path, node(cluster.urls[0])) as gate:
        before = gate.context.config
        done = await gate.reload(node(cluster.urls[0]))
        assert done == {
            "changed": [],
            "nodes": {"added": [], "removed": [], "changed": [], "notes": []},
            "restart": [],
        }
        assert gate.context.config == before


async def test_nodes_come_go_and_change(tmp_path):
    async with EmulatedCluster([spec("a"), spec("b"), spec("c")]) as cluster:
        one, two, three = cluster.urls
        async with opened(tmp_path, node(one, name="first", priority=3) + node(two, name="second")) as gate:
            done = (await gate.reload(node(one, name="best", priority=9, slots=7) + node(three, name="third")))["nodes"]
            ids = [url.removeprefix("http://") for url in cluster.urls]
            assert (done["changed"], done["removed"], done["added"]) == ([ids[0]], [ids[1]], [ids[2]])
            nodes = await gate.nodes()
            assert set(nodes) == {"best", "third"}
            assert (nodes["best"]["priority"], nodes["best"]["slots"], nodes["best"]["slots_known"]) == (9, 7, True)
            assert (await gate.ask("POST", "/api/chat", chat(), {"X-SOLLOL-Node": "third"})).status == 200
            back = (await gate.reload(node(one, name="best", draining=True) + node(two)))["nodes"]
            assert (back["changed"], back["removed"], back["added"]) == ([ids[0]], [ids[2]], [ids[1]])
            best = (await gate.nodes())["best"]
            assert (best["state"], best["slots_known"], best["priority"]) == ("draining", False, 5)


async def test_what_was_changed_by_request_stays_where_the_file_did_not_change(tmp_path):
    async with EmulatedCluster([spec("a"), spec("b")]) as cluster, opened(tmp_path, node(cluster.urls[0], name="x")) as gate:
        await gate.ask("PATCH", "/api/nodes/x", {"priority": 8, "slots": 2})
        added = (await gate.ask("POST", "/api/nodes", {"url": cluster.urls[1], "name": "mine"})).json
        await gate.reload(node(cluster.urls[0], name="y"))
        nodes = await gate.nodes()
        assert (nodes["y"]["priority"], nodes["y"]["slots"]) == (8, 2)
        assert nodes["mine"]["id"] == added["id"]
        await gate.reload("")
        assert set(await gate.nodes()) == {"mine"}


async def test_two_names_of_one_node_are_one_as_long_as_one_of_them_is_there(tmp_path):
    async with EmulatedCluster([spec("a")]) as cluster:
        url = cluster.urls[0]
        other = url.replace("127.0.0.1", "localhost")
        async with opened(tmp_path, node(url) + node(other)) as gate:
            await gate.reload(node(url))
            assert len(await gate.nodes()) == 1


async def test_a_node_that_is_the_gateway_itself_is_left_out_with_a_note(tmp_path):
    async with opened(tmp_path) as gate:
        done = await gate.reload(node(f"http://127.0.0.1:{gate.port}"))
        assert done["nodes"]["added"] == []
        assert "this gateway itself" in done["nodes"]["notes"][0]


async def test_what_runs_on_a_node_that_goes_is_finished_there(tmp_path):
    async with EmulatedCluster([spec("a", decode=50)]) as cluster, opened(tmp_path, node(cluster.urls[0])) as gate:
        stream = await gate.open("POST", "/api/chat", chat(20, stream=True))
        document = await gate.open("POST", "/api/chat", chat(20))
        await stream.head()
        await until(lambda: cluster.nodes[0].stats.in_flight == 2)
        await gate.reload("")
        assert await gate.nodes() == {}
        assert json.loads((await stream.rest()).splitlines()[-1])["eval_count"] == 20
        await document.head()
        assert json.loads(await document.rest())["eval_count"] == 20
        for request in (stream, document):
            request.writer.close()


async def test_keys_hold_at_once_also_on_connections_that_are_open(tmp_path):
    async with EmulatedCluster([spec("a")]) as cluster, opened(tmp_path, node(cluster.urls[0])) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)

        async def kept(key: str = "secret") -> tuple[int, bytes]:
            """A request on the one connection, with the same head each time."""
            body = json.dumps(chat()).encode()
            lines = (
                "POST /api/chat HTTP/1.1",
                "Host: localhost",
                f"Authorization: Bearer {key}",
                f"Content-Length: {len(body)}",
            )
            head = "\r\n".join((*lines, "", ""))
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))
            return int(answer.split(b" ")[1]), answer

        def authorization() -> bytes | None:
            asked = [request for request in cluster.nodes[0].stats.recent if request.path == "/api/chat"]
            return asked[-1].headers.get(b"authorization")

        assert (await kept())[0] == 200
        assert authorization() == b"Bearer secret"  # without keys of ours it is between the client and the node
        done = await gate.reload('[auth]\nkeys = ["secret"]\nadmin_keys = ["boss"]\n' + node(cluster.urls[0]))
        assert done["changed"] == ["auth.keys", "auth.admin_keys"]
        assert (await kept())[0] == 200
        assert authorization() is None  # now it is a key of ours, which no node may see
        assert (await gate.ask("POST", "/api/reload")).status == 401
        assert (await gate.ask("POST", "/api/reload", b"", {"Authorization": "Bearer secret"})).status == 403
        boss = {"Authorization": "Bearer boss"}
        await gate.reload('[auth]\nkeys = ["other"]\nadmin_keys = ["boss"]\n' + node(cluster.urls[0]), boss)
        assert (await kept())[0] == 401
        await gate.reload(node(cluster.urls[0]), boss)
        assert (await kept())[0] == 200
        writer.close()


async def test_origins_hold_at_once_also_on_connections_that_are_open(tmp_path):
    async with opened(tmp_path) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)

        async def status() -> int:
            writer.write(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nOrigin: https://page.example\r\n\r\n")
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            return int(answer.split(b" ")[1])

        assert await status() == 403
        gate.file.write_text(FIXED.replace("port = 0", 'port = 0\nallowed_origins = ["https://page.example"]'))
        assert (await gate.ask("POST", "/api/reload")).json["changed"] == ["gateway.allowed_origins"]
        assert await status() == 200
        await gate.reload("")
        assert await status() == 403
        writer.close()


async def test_limits_queue_and_mode_hold_at_once(tmp_path):
    text = (
        "[limits]\njson_body_bytes = 2048\nheader_bytes = 4096\nconnections = 77\n"
        "[queue]\nlimit = 3\nno_node_seconds = 0.0\npriority_step_seconds = 1.0\n"
        '[routing]\nmode = "fast"\n[health]\nconnect_seconds = 0.5\nprobe_seconds = 0.6\n'
    )
    async with EmulatedCluster([spec("a")]) as cluster, opened(tmp_path, node(cluster.urls[0])) as gate:
        done = await gate.reload(text + node(cluster.urls[0]))
        assert set(done["changed"]) == {
            *("limits.json_body_bytes", "limits.header_bytes", "limits.connections"),
            *("queue.limit", "queue.no_node_seconds", "queue.priority_step_seconds"),
            *("routing.mode", "health.connect_seconds", "health.probe_seconds"),
        }
        assert (await gate.ask("GET", "/api/queue")).json["limit"] == 3
        reply = await gate.ask("POST", "/api/chat", chat())
        assert (reply.status, reply.header("x-sollol-mode")) == (200, Mode.FAST)
        assert (await gate.ask("POST", "/api/chat", b"x" * 3_000)).status == 413
        assert (await gate.ask("GET", "/api/health", b"", {"X-Long": "x" * 9_000})).status == 431
        await cluster.nodes[0].stop()
        await until(lambda: not gate.context.monitor.look(next(iter(gate.context.engine.state.nodes))) and _down(gate))
        begun = time.perf_counter()
        assert (await gate.ask("POST", "/api/chat", chat())).status == 503
        assert time.perf_counter() - begun < 3  # not the ten seconds of before


def _down(gate: Reloaded) -> bool:
    return all(known.state == "down" for known in gate.context.engine.state.nodes.values())


async def test_searching_is_switched_on_and_off(tmp_path):
    async with EmulatedCluster([spec("a")]) as cluster, opened(tmp_path) as gate:
        port = int(cluster.urls[0].rpartition(":")[2])
        search = f'networks = ["127.0.0.0/8"]\nports = [{port}]\ndocker = false\nmdns = false\n'
        gate.file.write_text(FIXED.replace("enabled = false\n", search))
        done = (await gate.ask("POST", "/api/reload")).json
        assert "discovery.enabled" in done["changed"]
        await until(lambda: gate.context.engine.state.nodes)
        await until(lambda: gate.context.finder.status().rounds)
        assert (await gate.ask("GET", "/api/nodes")).json["searched"] != []
        await gate.reload("")
        assert not gate.context.finder.status().enabled
        assert len(await gate.nodes()) == 1  # what was found stays
        gate.file.write_text(FIXED.replace("enabled = false\n", search))
        assert (await gate.ask("POST", "/api/reload")).status == 200  # and once more, in the middle of a round


async def test_a_node_that_is_named_no_more_may_be_found(tmp_path):
    """As after a restart: the file says that it is not named, not that it is unwanted."""
    async with EmulatedCluster([spec("a")]) as cluster:
        port = int(cluster.urls[0].rpartition(":")[2])
        search = f'networks = ["127.0.0.0/8"]\nports = [{port}]\ninterval_seconds = 0.05\ndocker = false\nmdns = false\n'
        async with opened(tmp_path, node(cluster.urls[0])) as gate:
            gate.file.write_text(FIXED.replace("enabled = false\n", search))
            done = (await gate.ask("POST", "/api/reload")).json
            assert len(done["nodes"]["removed"]) == 1
            await until(lambda: any(known.node.origin == "local" for known in gate.context.engine.state.nodes.values()))


async def test_what_needs_a_restart_is_named_and_left(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with opened(tmp_path) as gate:
        before = gate.context.config
        text = FIXED.replace("port = 0", 'host = "127.0.0.2"\nport = 9\nmetrics_port = 10\nuvloop = false')
        gate.file.write_text(f"data_dir = {json.dumps(str(tmp_path / 'else'))}\n" + text + "demo_if_empty = true\n")
        done = (await gate.ask("POST", "/api/reload")).json
        assert done["changed"] == []
        wanted = {f"gateway.{name}" for name in ("host", "port", "metrics_port", "uvloop")}
        assert set(done["restart"]) == wanted | {"data_dir", "discovery.demo_if_empty"}
        assert gate.context.config == before
        [told] = [record for record in caplog.records if record.getMessage() == "these settings hold after a restart"]
        assert "gateway.port" in told.settings  # type: ignore[attr-defined]  # given as extra=
        again = (await gate.ask("POST", "/api/reload")).json  # still different, so still said
        assert again["restart"] == done["restart"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[queue\n", "not valid TOML"),
        ("[queue]\nlimmit = 3\n", "queue.limmit: unknown setting (did you mean limit?)"),
        ("[queue]\nlimit = 0\n", "queue.limit: expected an integer from 1"),
        ("[discovery]\nnetworks = ['8.8.8.0/24']\n", "not a private network"),
        ("[[nodes]]\nname = 'x'\n", "nodes[0]: url is missing"),
    ],
)
async def test_a_broken_file_changes_nothing_and_is_one_line(tmp_path, text, words):
    async with EmulatedCluster([spec("a")]) as cluster, opened(tmp_path, node(cluster.urls[0])) as gate:
        before = gate.context.config
        gate.file.write_text(f'[auth]\nkeys = ["k"]\n{text}')
        reply = await gate.ask("POST", "/api/reload")
        assert reply.status == 400
        assert words in reply.json["error"]
        assert reply.json["error"].startswith(str(gate.file))
        assert "\n" not in reply.json["error"]
        assert gate.context.config == before
        assert len(await gate.nodes()) == 1
        gate.file.unlink()
        assert "there is no such configuration file" in (await gate.ask("POST", "/api/reload")).json["error"]


def test_every_setting_that_is_taken_exists():
    assert {path for path, _ in leaves(Config())} >= LIVE


def test_settings_that_a_program_gave_cannot_be_read_again(tmp_path):
    config = Config(gateway=GatewaySettings(port=0), discovery=Discovery(enabled=False), data_dir=tmp_path)
    with SOLLOL(config) as gate:
        status, _, body = post(f"{gate.address}/api/reload", {})
    assert status == 409
    assert b"given by the program that started it" in body


def test_a_program_that_leaves_settings_to_the_file_can_reload_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOLLOL_DATA_DIR", str(tmp_path))
    with Machines([spec("a")]) as machines, SOLLOL(port=0, hosts=machines.urls) as gate:
        (tmp_path / "sollol.toml").write_text("[queue]\nlimit = 9\n")
        _, _, body = post(f"{gate.address}/api/reload", {})
        assert json.loads(body)["changed"] == ["queue.limit"]
        assert get_json(f"{gate.address}/api/queue")["limit"] == 9
        assert len(get_json(f"{gate.address}/api/nodes")["nodes"]) == 1


async def test_fifty_streams_run_over_a_reload_that_changes_everything(tmp_path):
    """The node that they run on goes, another comes, keys, limits, queue and mode change; new requests come all the time."""
    specs = [spec("old", decode=120), spec("new", decode=120)]
    async with EmulatedCluster(specs) as cluster, opened(tmp_path, node(cluster.urls[0], slots=64)) as gate:
        streams = [await gate.open("POST", "/api/chat", chat(30, stream=True)) for _ in range(50)]
        for stream in streams:
            await stream.head()
        await until(lambda: cluster["old"].stats.in_flight == 50)
        over, refused = asyncio.Event(), []

        async def asking() -> None:
            while not over.is_set():
                reply = await gate.ask("POST", "/api/chat", chat(2), {"Authorization": "Bearer k"})
                if reply.status != 200:
                    refused.append((reply.status, reply.body))

        clients = [asyncio.create_task(asking()) for _ in range(4)]
        await gate.reload(
            '[auth]\nkeys = ["k"]\nadmin_keys = ["b"]\n[queue]\nlimit = 100\npriority_step_seconds = 5.0\n'
            '[limits]\nconnections = 500\nidle_seconds = 5.0\nheader_bytes = 9000\n[routing]\nmode = "reliable"\n'
            '[log]\nlevel = "warning"\n[health]\nprobe_seconds = 1.0\n' + node(cluster.urls[1], slots=64, name="n")
        )
        assert set(names(gate)) == {"n"}
        lasts = [json.loads((await stream.rest()).splitlines()[-1]) for stream in streams]
        over.set()
        await asyncio.gather(*clients)
        assert [(last["done"], last["eval_count"]) for last in lasts] == [(True, 30)] * 50
        assert refused == []
        assert cluster["new"].stats.inference > 0
        for stream in streams:
            stream.writer.close()


def names(gate: Reloaded) -> list[str]:
    return [known.label for known in gate.context.engine.state.nodes.values()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_sighup_reads_the_file_again(tmp_path):
    file = tmp_path / "sollol.toml"
    file.write_text('[log]\nlevel = "warning"\n')
    env = {"SOLLOL_DATA_DIR": str(tmp_path), "HOME": str(tmp_path)}
    arguments = ("-m", "sollol", "up", "--port", "0", "--no-discovery", "--config", str(file))
    with Machines([spec("a")]) as machines, python(*arguments, env=env) as running:
        url = running.line_with("SOLLOL listens on ").split()[3]
        running.line_with("no nodes")

        def again(text: str, words: str) -> str:
            file.write_text(text)
            running.process.send_signal(signal.SIGHUP)
            return running.line_with(words)

        nodes = node(machines.urls[0], name="mine")
        again('[log]\nlevel = "info"\n' + nodes, "found mine at ")
        wait_until_up(url, 1)
        assert post(f"{url}/api/chat", chat())[0] == 200
        running.line_with("INFO request id=1 path=/api/chat")  # the level is another one, so requests are told
        assert "nothing was changed: " in again("[queue\n", str(file))
        assert "gateway.host" in again(
            '[gateway]\nhost = "127.0.0.2"\n[log]\nformat = "json"\n' + nodes, "hold after a restart"
        )
        assert post(f"{url}/api/chat", chat())[0] == 200
        assert json.loads(running.line_with('"event":"request"'))["status"] == 200
        again('[log]\nrequests = false\nformat = "json"\n', "mine is gone: no longer configured")
        assert os.getpid() != running.process.pid
        running.process.terminate()
        assert running.process.wait(5) == 0


async def test_names_of_models_are_taken_while_it_runs(tmp_path):
    async with EmulatedCluster([spec("a")]) as cluster:
        text = node(cluster.urls[0])
        async with opened(tmp_path, text) as gate:
            assert (await gate.ask("POST", "/api/chat", chat() | {"model": "gpt-4o"})).status == 404
            tables = f'[aliases]\n"gpt-4o" = "{MODEL}"\n[fallbacks]\n"big" = "{MODEL}"\n[models]\ndigests = "newest"\n'
            done = await gate.reload(tables + text)
            assert (done["changed"], done["restart"]) == (["models.digests", "aliases", "fallbacks"], [])
            assert (await gate.ask("POST", "/api/chat", chat() | {"model": "gpt-4o"})).json["model"] == "gpt-4o"
            assert (await gate.ask("POST", "/api/chat", chat() | {"model": "big"})).header("x-sollol-fallback")
            done = await gate.reload(f'[names]\n"{MODEL}" = "mine"\n' + text)
            assert done["changed"] == ["models.digests", "aliases", "names", "fallbacks"]
            assert [entry["name"] for entry in (await gate.ask("GET", "/api/tags")).json["models"]] == ["mine:latest"]
            assert (await gate.ask("POST", "/api/chat", chat() | {"model": "mine"})).json["model"] == "mine"
            assert (await gate.ask("POST", "/api/chat", chat() | {"model": "gpt-4o"})).status == 404
            await gate.reload(node(cluster.urls[0]) + f'[nodes.names]\n"{MODEL}" = "own"\n')
            assert [entry["name"] for entry in (await gate.ask("GET", "/api/tags")).json["models"]] == ["own:latest"]


async def test_an_alias_that_cannot_be_is_refused_and_nothing_changes(tmp_path):
    async with EmulatedCluster([spec("a")]) as cluster:
        text = f'[aliases]\n"gpt-4o" = "{MODEL}"\n' + node(cluster.urls[0])
        async with opened(tmp_path, text) as gate:
            gate.write('[aliases]\n"gpt-4o" = "b"\n"b" = "gpt-4o"\n' + node(cluster.urls[0]))
            refused = await gate.ask("POST", "/api/reload")
            assert refused.status == 400
            words = "aliases: 'gpt-4o' stands for 'b', which is an alias of 'gpt-4o:latest': name the model itself"
            assert refused.json["error"].endswith(words)
            assert (await gate.ask("POST", "/api/chat", chat() | {"model": "gpt-4o"})).status == 200
