"""Is this head one that we serve? llhttp has checked its letters; here is what llhttp lets through and we do not."""

from __future__ import annotations

from sollol.core.ports import Header
from sollol.errors import BadRequest, SollolError, Unsupported

_METHODS = {name.encode(): name for name in ("GET", "POST", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS")}
_VERSIONS = frozenset(("1.1", "1.0"))

HEADERS_READ = frozenset((b"content-length", b"transfer-encoding", b"host", b"expect"))
"""Headers that decide about framing or the connection; `check` needs them all, in the order they came."""


class Framing:
    """What the head says about its body. ``length`` is None when the body is chunked; ``error`` is why to refuse."""

    __slots__ = ("chunked", "error", "expects", "hosts", "length")

    def __init__(self) -> None:
        self.length: int | None = 0
        self.chunked = False
        self.expects = False
        self.hosts = 0
        self.error: SollolError | None = None

    def note(self, name: bytes, value: bytes) -> None:
        """One of `HEADERS_READ`. llhttp has refused doubled and non-numeric lengths, and a length beside chunked."""
        if name == b"host":
            self.hosts += 1
        elif name == b"content-length":
            self.length = int(value)
        elif name == b"expect":
            self.expects = value.lower() == b"100-continue"
        elif value.lower() == b"chunked":
            self.chunked, self.length = True, None
        else:
            self.error = Unsupported("the only transfer coding that is understood is chunked")


def method_of(name: bytes) -> str | None:
    """The method as text; None for one that nothing here answers."""
    return _METHODS.get(name)


def check(framing: Framing, method: str | None, version: str, url: bytes) -> None:
    """Raises the `SollolError` with which this head is refused, if it is."""
    if version not in _VERSIONS:
        raise BadRequest("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method is None:
        raise Unsupported("this method is not served")
    if framing.error is not None:
        raise framing.error
    if framing.chunked and version == "1.0":
        raise BadRequest("HTTP/1.0 has no chunked bodies")
    if framing.hosts > 1 or (framing.hosts == 0 and version == "1.1"):
        raise BadRequest("exactly one Host header is needed")
    if url[:1] != b"/" and not (url == b"*" and method == "OPTIONS"):
        raise BadRequest("the target of the request is not understood")


def origin_form(url: bytes, headers: list[Header]) -> bytes:
    """The target as path and query. Of an absolute one the authority replaces the Host header, as HTTP demands."""
    if url[:7].lower() == b"http://" or url[:8].lower() == b"https://":
        rest = url[url.index(b"//") + 2 :]
        end = min(at for at in (rest.find(b"/"), rest.find(b"?"), len(rest)) if at >= 0)
        authority, url = rest[:end], rest[end:]
        if url[:1] != b"/":
            url = b"/" + url
        headers[:] = [(b"host", authority) if header[0] == b"host" else header for header in headers]
    return url.partition(b"#")[0] if b"#" in url else url
