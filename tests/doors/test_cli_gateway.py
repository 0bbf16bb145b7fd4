"""The commands against a real gateway with emulated nodes before it, each command as a person would run it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sollol.cli.main import FAILED, NOTHING_RUNS, OK, run
from sollol.cli.stage import Stage, ask
from sollol.emulator.presets import demo, same

MODEL = "llama3.2:1b"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOLLOL_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with Stage([spec.faster(20) for spec in demo()]) as opened:
        monkeypatch.setenv("SOLLOL_URL", opened.url)
        yield opened


def output(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = OK) -> str:
    assert run(arguments) == code
    captured = capsys.readouterr()
    return captured.out if code == OK else captured.out + captured.err


def as_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(output([*arguments, "--json"], capsys))


def test_status(stage, capsys):
    assert not ask(stage.url, MODEL, "good day").error
    text = output(["status"], capsys)
    assert text.startswith(f"SOLLOL 0.1.0 at {stage.url}, up ")
    assert "nodes     3 of 3 can be used" in text
    assert "requests  1 in all, 0 failed" in text
    assert text.count("emulated") == 3
    found = as_json(["status"], capsys)
    assert (found["health"]["pid"], found["stats"]["total_requests"], len(found["nodes"])) == (os.getpid(), 1, 3)


def test_nodes_are_added_changed_drained_and_removed(stage, capsys):
    spare = stage.gateway.get("/api/nodes")["nodes"][0]
    assert output(["nodes", "remove", spare["id"]], capsys) == f"removed {spare['id']}\n"
    assert spare["id"] not in output(["nodes", "list"], capsys)
    added = as_json(["nodes", "add", spare["url"], "--name", "spare", "--priority", "9", "--slots", "3"], capsys)
    assert (added["id"], added["name"], added["priority"], added["slots"]) == (spare["id"], "spare", 9, 3)
    assert "draining" in output(["nodes", "drain", "spare"], capsys)
    assert [n["draining"] for n in as_json(["nodes", "list"], capsys)["nodes"] if n["name"] == "spare"] == [True]
    assert "in use again: " in output(["nodes", "undrain", "spare"], capsys)
    assert "changed " in output(["nodes", "set", "spare", "--name", "best", "--priority", "2", "--slots", "1"], capsys)
    changed = next(n for n in as_json(["nodes", "list"], capsys)["nodes"] if n["name"] == "best")
    assert (changed["priority"], changed["slots"], changed["draining"]) == (2, 1, False)


def test_a_node_that_cannot_be_reached_is_added_with_a_note(stage, capsys):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert run(["nodes", "add", f"http://127.0.0.1:{held.getsockname()[1]}", "--name", "ghost"]) == OK
    captured = capsys.readouterr()
    assert captured.out.startswith("added ")
    assert captured.err == "note: not reachable now (connection refused); it is looked at again every second\n"


def test_what_the_gateway_refuses_is_said_in_its_words(stage, capsys):
    assert "nosuch" in output(["nodes", "remove", "nosuch"], capsys, FAILED)
    known = stage.gateway.get("/api/nodes")["nodes"][0]
    assert known["id"] in output(["nodes", "add", known["url"]], capsys, FAILED)


def test_explain(stage, capsys):
    text = output(["explain", MODEL, "--prompt", "How are you today?", "--priority", "7", "--mode", "fast"], capsys)
    assert text.splitlines()[0].startswith(f"{MODEL}: ")
    assert all(title in text for title in ("WAIT", "LOAD", "PREFILL", "DECODE", "COST", "ETA"))
    short, long = (as_json(["explain", MODEL, "--prompt-tokens", str(tokens)], capsys) for tokens in (10, 20_000))
    assert short["chosen"] in {node["node"] for node in short["nodes"]}
    assert min(node["prefill"] for node in long["nodes"]) > max(node["prefill"] for node in short["nodes"])
    assert stage.gateway.get("/api/stats")["total_requests"] == 0  # nothing was sent
    assert "no node" in output(["explain", "nosuchmodel"], capsys, FAILED)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`sollol ...` as a process of its own; ended at the end if the test did not."""
    command = [sys.executable, "-m", "sollol", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def read_until(started: subprocess.Popen[str], words: str) -> list[str]:
    """Lines of standard output up to the one with `words`."""
    assert started.stdout is not None
    lines: list[str] = []
    for line in started.stdout:
        lines.append(line.rstrip("\n"))
        if words in line:
            return lines
    assert started.stderr is not None
    pytest.fail(f"it ended without {words!r}: {lines} {started.stderr.read()}")


def test_up_says_what_it_found_and_a_line_to_try_and_down_stops_it(stage, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("SOLLOL_URL")
    node = stage.gateway.get("/api/nodes")["nodes"][0]
    with process("up", "--port", "0", "--no-discovery", "--node", node["url"]) as up:
        lines = read_until(up, "curl ")
        url = lines[0].removeprefix("SOLLOL listens on ")
        assert any(node["url"] in line and "emulated" in line for line in lines[1:])
        record = json.loads(next((tmp_path / "data").glob("gateway-*.json")).read_text())
        assert (record["url"], record["pid"]) == (url, up.pid)
        assert not ask(url, MODEL, "good day").error
        assert output(["down"], capsys) == f"stopped the gateway at {url} (process {up.pid})\n"
        assert up.wait(5) == OK
    assert list((tmp_path / "data").glob("gateway-*.json")) == []
    assert "No SOLLOL gateway answers" in output(["down", "--url", url], capsys, NOTHING_RUNS)


def test_down_leaves_alone_what_up_did_not_start(stage, capsys):
    text = output(["down"], capsys, FAILED)
    assert "was not started by `sollol up`" in text
    assert stage.gateway.health()["pid"] == os.getpid()


def test_down_is_not_misled_by_the_record_of_a_gateway_that_died(capsys, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("SOLLOL_URL", url)
        record = {"pid": os.getpid(), "url": url, "started": time.time()}
        (tmp_path / "data" / "gateway-1.json").write_text(json.dumps(record))
        (tmp_path / "data" / "gateway-2.json").write_text("no json")
        assert "No SOLLOL gateway answers" in output(["down"], capsys, NOTHING_RUNS)


def test_up_on_a_port_that_is_taken(stage, capsys):
    port = stage.url.rpartition(":")[2]
    text = output(["up", "--no-discovery", "--port", port], capsys, FAILED)
    assert port in text


def test_up_without_nodes_says_so_and_ends_on_a_signal():
    with process("up", "--port", "0", "--no-discovery") as up:
        url = read_until(up, "no nodes")[0].removeprefix("SOLLOL listens on ")
        answer = ask(url, MODEL, "good day")
        assert answer.status == 503
        assert "no node is known (discovery is off); start one, or name one: `sollol nodes add URL`" in answer.error
        up.send_signal(signal.SIGINT)
        assert up.wait(5) == OK


def test_up_starts_emulated_nodes_if_asked_to(monkeypatch, capsys):
    for search in ("THIS_MACHINE", "DOCKER", "MDNS"):
        monkeypatch.setenv(f"SOLLOL_DISCOVERY_{search}", "false")
    with process("up", "--port", "0", "--demo-if-empty") as up:
        lines = read_until(up, "curl ")
        assert sum("emulated" in line for line in lines) >= 3
        url = lines[0].removeprefix("SOLLOL listens on ")
        assert not ask(url, MODEL, "good day").error
        with Stage(same(1)) as real:
            node = real.gateway.get("/api/nodes")["nodes"][0]
            monkeypatch.setenv("SOLLOL_URL", url)
            added = as_json(["nodes", "add", node["url"], "--name", "real"], capsys)
            for _ in range(3):
                read_until(up, "is gone: a real node is there")  # a node of one's own takes the place of the emulated ones
            assert [known["id"] for known in as_json(["nodes", "list"], capsys)["nodes"]] == [added["id"]]
        up.terminate()
        assert up.wait(5) == OK


def test_demo_shows_everything_and_ends(capsys):
    text = output(["demo", "--once", "--port", "0", "--speed", "20"], capsys)
    assert all(f"\n{step}. " in text for step in range(1, 6))
    assert "status " not in text  # no request of the tour failed
    assert "fast-gpu" in text


def test_demo_stays_up_until_it_is_stopped():
    with process("demo", "--port", "0", "--speed", "20") as shown:
        lines = read_until(shown, "ollama run")
        url = next(line for line in lines if line.startswith("SOLLOL listens on ")).split()[3].rstrip(";")
        assert not ask(url, MODEL, "good day").error
        shown.send_signal(signal.SIGTERM)
        assert shown.wait(5) == OK


def test_failover_loses_nothing(capsys):
    found = as_json(["demo", "--failover"], capsys)
    assert found["good"] is True
    assert (found["lost"], found["wrong"]) == (0, 0)
    assert found["requests"] == found["answered"] > 20
    assert found["moved"] >= found["running_when_killed"] > 0
    assert found["noticed"] < 1.0
    assert found["seen_again"] < 3.0


def test_a_stage_that_cannot_open_says_why():
    from sollol.errors import PortTaken

    with socket.create_server(("127.0.0.1", 0)) as held, pytest.raises(PortTaken), Stage(same(1), port=held.getsockname()[1]):
        pytest.fail("it opened")
