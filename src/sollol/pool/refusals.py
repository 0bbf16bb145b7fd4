"""What went wrong, as an exception: error replies and broken streams in the tree of `sollol.errors`."""

from __future__ import annotations

from typing import Final

from sollol.core.ports import Headers
from sollol.errors import (
    BadRequest,
    BodyTooLarge,
    BrokeMidStream,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NodeBusy,
    NodeFailed,
    NoNodeForModel,
    RequestError,
    SollolError,
    Unauthorized,
    Unsupported,
)
from sollol.wire import errors as wire_errors

_KINDS: Final[dict[int, type[RequestError]]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    405: Unsupported,
    409: Conflict,
    413: BodyTooLarge,
    501: Unsupported,
}
_BROKEN: Final = " failed in the middle of the answer: "


class Refused(RequestError):
    """A node refused the request with a status that has no class of its own; ``status`` is that one."""

    def __init__(self, text: str, status: int) -> None:
        self.status = status
        super().__init__(text)


def refusal(status: int, headers: Headers, body: bytes, model: str) -> SollolError:
    """The error that an answer with `status` stands for."""
    text = wire_errors.message(body) or body.decode("utf-8", "replace")[:500] or f"status {status}"
    if status == 404:
        return NoNodeForModel(model) if model and "not found" in text else Refused(text, status)
    if status == 504:
        return DeadlineExceeded(text)
    if status >= 500 and status not in _KINDS:
        return NodeBusy(_node(headers), text) if status == 503 else NodeFailed(_node(headers), text, status, body)
    known = _KINDS.get(status)
    return Refused(text, status) if known is None else known(text)


def broken(headers: Headers, text: str) -> BrokeMidStream:
    """The error of a stream that ended with an error line, or with none."""
    node, separator, rest = text.partition(_BROKEN)
    return BrokeMidStream(node, rest) if separator else BrokeMidStream(_node(headers), text)


def _node(headers: Headers) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == b"x-sollol-host"), "the node")
