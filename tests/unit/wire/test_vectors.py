"""Vectors read in bulk."""

from __future__ import annotations

import json

import pytest

from sollol.errors import BadReply
from sollol.wire.vectors import vectors


def test_numbers_are_floats_and_nothing_else_is_read():
    body = json.dumps({"model": "m", "embeddings": [[1, 0.5], [-2e-3, 0]], "total_duration": 5}).encode()
    found = vectors(body, 2, "a:1")
    assert found == [[1.0, 0.5], [-0.002, 0.0]]
    assert all(type(number) is float for vector in found for number in vector)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"embeddings": [[1.0]]}', "1 vectors for 2 texts"),
        (b'{"embeddings": [[1.0], [1.0], [1.0]]}', "3 vectors for 2 texts"),
        (b'{"embedding": [1.0]}', "no vectors"),
        (b'{"embeddings": [["a"], [1.0]]}', "no vectors"),
        (b'{"embeddings": [[1.0], [1.0]', "no vectors"),
        (b'{"embeddings": "\xff\xfe"}', "no vectors"),
        (b"", "no vectors"),
    ],
)
def test_anything_else_is_the_failure_of_the_node(body, text):
    with pytest.raises(BadReply, match=text) as failed:
        vectors(body, 2, "a:1")
    assert failed.value.node == "a:1"
