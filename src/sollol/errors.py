"""Every error that SOLLOL raises, in one tree.

::

    SollolError
    ├── ConfigError            (ValueError)    a setting is unknown, of a wrong type or out of range
    ├── PortTaken                              the gateway's port is in use
    ├── RequestError                           the request itself cannot be served
    │   ├── BadRequest                  400    malformed JSON, wrong type, missing field
    │   │   └── BadValue                400    (ValueError) an argument of a call in Python
    │   ├── Unsupported                 501    nothing here can do that
    │   ├── Untranslatable              400    the node's dialect has no words for what was asked
    │   ├── RequestTimeout              408    headers or body came too slowly
    │   ├── BodyTooLarge                413
    │   ├── HeadersTooLarge             431
    │   ├── Unauthorized                401
    │   ├── Forbidden                   403
    │   ├── Conflict                    409    what was asked for exists already
    │   ├── LoopDetected                508    the request went round through gateways
    │   └── NoNodeForModel              404    (LookupError) no known node has the model, down ones counted
    ├── CannotServe                            a good request that this cluster cannot answer now
    │   ├── NoNodes                     503    (RuntimeError) no node is known, or none is reachable
    │   ├── QueueFull                   503
    │   ├── ShuttingDown                503
    │   ├── DeadlineExceeded            504    (TimeoutError)
    │   └── AllAttemptsFailed           502    (RuntimeError) names every node tried; 503 if every one was busy
    ├── NodeError                              one attempt on one node failed
    │   ├── NodeUnreachable             502    refused, no route, or no connection in time
    │   ├── NodeClosed                  502    the connection ended before the reply was complete
    │   ├── NodeBusy                    503    the node itself said 503
    │   │   └── NodeLoading             503    ... because it loads its model: a state, not a failure
    │   ├── NodeFailed                  502    another 5xx
    │   │   └── LoadFailed              502    ... because it could not load the model
    │   ├── ModelGone                   404    the catalogue said yes, the node says no
    │   ├── CannotCarry                 400    what was asked cannot be said in the node's dialect
    │   ├── BadReply                    502    broken framing or broken JSON
    │   └── NodeSilent                  504    no progress
    ├── BrokeMidStream                  502    failed after part of the answer had been sent on
    ├── BatchError                      502    (RuntimeError) some items of a batch have no result
    └── ClientGone                             the client left; nobody reads this

``status`` is the HTTP status at the door. ``retry_elsewhere`` says whether another node may be tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final


class SollolError(Exception):
    """Root of the tree."""

    status = 500
    retry_elsewhere = False


class ConfigError(SollolError, ValueError):
    """A setting is unknown, has the wrong type or is out of range; the text names its path and where it came from."""


class PortTaken(SollolError, OSError):
    """The address that the gateway should listen on is in use."""


class RequestError(SollolError):
    """The request itself cannot be served; trying again unchanged will not help."""

    status = 400


class BadRequest(RequestError):
    """Malformed JSON, a wrong type, a missing field."""


class BadValue(BadRequest, ValueError):
    """An argument of a call in Python has a wrong type or is out of range; nothing was sent."""


class Unsupported(RequestError):
    """Nothing in this cluster can do what was asked."""

    status = 501


class Untranslatable(RequestError):
    """What was asked changes the answer and cannot be said in the dialect of the nodes that have the model."""


class RequestTimeout(RequestError):
    """The headers, or the next byte of the body, did not come in time."""

    status = 408


class BodyTooLarge(RequestError):
    """The body is over the configured limit."""

    status = 413


class HeadersTooLarge(RequestError):
    """The request line and headers are over the configured limit."""

    status = 431


class Unauthorized(RequestError):
    """Keys are on and none, or a wrong one, was sent."""

    status = 401


class Forbidden(RequestError):
    """The key, origin or host may not do this."""

    status = 403


class Conflict(RequestError):
    """What was asked for exists already; the text says as what."""

    status = 409


class LoopDetected(RequestError):
    """The request came back to a gateway that it went through already, or went through too many."""

    status = 508


class NoNodeForModel(RequestError, LookupError):
    """No known node has this model (nodes that are down count). Pull it on a node: ``ollama pull MODEL``."""

    status = 404

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"model '{model}' not found")


class CannotServe(SollolError):
    """A good request that this cluster cannot answer now. ``retry_after`` is in seconds.

    Where the request stood in the queue: ``queued`` seconds in it (None: it was not there), ``position`` from 1 when it came,
    ``why`` it waited.
    """

    status = 503
    queued: float | None = None
    position: int = 0
    why: str = ""

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(text)


class NoNodes(CannotServe, RuntimeError):
    """No node is known, or none that could serve is reachable."""


class QueueFull(CannotServe):
    """The waiting line is full and this request was last in order."""


class ShuttingDown(CannotServe):
    """The gateway is stopping and takes nothing new."""


class DeadlineExceeded(CannotServe, TimeoutError):
    """The request's own deadline passed, or can no longer be met."""

    status = 504


class NodeError(SollolError):
    """One attempt on one node failed. ``node`` is the node's id, ``text`` what happened there."""

    status = 502
    retry_elsewhere = True

    def __init__(self, node: str, text: str) -> None:
        self.node = node
        self.text = text
        super().__init__(f"{node}: {text}")


class NodeUnreachable(NodeError):
    """Refused, no route to the host, or no connection within the connect time-out."""


class NodeClosed(NodeError):
    """The connection ended before the reply was complete."""


class NodeBusy(NodeError):
    """The node answered 503."""

    status = 503


class NodeLoading(NodeBusy):
    """The node is up and loads its model."""


class NodeFailed(NodeError):
    """The node answered another 5xx; ``node_status`` and ``body`` are what it said."""

    def __init__(self, node: str, text: str, node_status: int = 500, body: bytes = b"") -> None:
        self.node_status = node_status
        self.body = body
        super().__init__(node, text)


class LoadFailed(NodeFailed):
    """The node could not load the model; counts against this model on this node only."""


class ModelGone(NodeError):
    """The catalogue said that the node has the model; the node says 404."""

    status = 404


class CannotCarry(NodeError):
    """The request holds something that cannot be said in the node's dialect; ``refusal`` is what the client is told."""

    status = 400

    def __init__(self, node: str, refusal: RequestError) -> None:
        self.refusal = refusal
        super().__init__(node, str(refusal))


class BadReply(NodeError):
    """Broken HTTP framing, or broken JSON where JSON is due."""


class NodeSilent(NodeError):
    """No progress for longer than the stall rule allows."""

    status = 504


class AllAttemptsFailed(CannotServe, RuntimeError):
    """Every node that could be tried failed; ``attempts`` holds (node, error) in the order tried."""

    status = 502

    def __init__(self, attempts: Sequence[NodeError], retry_after: float | None = None) -> None:
        self.attempts = tuple((error.node, error) for error in attempts)
        if attempts and all(isinstance(error, NodeBusy) for error in attempts):
            self.status = 503
            retry_after = retry_after or 1.0
        super().__init__("all nodes failed: " + "; ".join(str(error) for error in attempts), retry_after)


class BrokeMidStream(SollolError):
    """The node failed after part of the answer had been sent on."""

    status = 502

    def __init__(self, node: str, text: str) -> None:
        self.node = node
        self.text = text
        super().__init__(f"{node} failed in the middle of the answer: {text}")


_TOLD: Final = 3


class BatchError(SollolError, RuntimeError):
    """Some items of a batch have no result. ``errors`` is why, by index; ``results`` are those of the others.

    ``results`` is what the call would have returned, with None (in an array: nan) in the places of the items that failed.
    """

    status = 502

    def __init__(self, errors: Mapping[int, SollolError], results: Any = (), total: int | None = None) -> None:
        self.errors = dict(sorted(errors.items()))
        self.results = results
        told = [f"item {index}: {error}" for index, error in list(self.errors.items())[:_TOLD]]
        more = len(self.errors) - len(told)
        of = "" if total is None else f" of {total}"
        text = f"{len(self.errors)}{of} items failed: " + "; ".join(told) + (f"; and {more} more" if more else "")
        super().__init__(text)


class ClientGone(SollolError):
    """The client closed its connection."""

    status = 499
