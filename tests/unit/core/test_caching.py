"""Which requests share an answer, and what becomes of the answers that are kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.core_cluster import a_task

from sollol.core.caching import EXACT_BODY, MOST_BODY, Answer, Bounds, Store, key, may_share
from sollol.core.types import Kind

BODY = b'{"model":"m","prompt":"Hi","options":{"temperature":0,"seed":1}}'


def of(body: bytes | dict[str, Any], path: str = "/api/generate", **fields: Any) -> bytes:
    fields.setdefault("stream", True)
    return key(path, body if isinstance(body, bytes) else json.dumps(body).encode(), **fields)


DIFFERENT = {
    "another prompt": b'{"model":"m","prompt":"Ho","options":{"temperature":0,"seed":1}}',
    "another model": b'{"model":"n","prompt":"Hi","options":{"temperature":0,"seed":1}}',
    "the model by another name": b'{"model":"m:latest","prompt":"Hi","options":{"temperature":0,"seed":1}}',
    "another seed": b'{"model":"m","prompt":"Hi","options":{"temperature":0,"seed":2}}',
    "an option more": b'{"model":"m","prompt":"Hi","options":{"temperature":0,"seed":1,"num_ctx":512}}',
    "a field more": b'{"model":"m","prompt":"Hi","options":{"temperature":0,"seed":1},"system":"Be"}',
    "a format": b'{"model":"m","prompt":"Hi","options":{"temperature":0,"seed":1},"format":"json"}',
    "a number as text": b'{"model":"m","prompt":"Hi","options":{"temperature":0,"seed":"1"}}',
    "a list for an object": b'{"model":"m","prompt":"Hi","options":[["temperature",0],["seed",1]]}',
    "a second one of a field": b'{"model":"m","prompt":"Ho","prompt":"Hi","options":{"temperature":0,"seed":1}}',
    "a field in another case": b'{"model":"m","prompt":"Hi","Prompt":"Hi","options":{"temperature":0,"seed":1}}',
}
SAME = {
    "another order": b'{"options":{"temperature":0,"seed":1},"prompt":"Hi","model":"m"}',
    "white space": b' { "model" : "m", "prompt" : "Hi", "options" : { "temperature" : 0, "seed" : 1 } }\n',
    "another way to write a letter": b'{"model":"m","prompt":"\\u0048i","options":{"temperature":0,"seed":1}}',
    "a priority": b'{"model":"m","prompt":"Hi","priority":9,"options":{"temperature":0,"seed":1}}',
    "a keep_alive": b'{"model":"m","prompt":"Hi","keep_alive":"5m","options":{"temperature":0,"seed":1}}',
    "stream, written out": b'{"model":"m","prompt":"Hi","stream":true,"options":{"temperature":0,"seed":1}}',
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_can_change_an_answer_changes_the_key(what: str) -> None:
    assert of(DIFFERENT[what]) != of(BODY)


@pytest.mark.parametrize("what", SAME)
def test_what_cannot_does_not(what: str) -> None:
    assert of(SAME[what]) == of(BODY)


def test_the_way_it_is_asked_is_part_of_the_key() -> None:
    others = {
        of(BODY, "/api/chat"),
        of(BODY, stream=False),
        of(BODY, details=True),
        of(BODY, headers=[(b"authorization", b"Bearer a")]),
        of(BODY, headers=[(b"authorization", b"Bearer b")]),
        of(BODY, headers=[(b"openai-organization", b"b")]),
    }
    assert len(others | {of(BODY)}) == 7


def test_headers_that_say_nothing_about_the_answer_do_not_count() -> None:
    noise = [(b"user-agent", b"x"), (b"accept", b"*/*"), (b"x-sollol-hops", b"1"), (b"x-forwarded-for", b"10.0.0.1")]
    assert of(BODY, headers=noise) == of(BODY)
    kept = [(b"authorization", b"Bearer a"), (b"x-team", b"b")]
    assert of(BODY, headers=[*kept, *noise]) == of(BODY, headers=kept[::-1])


def test_two_requests_that_a_case_blind_server_tells_apart_by_their_order() -> None:
    assert of(b'{"prompt":"a","Prompt":"b"}') != of(b'{"Prompt":"b","prompt":"a"}')
    assert of(b'{"system":"a","\xc5\xbfystem":"b"}') != of(b'{"\xc5\xbfystem":"b","system":"a"}')
    assert of(b'{"prompt":"a","Prompt":"b","prompt":"c"}') != of(b'{"prompt":"c","Prompt":"b"}')


@pytest.mark.parametrize(
    "body",
    [b'{"model":"m"', b"[1]", b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", b'{"a":' + b"9" * 5000 + b"}"],
    ids=["cut", "no object", "deep", "a long number"],
)
def test_bodies_that_cannot_be_taken_apart_are_the_same_byte_for_byte(body: bytes) -> None:
    assert of(body) == of(body)
    assert of(body) != of(body + b" ")


def test_half_a_surrogate_pair_is_no_obstacle() -> None:
    assert of(b'{"a":"\\ud800","b":1}') == of(b'{"b":1,"a":"\\ud800"}')


def test_long_bodies_are_the_same_byte_for_byte_and_too_long_ones_have_no_key() -> None:
    long = b'{"prompt":"' + b"a" * EXACT_BODY + b'","model":"m"}'
    assert of(long) == of(long)
    assert of(long) != of(long + b" ")
    assert of(b" " * (MOST_BODY + 1)) == b""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.text(), JSON, max_size=5)
IRRELEVANT = ("stream", "priority", "keep_alive")


def meaning(fields: dict[str, Any]) -> str:
    """What JSON says exactly: 1, 1.0 and true are three things."""
    return json.dumps({name: fields[name] for name in sorted(fields) if name not in IRRELEVANT})


@given(FIELDS, FIELDS)
def test_keys_are_equal_exactly_where_bodies_mean_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    names = {name.casefold() for name in one}, {name.casefold() for name in other}
    if len(names[0]) == len(one) and len(names[1]) == len(other):
        assert (of(one) == of(other)) == (meaning(one) == meaning(other))


@given(FIELDS, st.randoms(use_true_random=False))
def test_the_order_of_fields_does_not_matter(fields: dict[str, Any], chance: Any) -> None:
    names = list(fields)
    if len({name.casefold() for name in names}) == len(names):
        chance.shuffle(names)
        assert of({name: fields[name] for name in names}) == of(fields)


@pytest.mark.parametrize(
    ("asked", "fields", "may"),
    [
        (True, {}, True),
        (None, {}, False),
        (False, {}, False),
        (True, {"load_only": True}, False),
        (True, {"keep_alive": 0.0}, False),
        (True, {"keep_alive": 300.0}, True),
        (True, {"kind": Kind.OTHER}, False),
    ],
)
def test_whose_wish_can_be_met(asked: bool | None, fields: dict[str, Any], may: bool) -> None:
    assert may_share(a_task(1, **fields), asked) is may


# --- the store


def answer(body: bytes = b"x", at: float = 0.0, model: str = "m", digest: str = "d", **fields: Any) -> Answer:
    return Answer(200, ((b"content-type", b"text/plain"),), body, model, digest, at, **fields)


def test_an_answer_is_found_until_its_time_is_over() -> None:
    store = Store(Bounds(seconds=10.0))
    assert store.get(b"k", 0.0) is None
    assert store.put(b"k", answer(at=1.0))
    assert store.get(b"k", 11.0) == answer(at=1.0)
    assert store.get(b"k", 11.1) is None
    assert len(store) == 0 == store.bytes
    counts = store.counts
    assert (counts.hits, counts.misses, counts.expired, counts.stored) == (1, 2, 1, 1)
    assert counts.hit_rate == pytest.approx(1 / 3)


def test_a_client_may_want_a_fresher_one() -> None:
    store = Store()
    store.put(b"k", answer(at=0.0))
    assert store.get(b"k", 5.0, 4.9) is None
    assert store.get(b"k", 5.0, 5.0) is not None
    assert store.get(b"k", 0.0, 0.0) is None
    assert len(store) == 1


def test_an_answer_that_holds_no_more_goes() -> None:
    store = Store()
    store.put(b"k", answer())
    assert store.get(b"k", 1.0, holds=lambda kept: kept.digest == "e") is None
    assert (len(store), store.counts.outdated, store.bytes) == (0, 1, 0)


def test_the_one_that_was_used_longest_ago_goes_first() -> None:
    store = Store(Bounds(entries=2))
    for name in (b"a", b"b"):
        store.put(name, answer())
    store.get(b"a", 0.0)
    store.put(b"c", answer())
    assert [store.get(name, 0.0) is not None for name in (b"a", b"b", b"c")] == [True, False, True]
    assert store.counts.evicted == 1


def test_bytes_are_bounded_and_one_answer_does_not_drive_out_all() -> None:
    store = Store(Bounds(size=80_000))
    assert not store.put(b"long", answer(b"x" * 10_000))
    for number in range(100):
        assert store.put(b"%d" % number, answer(b"x" * 5_000))
    assert store.bytes <= 80_000
    assert len(store) == 14


def test_narrower_bounds_hold_at_once() -> None:
    store = Store()
    for number in range(5):
        store.put(b"%d" % number, answer())
    store.bounds = Bounds(entries=2)
    assert len(store) == 2
    assert store.bounds.entries == 2


def test_answers_go_with_their_model() -> None:
    store = Store()
    store.put(b"1", answer(model="m", digest="d"))
    store.put(b"2", answer(model="m", digest="e"))
    store.put(b"3", answer(model="n"))
    assert store.forget("m", unless=lambda kept: kept.digest == "e") == 1
    assert store.forget("nobody") == 0
    assert set(store.models) == {"m", "n"}
    assert store.forget("m") == 1
    assert set(store.models) == {"n"}
    assert store.clear() == 1
    assert (len(store), store.bytes, list(store.models)) == (0, 0, [])


def test_what_was_saved_comes_back_with_its_age() -> None:
    store = Store(Bounds(seconds=100.0))
    store.put(b"old", answer(b"old", at=0.0))
    store.put(b"new", answer(b"new", at=60.0, stream=True))
    other = Store(Bounds(seconds=100.0))
    assert other.restore(store.saved(90.0), 1_000.0) == 2
    assert other.get(b"old", 1_011.0) is None
    kept = other.get(b"new", 1_011.0)
    assert kept is not None
    assert (kept.body, kept.at, kept.stream) == (b"new", 970.0, True)
    assert Store(Bounds(seconds=50.0)).restore(store.saved(90.0), 0.0) == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 900), st.sampled_from("mn"), st.sampled_from(["put", "get", "forget"]))
    )
)
def test_the_books_are_right_whatever_happens(steps: list[tuple[int, int, str, str]]) -> None:
    store = Store(Bounds(entries=4, size=12_000, seconds=5.0))
    for now, (name, size, model, what) in enumerate(steps):
        if what == "put":
            store.put(b"%d" % name, answer(b"x" * size, float(now), model))
        elif what == "get":
            found = store.get(b"%d" % name, float(now))
            assert found is None or now - found.at <= 5.0
        else:
            store.forget(model)
        saved = store.saved(float(now))
        assert len(store) == len(saved) <= 4
        assert store.bytes == sum(len(one.body) + 500 for one in saved) <= 12_000
        assert set(store.models) == {one.model for one in saved}
