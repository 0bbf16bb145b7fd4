"""Is this head one that we serve? llhttp has checked its letters; here is what llhttp lets through and we do not."""

from __future__ import annotations

from typing import Any

from sollol.core.ports import Header
from sollol.errors import BadRequest, Unsupported

METHODS = {name.encode(): name for name in ("GET", "POST", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS")}
"""The methods that anything here answers."""
_LENGTH = b"content-length"


class Head:
    """The headers of one request as they came (``raw``) and with their names in lower case, as a list and as a dict."""

    __slots__ = ("_place", "headers", "index", "notes", "raw")

    def __init__(self, raw: list[Header]) -> None:
        self.raw = raw
        self.headers = [(name.lower(), value.rstrip()) for name, value in raw]
        self.index = dict(self.headers)
        self.notes: dict[str, Any] = {}
        self._place = next((place for place, header in enumerate(self.headers) if header[0] == _LENGTH), -1)

    def again(self, raw: list[Header]) -> Head | None:
        """The head with these headers if they are the same but for the Content-Length; it shares the notes."""
        if raw == self.raw:
            return self
        place = self._place
        if place < 0 or len(raw) != len(self.raw) or raw[place][0] != self.raw[place][0]:
            return None
        old, length = self.raw, raw[place]
        if raw[:place] != old[:place] or raw[place + 1 :] != old[place + 1 :]:
            return None
        head = Head.__new__(Head)
        head.raw, head._place, head.notes = raw, place, self.notes
        header = (_LENGTH, length[1].rstrip())
        head.headers = [*self.headers[:place], header, *self.headers[place + 1 :]]
        head.index = {**self.index, _LENGTH: header[1]}
        return head


def next_head(raw: list[Header], before: Head | None) -> Head:
    """The head with these headers, on a connection where ``before`` was the last one."""
    return (before.again(raw) if before is not None else None) or Head(raw)


def body_length(headers: list[Header], index: dict[bytes, bytes], version: str) -> int | None:
    """Bytes of the body that follows, None if it comes in chunks.

    `headers` have lower-case names, `index` is the same as a dict. Raises `BadRequest` or `Unsupported`. Doubled or
    non-numeric lengths, and a length beside chunked, llhttp has refused before this is asked.
    """
    if version not in ("1.1", "1.0"):
        raise BadRequest("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if b"host" not in index and version == "1.1":
        raise BadRequest("a Host header is needed")
    if len(index) != len(headers) and sum(name == b"host" for name, _ in headers) > 1:
        raise BadRequest("there must be one Host header")
    if b"transfer-encoding" not in index:
        return int(index.get(b"content-length", b"0"))
    if index[b"transfer-encoding"].lower() != b"chunked":
        raise Unsupported("the only transfer coding that is understood is chunked")
    if version == "1.0":
        raise BadRequest("HTTP/1.0 has no chunked bodies")
    return None


def origin_form(url: bytes, headers: list[Header], method: str) -> tuple[bytes, list[Header]]:
    """The target as path and query. Of an absolute one the authority replaces the Host header, as HTTP demands.

    Raises `BadRequest` for what is neither. Returns the target, and the headers that go with it.
    """
    if url[:7].lower() == b"http://" or url[:8].lower() == b"https://":
        rest = url[url.index(b"//") + 2 :]
        end = min(at for at in (rest.find(b"/"), rest.find(b"?"), len(rest)) if at >= 0)
        authority, url = rest[:end], rest[end:]
        if url[:1] != b"/":
            url = b"/" + url
        headers = [(b"host", authority) if header[0] == b"host" else header for header in headers]
    elif url[:1] != b"/" and not (url == b"*" and method == "OPTIONS"):
        raise BadRequest("the target of the request is not understood")
    return url.partition(b"#")[0], headers
