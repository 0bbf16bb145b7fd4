"""The commands where no gateway runs: help, exit codes, clear words."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.same_reply import answering

import sollol
from sollol.cli.main import COMMANDS, FAILED, NOTHING_RUNS, OK, USAGE, run
from sollol.cli.options import print_table, seconds


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOLLOL_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nobody listens: the port is taken, so nobody else can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def test_help_names_every_command(capsys):
    assert run(["--help"]) == OK
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command, capsys):
    assert run([command, "--help"]) == OK
    assert f"Usage: sollol {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", "add", "remove", "drain", "undrain", "set"])
def test_every_command_on_nodes_has_help(command, capsys):
    assert run(["nodes", command, "--help"]) == OK
    assert f"Usage: sollol nodes {command}" in capsys.readouterr().out


def test_version(capsys):
    assert run(["version"]) == OK
    assert capsys.readouterr().out == f"{sollol.__version__}\n"
    assert run(["version", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["version"] == sollol.__version__
    assert run(["--version"]) == OK
    assert capsys.readouterr().out == f"{sollol.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["starrt"], "There is no command 'starrt'"),
        (["up", "--port", "70000"], "70000"),
        (["up", "--colour"], "--colour"),
        (["up", "--log-level", "loud"], "loud"),
        (["explain"], "MODEL"),
        (["explain", "m", "--prompt", "a", "--prompt-tokens", "1"], "not both"),
        (["nodes", "set", "a"], "Nothing to change"),
        (["nodes", "add", "a", "--priority", "11"], "11"),
        (["up", "--config", "nowhere.toml"], "nowhere.toml: there is no such configuration file (--config)"),
        (["up", "--node", "http://a:99999"], "--node: nodes[0].url: "),
        (["status", "--url", "ftp://a"], "--url: "),
        (["config", "show", "--config", "no.toml"], "no.toml"),
    ],
)
def test_wrong_usage(arguments, words, capsys):
    assert run(arguments) == USAGE
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["down"],
        ["nodes", "list"],
        ["nodes", "add", "127.0.0.1:1"],
        ["nodes", "remove", "a"],
        ["nodes", "drain", "a"],
        ["nodes", "undrain", "a"],
        ["nodes", "set", "a", "--slots", "2"],
        ["explain", "m"],
    ],
)
def test_nothing_runs(arguments, nowhere, capsys, monkeypatch):
    monkeypatch.setenv("SOLLOL_URL", nowhere)
    assert run(arguments) == NOTHING_RUNS
    captured = capsys.readouterr()
    assert captured.err == f"sollol: No SOLLOL gateway answers at {nowhere}. Start one with `sollol up`.\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    "reply",
    [
        http("200 OK", "Ollama is running"),
        http("200 OK", '{"status":"ok"}'),
        http("404 Not Found", "{}"),
        http("200 OK", "[]"),
        b"SSH-2.0\r\n",
        b"",
    ],
)
def test_something_else_answers_there(reply, capsys):
    with answering(reply) as url:
        assert run(["status", "--url", url]) == NOTHING_RUNS
    assert f"No SOLLOL gateway answers at {url} (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (http("401 Unauthorized", ""), "set SOLLOL_ADMIN_KEY"),
        (http("401 Unauthorized", '{"error":{"message":"no key"}}'), "sollol: no key"),
        (http("404 Not Found", '{"error":"no node \'a\'"}'), "sollol: no node 'a'"),
        (http("500 Internal Server Error", "oh"), "status 500"),
    ],
)
def test_the_gateway_refuses(reply, words, capsys):
    with answering(reply) as url:
        assert run(["nodes", "drain", "a", "--url", url]) == FAILED
    assert words in capsys.readouterr().err


def test_config_show_is_a_file_that_reads_back(capsys, monkeypatch):
    Path("sollol.toml").write_text('[queue]\nlimit = 7\n[auth]\nkeys = ["sk-1"]\n[[nodes]]\nurl = "a"\napi_key = "sk-2"\n')
    monkeypatch.setenv("SOLLOL_PORT", "9")
    assert run(["config", "show"]) == OK
    text = capsys.readouterr().out
    assert "sk-" not in text
    assert "port = 9  # SOLLOL_PORT" in text
    assert "limit = 7  # sollol.toml" in text
    table = tomllib.loads(text)
    assert (table["gateway"]["port"], table["nodes"][0]["url"]) == (9, "a")
    Path("shown.toml").write_text(text)
    assert run(["config", "show", "--config", "shown.toml"]) == OK


def test_config_show_as_json(capsys, monkeypatch):
    monkeypatch.setenv("SOLLOL_API_KEYS", "sk-1,sk-2")
    monkeypatch.setenv("SOLLOL_PRT", "1")
    assert run(["config", "show", "--json"]) == OK
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["auth.keys"] == {"value": ["(hidden)", "(hidden)"], "source": "SOLLOL_API_KEYS"}
    assert found["gateway.port"] == {"value": 8000, "source": "default"}
    assert "SOLLOL_PRT is set, but there is no such setting (did you mean SOLLOL_PORT?)" in captured.err


def test_a_reader_that_has_enough_is_no_error():
    command = [sys.executable, "-m", "sollol", "config", "show"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == FAILED


def test_the_help_loads_no_command():
    program = (
        "import sys; from sollol.cli.main import run; assert run(['--help']) == 0;"
        "print(sorted(name for name in sys.modules if name.startswith('sollol.') or name in {'msgspec', 'psutil', 'asyncio'}))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30).stdout
    assert output.splitlines()[-1] == "['sollol.cli', 'sollol.cli.failures', 'sollol.cli.main', 'sollol.errors']"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0008, "0.8 ms"),
        (0.24, "240 ms"),
        (1.346, "1.35 s"),
        (119, "119.00 s"),
        (150, "2.5 min"),
        (9_000, "2.5 h"),
    ],
)
def test_durations(value, text):
    assert seconds(value) == text


@given(st.lists(st.tuples(st.text(), st.integers() | st.none())))
def test_tables_have_one_line_a_row_and_nothing_that_moves_a_cursor(rows):
    lines = printed(lambda: print_table(("NAME", "COUNT"), rows))
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() for line in lines)


def printed(action: Callable[[], None]) -> list[str]:
    from contextlib import redirect_stdout
    from io import StringIO

    output = StringIO()
    with redirect_stdout(output):
        action()
    return output.getvalue().split("\n")[:-1]
