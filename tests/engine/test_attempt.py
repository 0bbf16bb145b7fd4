"""What of one node's reply the client sees, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from tests.support.fakes import (
    JSON,
    LAST,
    NDJSON,
    WORD,
    FakeExchange,
    Script,
    answers,
    fails,
    hangs,
    house,
    openai_kind,
    says,
    turns,
)

from sollol.core.events import AttemptEnded, FirstToken
from sollol.core.types import Kind
from sollol.engine import attempt
from sollol.errors import AllAttemptsFailed, BadReply, BrokeMidStream, DeadlineExceeded, NodeClosed, RequestError

pytestmark = pytest.mark.looptime

SSE = (b"content-type", b"text/event-stream")
DOCUMENT = b'{"model":"m","message":{"content":"hi"},"done":true}'
COMPLETION = b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi "}}]}\n\n'
CLOSE = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def sends(*pieces: bytes, header: tuple[bytes, bytes] = NDJSON, seconds: float = 0.0) -> Script:
    """A body in these very pieces, and its end."""

    async def script(exchange: FakeExchange) -> None:
        exchange.head(200, header)
        for piece in pieces:
            exchange.data(piece)
            await asyncio.sleep(seconds)
        exchange.end()

    return script


def closed(node: str) -> NodeClosed:
    return NodeClosed(node, "closed")


async def test_pieces_go_on_as_they_come() -> None:
    async with house() as here:
        here.add("a", sends(WORD, WORD + WORD, LAST[:10], LAST[10:]))
        request = here.ask()
        outcome = await request.outcome()
        assert request.sink.pieces == [WORD, WORD + WORD, LAST[:10], LAST[10:]]
        assert request.sink.ended
        assert (outcome.status, outcome.outcome, outcome.nodes) == (200, "ok", ("a",))
        assert outcome.counters is not None
        assert outcome.counters.output_tokens == 3
        assert request.sink.headers[b"x-sollol-node"] == b"a"


async def test_nothing_is_shown_before_the_first_line_is_complete() -> None:
    async with house() as here:
        here.add("a", sends(WORD[:20], WORD[20:], LAST, seconds=1.0))
        request = here.ask()
        await asyncio.sleep(0.5)
        assert not request.sink.started
        await asyncio.sleep(1)
        assert request.sink.body == WORD
        await request.outcome()


async def test_an_answer_of_one_line_without_its_line_end() -> None:
    async with house() as here:
        here.add("a", sends(LAST[:-1]))
        request = here.ask()
        assert (await request.outcome()).outcome == "ok"
        assert request.sink.body == LAST[:-1]


async def test_the_first_byte_is_told_once() -> None:
    async with house() as here:
        here.add("a", sends(WORD[:5], WORD[5:], LAST, seconds=1.0))
        outcome = await here.ask().outcome()
        assert [event.at for event in here.of(FirstToken)] == [0.0]
        assert outcome.first_byte == 0.0


async def test_headers_of_the_node_that_are_about_the_node_stay_behind() -> None:
    async with house() as here:
        headers = [
            (b"date", b"x"),
            (b"access-control-allow-origin", b"*"),
            (b"x-sollol-node", b"other"),
            (b"x-request-id", b"7"),
        ]
        here.add("a", says(200, DOCUMENT, JSON, *headers))
        request = here.ask(stream=False)
        await request.outcome()
        assert request.sink.headers[b"x-request-id"] == b"7"
        assert request.sink.headers[b"content-type"] == JSON[1]
        assert request.sink.headers[b"x-sollol-node"] == b"a"
        assert not {b"date", b"access-control-allow-origin"} & set(request.sink.headers)
        assert (request.sink.body, request.sink.length) == (DOCUMENT, len(DOCUMENT))


@pytest.mark.parametrize(
    "body",
    [b"", b"no JSON\n", b"[1]\n", b'{"message":{}}\n', WORD, b'{"done_reason":"\xff"}\n' + LAST],
    ids=["empty", "not JSON", "not an object", "no end", "one word", "not UTF-8"],
)
async def test_a_stream_without_a_good_beginning_and_end_is_a_bad_reply(body: bytes) -> None:
    async with house() as here:
        here.add("a", says(200, body, NDJSON))
        request = here.ask()
        if body in (WORD, b'{"message":{}}\n'):
            outcome = await request.outcome()
            assert outcome.outcome == "failed"
            assert "error" in json.loads(request.sink.body.splitlines()[-1])
        else:
            error = await request.error()
            assert isinstance(error, AllAttemptsFailed)
            assert isinstance(error.attempts[0][1], BadReply)
            assert not request.sink.started
        assert [event.outcome for event in here.of(AttemptEnded)] == ["failed"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"a":"b"}', b'{"done_reason":"\xff","done":true}', b'{"x":' + b"[" * 9_999]
)
async def test_a_document_that_is_not_the_one_that_is_due_is_a_bad_reply(body: bytes) -> None:
    async with house() as here:
        here.add("a", says(200, body))
        request = here.ask(stream=False)
        error = await request.error()
        assert isinstance(error, AllAttemptsFailed)
        assert isinstance(error.attempts[0][1], BadReply)
        assert not request.sink.started


async def test_an_error_line_at_the_beginning_is_an_error_reply() -> None:
    async with house() as here:
        here.add("a", sends(b'{"error":"does not support embeddings"}\n'))
        request = here.ask()
        outcome = await request.outcome()
        assert (outcome.status, outcome.outcome) == (500, "client-error")
        assert (request.sink.status, request.sink.body) == (500, b'{"error":"does not support embeddings"}')


async def test_an_error_event_at_the_beginning_is_an_error_reply_in_json() -> None:
    async with house() as here:
        here.add("a", sends(b'data: {"error":{"message":"image input is not supported"}}\n\n', header=SSE))
        request = here.ask(path="/v1/chat/completions")
        await request.outcome()
        assert request.sink.status == 500
        assert json.loads(request.sink.body)["error"]["message"] == "image input is not supported"
        assert request.sink.headers[b"content-type"].startswith(b"application/json")


async def test_an_error_line_in_the_middle_ends_the_stream_as_it_is() -> None:
    async with house() as here:
        here.add("a", sends(WORD, b'{"error":"out of memory"}\n'))
        request = here.ask()
        outcome = await request.outcome()
        assert request.sink.body == WORD + b'{"error":"out of memory"}\n'
        assert request.sink.ended
        assert (outcome.outcome, outcome.text) == ("failed", "a failed in the middle of the answer: out of memory")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_stream_that_breaks_ends_with_an_error_on_a_line_of_its_own(path: str) -> None:
    whole = WORD if path == "/api/chat" else EVENT
    async with house() as here:
        here.add("a", fails(closed, [whole, whole[:15]]))
        request = here.ask(path=path)
        outcome = await request.outcome()
        assert outcome.outcome == "failed"
        assert request.sink.ended
        lines = request.sink.body.split(b"\n")
        assert whole[:15] in lines
        error = json.loads(next(line for line in lines if b"error" in line).removeprefix(b"data: "))["error"]
        assert "closed" in (error if path == "/api/chat" else error["message"])


async def test_a_stream_without_its_end_is_told_so_without_an_empty_line() -> None:
    async with house() as here:
        here.add("a", sends(WORD, WORD))
        request = here.ask()
        await request.outcome()
        lines = request.sink.body.split(b"\n")
        assert b"" not in lines[:-1], "clients read every line as JSON"
        assert "ended early" in json.loads(lines[-2])["error"]


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_deadline_in_the_middle_of_an_answer(path: str) -> None:
    """The door adds the dialect's words; the engine leaves the line at which it can add them."""
    whole = WORD if path == "/api/chat" else EVENT

    async def stalls(exchange: FakeExchange) -> None:
        exchange.head()
        exchange.data(whole, whole[:15])

    async with house() as here:
        here.add("a", stalls)
        request = here.ask(path=path, deadline=3.0)
        assert isinstance(await request.error(), DeadlineExceeded)
        assert here.clock.now() == 3.0
        assert request.sink.body.startswith(whole + whole[:15] + b"\n")
        assert here.transport.sent[0].closed
        assert here.state.nodes["a"].failed == 0, "the client's haste is not the node's fault"


@pytest.mark.parametrize("late", ["all", "data", "end", "error"])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_comes_in_the_turn_in_which_the_node_was_given_up_is_not_shown(stream: bool, late: str) -> None:
    """The node is found down, and in the same turn of the loop its last bytes are read."""
    body = LAST if stream else DOCUMENT

    async def dies(exchange: FakeExchange) -> None:
        if late != "all":
            exchange.head(200, NDJSON if stream else JSON)
        here.down("a")
        if late == "all":
            exchange.head(200, NDJSON if stream else JSON)
        if late != "error":
            exchange.data(body)
        if late in ("all", "end"):
            exchange.end()
        if late == "error":
            exchange.fail(closed("a"))

    async with house() as here:
        here.add("a", dies)
        here.add("b", says(200, body), priority=1)
        request = here.ask(stream=stream)
        outcome = await request.outcome()
        assert outcome.nodes == ("a", "b")
        assert request.sink.body == body


async def test_a_document_over_four_megabytes_is_passed_through() -> None:
    piece = b"[" + b" " * (1 << 20) + b"]"
    body = b'{"embeddings":[' + b",".join([piece] * 6) + b"]}"
    async with house() as here:
        here.add("a", sends(*[body[at : at + 100_000] for at in range(0, len(body), 100_000)], header=JSON, seconds=0.01))
        request = here.ask(stream=False, path="/api/embed", kind=Kind.EMBED)
        await asyncio.sleep(0.4)
        assert not request.sink.started, "kept back up to 4 MB, so that another node can still answer"
        await asyncio.sleep(0.1)
        assert request.sink.started
        assert (await request.outcome()).outcome == "ok"
        assert request.sink.body == body
        assert request.sink.length is None
        assert len(request.sink.pieces[0]) > attempt.DOCUMENT_BYTES


async def test_a_long_document_that_breaks_breaks_the_connection() -> None:
    async with house() as here:
        here.add("a", fails(closed, [bytes(1 << 20)] * 5))
        request = here.ask(stream=False)
        outcome = await request.outcome()
        assert outcome.outcome == "failed"
        assert request.sink.aborted


async def test_a_document_that_breaks_costs_nothing() -> None:
    async with house() as here:
        here.add("a", fails(closed, [DOCUMENT[:20]]))
        here.add("b", says(200, DOCUMENT), priority=1)
        request = here.ask(stream=False)
        assert (await request.outcome()).nodes == ("a", "b")
        assert request.sink.body == DOCUMENT


async def test_a_flood_that_never_becomes_an_answer_is_given_up() -> None:
    sent = 0

    async def floods(exchange: FakeExchange) -> None:
        nonlocal sent
        exchange.head()
        while not exchange.closed and sent < 1_000:
            exchange.data(b"x" * 9_999 + b"\n")
            sent += 1
            await asyncio.sleep(0)

    async with house() as here:
        here.add("a", floods)
        assert isinstance(await here.ask().error(), AllAttemptsFailed)
        assert sent < 20


async def test_a_first_line_longer_than_is_kept_is_shown_unread() -> None:
    long = b'{"model":"m","context":[' + b"1," * 60_000 + b'1],"done":true}\n'
    async with house() as here:
        here.add("a", sends(*[long[at : at + 16_000] for at in range(0, len(long), 16_000)]))
        request = here.ask()
        assert (await request.outcome()).outcome == "ok"
        assert request.sink.body == long


async def test_a_translated_document_is_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "TRANSLATED_BYTES", 1 << 20)
    async with house() as here:
        here.add("a", sends(*[b" " * 400_000] * 5, COMPLETION, header=JSON), survey=openai_kind())
        error = await here.ask(stream=False).error()
        assert isinstance(error, AllAttemptsFailed)
        assert "cannot be translated" in str(error)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_translated_answer(stream: bool) -> None:
    reply = sends(EVENT, EVENT, CLOSE, header=SSE) if stream else says(200, COMPLETION)
    async with house() as here:
        here.add("a", reply, survey=openai_kind())
        request = here.ask(stream=stream)
        assert (await request.outcome()).outcome == "ok"
        assert here.transport.sent[0].request.target == "/v1/chat/completions"
        lines = [json.loads(line) for line in request.sink.body.splitlines()]
        assert "".join(line["message"]["content"] for line in lines).strip() in ("hi hi", "hi")
        assert lines[-1]["done"] is True
        expected = b"application/x-ndjson" if stream else b"application/json; charset=utf-8"
        assert request.sink.headers[b"content-type"] == expected


async def test_a_translated_document_of_another_shape_is_a_bad_reply() -> None:
    async with house() as here:
        here.add("a", says(200, b'{"choices":[{"message":{"content":5}}]}'), survey=openai_kind())
        error = await here.ask(stream=False).error()
        assert isinstance(error, AllAttemptsFailed)
        assert isinstance(error.attempts[0][1], BadReply)


async def test_a_translated_error_is_told_in_the_clients_dialect() -> None:
    async with house() as here:
        here.add("a", says(400, b'{"error":{"message":"too long","type":"x"}}'), survey=openai_kind())
        request = here.ask()
        assert (await request.outcome()).outcome == "client-error"
        assert (request.sink.status, json.loads(request.sink.body)) == (400, {"error": "too long"})
        assert request.sink.headers[b"content-type"] == b"application/json; charset=utf-8"


async def test_a_translated_stream_that_breaks_off_with_an_error_event() -> None:
    async with house() as here:
        here.add("a", sends(EVENT, b'data: {"error":{"message":"oom"}}\n\n', header=SSE), survey=openai_kind())
        request = here.ask()
        assert (await request.outcome()).outcome == "failed"
        *_, last = request.sink.body.splitlines()
        assert "oom" in json.loads(last)["error"]


async def test_what_cannot_be_said_to_any_node_is_the_requests_fault() -> None:
    async with house() as here:
        here.add("a", survey=openai_kind())
        error = await here.ask(body=b'{"model":"m","messages":[],"tools":[{"type":"function"}]}').error()
        assert isinstance(error, RequestError)
        assert "tools" in str(error)
        assert not here.transport.sent
        assert here.state.nodes["a"].failed == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_details_stand_in_the_last_line(stream: bool) -> None:
    async with house() as here:
        here.add("a", sends(WORD, LAST[:30], LAST[30:]) if stream else says(200, DOCUMENT))
        request = here.ask(stream=stream, details=True)
        await request.outcome()
        lines = [json.loads(line) for line in request.sink.body.splitlines()]
        assert lines[-1].pop("_sollol_routing")["node"] == "a"
        assert lines[-1] == json.loads(LAST if stream else DOCUMENT)
        assert all("_sollol_routing" not in line for line in lines[:-1])


async def test_details_do_not_double_an_error_line() -> None:
    async with house() as here:
        here.add("a", sends(WORD, b'{"error":"oom"}\n'))
        request = here.ask(details=True)
        await request.outcome()
        assert request.sink.body == WORD + b'{"error":"oom"}\n'


async def test_details_on_a_translated_stream() -> None:
    async with house() as here:
        here.add("a", sends(EVENT, CLOSE, header=SSE), survey=openai_kind())
        request = here.ask(details=True)
        await request.outcome()
        last = json.loads(request.sink.body.splitlines()[-1])
        assert last["done"] is True
        assert last["_sollol_routing"]["backend"] == "llama.cpp"


async def test_an_error_that_is_none_of_ours_is_a_bad_reply() -> None:
    async with house() as here:
        here.add("a", fails(lambda node: ValueError("odd")))
        error = await here.ask().error()
        assert isinstance(error, AllAttemptsFailed)
        assert "odd" in str(error)


@pytest.mark.parametrize("when", ["nothing yet", "head", "half a line", "words", "error body"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves(stream: bool, when: str) -> None:
    async def until_then(exchange: FakeExchange) -> None:
        if when != "nothing yet":
            exchange.head(500 if when == "error body" else 200)
        if when in ("half a line", "error body"):
            exchange.data(WORD[:5])
        elif when == "words":
            exchange.data(WORD, WORD)

    async with house() as here:
        here.add("a", until_then)
        request = here.ask(stream=stream)
        next_one = here.ask()
        await turns()
        (exchange,) = here.transport.sent
        request.leave()
        assert exchange.closed, "in the same turn"
        here.transport.script("a", answers)
        await turns()
        assert len(here.transport.sent) == 2, "its slot is free"
        assert (await next_one.outcome()).status == 200
        (ended, _) = here.of(AttemptEnded)
        assert ended.outcome == "cancelled"
        assert here.state.nodes["a"].failed == 0


async def test_a_long_error_body_is_cut() -> None:
    async with house() as here:
        here.add("a", sends_error(400, *[b"x" * 10_000] * 20))
        request = here.ask()
        await request.outcome()
        assert request.sink.status == 400
        assert attempt.ERROR_BYTES <= len(request.sink.body) <= attempt.ERROR_BYTES + 10_000


def sends_error(status: int, *pieces: bytes) -> Script:
    async def script(exchange: FakeExchange) -> None:
        exchange.head(status, JSON)
        exchange.data(*pieces)
        exchange.end()

    return script


async def test_a_node_that_goes_down_ends_what_runs_there() -> None:
    """Streams without a byte sent move; the others end in the dialect's words."""

    async def begins(exchange: FakeExchange) -> None:
        exchange.head()
        exchange.data(WORD)

    async with house() as here:
        here.add("a", begins, hangs, slots=2)
        streaming, silent = here.ask(), here.ask()
        await turns()
        here.add("b")
        here.down("a")
        assert (await silent.outcome()).nodes == ("a", "b")
        outcome = await streaming.outcome()
        assert (outcome.outcome, outcome.nodes) == ("failed", ("a",))
        assert "went down" in json.loads(streaming.sink.body.splitlines()[-1])["error"]
        assert all(exchange.closed for exchange in here.transport.sent if exchange.node.id == "a")


BREAKS: dict[str, Callable[[str], Exception]] = {"closed": closed, "bad": lambda node: BadReply(node, "framing")}


@pytest.mark.parametrize("how", BREAKS)
async def test_progress_is_counted_as_it_passes(how: str) -> None:
    async with house() as here:
        here.add("a", fails(BREAKS[how], [WORD, WORD + WORD], seconds=1.0))
        request = here.ask()
        await asyncio.sleep(0.5)
        running = here.state.attempt("a", request.task)
        assert running is not None
        assert running.progress.tokens == 3
        assert running.progress.first_at == running.progress.last_at == 0.0
        await request.outcome()
        (ended,) = here.of(AttemptEnded)
        assert (ended.sent, ended.outcome) == (True, "failed")


def test_an_attempt_that_broke_names_its_node() -> None:
    assert str(BrokeMidStream("a", "x")) == "a failed in the middle of the answer: x"
