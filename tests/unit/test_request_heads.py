"""What one connection remembers of the headers of its last request."""

from __future__ import annotations

import pytest

from sollol.core.ports import Header
from sollol.gateway.framing import next_head

FIRST: list[Header] = [(b"Host", b"a:1"), (b"Content-Length", b"12"), (b"Authorization", b"Bearer one ")]
LOWER: list[Header] = [(b"host", b"a:1"), (b"content-length", b"12"), (b"authorization", b"Bearer one")]


def test_the_same_headers_again_share_everything() -> None:
    head = next_head(list(FIRST), None)
    assert (head.headers, head.index) == (LOWER, dict(LOWER))
    assert next_head(list(FIRST), head) is head


def test_another_length_shares_the_notes_only() -> None:
    head = next_head(list(FIRST), None)
    head.notes["key"] = "one"
    other = next_head([FIRST[0], (b"Content-Length", b"7 "), FIRST[2]], head)
    assert other.headers == [LOWER[0], (b"content-length", b"7"), LOWER[2]]
    assert other.index == dict(other.headers)
    assert other.notes == {"key": "one"}
    assert head.headers == LOWER
    third = next_head([FIRST[0], (b"Content-Length", b"8"), FIRST[2]], other)
    assert third.index[b"content-length"] == b"8"
    assert third.notes is head.notes


@pytest.mark.parametrize(
    "raw",
    [
        [*FIRST[:2], (b"Authorization", b"Bearer two")],
        [(b"Host", b"b:1"), *FIRST[1:]],
        [FIRST[0], (b"X-Length", b"12"), FIRST[2]],
        [FIRST[1], FIRST[0], FIRST[2]],
        FIRST[:2],
        [*FIRST, (b"X-Sollol-Mode", b"fast")],
        [],
    ],
)
@pytest.mark.parametrize("first", [FIRST, [FIRST[0], FIRST[2]]])
def test_anything_else_that_differs_is_looked_at_anew(raw: list[Header], first: list[Header]) -> None:
    head = next_head(list(first), None)
    head.notes["key"] = "one"
    other = next_head(raw, head)
    assert other.notes == {}
    assert other.headers == [(name.lower(), value.rstrip()) for name, value in raw]
