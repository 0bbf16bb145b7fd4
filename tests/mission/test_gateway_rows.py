"""Rows of the contract that the gateway keeps, each test named by its id."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from tests.support.gateway import gateway, get_json, post, wait_until_up
from tests.support.need import require
from tests.support.processes import python
from tests.support.wait import wait_until

import sollol
from sollol import SOLLOL, SOLLOLConfig
from sollol.emulator.presets import LLAMA_1B, LLAMA_8B, demo, embedder
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines
from sollol.errors import AllAttemptsFailed, NodeBusy, NodeUnreachable

ROOT = Path(__file__).parents[2]
MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
QUICK: dict[str, Any] = {"prefill": 100_000, "decode": 5_000, "slots": 4, "load_gbps": 1e6}


@pytest.fixture
def machines() -> Iterator[Machines]:
    everything = (LLAMA_8B, LLAMA_1B, embedder())
    with Machines([NodeSpec(name, **QUICK, models=everything) for name in ("gpu-1", "gpu-2", "cpu-1")]) as opened:
        yield opened


def chat(url: str, headers: dict[str, str] | None = None, **fields: Any) -> tuple[int, Any, Any]:
    """Status, headers and document of one chat."""
    status, heads, body = post(f"{url}/api/chat", {"model": MODEL, "messages": HELLO, "stream": False, **fields}, headers)
    return status, heads, json.loads(body)


def text_of(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return str(reply.read().decode())


def packages_for(name: str, found: set[str]) -> set[str]:
    """The package and everything that it needs, as installed here, without extras."""
    if name not in found:
        found.add(name)
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                packages_for(needed.name.lower(), found)
    return found


@pytest.mark.timeout(120)
def test_a1_the_tree_makes_a_small_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    require("hatchling" in {d.metadata["Name"] for d in metadata.distributions()}, "hatchling: run `make test`")
    done = subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("sollol-*.whl")
    assert wheel.stat().st_size < 1_000_000
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        (entries,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        fields = Message()
        for line in archive.read(about).decode().split("\n\n")[0].splitlines():
            key, colon, value = line.partition(": ")
            if colon and not line.startswith(" "):
                fields[key] = value
        assert "sollol = sollol.cli.main:main" in archive.read(entries).decode()
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]
    assert "sollol/py.typed" in names
    assert (fields["Name"], fields["Version"]) == ("sollol", sollol.__version__)
    assert Requirement(f"python{fields['Requires-Python']}").specifier.contains("3.11")
    needed = [Requirement(line) for line in fields.get_all("Requires-Dist", [])]
    plain = [one.name for one in needed if one.marker is None or "extra" not in str(one.marker)]
    assert len(packages_for("sollol", set())) <= 15
    assert {name.lower() for name in plain} <= packages_for("sollol", set())


def test_a9_three_lines_start_a_gateway_that_finds_its_nodes(machines, monkeypatch):
    ports = [int(url.rpartition(":")[2]) for url in machines.urls]
    monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", ",".join(map(str, ports)))
    monkeypatch.setenv("SOLLOL_DISCOVERY_DOCKER", "false")
    monkeypatch.setenv("SOLLOL_DISCOVERY_MDNS", "false")
    monkeypatch.setenv("SOLLOL_PORT", "0")
    config = SOLLOLConfig.auto_discover()
    gate = SOLLOL(config)
    gate.start(blocking=False)
    try:
        wait_until_up(gate.address, 3)
        assert chat(gate.address)[0] == 200
    finally:
        gate.stop()


def test_a35_a_gateway_with_hosts_workers_and_metrics(machines, free_port):
    hosts = [url.removeprefix("http://") for url in machines.urls]
    config = SOLLOLConfig(ray_workers=4, dask_workers=2, hosts=hosts, gateway_port=0, metrics_port=free_port)
    gate = SOLLOL(config)
    gate.start(blocking=False)
    try:
        wait_until_up(gate.address, 3)
        status, _, reply = chat(gate.address)
        assert (status, reply["message"]["role"]) == (200, "assistant")
        stats = get_json(f"{gate.address}/api/stats")
        assert (stats["total_requests"], stats["successful_requests"], stats["failed_requests"]) == (1, 1, 0)
        assert (stats["active_nodes"], set(stats["hosts"])) == (3, set(hosts))
        assert stats["avg_latency_ms"] > 0
        assert stats["success_rate"] == 1
        for page in (f"http://127.0.0.1:{free_port}/metrics", f"{gate.address}/metrics"):
            assert f'model="{MODEL}"' in text_of(page)
            assert "sollol_requests_total{" in text_of(page)
    finally:
        gate.stop()


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_a12_the_bodys_priority_orders_what_waits():
    """One machine that does one thing at a time: what waits is answered by priority, then in the order of arrival."""
    one = NodeSpec("one", prefill=1e6, decode=60, slots=1, load_gbps=1e6, models=(LLAMA_1B,))
    with Machines([one]) as machines, gateway(*machines.urls) as url, ThreadPoolExecutor(7) as pool:
        set_slots(url, machines.urls[0].removeprefix("http://"), 1)
        ended: list[tuple[int, int]] = []

        def ask(priority: int, number: int, tokens: int) -> None:
            status, *_ = chat(url, priority=priority, options={"num_predict": tokens})
            assert status == 200
            ended.append((priority, number))

        asked = [pool.submit(ask, 5, 0, 500)]
        wait_until(lambda: machines.see(lambda cluster: cluster["one"].stats.in_flight) == 1)
        for number, priority in enumerate((1, 9, 1, 9, 7)):
            asked.append(pool.submit(ask, priority, number + 1, 3))
            wait_until(lambda depth=number + 1: get_json(f"{url}/api/stats")["queue_depth"] == depth)
        for request in asked:
            request.result()
    assert ended == [(5, 0), (9, 2), (9, 4), (7, 5), (1, 1), (1, 3)]


def set_slots(url: str, node: str, slots: int) -> None:
    body = json.dumps({"slots": slots}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/api/nodes/{node}", body, method="PATCH"), timeout=10).close()


@pytest.mark.parametrize("wrong", [0, 11, "urgent-ish", 2.5, True])
def test_a12_a_priority_out_of_range_is_refused(machines, wrong):
    with gateway(*machines.urls) as url:
        status, _, reply = chat(url, priority=wrong)
        assert status == 400
        assert "priority" in reply["error"]


def test_a13_what_a_request_is_and_needs(machines):
    body = {"X-SOLLOL-Details": "body"}
    with gateway(*machines.urls) as url:
        found = chat(url, body)[2]["_sollol_routing"]
        assert (found["task_type"], found["complexity"], found["requires_gpu"]) == ("chat", "low", False)
        code = [{"role": "user", "content": "Write a Python function that sorts a list, then analyze it. " + "word " * 3_000}]
        hard = chat(url, body, messages=code)[2]["_sollol_routing"]
        assert (hard["task_type"], hard["complexity"], hard["requires_gpu"]) == ("code", "high", True)
        first = found["expected_seconds"]
        assert first > 0
        for _ in range(5):
            again = chat(url, body)[2]["_sollol_routing"]
        assert 0 < again["expected_seconds"] < first  # learned: the model is loaded, and what such a node takes is known
        streamed = post(f"{url}/api/chat", {"model": MODEL, "messages": HELLO}, body)[2].splitlines()
        assert "_sollol_routing" in json.loads(streamed[-1])
        assert not any(b"_sollol_routing" in line for line in streamed[:-1])
        assert "_sollol_routing" not in chat(url)[2]


def test_a14_scores_with_reasons(machines):
    with gateway(*machines.urls) as url:
        status, heads, reply = chat(url, {"X-SOLLOL-Details": "body"})
        assert status == 200
        found = reply["_sollol_routing"]
        assert 0 < found["score"] <= 1_000
        assert found["reason"] == heads["X-SOLLOL-Reason"]
        assert "\n" not in found["reason"]
        assert float(heads["X-SOLLOL-Score"]) == found["score"]
        assert (found["attempts"], found["host"], found["backend"]) == (1, heads["X-SOLLOL-Host"], "ollama")
        before = get_json(f"{url}/api/stats")["total_requests"]
        explained = get_json(f"{url}/api/routing/explain?model={MODEL}&prompt_tokens=500")
        assert get_json(f"{url}/api/stats")["total_requests"] == before
        scores = [node["score"] for node in explained["nodes"]]
        assert scores == sorted(scores, reverse=True)
        assert explained["nodes"][0]["node"] == explained["chosen"]
        assert explained["reason"]
        for node in explained["nodes"]:
            assert {"wait", "load", "prefill", "decode", "cost"} <= set(node)


def test_a34_a70_every_reply_says_who_answers(machines):
    with gateway(*machines.urls) as url:
        health = get_json(f"{url}/api/health")
        assert (health["service"], health["version"]) == ("SOLLOL", sollol.__version__)
        assert sollol.__version__ == metadata.version("sollol")
        asked: list[tuple[str, str, bytes | None, dict[str, str], int]] = [
            ("GET", "/", None, {}, 200),
            ("HEAD", "/", None, {}, 200),
            ("GET", "/api/health", None, {}, 200),
            ("GET", "/api/tags", None, {}, 200),
            ("GET", "/metrics", None, {}, 200),
            ("POST", "/api/chat", json.dumps({"model": MODEL, "messages": HELLO}).encode(), {}, 200),
            ("POST", "/v1/chat/completions", json.dumps({"model": MODEL, "messages": HELLO, "stream": True}).encode(), {}, 200),
            ("POST", "/api/chat", b"{", {}, 400),
            ("POST", "/api/chat", b'{"model":"nope","messages":[]}', {}, 404),
            ("POST", "/v1/chat/completions", b'{"model":"nope","messages":[{"role":"user"}]}', {}, 404),
            ("GET", "/nothing/here", None, {}, 404),
            ("GET", "/api/chat", None, {}, 405),
            ("OPTIONS", "/api/chat", None, {"Origin": "http://localhost:3000"}, 204),
            ("GET", "/api/tags", None, {"Origin": "http://evil.example"}, 403),
            ("GET", "/api/tags", None, {"X-Big": "x" * 70_000}, 431),
            ("GET", "/api/tags", None, {"X-SOLLOL-Hops": "9"}, 508),
        ]
        for method, path, body, headers, expected in asked:
            request = urllib.request.Request(url + path, body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=10) as reply:
                    status, powered = reply.status, reply.headers["X-Powered-By"]
            except urllib.error.HTTPError as error:
                with error:
                    status, powered = error.code, error.headers["X-Powered-By"]
            assert (method, path, status, powered) == (method, path, expected, "SOLLOL")


def test_a37_a38_a_node_dies_is_avoided_and_comes_back(machines):
    with gateway(*machines.urls) as url:
        truth = chat(url)[2]["message"]["content"]
        victim = {node["url"]: name for node, name in zip(nodes(url), ("gpu-1", "gpu-2", "cpu-1"), strict=True)}
        first = "http://" + chat(url)[1]["X-SOLLOL-Host"]
        machines.stop(victim[first])
        for _ in range(6):
            status, heads, reply = chat(url)
            assert (status, reply["message"]["content"]) == (200, truth)
            assert "http://" + heads["X-SOLLOL-Host"] != first
        assert [node["state"] for node in nodes(url) if node["url"] == first] == ["down"]
        assert get_json(f"{url}/api/health")["status"] == "degraded"
        machines.start(victim[first])
        wait_until_up(url, 3)
        assert get_json(f"{url}/api/health")["status"] == "ok"
        assert chat(url, {"X-SOLLOL-Node": first.removeprefix("http://")})[0] == 200
        assert get_json(f"{url}/api/stats")["failed_requests"] == 0


def nodes(url: str) -> list[dict[str, Any]]:
    return list(get_json(f"{url}/api/nodes")["nodes"])


@pytest.mark.slow
def test_a38_the_story_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "sollol", "demo", "--failover"], capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "comes back" in done.stdout
    assert "lost                       0" in done.stdout


@pytest.mark.slow
def test_a39_the_two_benchmarks_as_commands():
    with Machines([spec.faster(50) for spec in demo((LLAMA_1B,))]) as machines, gateway(*machines.urls) as url:
        folder = ROOT / "benchmarks"
        simple = [sys.executable, str(folder / "simple_ollama_benchmark.py"), MODEL, "10", "--url", url]
        done = subprocess.run(simple, capture_output=True, text=True, timeout=40, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "100.0% (10 of 10)" in done.stdout
        compare = [sys.executable, str(folder / "run_benchmarks.py"), "--sollol-url", url, "--duration", "0.5"]
        done = subprocess.run(compare, capture_output=True, text=True, timeout=40, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "× the best node alone" in done.stdout


@pytest.mark.clients
def test_a59_langchain_with_the_gateway_as_its_address(machines):
    import gc
    import warnings

    from langchain_ollama import OllamaLLM

    with gateway(*machines.urls) as url, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its classes cannot be closed
        llm = OllamaLLM(base_url=url, model=MODEL)
        assert llm.invoke("What is quantum computing?")
        del llm
        gc.collect()


def test_b8_serve_as_a_module(machines, tmp_path):
    options = ["--port", "0", "--no-discovery", "--node", machines.urls[0]]
    with python("-m", "sollol.serve", *options, env={"SOLLOL_DATA_DIR": str(tmp_path)}) as serving:
        line = serving.line_with("SOLLOL listens on ")
        url = line.split()[3].rstrip(".,;")
        assert json.loads(text_of(f"{url}/api/health"))["service"] == "SOLLOL"
        wait_until_up(url, 1)
        assert chat(url)[0] == 200
        serving.process.terminate()
        assert serving.process.wait(10) == 0


def test_c21_when_all_nodes_fail_the_error_names_them(machines):
    with gateway(*machines.urls) as url:
        assert chat(url)[0] == 200
        for name in ("gpu-1", "gpu-2", "cpu-1"):
            machines.see(lambda cluster, name=name: cluster[name].faults.set(status=503))
        status, heads, reply = chat(url)
        assert status == 503
        assert int(heads["Retry-After"]) >= 1
        for address in machines.urls:
            assert address.removeprefix("http://") in reply["error"]


def test_c21_it_is_a_runtime_error_with_every_attempt():
    error = AllAttemptsFailed([NodeUnreachable("a:1", "refused"), NodeBusy("b:2", "server busy")])
    assert isinstance(error, RuntimeError)
    assert [node for node, _ in error.attempts] == ["a:1", "b:2"]
    assert all(text in str(error) for text in ("a:1", "refused", "b:2", "server busy"))


@pytest.mark.parametrize("given", [{"ray_workers": -1}, {"gateway_port": 70_000}, {"metrics_port": "x"}])
def test_a35_wrong_settings_are_said_at_once(given):
    with pytest.raises(ValueError, match=next(iter(given)).partition("_")[0]):
        SOLLOL(SOLLOLConfig(hosts=[], **given))


def test_no_worker_starts_anything(machines):
    before = threading.active_count()
    with SOLLOL(SOLLOLConfig(hosts=machines.urls, gateway_port=0, ray_workers=8, dask_workers=8)):
        assert threading.active_count() <= before + 2
    assert "ray" not in sys.modules
    assert not any(name.startswith("dask") for name in sys.modules)
    assert os.environ.get("RAY_ADDRESS") is None
