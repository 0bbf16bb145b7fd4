"""Replies of embedding requests, read in bulk: nothing but the numbers."""

from __future__ import annotations

from typing import Final

import msgspec

from sollol.errors import BadReply


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]]


_decode: Final = msgspec.json.Decoder(_Vectors).decode


def vectors(body: bytes, count: int, node: str) -> list[list[float]]:
    """The ``count`` vectors of a reply of /api/embed. Raises `BadReply` if that is not what it holds."""
    try:
        found = _decode(body).embeddings
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadReply(node, f"no vectors: {error}") from None
    if len(found) != count:
        raise BadReply(node, f"{len(found)} vectors for {count} texts")
    return found
