"""What a node's error reply means: the request's own fault (None), or a failure that may be tried elsewhere."""

from __future__ import annotations

from typing import Final

from sollol.errors import (
    BrokeMidStream,
    CannotCarry,
    LoadFailed,
    LoopDetected,
    ModelGone,
    NodeBusy,
    NodeError,
    NodeFailed,
    NodeLoading,
)
from sollol.wire import errors as wire_errors


def judge(node: str, status: int, body: bytes) -> NodeError | None:
    """The failure that `status` and `body` stand for, or None when the reply goes to the client as it is."""
    text = wire_errors.message(body) or f"status {status}"
    if status == 503:
        return NodeLoading(node, text) if wire_errors.loading(status, body) else NodeBusy(node, text)
    if status == 508:  # a gateway as a node: the request has been there, and that is nobody's failure
        return CannotCarry(node, LoopDetected(text))
    if status == 429:
        return NodeBusy(node, text)
    if wire_errors.model_gone(status, body):
        return ModelGone(node, text)
    if status == 408 or (status >= 500 and not wire_errors.request_fault(status, body)):
        load = wire_errors.load_failed(status, body)
        return LoadFailed(node, text, status, body) if load else NodeFailed(node, text, status, body)
    return None


_OUTCOMES: Final[tuple[tuple[type[NodeError], str], ...]] = (
    (NodeLoading, "loading"),
    (NodeBusy, "busy"),
    (ModelGone, "model-gone"),
    (LoadFailed, "load-failed"),
    (CannotCarry, "cancelled"),
)


def outcome_of(error: NodeError | BrokeMidStream | None) -> str:
    """The word for `AttemptEnded.outcome`; the more special class first."""
    if error is None:
        return "ok"
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "failed")
