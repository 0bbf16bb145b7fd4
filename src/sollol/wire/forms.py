"""The text fields of a form (multipart/form-data) that is passed on: read, and changed, without touching its files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from sollol.errors import BadRequest

from .bodies import with_model

MOST_TEXT: Final = 4096
_NAME: Final = re.compile(rb'(?:^|[;\s])name="([^"\r\n]*)"', re.IGNORECASE)
_FILE: Final = re.compile(rb"(?:^|[;\s])filename\*?=", re.IGNORECASE)
_BOUNDARY: Final = re.compile(rb"--[^\r\n]{1,200}\r\n")


def texts(body: bytes, names: Collection[str]) -> dict[str, str]:
    """The fields of those names that are no files. Raises `BadRequest` where the body is no form."""
    return {name: body[start:end].decode("utf-8", "replace") for name, start, end in _fields(body) if name in names}


def with_text(body: bytes, name: str, value: str) -> bytes:
    """The same form with another value in one of its fields; `body` is one that `texts` read."""
    for found, start, end in _fields(body):
        if found == name:
            return body[:start] + value.encode() + body[end:]
    return body


def _fields(body: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of the value of each field that is no file. The first line says what stands between the parts."""
    first = _BOUNDARY.match(body)
    if first is None:
        raise BadRequest("the body must be a form: multipart/form-data with the fields model and file")
    between = b"\r\n" + first[0][:-2]
    at = first.end() - 2
    while True:
        start = body.find(b"\r\n\r\n", at)
        end = body.find(between, start + 2) if start >= 0 else -1
        if start < 0 or end < 0:
            return
        head = body[at:start]
        name = _NAME.search(head)
        if name is not None and _FILE.search(head) is None and end - start - 4 <= MOST_TEXT:
            yield name[1].decode("utf-8", "replace"), start + 4, max(end, start + 4)
        at = end + len(between)


def naming(body: bytes, model: str) -> bytes:
    """A request, in JSON or as a form, that names another model; the rest keeps its very bytes."""
    return with_text(body, "model", model) if body.startswith(b"--") else with_model(body, model)
