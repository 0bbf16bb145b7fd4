"""The commands where the world is not as they would like it: other servers, processes that are gone, keys, odd values."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sollol.cli.demo import print_observations
from sollol.cli.demo_failover import Observations
from sollol.cli.main import FAILED, OK, USAGE, run
from sollol.cli.stage import ask, poll

Replies = dict[str, tuple[int, Any]]
ME = {"service": "SOLLOL", "version": "1", "pid": 1}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOLLOL_DATA_DIR", str(tmp_path / "data"))


@contextmanager
def answering(replies: Replies) -> Iterator[tuple[str, list[str | None]]]:
    """A server with these (status, document) by path, and the keys that it was shown."""
    keys: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["Authorization"])
            status, document = replies.get(self.path, (404, {"error": "nothing there"}))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is written."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", keys
        finally:
            server.shutdown()
            thread.join()


# what a shell and a pipe see


@pytest.mark.parametrize(
    ("words", "names"), [("sollol no", {"nodes"}), ("sollol nodes un", {"undrain"}), ("sollol frob x", set())]
)
def test_a_shell_completes_names(words, names, capsys, monkeypatch):
    monkeypatch.setenv("_SOLLOL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit) as ended:
        run([])
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (OK, "")
    assert {line.partition(",")[2] for line in said.out.splitlines() if line} == names


def test_a_reader_that_left_ends_the_command(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    out = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    with pytest.raises(SystemExit) as ended:
        run(["config", "show"])
    assert ended.value.code == FAILED
    with suppress(BrokenPipeError):
        out.close()


# what gateways answer


def test_the_key_is_shown(monkeypatch, capsys):
    monkeypatch.setenv("SOLLOL_ADMIN_KEY", "sk-1")
    with answering({"/api/nodes": (200, {"nodes": [], "searched": ["10.0.0.0/24", "Docker"]})}) as (url, keys):
        assert run(["nodes", "list", "--url", url]) == OK
    assert keys == ["Bearer sk-1"]
    assert capsys.readouterr().out.splitlines()[1:] == ["  searched: 10.0.0.0/24", "  searched: Docker"]


@pytest.mark.parametrize("status", [401, 403])
def test_something_before_the_gateway_that_wants_a_password(status, capsys):
    with answering({"/api/health": (status, {"error": "who are you?"})}) as (url, _):
        assert run(["status", "--url", url]) == FAILED
    assert capsys.readouterr().err == "sollol: who are you?\n"


def test_removing_as_json(capsys):
    with answering({"/api/nodes/a%3A1": (200, {"removed": "a:1"})}) as (url, _):
        assert run(["nodes", "remove", "a:1", "--json", "--url", url]) == OK
    assert json.loads(capsys.readouterr().out) == {"removed": "a:1"}


def test_explaining_without_nodes_is_two_lines(capsys):
    found = {"model": "m", "chosen": None, "reason": "no node is known", "nodes": []}
    with answering({"/api/routing/explain?model=m": (200, found)}) as (url, _):
        assert run(["explain", "m", "--url", url]) == FAILED
    assert capsys.readouterr().out == "m: no node\n  no node is known\n"


def test_settings_that_mean_nothing_are_named_by_up_too(monkeypatch, capsys):
    monkeypatch.setenv("SOLLOL_PRT", "1")
    with answering({}) as (url, _):
        assert run(["up", "--no-discovery", "--port", url.rpartition(":")[2]]) == FAILED
    assert "note: SOLLOL_PRT is set, but there is no such setting" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="a file that nobody can read from its beginning, root neither")
def test_a_file_that_cannot_be_read(capsys):
    assert run(["config", "show", "--config", "/proc/self/mem"]) == USAGE
    assert capsys.readouterr().err == "sollol: /proc/self/mem: cannot be read: Input/output error\n"


# down


def noted(folder: Path, url: str, pid: object, name: str = "gateway-1.json") -> None:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / name).write_text(json.dumps({"pid": pid, "url": url, "started": 0.0}))


def test_down_ends_a_process_that_nobody_waits_for(tmp_path, capsys):
    """In a container the parent of the gateway may never ask how it ended; it is a zombie then."""
    shell = ["sh", "-c", "sleep 60 & echo $!; exec sleep 60"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            with answering({"/api/health": (200, ME | {"pid": pid})}) as (url, _):
                noted(tmp_path, url, pid)
                assert run(["down", "--url", url]) == OK
            assert capsys.readouterr().out == f"stopped the gateway at {url} (process {pid})\n"
            assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        finally:
            parent.kill()


def test_down_finds_the_one_that_answers_among_notes_of_others(tmp_path, capsys, monkeypatch, unused_tcp_port):
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process,
        answering({"/api/health": (200, ME | {"pid": process.pid})}) as (url, _),
        answering({"/api/health": (200, ME | {"pid": "one"})}) as (odd, _),
    ):
        noted(tmp_path, url, process.pid)
        noted(tmp_path, f"http://127.0.0.1:{unused_tcp_port}", process.pid, "gateway-2.json")
        noted(tmp_path, odd, process.pid, "gateway-3.json")
        noted(tmp_path, url, "one", "gateway-4.json")
        monkeypatch.setenv("SOLLOL_PORT", "9")  # where `sollol up` would be looked for first
        assert run(["down"]) == OK
        assert capsys.readouterr().out == f"stopped the gateway at {url} (process {process.pid})\n"
        assert not psutil.pid_exists(process.pid)


def test_down_and_a_process_that_is_not_of_this_machine(tmp_path, capsys):
    """A gateway in a container, whose folder of data is shared: its number means nothing here."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    with answering({"/api/health": (200, ME | {"pid": gone.pid})}) as (url, _):
        noted(tmp_path, url, gone.pid)
        assert run(["down", "--url", url]) == FAILED
    assert capsys.readouterr().err == (
        f"sollol: The gateway at {url} says that it is process {gone.pid}, which is not on this machine: "
        "stop it where it was started.\n"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_down_and_a_process_of_somebody_else(tmp_path):
    """A gateway that is a service of another user's."""
    program = (
        "import encodings.idna, os, sys, tempfile; from sollol.cli import down, main\n"
        "os.setuid(65534); os.chdir('/')\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    os.environ |= {'SOLLOL_DATA_DIR': folder, 'HOME': folder}\n"
        "    with open(folder + '/gateway-1.json', 'w') as file: file.write(sys.argv[2])\n"
        "    sys.exit(main.run(['down', '--url', sys.argv[1]]))"
    )
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process,
        answering({"/api/health": (200, ME | {"pid": process.pid})}) as (url, _),
    ):
        record = json.dumps({"pid": process.pid, "url": url, "started": 0.0})
        found = subprocess.run([sys.executable, "-c", program, url, record], capture_output=True, text=True, check=False)
        assert process.poll() is None
        process.kill()
    assert (found.returncode, found.stderr) == (
        FAILED,
        f"sollol: The gateway at {url} (process {process.pid}) belongs to another user, who can stop it.\n",
    )


# the demonstration


def test_figures_of_the_story_are_lines_for_people(capsys):
    found = Observations("gpu", 10, 9, 1, 0, 2, 3, 0.5, 2.0, None, 0.25, 1.5, None)
    assert print_observations(found, as_json=False) == FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["", "Measured"]
    assert "   lost                       1" in lines
    assert "   moved to another node      2  (3 were running on gpu when it died)" in lines
    assert lines[-1] == "   return until its answer    –"
    assert print_observations(replace(found, lost=0, used_again=2.0), as_json=True) == OK
    assert json.loads(capsys.readouterr().out)["good"] is True


def test_an_answer_that_does_not_come_is_an_error_in_words(unused_tcp_port):
    answer = ask(f"http://127.0.0.1:{unused_tcp_port}", "m", "Hi")
    assert "refused" in answer.error
    assert (answer.status, answer.text) == (0, "")


def test_polling_ends():
    assert poll(lambda: None, 0.02) is None
    assert poll(lambda: False, 0.0) is None
    assert poll(lambda: 0, 0.02) == 0
