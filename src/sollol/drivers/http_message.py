"""The head of a request as a node gets it, and which headers of a reply go on."""

from __future__ import annotations

from functools import lru_cache

from sollol.core.ports import Header, Headers, Outgoing
from sollol.core.types import Endpoint, Node

_OWN_REPLY_HEADERS = frozenset(
    b"content-length transfer-encoding connection keep-alive proxy-connection proxy-authenticate trailer upgrade".split()
)
_OWN_REQUEST_HEADERS = _OWN_REPLY_HEADERS | frozenset(b"host te expect proxy-authorization http2-settings".split())
_USUAL_CONNECTION = frozenset((b"keep-alive", b"close"))
_BODY_METHODS = frozenset(("POST", "PUT", "PATCH"))


def request_head(node: Node, request: Outgoing) -> bytes:
    """The request line and headers; hop-by-hop headers are left out, Host and the framing are ours.

    Raises ValueError for a space in the target or a line break anywhere: a bug of the caller that would change the framing.
    """
    # A client's headers mostly come again as the same tuple, so what stands before the length is worked out once.
    known = _known_start if type(request.headers) is tuple else _start
    framing = _framing(request)
    start = known(node.endpoint, node.api_key, request.method, request.target, request.headers)
    return start + framing + b"\r\n\r\n" if framing else start + b"\r\n"


def _start(endpoint: Endpoint, key: str | None, method: str, target: str, headers: Headers) -> bytes:
    """The head up to the framing, ending with a line break."""
    start = f"{method} {endpoint.base}{target} HTTP/1.1\r\nHost: {endpoint.authority}"
    lines = [start.encode("ascii")]
    own = _OWN_REQUEST_HEADERS | {b"authorization"} if key else _OWN_REQUEST_HEADERS
    for header in headers:
        low = header[0].lower()
        if low not in own:
            lines.append(b": ".join(header))
        elif low == b"connection" and header[1].lower() not in _USUAL_CONNECTION:
            own = own | _options(header[1])
            lines[1:] = [line for line in lines[1:] if line[: line.index(b":")].lower() not in own]
    if key:
        lines.append(b"Authorization: Bearer " + key.encode())
    lines.append(b"")
    head = b"\r\n".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines) or start.count(" ") != 3:
        raise ValueError("a space in the target, or a line break in the target or a header")
    return head


_known_start = lru_cache(maxsize=128)(_start)


def _framing(request: Outgoing) -> bytes:
    if request.upload:
        return b"Transfer-Encoding: chunked" if request.length is None else b"Content-Length: %d" % request.length
    if request.body or request.method in _BODY_METHODS:
        return b"Content-Length: %d" % len(request.body)
    return b""


def passed_on(headers: list[Header], index: dict[bytes, bytes]) -> Headers:
    """The headers of a reply without those that are for this connection only. `index`: the same, names in lower case."""
    own = _OWN_REPLY_HEADERS
    if b"connection" in index and index[b"connection"].lower() not in _USUAL_CONNECTION:
        own = own.union(*(_options(value) for name, value in headers if name.lower() == b"connection"))
    return [header for header in headers if header[0].lower() not in own]


def _options(connection: bytes) -> frozenset[bytes]:
    """Headers that a Connection header declares to be for this hop only; names in lower case."""
    return frozenset(option.strip().lower() for option in connection.split(b","))
