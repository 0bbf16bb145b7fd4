"""`sollol bench`: what it sends, what it counts, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from random import Random

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tests.support.bench_stub import Seen, bench_stub
from tests.support.same_reply import answering

from sollol.cli.bench import _run, quantile, render, summarise
from sollol.cli.bench_client import Ask, Load, Outcome, Record
from sollol.cli.main import cli
from sollol.wire.address import parse_endpoint

DONE = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 7}


async def good(seen: Seen) -> None:
    asked = json.loads(seen.body)
    if seen.path.startswith("/v1"):
        if not asked["stream"]:
            return seen.reply({"choices": [{"message": {"content": "hello"}}], "usage": {"completion_tokens": 5}})
        seen.begin("text/event-stream")
        for word in ("one", "two", "three"):
            seen.chunk("data: " + json.dumps({"choices": [{"delta": {"content": word}}]}) + "\n\n")
        seen.chunk("data: [DONE]\n\n")
        return seen.end()
    if not asked["stream"]:
        return seen.reply(DONE | {"message": {"content": "hello there"}})
    seen.begin()
    seen.chunk(json.dumps({"message": {"content": "hello"}, "done": False}) + "\n")
    seen.chunk(json.dumps(DONE) + "\n")
    seen.end()


async def invoke(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, cli, ["bench", *arguments])


@pytest.mark.parametrize(
    ("path", "stream", "tokens_each", "first_token"),
    [
        ("/api/chat", "--stream", 7, True),
        ("/api/chat", "--no-stream", 7, False),
        ("/v1/chat/completions", "--stream", 3, True),
        ("/v1/chat/completions", "--no-stream", 5, False),
    ],
)
async def test_counts_what_was_answered(path: str, stream: str, tokens_each: int, first_token: bool) -> None:
    async with bench_stub(good) as (url, seen):
        result = await invoke(url, "--model", "m", "--path", path, stream, "--duration", "0.2", "--concurrency", "2", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["requests"] == len(seen) >= 2
    assert found["errors"] == found["unfinished"] == 0
    assert found["tokens"] == tokens_each * found["requests"]
    assert found["nodes"] == {"a:1": 1.0}
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] < 5000
    assert (found["first_token_ms"]["p50"] is not None) == first_token
    assert {request.path for request in seen} == {path}


async def test_sends_what_was_asked_for() -> None:
    async with bench_stub(good) as (url, seen):
        options = ("--model", "m:1", "--prompt", "hi", "--max-tokens", "9", "--api-key", "secret", "--duration", "0.1")
        await invoke(url, *options, "--concurrency", "1")
    assert json.loads(seen[0].body) == {
        "model": "m:1",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "options": {"num_predict": 9},
    }
    assert seen[0].headers["authorization"] == "Bearer secret"


async def test_takes_the_first_listed_model_and_names_it() -> None:
    async with bench_stub(good) as (url, seen):
        result = await invoke(url, "--duration", "0.1", "--concurrency", "1")
    assert "model listed:latest" in result.output
    assert json.loads(seen[0].body)["model"] == "listed:latest"


async def test_says_plainly_that_nothing_answers(unused_tcp_port: int) -> None:
    result = await invoke(f"http://127.0.0.1:{unused_tcp_port}", "--model", "m")
    assert result.exit_code == 1
    assert f"nothing answers at http://127.0.0.1:{unused_tcp_port}" in result.output
    assert "sollol up" in result.output


def test_a_bad_address_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["bench", "ftp://x", "--model", "m"])
    assert result.exit_code == 2
    assert "reached by http or https" in result.output


async def _error_status(seen: Seen) -> None:
    seen.reply({"error": "model 'm' not found"}, status=404)


async def _error_line(seen: Seen) -> None:
    seen.begin()
    seen.chunk('{"error":"out of memory"}\n')
    seen.end()


async def _no_end(seen: Seen) -> None:
    seen.begin()
    seen.chunk('{"message":{"content":"x"},"done":false}\n')
    seen.end()


async def _cut(seen: Seen) -> None:
    seen.begin()
    seen.chunk('{"message":{"content":"x"},"done":false}\n')
    seen.writer.close()


async def _no_json(seen: Seen) -> None:
    seen.begin()
    seen.chunk("<html>\n")
    seen.end()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (_error_status, "404 model 'm' not found"),
        (_error_line, "out of memory"),
        (_no_end, "without its last line"),
        (_cut, "ended before the reply was complete"),
        (_no_json, "not JSON"),
    ],
)
async def test_a_bad_answer_is_an_error_and_says_which(answer: Callable[[Seen], object], text: str) -> None:
    async with bench_stub(answer) as (url, seen):  # type: ignore[arg-type]  # parametrize hides the exact type
        result = await invoke(url, "--model", "m", "--duration", "0.1", "--concurrency", "1")
    assert result.exit_code == 1
    assert text in result.output
    assert f"{len(seen)}, {len(seen)} errors" in result.output


async def test_a_connection_closed_between_requests_is_no_error() -> None:
    async def closes(seen: Seen) -> None:
        await good(seen)
        seen.writer.close()

    async with bench_stub(closes) as (url, seen):
        load = Load(parse_endpoint(url), Ask("m"), asyncio.get_running_loop().time)
        await load.closed(1, 60, limit=5)
    assert len(seen) == 5
    assert [outcome.error for outcome in load.record.outcomes] == [""] * 5


async def test_with_a_rate_a_stall_shows_in_every_request_that_was_due() -> None:
    """One place, 0.3 s held by the first request: those due meanwhile were late by what was left of it."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def stalls(seen: Seen) -> None:
        await release.wait()
        await good(seen)

    async with bench_stub(stalls) as (url, seen):
        load = Load(parse_endpoint(url), Ask("m"), loop.time)
        loop.call_later(0.3, release.set)
        await load.open(100, 0.3, Random(1), most=1)
    record = load.record
    assert record.unfinished == 0
    assert len(record.outcomes) == len(seen) > 10
    early = [outcome for outcome in record.outcomes if outcome.due < 0.1]
    assert early
    assert all(outcome.seconds > 0.19 for outcome in early)


async def test_requests_that_are_never_answered_are_unfinished() -> None:
    async def never(_seen: Seen) -> None:
        await asyncio.Event().wait()

    async with bench_stub(never) as (url, _):
        load = Load(parse_endpoint(url), Ask("m"), asyncio.get_running_loop().time)
        await load.closed(3, 0.05, grace=0.05)
    assert (load.record.unfinished, load.record.outcomes) == (3, [])


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
async def test_ctrl_c_prints_what_was_measured() -> None:
    third = asyncio.Event()

    async def counts(seen: Seen) -> None:
        await good(seen)
        if len(requests) == 3:
            third.set()

    async with bench_stub(counts) as (url, requests):
        code = "from sollol.cli.bench import bench; bench()"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            url,
            "--model",
            "m",
            "--duration",
            "50",
            "--concurrency",
            "1",
            "--json",
            stdout=-1,
            env=os.environ,
        )
        await third.wait()
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    assert process.returncode == 130
    assert json.loads(output)["requests"] >= 2


@pytest.mark.parametrize(
    ("path", "stream", "body"),
    [
        ("/api/generate", False, {"model": "m", "prompt": "p", "stream": False, "options": {"num_predict": 4}}),
        ("/api/embed", True, {"model": "m", "input": "p"}),
        ("/api/embeddings", True, {"model": "m", "prompt": "p"}),
        ("/v1/embeddings", True, {"model": "m", "input": "p"}),
        (
            "/v1/completions",
            True,
            {"model": "m", "prompt": "p", "stream": True, "max_tokens": 4, "stream_options": {"include_usage": True}},
        ),
    ],
)
def test_each_path_has_its_body(path: str, stream: bool, body: dict[str, object]) -> None:
    assert json.loads(Ask("m", path, "p", stream, 4).body()) == body


async def test_events_of_other_kinds_are_passed_over() -> None:
    """A server may keep the connection busy with comments, number its events, and count the tokens at the end."""

    async def chatty(seen: Seen) -> None:
        seen.begin("text/event-stream")
        seen.chunk(": wait\nevent: message\nid: 1\nretry: 5\n\n")
        seen.chunk('data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[{"text":""}]}\n\n')
        seen.chunk('data: {"choices":[],"usage":{"completion_tokens":11}}\n\ndata: [DONE]')
        seen.end()

    async with bench_stub(chatty) as (url, _):
        load = Load(parse_endpoint(url), Ask("m", "/v1/completions"), asyncio.get_running_loop().time)
        await load.closed(1, 60, limit=1)
    [outcome] = load.record.outcomes
    assert (outcome.error, outcome.tokens) == ("", 11)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("SSH-2.0\r\n\r\n", "Expected HTTP/"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "JSON, but no object"),
        ("HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno", "502 no"),
        ('HTTP/1.1 400 Bad\r\nContent-Length: 28\r\n\r\n{"error":{"message":"what"}}', "400 what"),
        ('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\n\r\n{"done":true}', ""),
        ("", "EOFError"),
    ],
)
async def test_what_is_no_answer_is_an_error_in_few_words(reply: str, text: str) -> None:
    async def answers(seen: Seen) -> None:
        seen.writer.write(reply.encode())
        seen.writer.close()

    async with bench_stub(answers) as (url, _):
        load = Load(parse_endpoint(url), Ask("m", stream=False), asyncio.get_running_loop().time)
        await load.closed(1, 60, limit=2)
    assert all(text in outcome.error and bool(outcome.error) == bool(text) for outcome in load.record.outcomes)
    assert len(load.record.outcomes) == 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"data":[]}',
            "answers, but it lists no model; name a model",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "answers, but /v1/models answered 200 []"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhey!", "answers, but /v1/models answered no JSON"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}", "answers, but /v1/models answered 404 {}"),
        (b"", "the connection was closed"),
    ],
)
def test_a_server_that_lists_nothing_is_asked_no_further(reply: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(reply) as url:
        monkeypatch.setenv("SOLLOL_URL", url)  # as all commands find their gateway
        result = CliRunner().invoke(cli, ["bench"])
    assert result.exit_code == 1
    assert f"{url}{' answers' if 'answers' in words else ''}" in result.output
    assert words in result.output


async def test_a_model_that_is_named_needs_no_list() -> None:
    async def lists_nothing(seen: Seen) -> None:
        await good(seen)

    async with bench_stub(lists_nothing, lists=False) as (url, seen):
        result = await invoke(url, "--model", "m", "--rate", "200", "--duration", "0.1")
    assert result.exit_code == 0, result.output
    assert "200 requests/s" in result.output
    assert {json.loads(request.body)["model"] for request in seen if request.body} == {"m"}


@pytest.mark.looptime
async def test_what_happens_is_shown_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    class Slow(Load):
        async def closed(self, concurrency: int, duration: float, grace: float = 30.0, limit: int | None = None) -> None:
            self.record.sent = 3
            self.record.outcomes += [Outcome(0.0, error="no"), Outcome(0.0)]
            await asyncio.sleep(duration)

    load = Slow(parse_endpoint("http://127.0.0.1:1"), Ask("m"), asyncio.get_running_loop().time)
    await _run(load, 1, None, 2.5, show=True)
    shown = [line.strip() for line in capsys.readouterr().err.split("\r")]
    assert shown == ["", "2 answered, 2/s, 1 under way, 1 errors", "2 answered, 0/s, 1 under way, 1 errors", "", ""]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_has_its_share_of_values_at_or_below_it(values: list[float], q: float) -> None:
    ordered = sorted(values)
    found = quantile(ordered, q)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= q * len(ordered) - 1e-9


def test_the_words_for_a_run_without_good_replies() -> None:
    record = Record([Outcome(0.0, seconds=1.0, error="500 no")], sent=2, seconds=2.0)
    text = render(summarise(record))
    assert "1, 1 errors, 1 unfinished" in text
    assert "1 × 500 no" in text
    assert "latency              –" in text
