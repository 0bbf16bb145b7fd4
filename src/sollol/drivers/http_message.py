"""The head of a request as a node gets it, and which headers of a reply go on."""

from __future__ import annotations

from collections.abc import Sequence

from sollol.core.ports import Header, Headers, Outgoing
from sollol.core.types import Node

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
    endpoint = node.endpoint
    line = f"{request.method} {endpoint.base}{request.target} HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
    parts = [line.encode("ascii"), _framing(request)]
    named = _named_by_connection(request.headers)
    for name, value in request.headers:
        low = name.lower()
        if low in _OWN_REQUEST_HEADERS or low in named or (low == b"authorization" and node.api_key):
            continue
        parts.append(b"%b: %b\r\n" % (name, value))
    if node.api_key:
        parts.append(b"Authorization: Bearer %b\r\n" % node.api_key.encode())
    parts.append(b"\r\n")
    head = b"".join(parts)
    lines = len(parts) + bool(parts[1])  # the first part has two lines, the second one or none
    if head.count(b"\n") != lines or head.count(b"\r") != lines or line.count(" ") != 3:
        raise ValueError("a space in the target, or a line break in the target or a header")
    return head


def _framing(request: Outgoing) -> bytes:
    if request.upload:
        if request.length is None:
            return b"Transfer-Encoding: chunked\r\n"
        return b"Content-Length: %d\r\n" % request.length
    if request.body or request.method in _BODY_METHODS:
        return b"Content-Length: %d\r\n" % len(request.body)
    return b""


def passed_on(headers: Sequence[Header]) -> Headers:
    """The headers of a reply without those that are for this connection only."""
    named = _named_by_connection(headers)
    if named:
        return [header for header in headers if (low := header[0].lower()) not in _OWN_REPLY_HEADERS and low not in named]
    return [header for header in headers if header[0].lower() not in _OWN_REPLY_HEADERS]


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Headers that a Connection header declares to be for this hop only; names in lower case."""
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection" and value.lower() not in _USUAL_CONNECTION:
            break
    else:
        return frozenset()
    options = (value for name, value in headers if name.lower() == b"connection")
    return frozenset(option.strip().lower() for value in options for option in value.split(b","))
