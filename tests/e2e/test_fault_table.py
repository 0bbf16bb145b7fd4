"""The fault table in its short form: whatever fails, every request is answered correctly or ends with a clear error in time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.faults.__main__ import main, play
from benchmarks.faults.client import SHAPES, Conversation, ask, finish, open_one
from benchmarks.faults.nodes import TALE
from benchmarks.faults.report import BEGIN, END, document, into, line, read
from benchmarks.faults.table import ROWS
from tests.support.need import require
from tests.support.raw_peer import Peer, raw_node

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the rows need Linux")

# Rows with a real server run one after another, and so do those with network namespaces.
GROUPS = {"real": "llamacpp", "black-hole": "netns"}


def _row(name: str, count: int) -> object:
    group = next((group for prefix, group in GROUPS.items() if name.startswith(prefix)), None)
    marks = [pytest.mark.xdist_group(group)] if group else []
    return pytest.param(name, count, id=f"{name}-{count}", marks=marks)


RUNS = [_row(name, count) for name, row in ROWS.items() for count in row.short_sizes]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "count"), RUNS)
def test_row(name: str, count: int) -> None:
    played = play(ROWS[name], count, short=True)
    require(not played.found.skipped, played.found.skipped)
    assert played.found.broken == [], (line(played), played.found.reasons)
    assert played.found.requests > 0


def test_the_command_prints_the_table_and_writes_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert main(["--short", "--row", "model-vanished", "--size", "2", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| the model is deleted at the node | 2 |" in printed
    assert "| pass |" in printed
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["name"], row["in_flight"], row["verdict"], row["lost"], row["wrong"]) == ("model-vanished", 2, "pass", 0, 0)
    assert row["figures"]["p95_s"] > 0
    ((key, again),) = read(file).items()
    assert (key, again.verdict) == (("model-vanished", 2), "pass")
    assert document([again], {})["rows"] == [row]
    page = into(
        f"before\n{BEGIN}\nold\n{END}\nafter\n", [again], {"date": "today", "cores": 2, "again": ["model-vanished with 2"]}
    )
    assert line(again) in page
    assert "Played again after the whole run: model-vanished with 2." in page
    assert "old" not in page


# The client must see what it is there to see.

WORDS = ask(0, TALE).expected
assert WORDS is not None


def _line(text: str, *, done: bool = False) -> bytes:
    figures = {"eval_count": len(WORDS.tokens)} if done else {}
    return json.dumps({"message": {"content": text}, "done": done} | figures).encode() + b"\n"


WHOLE = [_line(token) for token in WORDS.tokens]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def _judged(*lines: bytes, end: bytes = b"0\r\n\r\n") -> str:
    """The verdict on a streamed chat reply of these lines."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD, *(b"%x\r\n%s\r\n" % (len(one), one) for one in lines), end)

    async with raw_node(script) as node:
        asked: Conversation = await open_one(f"http://127.0.0.1:{node.port}", ask(0, TALE, shape=SHAPES[0]))
        return (await finish(asked)).verdict()[0]


async def test_a_right_answer_is_one() -> None:
    assert await _judged(*WHOLE, _line("", done=True)) == "answered"


@pytest.mark.parametrize(
    ("lines", "end", "verdict"),
    [
        ([*WHOLE[:3], WHOLE[2], *WHOLE[3:], _line("", done=True)], b"0\r\n\r\n", "wrong"),  # a token twice
        ([*WHOLE[:3], *WHOLE[4:], _line("", done=True)], b"0\r\n\r\n", "wrong"),  # one is missing
        (WHOLE, b"0\r\n\r\n", "wrong"),  # no last line
        ([*WHOLE, _line("", done=True), WHOLE[0]], b"0\r\n\r\n", "wrong"),  # something after the end
        ([*WHOLE, b'{"message":{"content":""},"done":true,"eval_count":1}\n'], b"0\r\n\r\n", "wrong"),  # a wrong count
        ([*WHOLE[:3], b'{"mess\n'], b"0\r\n\r\n", "wrong"),  # no JSON
        ([*WHOLE[:3], b'{"error":"it broke"}\n'], b"0\r\n\r\n", "error"),
        ([WHOLE[1], b'{"error":"it broke"}\n'], b"0\r\n\r\n", "wrong"),  # an error after a wrong text
        ([*WHOLE[:3], b'{"error":{"message":"no"}}\n'], b"0\r\n\r\n", "wrong"),  # an error of another dialect
        (WHOLE[:3], b"", "lost"),  # cut off
        ([*WHOLE, _line("", done=True)], b"", "lost"),  # the last words of HTTP are missing
        (WHOLE[:3], b"zz\r\n", "wrong"),  # broken framing
    ],
)
async def test_nothing_else_is(lines: list[bytes], end: bytes, verdict: str) -> None:
    assert await _judged(*lines, end=end) == verdict
