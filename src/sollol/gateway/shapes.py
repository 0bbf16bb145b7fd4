"""What SOLLOL's own API reads and answers, as structs: they check the input and make the OpenAPI document."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

Priority = Annotated[int, Meta(ge=1, le=10, description="1 is the last resort, higher is preferred")]
Slots = Annotated[int, Meta(ge=1, le=4096)]
Key = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$")]
Name = Annotated[str, Meta(max_length=100, pattern=r"^[^\x00-\x1f\x7f/]*$")]
ModelName = Annotated[str, Meta(min_length=1, max_length=1000)]
ModelNames = Annotated[
    dict[ModelName, ModelName], Meta(max_length=1000, description="what the node calls a model -> what it is called here")
]


class NewNode(Struct, forbid_unknown_fields=True):
    """A node to add. ``slots`` null: learned. ``api_key`` is sent to this node with every request, and is never shown."""

    url: Annotated[str, Meta(min_length=1, max_length=2000)]
    name: Name = ""
    priority: Priority = 5
    slots: Slots | None = None
    api_key: Key | None = None
    names: ModelNames = {}


class NodeChange(Struct, forbid_unknown_fields=True):
    """What to change; what is left out stays. ``slots`` null: learn them again. ``draining``: nothing new goes there.

    ``api_key`` null: none is sent. ``names``: all of them; those that are left out hold no more.
    """

    name: Name | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    slots: Slots | UnsetType | None = UNSET
    draining: bool | UnsetType = UNSET
    api_key: Key | UnsetType | None = UNSET
    names: ModelNames | UnsetType = UNSET


class NodeInfo(Struct, kw_only=True):
    """One node. ``latency_ms`` and ``failure_rate`` are measured, or null before there was something to measure."""

    id: str
    name: str
    url: str
    kind: str
    state: str
    priority: int
    slots: int
    slots_known: bool
    in_flight: int
    version: str
    latency_ms: float | None
    models: list[str]
    resident: list[str]
    origin: str
    emulated: bool
    failure_rate: float | None
    last_error: str
    draining: bool
    names: dict[str, str]
    warning: str | UnsetType = UNSET


class NodeList(Struct):
    """All nodes, and in plain words where others were searched."""

    nodes: list[NodeInfo]
    searched: list[str]
    notes: list[str]


class Removed(Struct):
    """The node that was removed."""

    id: str
    removed: bool


class NodeCount(Struct):
    """Nodes that are known, and those that take requests."""

    known: int
    usable: int


class Health(Struct):
    """``status``: "ok", "degraded" (some known node takes no requests) or "no-nodes"."""

    status: str
    service: str
    version: str
    pid: int
    uptime_seconds: float
    nodes: NodeCount
    address: str


class Waiting(Struct):
    """One request that waits, in the order in which they will be looked at."""

    id: int
    model: str
    priority: int
    app: str
    waited_seconds: float


class NodesReloaded(Struct):
    """Ids of nodes whose settings came, went or changed; ``notes`` say which were left out, and why."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    notes: list[str]


class Reloaded(Struct):
    """What a reload did. ``changed`` settings hold now; those in ``restart`` differ too, and hold after a restart."""

    changed: list[str]
    nodes: NodesReloaded
    restart: list[str]


class Queue(Struct):
    """How many wait, and the first hundred of them."""

    waiting: int
    limit: int
    requests: list[Waiting]
