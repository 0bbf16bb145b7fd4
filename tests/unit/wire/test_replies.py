import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Counters, Dialect
from sollol.wire.ndjson_watch import LINE
from sollol.wire.replies import Ending, Watch, document, watcher
from sollol.wire.requests import dialect_of

RECORDED = json.loads((Path(__file__).parents[2] / "data/wire/replies.json").read_text())
STREAMS = [case for case in RECORDED if case["type"] != "json"]
DOCUMENTS = [case for case in RECORDED if case["type"] == "json"]
CHAT = "/api/chat"
V1 = "/v1/chat/completions"
END = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","eval_count":3}\n'
LINE_1 = b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n'
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def watched(path: str, *pieces: bytes) -> tuple[Watch, Ending]:
    watch = watcher(dialect_of(path), path)
    for piece in pieces:
        watch.feed(piece)
    return watch, watch.finish()


def ended(path: str, *pieces: bytes) -> Ending:
    return watched(path, *pieces)[1]


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case["name"])
def test_recorded_streams(case: dict[str, Any]) -> None:
    body = case["body"].encode()
    watch, ending = watched(case["path"], body)
    assert ending.complete is case["complete"]
    assert watch.first_ok and watch.problem is None
    assert watch.tokens == body.count(b"\n" if case["type"] == "ndjson" else b"\n\n")
    broke = case["name"] in ("K-gen", "K-chat", "pull-stream")
    assert (ending.error is not None) is broke


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case["name"])
@given(data=st.data())
def test_a_stream_is_read_the_same_whatever_the_cut(case: dict[str, Any], data: st.DataObject) -> None:
    body = case["body"].encode()
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True) if a < b]
    one, whole = watched(case["path"], body)
    other, cut = watched(case["path"], *pieces)
    assert (cut, other.tokens, other.first_ok, other.error) == (whole, one.tokens, one.first_ok, one.error)


@pytest.mark.parametrize("case", [case for case in STREAMS if case["complete"]], ids=lambda case: case["name"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_stream_that_stops_early_is_not_complete(case: dict[str, Any], share: float) -> None:
    body = case["body"].encode()
    assert not ended(case["path"], body[: int(len(body) * share)]).complete


@pytest.mark.parametrize("case", DOCUMENTS, ids=lambda case: case["name"])
def test_recorded_documents(case: dict[str, Any]) -> None:
    dialect, body = dialect_of(case["path"]), case["body"].encode()
    assert document(dialect, case["path"], body).complete
    cut = document(dialect, case["path"], body[: len(body) // 2])
    assert not cut.complete and cut.error is not None


def test_counters_of_ollama() -> None:
    case = next(case for case in STREAMS if case["name"] == "chat-stream")
    ending = ended(CHAT, case["body"].encode())
    counters = ending.counters
    assert ending.native and counters is not None
    assert (counters.prompt_tokens, counters.output_tokens, counters.done_reason) == (22, 9, "stop")
    times = [counters.total, counters.load, counters.prefill, counters.decode]
    assert times == pytest.approx([0.267197137, 0.253421315, 0.009595, 0.001956])


def test_counters_of_openai_and_llamacpp() -> None:
    counts = b'"usage":{"prompt_tokens":20,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}'
    usage = b'data: {"choices":[],' + counts + b"}\n\n"
    assert ended(V1, CHUNK, STOP, usage, DONE) == Ending(True, None, Counters(20, 5, 4, done_reason="stop"))
    timings = b'"timings":{"cache_n":15,"prompt_n":5,"prompt_ms":50.0,"predicted_n":7,"predicted_ms":200.0}'
    stop = b'data: {"choices":[{"finish_reason":"length","delta":{}}],' + timings + b"}\n\n"
    expected = Counters(20, 7, 15, prefill=0.05, decode=0.2, done_reason="length")
    assert ended(V1, CHUNK, stop, DONE) == Ending(True, None, expected)
    doc = b'{"choices":[{"finish_reason":"length"}],' + timings + b',"usage":{"prompt_tokens":20,"completion_tokens":7}}'
    assert document(Dialect.OPENAI, V1, doc).counters == expected


def test_counters_of_anthropic_come_from_both_ends() -> None:
    start = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":12,"output_tokens":0}}}\n\n'
    )
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}\n\n'
    last = b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}\n\n'
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    ending = ended("/v1/messages", start, *[delta] * 20, last, stop)
    assert ending == Ending(True, None, Counters(12, 4, done_reason="end_turn"))


def test_negative_figures_are_no_figures() -> None:
    ending = ended(CHAT, b'{"done":true,"eval_count":-1,"eval_duration":-5,"total_duration":10}\n')
    assert ending.counters is not None
    assert (ending.counters.output_tokens, ending.counters.decode) == (None, None)


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        (CHAT, [b'{"error":"it broke"}\n']),
        (CHAT, [b'{"err', b'or":"it broke"}']),
        (CHAT, [LINE_1, b'{"error":"it broke"}\n']),
        (CHAT, [LINE_1 + b'{"err', b'or":"it ', b'broke"}\n']),
        (CHAT, [LINE_1 + b'{"error":"it broke"}\n' + LINE_1]),
        (V1, [b'data: {"error":{"message":"it broke","type":"x"}}\n\n']),
        (V1, [CHUNK, b'data: {"error": {"message": "it broke"}}\n\n', DONE]),
        (V1, [CHUNK, b'data: {"err', b'or":{"message":"it broke"}}\n', b"\n"]),
        (V1, [CHUNK, b'error: {"message":"it broke"}\n\n']),
        ("/v1/messages", [b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"it broke"}}\n\n']),
        ("/v1/responses", [b'data: {"type":"response.failed","response":{"error":{"message":"it broke"}}}\n\n']),
    ],
)
def test_an_error_inside_a_200_is_seen(path: str, pieces: list[bytes]) -> None:
    watch, ending = watched(path, *pieces)
    assert ending.error == watch.error == "it broke"
    assert not ending.complete


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            CHAT,
            b'{"message":{"content":"{\\"error\\":1}","tool_calls":[{"function":{"arguments":{"error":"x"}}}]},"done":false}\n',
        ),
        (V1, b'data: {"error":null,"choices":[{"delta":{"content":"\\"error\\"","tool_calls":[{"error":"x"}]}}]}\n\n'),
    ],
)
def test_the_word_error_in_an_answer_is_no_error(path: str, text: bytes) -> None:
    tail = (END,) if path == CHAT else (STOP, DONE)
    assert ended(path, text, text, *tail).complete


@pytest.mark.parametrize(
    ("path", "first", "problem"),
    [
        (CHAT, b"<html>oops</html>\n", True),
        (CHAT, b"[1,2]\n", True),
        (CHAT, b'{"error":"x"}\n', True),
        (CHAT, b'{"model":"m","do', None),
        (CHAT, b"\n \n", None),
        (CHAT, LINE_1, False),
        (V1, b"<html>oops</html>\n\n", True),
        (V1, b'{"choices":[]}\n\n', True),
        (V1, b"data: {bad\n\n", True),
        (V1, b'data: {"error":"x"}\n\n', True),
        (V1, b": waiting\n\n", None),
        (V1, b'data: {"choices"', None),
        (V1, CHUNK, False),
        (V1, CHUNK.replace(b"\n", b"\r\n"), False),
        (V1, DONE, False),
    ],
)
def test_the_first_line_tells_whether_anything_may_be_passed_on(path: str, first: bytes, problem: bool | None) -> None:
    watch = watcher(dialect_of(path), path)
    watch.feed(first)
    assert (watch.first_ok, watch.problem is not None) == (problem is False, problem is True)


@pytest.mark.parametrize("path", [CHAT, V1])
def test_a_stream_of_nothing_is_not_complete(path: str) -> None:
    watch, ending = watched(path)
    assert not ending.complete and ending.error is None and not watch.first_ok


def test_openai_needs_both_the_finish_reason_and_the_end() -> None:
    assert ended(V1, CHUNK, STOP, DONE).complete
    assert not ended(V1, CHUNK, STOP).complete
    assert not ended(V1, CHUNK, DONE).complete
    assert ended(V1, *(piece.replace(b"\n", b"\r\n") for piece in (CHUNK, CHUNK, STOP, DONE))).complete
    assert ended(V1, CHUNK, STOP, DONE.strip()).complete


def context_line(tokens: int) -> bytes:
    numbers = ",".join(["12345"] * tokens)
    head = '{"model":"m","response":"","done":true,"done_reason":"length","context":['
    return f'{head}{numbers}],"total_duration":5000000000,"prompt_eval_count":7,"eval_count":9}}\n'.encode()


@pytest.mark.parametrize("tokens", [10, 2_000, 100_000, LINE // 4])
@pytest.mark.parametrize("size", [1_000, 65_536, 1 << 30])
def test_a_long_last_line_is_read_and_not_kept(tokens: int, size: int) -> None:
    line = context_line(tokens)
    watch = watcher(Dialect.OLLAMA, "/api/generate")
    watch.feed(LINE_1)
    for start in range(0, len(line), size):
        watch.feed(line[start : start + size])
    ending = watch.finish()
    assert ending.complete and ending.counters is not None
    assert (ending.counters.total, ending.counters.prompt_tokens, ending.counters.output_tokens) == (5.0, 7, 9)
    assert ending.counters.done_reason == "length"


def test_a_short_line_after_a_very_long_one_is_the_last() -> None:
    watch = watcher(Dialect.OLLAMA, "/api/generate")
    for piece in (LINE_1, *[b'{"response":"' if i == 0 else b"x" * 50_000 for i in range(30)], b'"}\n', END):
        watch.feed(piece)
    assert watch.finish().complete


def test_an_ordinary_line_after_a_long_last_one_is_no_end() -> None:
    long = context_line(LINE // 4)
    watch = watcher(Dialect.OLLAMA, "/api/generate")
    for start in range(0, len(long), 50_000):
        watch.feed(long[start : start + 50_000])
    watch.feed(LINE_1)
    assert not watch.finish().complete


def test_an_error_line_that_cannot_be_read_ends_nothing_well() -> None:
    assert not ended(CHAT, LINE_1, b'{"error":bad\n').complete


def test_an_event_without_end_is_not_kept() -> None:
    ending = ended(V1, CHUNK, *[b"x" * 50_000] * 50, b"\n\n", STOP, DONE)
    assert ending.complete


def test_an_endless_first_line_is_neither_good_nor_kept() -> None:
    watch, ending = watched(CHAT, *[b"x" * 50_000] * 50)
    assert not watch.first_ok and not ending.complete


@pytest.mark.parametrize(
    ("path", "body", "complete"),
    [
        (CHAT, b'{"message":{"content":"x"},"done":false}', False),
        (CHAT, b'{"error":"x"}', False),
        (CHAT, b"[]", False),
        (CHAT, b"", False),
        (CHAT, b'{"x":' + b"[" * 100_000, False),
        ("/api/embed", b'{"model":"m","embeddings":[]}', True),
        ("/api/embed", b'{"model":"m"}', False),
        ("/api/embed", b'{"model":"m","embeddings":null}', False),
        ("/api/embed", b'{"model":"m","embeddings":[[1,]]}', False),
        ("/api/embeddings", b'{"embedding":[]}', True),
        ("/api/pull", b'{"status":"success"}', True),
        ("/api/pull", b'{"status":"pulling"}', False),
        ("/api/show", b'{"modelfile":""}', True),
        (V1, b'{"choices":[]}', False),
        (V1, b'{"error":{"message":"x"}}', False),
        (V1, b'{"choices":[{"message":{"content":"x"}}]}', True),
        ("/v1/embeddings", b'{"data":[]}', True),
        ("/v1/embeddings", b'{"object":"list"}', False),
        ("/v1/models", b'{"data":[]}', True),
        ("/v1/rerank", b'{"results":[]}', True),
        ("/v1/responses", b'{"status":"in_progress"}', False),
        ("/v1/messages", b'{"type":"message"}', True),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_documents(path: str, body: bytes, complete: bool) -> None:
    assert document(dialect_of(path), path, body).complete is complete


@given(st.sampled_from([CHAT, "/api/pull", V1, "/v1/messages", "/v1/responses"]), st.lists(st.binary(max_size=30), max_size=10))
def test_rubbish_is_never_complete(path: str, pieces: list[bytes]) -> None:
    assert not ended(path, *pieces).complete


@pytest.mark.parametrize("share", [1, 3])
def test_the_last_event_of_a_response_may_be_as_long_as_the_answer(share: int) -> None:
    """It repeats all that was said; its end is known without it, and so are its counts."""
    usage = b'"usage":{"input_tokens":22,"output_tokens":9}'
    long = (
        b'{"type":"response.completed","response":{"status":"completed","error":null,"output":"' + b"x" * 60_000 + b'",' + usage
    )
    body = b'data: {"type":"response.created","response":{}}\n\nevent: response.completed\ndata: ' + long + b"}}\n\n"
    pieces = [body[at : at + len(body) // share + 1] for at in range(0, len(body), len(body) // share + 1)]
    ending = ended("/v1/responses", *pieces)
    assert ending.complete and ending.error is None
    assert ending.counters is not None and ending.counters.output_tokens == 9
    assert not ended("/v1/responses", body[:-40]).complete
