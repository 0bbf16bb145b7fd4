"""The commands within this process, as their functions: real sockets, real signals, and what a person reads."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import re
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import get_json, post, wait_until_up
from tests.support.processes import python
from tests.support.wait import wait_until

from sollol import SOLLOL, SOLLOLConfig
from sollol.cli.main import FAILED, NOTHING_RUNS, OK, USAGE, main, run
from sollol.cli.stage import Stage, ask
from sollol.emulator.presets import LLAMA_1B, same
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines
from sollol.errors import ConfigError
from sollol.server import write_record

MODEL = LLAMA_1B.name
NEVER_DONE = 100_000
NODES = [
    NodeSpec(name, prefill=1e6, decode=200, slots=4, load_gbps=1e6, models=(LLAMA_1B,)) for name in ("one", "another-node")
]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals"),
    pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"),
]


@pytest.fixture(autouse=True)
def as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder without settings; and what a gateway changes in its whole process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOLLOL_DATA_DIR", str(tmp_path / "data"))
    root, threshold = logging.getLogger(), gc.get_threshold()
    handlers, level = root.handlers[:], root.level
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, as in what runs in the background
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    assert {number: signal.getsignal(number) for number in signals} == signals
    signal.signal(signal.SIGINT, ctrl_c)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("sollol.requests").setLevel(logging.NOTSET)
    gc.unfreeze()
    gc.set_threshold(*threshold)


def during(command: list[str], act: Callable[[str], object], *, folder: Path) -> int:
    """Run `sollol up` in this thread; another one waits for its address, acts, and ends it with SIGTERM."""
    failed: list[BaseException] = []

    def other() -> None:
        try:
            wait_until(lambda: list((folder / "data").glob("gateway-*.json")), 20)
            [record] = (folder / "data").glob("gateway-*.json")
            act(json.loads(record.read_text())["url"])
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - told in the thread of the test
            failed.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=other)
    thread.start()
    code = run(command)
    thread.join(20)
    if failed:
        raise failed[0]
    return code


def up(machines: Machines, *more: str) -> list[str]:
    named = [word for url in machines.urls for word in ("--node", url)]
    return ["up", "--port", "0", "--no-discovery", *named, *more]


def until_said(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """Standard output until it has these words. Capturing hands it out once, so all of it is given back."""
    said: list[str] = []

    def there() -> bool:
        said.append(capsys.readouterr().out)
        return words in "".join(said)

    wait_until(there)
    return "".join(said)


def test_up_says_what_there_is_in_columns_and_ends_with_zero(tmp_path, capsys):
    said: list[str] = []

    def act(url: str) -> None:
        wait_until_up(url, 2)
        said.append(until_said(capsys, "curl "))

    with Machines(NODES) as machines:
        assert during(up(machines), act, folder=tmp_path) == OK
    first, found, one, two, try_it, curl = said[0].splitlines()
    assert re.fullmatch(r"SOLLOL listens on http://127\.0\.0\.1:\d+", first)
    assert found == "2 nodes, 2 up:"
    assert [line.index("ollama ") for line in (one, two)] == [one.index("ollama ")] * 2
    assert one.endswith(", emulated, 1 model")
    assert (try_it, curl.startswith("  curl http://127")) == ("try it:", True)
    assert capsys.readouterr().out == "stopping\n"


def test_up_tells_of_changes_with_time_and_name(tmp_path, capsys):
    def act(url: str) -> None:
        wait_until_up(url, 2)
        until_said(capsys, "curl ")
        assert run(["nodes", "set", machines.urls[0].removeprefix("http://"), "--name", "desk", "--url", url]) == OK
        machines.stop("one")
        assert post(f"{url}/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]})[0] == 200
        assert re.search(r"^\d\d:\d\d:\d\d  desk is down: ", until_said(capsys, "desk is down"), re.MULTILINE)
        machines.start("one")
        assert re.search(r"^\d\d:\d\d:\d\d  desk is up$", until_said(capsys, "desk is up"), re.MULTILINE)
        assert run(["nodes", "remove", "desk", "--url", url]) == OK
        until_said(capsys, "desk is gone: removed on request")
        assert run(["nodes", "add", machines.urls[0], "--name", "back", "--url", url]) == OK
        until_said(capsys, "found back at http")

    with Machines(NODES) as machines:
        assert during(up(machines), act, folder=tmp_path) == OK


def test_a_second_signal_is_the_exit_code(tmp_path, capsys):
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": NEVER_DONE}})

    def act(url: str) -> None:
        wait_until_up(url, 2)
        client = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10)
        clients.append(client)
        head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        assert client.recv(1_000).startswith(b"HTTP/1.1 200")
        os.kill(os.getpid(), signal.SIGINT)
        until_said(capsys, "stopping: 1 running answer may finish for 10 s")

    clients: list[socket.socket] = []
    with Machines(NODES) as machines:
        assert during(up(machines), act, folder=tmp_path) == 143
    for client in clients:
        client.close()


def test_sighup_and_reload_as_commands(tmp_path, capsys):
    file = tmp_path / "sollol.toml"

    def act(url: str) -> None:
        told = io.StringIO()  # what `up` has to say comes first
        wait_until(lambda: told.write(capsys.readouterr().out) + 1 and "no nodes" in told.getvalue())
        assert reload(url) == (OK, "nothing has changed\n", "")
        file.write_text('[queue]\nlimit = 7\n[gateway]\nhost = "127.0.0.9"\nallowed_origins = ["https://a.example"]\n')
        code, said, _ = reload(url)
        assert (code, said.splitlines()) == (
            OK,
            ["changed:         gateway.allowed_origins, queue.limit", "after a restart: gateway.host"],
        )
        file.write_text("[queue]\nlimit = 8\n" + f'[[nodes]]\nurl = "{url}"\n[[nodes]]\nurl = "{machines.urls[0]}"\n')
        code, said, _ = reload(url)
        assert f"nodes added:     {machines.urls[0].removeprefix('http://')}\n" in said
        assert f"note: {url} is this gateway itself" in said
        file.write_text("[queue]\nlimit = 9\n")
        done = json.loads(reload(url, "--json")[1])
        assert (done["changed"], len(done["nodes"]["removed"])) == (["queue.limit"], 1)
        file.write_text("[queue\n")
        code, _, complaint = reload(url)
        assert (code, complaint.count("\n")) == (FAILED, 1)
        assert complaint.startswith(f"sollol: {file.name}: not valid TOML")
        os.kill(os.getpid(), signal.SIGHUP)
        assert get_json(f"{url}/api/queue")["limit"] == 9
        file.write_text("[queue]\nlimit = 10\n")
        os.kill(os.getpid(), signal.SIGHUP)
        wait_until(lambda: get_json(f"{url}/api/queue")["limit"] == 10, 5)

    def reload(url: str, *more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["reload", "--url", url, *more])
        text, complaint = capsys.readouterr()
        return code, re.sub(r"^\d\d:\d\d:\d\d  .*\n", "", text, flags=re.MULTILINE), complaint

    with Machines(NODES) as machines:
        assert during(["up", "--port", "0", "--no-discovery", "--log-level", "error"], act, folder=tmp_path) == OK


def test_reload_where_nothing_can_be_read_or_nothing_runs(capsys):
    from sollol.config import Config, Discovery
    from sollol.config import Gateway as Settings

    with SOLLOL(Config(gateway=Settings(port=0), discovery=Discovery(enabled=False))) as gate:
        url = gate.address
        assert run(["reload", "--url", url]) == FAILED
        assert "given by the program that started it" in capsys.readouterr().err
    assert run(["reload", "--url", url]) == NOTHING_RUNS
    assert "No SOLLOL gateway answers" in capsys.readouterr().err


def test_without_nodes_emulated_ones_stand_in_until_a_real_one_comes(tmp_path, capsys):
    def act(url: str) -> None:
        said = until_said(capsys, "curl ")
        assert "no nodes: discovery is off and none is configured; name one with --node URL\n" in said
        assert "3 nodes, 3 up:\n" in said
        assert run(["nodes", "add", machines.urls[0], "--name", "real", "--url", url]) == OK
        wait_until(lambda: len(get_json(f"{url}/api/nodes")["nodes"]) == 1)
        assert "fast-gpu is gone: a real node is there" in until_said(capsys, "cpu is gone")

    with Machines(NODES[:1]) as machines:
        assert during(["up", "--port", "0", "--no-discovery", "--demo-if-empty"], act, folder=tmp_path) == OK


def test_searching_and_finding_nothing_is_said(tmp_path, capsys, monkeypatch):
    for search in ("THIS_MACHINE", "DOCKER", "MDNS"):
        monkeypatch.setenv(f"SOLLOL_DISCOVERY_{search}", "false")

    def act(url: str) -> None:
        said = until_said(capsys, "still searching. A node elsewhere: `sollol nodes add URL`")
        assert "\nlooking for nodes ...\nno nodes found. Searched: " in said
        assert run(["nodes", "list", "--url", url]) == OK
        assert "No node is known. Add one: `sollol nodes add URL`." in until_said(capsys, "Add one")
        assert run(["status", "--url", url]) == OK
        assert "requests  none yet" in until_said(capsys, "none yet")

    assert during(["up", "--port", "0"], act, folder=tmp_path) == OK


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_run(capsys, monkeypatch):
    monkeypatch.setenv("SOLLOL_DATA_DIR", f"{os.devnull}/data")
    said: list[str] = []

    def end() -> None:
        said.append(until_said(capsys, "name one with --node URL"))
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    assert run(["up", "--port", "0", "--no-discovery"]) == OK
    ending.join()
    note = f"note: `sollol down` will not find this gateway: {os.devnull}/data cannot be written (Not a directory)"
    assert said[0].startswith(f"{note}\nSOLLOL listens on http")


def test_lines_of_requests_are_not_for_a_terminal(tmp_path, capsys, monkeypatch):
    def act(url: str) -> None:
        wait_until_up(url, 2)
        assert post(f"{url}/api/chat", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]})[0] == 200

    with Machines(NODES) as machines:
        for terminal, more, lines in (
            (False, [], 1),
            (True, [], 0),
            (True, ["--log-requests"], 1),
            (False, ["--no-log-requests"], 0),
        ):
            monkeypatch.setattr(sys.stderr, "isatty", lambda answer=terminal: answer)
            assert during(up(machines, *more), act, folder=tmp_path) == OK
            assert capsys.readouterr().err.count("path=/api/chat") == lines, (terminal, more)


def test_a_terminal_that_is_gone_is_no_reason_to_stop(monkeypatch):
    from sollol.cli.up import say

    with socket.create_server(("127.0.0.1", 0)), open("/dev/full", "w") as full:  # noqa: PTH123 - a device, not a path
        monkeypatch.setattr(sys, "stdout", full)
        say("x" * 100_000)


@pytest.mark.parametrize("module", ["sollol", "sollol.serve"])
def test_as_modules(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, f"{module}.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == OK
    assert "Usage: sollol" in capsys.readouterr().out


def test_the_console_script_without_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sollol"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == USAGE
    assert "Usage: sollol" in capsys.readouterr().err


def test_ctrl_c_in_a_command_that_waits(capsys):
    """The server takes the connection and says nothing; the person has had enough."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert run(["status", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_demo_stays_until_sigterm(capsys):
    said: list[str] = []

    def end() -> None:
        said.append(until_said(capsys, "ollama run"))
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    assert run(["demo", "--port", "0", "--speed", "50"]) == OK
    ending.join()
    assert "It stays up until Ctrl-C" in said[0]


def test_demo_on_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as held:
        assert run(["demo", "--port", str(held.getsockname()[1])]) == FAILED
    assert "is in use" in capsys.readouterr().err
    assert run(["demo", "--json"]) == USAGE


def test_emulate_until_ctrl_c(capsys):
    for number, more in ((signal.SIGINT, []), (signal.SIGTERM, ["--json"])):

        def end(number: int = number) -> None:
            until_said(capsys, "llama3.2:1b")
            os.kill(os.getpid(), number)

        ending = threading.Thread(target=end)
        ending.start()
        assert run(["emulate", "--port", "0", "--nodes", "2", *more]) == OK
        ending.join()
    with socket.create_server(("127.0.0.1", 0)) as held:
        assert run(["emulate", "--nodes", "1", "--port", str(held.getsockname()[1])]) == FAILED
    assert "try another --port" in capsys.readouterr().err


def test_bench_broken_off_prints_what_there_is(capsys):
    with Stage([spec.faster(50) for spec in same(1)]) as stage:
        threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert run(["bench", stage.url, "--model", MODEL, "--duration", "30", "--max-tokens", "3"]) == 130
        said = capsys.readouterr().out
        assert "requests per second" in said
        assert not ask(stage.url, MODEL, "still there?").error


# down


@contextmanager
def recorded(*gates: SOLLOL, folder: Path, pid: int | None = None) -> Iterator[None]:
    for gate in gates:
        record = write_record(folder / "data", gate.address)
        if pid is not None:
            record.write_text(json.dumps({"pid": pid, "url": gate.address, "started": 0.0}))
    yield


def test_down_asks_which_of_several(tmp_path, capsys, monkeypatch):
    settings = SOLLOLConfig(hosts=[], gateway_port=0)
    with SOLLOL(settings) as one, SOLLOL(settings) as other, recorded(one, other, folder=tmp_path):
        monkeypatch.setenv("SOLLOL_PORT", "9")  # where `sollol up` would be looked for first
        assert run(["down"]) == FAILED
        words = capsys.readouterr().err
        assert "Several gateways run: " in words
        assert one.address in words
        assert other.address in words


def test_down_and_a_gateway_that_takes_its_time(tmp_path, capsys, monkeypatch):
    """It says so after the time that running answers have, and two seconds."""
    monkeypatch.setenv("SOLLOL_GATEWAY_SHUTDOWN_SECONDS", "0")
    script = tmp_path / "slow.py"
    script.write_text(
        "import http.server, json, os, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200)\n"
        "        self.end_headers()\n"
        "        self.wfile.write(json.dumps({'service': 'SOLLOL', 'pid': os.getpid()}).encode())\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n"
        "print('at', server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    with python(str(script)) as running:
        url = f"http://127.0.0.1:{running.line_with('at ').split()[1]}"
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "gateway-1.json").write_text(json.dumps({"pid": running.process.pid, "url": url, "started": 0.0}))
        assert run(["down", "--url", url]) == FAILED
        assert "is still finishing after 2 s" in capsys.readouterr().err


# settings of a program


@pytest.mark.parametrize("given", [{"ray_workers": -1}, {"dask_workers": "two"}])
def test_workers_are_a_number(given: dict[str, Any]):
    with pytest.raises(ConfigError, match="expected a number of workers from 0"):
        SOLLOLConfig(**given)


def test_settings_of_a_program_go_over_the_environment(monkeypatch):
    monkeypatch.setenv("SOLLOL_METRICS_PORT", "9")
    config = SOLLOLConfig.auto_discover(gateway_port=1, metrics_port=2, host="127.0.0.3").to_config()
    assert (config.gateway.port, config.gateway.metrics_port, config.gateway.host) == (1, 2, "127.0.0.3")
    assert config.discovery.enabled
    assert not SOLLOLConfig(hosts=["a"]).to_config().discovery.enabled


def test_emulated_nodes_of_an_object_come_and_go(tmp_path, monkeypatch):
    monkeypatch.setenv("SOLLOL_DISCOVERY_DEMO_IF_EMPTY", "true")
    with SOLLOL(SOLLOLConfig(hosts=[], gateway_port=0)) as gate:
        wait_until_up(gate.address, 3)


def test_a_loop_that_is_not_installed(monkeypatch):
    from sollol.config import Config
    from sollol.config import Gateway as Settings
    from sollol.server import loop_factory

    assert loop_factory(Config(gateway=Settings(uvloop=False))) is None
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory(Config()) is None
    with pytest.raises(ConfigError, match="pip install"):
        loop_factory(Config(gateway=Settings(uvloop=True)))
