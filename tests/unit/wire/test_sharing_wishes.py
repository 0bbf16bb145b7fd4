"""What the look at a request finds of determinism, and what clients may ask of caching and hedging."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from sollol.errors import BadRequest
from sollol.wire.control import control, oldest
from sollol.wire.requests import read
from sollol.wire.routing import recalled

SAY = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "m", "messages": SAY}


@pytest.mark.parametrize(
    ("options", "repeatable"),
    [
        (None, False),
        ({}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": -0.0}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": "0"}, False),
        ({"temperature": False}, False),
        ({"temperature": None}, False),
        ({"temperature": [0] * 30}, False),
        ({"seed": 0}, True),
        ({"seed": 7, "temperature": 1}, True),
        ({"seed": -1}, False),
        ({"seed": 2**32 - 1}, False),
        ({"seed": 10**30}, False),
        ({"seed": 1.5}, False),
        ({"seed": True}, False),
        ({"seed": "7"}, False),
    ],
    ids=str,
)
def test_the_choice_of_words_is_fixed(options: dict[str, Any] | None, repeatable: bool) -> None:
    native = {"options": options} if options is not None else {}
    assert look("/api/chat", {**CHAT, **native}) is repeatable
    assert look("/api/generate", {"model": "m", "prompt": "Hi", **native}) is repeatable
    assert look("/v1/chat/completions", {**CHAT, **(options or {})}) is repeatable


@pytest.mark.parametrize(
    ("path", "body", "repeatable"),
    [
        ("/api/embed", {"model": "m", "input": "Hi"}, True),
        ("/api/embed", {"model": "m", "input": []}, False),
        ("/api/embed", {"model": "m", "input": "Hi", "keep_alive": 0}, False),
        ("/api/embed", {"model": "m", "input": "Hi", "keep_alive": "5m"}, True),
        ("/api/embeddings", {"model": "m", "prompt": "Hi"}, True),
        ("/v1/embeddings", {"model": "m", "input": "Hi"}, True),
        ("/api/chat", {"model": "m", "messages": [], "options": {"seed": 1}}, False),
        ("/api/chat", {**CHAT, "options": {"seed": 1}, "keep_alive": 0}, False),
        ("/api/generate", {"model": "m", "options": {"seed": 1}}, False),
        ("/api/pull", {"model": "m"}, False),
    ],
    ids=str,
)
def test_what_can_be_repeated(path: str, body: dict[str, Any], repeatable: bool) -> None:
    assert look(path, body) is repeatable


def look(path: str, body: dict[str, Any]) -> bool:
    return read(path, json.dumps(body).encode()).repeatable


@pytest.mark.parametrize(
    ("value", "age"),
    [
        (b"", math.inf),
        (b"no-transform", math.inf),
        (b"no-store", None),
        (b"max-age=5, No-Store", None),
        (b"no-cache", 0.0),
        (b"max-age=60", 60.0),
        (b"MAX-AGE=60,max-age=5", 5.0),
        (b"max-age=x", math.inf),
        (b"max-age=" + b"9" * 13, math.inf),
    ],
)
def test_how_old_an_answer_may_be(value: bytes, age: float | None) -> None:
    assert oldest(value) == age


def test_wishes() -> None:
    assert [control([(b"x-sollol-cache", word)]).cache for word in (b"Yes", b"no", b"1", b"off")] == [True, False, True, False]
    assert [control([(b"x-sollol-hedge", word)]).hedge for word in (b"1", b"4")] == [1, 4]
    assert (control([]).cache, control([]).hedge) == (None, None)


@pytest.mark.parametrize(("name", "value"), [("Cache", "perhaps"), ("Hedge", "0"), ("Hedge", "5"), ("Hedge", "10")])
def test_wishes_that_make_no_sense(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"X-SOLLOL-{name}"):
        control([(f"X-SOLLOL-{name}".encode(), value.encode())])


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"text":"\\"_sollol_routing\\": 1"}', b'{"a":1,"_sollol_routing":1}', b'{"a":1,"_sollol_routing":{"b":}'],
)
def test_a_body_without_details_stays_as_it_is(body: bytes) -> None:
    assert recalled(body) == body


def test_details_of_a_kept_answer() -> None:
    body = b'{"n":1}\n{"done":true,"_sollol_routing":{"host":"h:1","attempts":2,"queue_ms":9.0}}\n'
    first, last = (json.loads(line) for line in recalled(body).splitlines())
    assert first == {"n": 1}
    assert last["done"] is True
    told = last["_sollol_routing"]
    assert (told["host"], told["attempts"], told["queue_ms"], told["cache"]) == ("h:1", 0, 0.0, "hit")
