"""Everything that changes the state of the cluster or can be observed. ``at`` is the engine's clock in seconds.

Only `Engine.publish` hands these to `ClusterState.apply`; metrics, logs and dashboards subscribe to the same events.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .types import Counters, Decision, Model, Node, Progress, Survey, Task


@dataclass(frozen=True, slots=True)
class Event:
    """Root of all events."""

    at: float


# --- nodes


@dataclass(frozen=True, slots=True)
class NodeAdded(Event):
    """A node is known from now on; its state is `unknown` until it is looked at."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeChanged(Event):
    """Name, priority, slots, drain, key or address of a known node (same id) were changed."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeRemoved(Event):
    """The node is forgotten; what runs there goes on to its end."""

    node: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeSurveyed(Event):
    """A look at the node was answered."""

    node: str
    survey: Survey


@dataclass(frozen=True, slots=True)
class ProbeFailed(Event):
    """A look at the node failed. ``refused``: certain at once (refused, no route); else unanswered in time."""

    node: str
    refused: bool
    text: str


@dataclass(frozen=True, slots=True)
class HealthChanged(Event):
    """The state of a node changed; published by the engine after the event that caused it."""

    node: str
    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelLearned(Event):
    """More was found out about one model of a node (`/api/show`)."""

    node: str
    model: Model


# --- requests


@dataclass(frozen=True, slots=True)
class TaskArrived(Event):
    """A request was taken in and may have to wait."""

    task: Task


@dataclass(frozen=True, slots=True)
class TaskRefused(Event):
    """A request was turned away before it ran."""

    task: Task
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class TaskLeft(Event):
    """A waiting request's client left, or its deadline passed, before it was sent."""

    task: Task
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """The request goes to a node now. ``progress`` is counted up by the relay and read by the forecast of remaining work."""

    decision: Decision
    progress: Progress


@dataclass(frozen=True, slots=True)
class FirstToken(Event):
    """The first byte of the answer's body came."""

    task: Task
    node: str


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """The attempt is over, however it ended.

    ``outcome``: "ok"; "client-error" (the node refused the request itself: passed on, not the node's fault); "busy" (503);
    "failed" (counts against the node); "model-gone"; "load-failed" (counts against node and model); "cancelled" (client gone,
    hedge lost); "withdrawn" (a provisional failure that turned out to be the request's fault). ``sent`` is true when body bytes
    had gone on to the client. ``native`` is true when the counters are Ollama's own (they carry slot and load times).
    """

    task: Task
    node: str
    outcome: str
    text: str = ""
    status: int = 0
    counters: Counters | None = None
    native: bool = False
    sent: bool = False


@dataclass(frozen=True, slots=True)
class FailureWithdrawn(Event):
    """Two nodes gave the same 5xx to the same request: the request's fault; the first node's failure is taken back."""

    node: str
    task: Task


@dataclass(frozen=True, slots=True)
class TaskEnded(Event):
    """The request is over for its client. ``status`` is what the client saw; 499 if it left. ``nodes`` in the order tried."""

    task: Task
    status: int
    outcome: str
    nodes: tuple[str, ...]
    queued: float
    seconds: float
    first_byte: float | None
    counters: Counters | None = None
    reason: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Unloaded(Event):
    """A model was unloaded from a node on request (keep_alive 0), or deleted there."""

    node: str
    model: str


# --- the rest


@dataclass(frozen=True, slots=True)
class Searched(Event):
    """A round of discovery ended. ``where`` says in plain words what was searched; ``found`` how many nodes answered."""

    where: tuple[str, ...]
    found: int
    seconds: float
    notes: tuple[str, ...] = field(default=())
