"""Everything that changes the state of the cluster or can be observed. ``at`` is the engine's clock in seconds.

Only `Engine.publish` hands these to `ClusterState.apply`; metrics, logs and dashboards listen to the same events.
"""

from __future__ import annotations

from msgspec import Struct

from .types import Counters, Decision, Model, Node, Progress, Survey, Task


class Event(Struct, frozen=True):
    """Root of all events."""

    at: float


# --- nodes


class NodeAdded(Event, frozen=True):
    """A node is known from now on; its state is `unknown` until it is looked at."""

    node: Node


class NodeChanged(Event, frozen=True):
    """Name, priority, slots, drain, key or address of a known node (same id) were changed."""

    node: Node


class NodeRemoved(Event, frozen=True):
    """The node is forgotten; what runs there goes on to its end."""

    node: str
    reason: str = ""


class NodeSurveyed(Event, frozen=True):
    """A look at the node was answered. ``begun`` is when it was asked; None: at once. What changed since is newer than it."""

    node: str
    survey: Survey
    begun: float | None = None


class ProbeFailed(Event, frozen=True):
    """A look at the node failed. ``refused``: certain at once (refused, no route); else unanswered in time."""

    node: str
    refused: bool
    text: str


class HealthChanged(Event, frozen=True):
    """The state of a node changed; published by the engine after the event that caused it."""

    node: str
    old: str
    new: str
    reason: str


class ModelLearned(Event, frozen=True):
    """More was found out about one model of a node (`/api/show`)."""

    node: str
    model: Model


# --- requests


class TaskArrived(Event, frozen=True):
    """A request was taken in and may have to wait."""

    task: Task


class TaskQueued(Event, frozen=True):
    """A request has to wait: its place in line from 1, in how many seconds it may start (None: nobody can say), and why."""

    task: Task
    position: int
    start: float | None
    why: str


class TaskRefused(Event, frozen=True):
    """A request was turned away before it ran."""

    task: Task
    status: int
    reason: str


class AttemptStarted(Event, frozen=True):
    """The request goes to a node now. ``progress`` is counted up by the relay and read by the forecast of remaining work."""

    decision: Decision
    progress: Progress


class FirstToken(Event, frozen=True):
    """The first byte of a streamed answer came; that of a document says nothing that `AttemptEnded` does not say at once."""

    task: Task
    node: str


class AttemptEnded(Event, frozen=True):
    """The attempt is over, however it ended.

    ``outcome``: "ok"; "client-error" (the node refused the request itself: passed on, not the node's fault); "busy" (503);
    "failed" (counts against the node); "model-gone"; "load-failed" (counts against node and model); "cancelled" (client gone,
    hedge lost); "withdrawn" (a provisional failure that turned out to be the request's fault). ``sent`` is true when body bytes
    had gone on to the client. ``native`` is true when the counters are Ollama's own (they carry slot and load times).
    ``unreachable`` is true when a failure was a refused connection or no route: the node is down, without a probe. ``part`` is
    true when the attempt went on with an answer that another one began: its length says nothing about answers. ``cut`` is true
    when the connection ended in the middle: a node that dies cuts off all that it has.
    """

    task: Task
    node: str
    outcome: str
    text: str = ""
    status: int = 0
    counters: Counters | None = None
    native: bool = False
    sent: bool = False
    unreachable: bool = False
    part: bool = False
    cut: bool = False


class FailureWithdrawn(Event, frozen=True):
    """Two nodes gave the same 5xx to the same request: the request's fault; the first node's failure is taken back."""

    node: str
    task: Task


class TaskEnded(Event, frozen=True):
    """The request is over for its client. ``status`` is what the client saw; 499 if it left. ``nodes`` in the order tried.

    ``resumed`` counts how often another node went on with the answer in its middle. ``cache``: "hit" or "shared" when the
    answer was another request's and no node was asked. ``hedged``: the node that ran it too and lost the race.
    """

    task: Task
    status: int
    outcome: str
    nodes: tuple[str, ...]
    queued: float
    seconds: float
    first_byte: float | None
    counters: Counters | None = None
    decision: Decision | None = None
    text: str = ""
    resumed: int = 0
    cache: str = ""
    hedged: str = ""


class Unloaded(Event, frozen=True):
    """A model was unloaded from a node on request (keep_alive 0), or deleted there."""

    node: str
    model: str


class NodeSlow(Event, frozen=True):
    """A running request there is ``ratio`` times behind its forecast (`ClusterState.behind`), or was given up as stuck (20)."""

    node: str
    ratio: float


# --- the rest


class Searched(Event, frozen=True):
    """A round of discovery ended. ``where`` says in plain words what was searched; ``found`` how many nodes answered."""

    where: tuple[str, ...]
    found: int
    seconds: float
    notes: tuple[str, ...] = ()
