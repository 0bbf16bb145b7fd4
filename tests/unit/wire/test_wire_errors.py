import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sollol.core.types import Dialect
from sollol.errors import (
    AllAttemptsFailed,
    BadRequest,
    BodyTooLarge,
    NodeBusy,
    NoNodeForModel,
    NoNodes,
    QueueFull,
    Unauthorized,
)
from sollol.wire.errors import error_body, load_failed, loading, message, model_gone, request_fault, stream_ending, told

RECORDED = json.loads((Path(__file__).parents[2] / "data/wire/errors.json").read_text())
SORTS = {"request_fault": request_fault, "load_failed": load_failed, "unknown_model": model_gone}
CASES = [
    (sort, case)
    for sort in (*SORTS, "passed_on")
    for case in RECORDED[sort]
    if case["reply"] != '{"error":"invalid model name"}'
]


@pytest.mark.parametrize(("sort", "case"), CASES, ids=lambda value: value if isinstance(value, str) else value["name"])
def test_recorded_errors_are_sorted_right(sort: str, case: dict[str, Any]) -> None:
    found = {name for name, judge in SORTS.items() if judge(case["status"], case["reply"].encode())}
    assert found == ({sort} if sort in SORTS else set())


@pytest.mark.parametrize(
    ("status", "body", "gone"),
    [
        (404, b"404 page not found", False),
        (404, b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","code":404}}', True),
        (400, b'{"error":"model \'x\' not found"}', False),
        (404, b"", False),
    ],
)
def test_a_404_is_about_the_model_or_about_the_path(status: int, body: bytes, gone: bool) -> None:
    assert model_gone(status, body) is gone


def test_llamacpp_says_that_it_loads() -> None:
    body = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
    assert loading(503, body) and not loading(500, body)
    assert not loading(503, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}')
    assert not load_failed(503, body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":"plain"}', "plain"),
        (b'{"error":{"message":"inner","code":400}}', "inner"),
        (b'{"type":"error","error":{"type":"x","message":"a"}}', "a"),
        (b'{"object":"error","message":"vllm","code":404}', "vllm"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["body"]}]}', '[{"loc":["body"]}]'),
        (b'{"error":{"code":5}}', '{"code":5}'),
        (b'{"error":null,"message":"m"}', "m"),
        (b'{"x":1}', '{"x":1}'),
        (b"[1]", "[1]"),
        (b" 502 Bad Gateway\n", "502 Bad Gateway"),
        (b"\xff", "\ufffd"),
        (b"", ""),
        (b'{"error":' + b"[" * 50_000, '{"error":' + "[" * 4087),
    ],
)
def test_the_words_of_an_error_reply(body: bytes, text: str) -> None:
    assert message(body) == text


@pytest.mark.parametrize(
    ("dialect", "error", "status", "body"),
    [
        (Dialect.OLLAMA, BadRequest("no"), 400, {"error": "no"}),
        (
            Dialect.OPENAI,
            BadRequest("no"),
            400,
            {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}},
        ),
        (
            Dialect.OPENAI,
            Unauthorized("k"),
            401,
            {"error": {"message": "k", "type": "authentication_error", "param": None, "code": None}},
        ),
        (Dialect.OPENAI, QueueFull("q"), 503, {"error": {"message": "q", "type": "api_error", "param": None, "code": None}}),
        (Dialect.ANTHROPIC, BodyTooLarge("b"), 413, {"type": "error", "error": {"type": "request_too_large", "message": "b"}}),
        (Dialect.ANTHROPIC, NoNodes("n"), 503, {"type": "error", "error": {"type": "overloaded_error", "message": "n"}}),
    ],
)
def test_shapes(dialect: Dialect, error: Any, status: int, body: Any) -> None:
    found, headers, sent = error_body(dialect, error)
    assert (found, msgspec.json.decode(sent)) == (status, body)
    assert dict(headers)[b"content-type"].startswith(b"application/json")


def test_anthropic_shows_a_request_id_where_there_is_one() -> None:
    _, _, sent = told(Dialect.ANTHROPIC, 400, "x", request_id="req_1")
    assert msgspec.json.decode(sent)["request_id"] == "req_1"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (QueueFull("q", 2.2), b"3"),
        (QueueFull("q"), b"1"),
        (NoNodes("n", 0.01), b"1"),
        (NoNodes("n", float("inf")), b"1"),
        (AllAttemptsFailed([NodeBusy("a", "busy")]), b"1"),
        (BadRequest("x"), None),
    ],
)
def test_retry_after(error: Any, seconds: bytes | None) -> None:
    assert dict(error_body(Dialect.OLLAMA, error)[1]).get(b"retry-after") == seconds


@pytest.mark.parametrize(
    "name", ["qwen3:32b", "library/x", "hf.co/bartowski/Llama-3.2-1B:Q4_K_M", "host:5000/ns/m:t", "a.b-c_d"]
)
def test_names_that_ollama_takes_are_unknown_models(name: str) -> None:
    assert error_body(Dialect.OLLAMA, NoNodeForModel(name), "/api/chat")[0] == 404


@pytest.mark.parametrize("name", ["a b", "x" * 81, "a/b/c/d/e", "..bad..//", "é"])
def test_names_that_ollama_refuses(name: str) -> None:
    status, _, body = error_body(Dialect.OLLAMA, NoNodeForModel(name), "/api/chat")
    assert (status, body) == (400, b'{"error":"invalid model name"}')
    assert error_body(Dialect.OPENAI, NoNodeForModel(name), "/v1/completions")[0] == 404


def test_the_end_of_a_stream_that_broke() -> None:
    assert stream_ending(Dialect.OLLAMA, 'a "b"') == b'{"error":"a \\"b\\""}\n'
    openai = stream_ending(Dialect.OPENAI, "x")
    assert openai.startswith(b'data: {"error":{"message":"x"') and openai.endswith(b"}\n\n") and b"[DONE]" not in openai
    assert stream_ending(Dialect.RESPONSES, "x").startswith(b'event: error\ndata: {"type":"error","code":"server_error"')
    assert stream_ending(Dialect.ANTHROPIC, "x").startswith(b'event: error\ndata: {"type":"error","error":')
