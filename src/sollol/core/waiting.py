"""Requests that wait, in groups that are alike to every node; each group is sorted by order and knows its least tag."""

from __future__ import annotations

from bisect import bisect_left, insort

from msgspec import Struct

from .gates import GroupKey
from .node import NodeState
from .routing import Load, Term, weight
from .shortlist import SMALL, Shortlist
from .state import ClusterState
from .types import Health, Mode, NodeKind, Task

LOOKED_AT = 48
"""Requests that one round looks at."""
_REFRESH = 1.0
_BROKEN = frozenset({Health.OPEN, Health.HALF_OPEN})
_UNIT_PROMPT, _UNIT_ANSWER = 200.0, 200.0


class Place(Struct):
    """A request's place in the order, kept when it has to move: smaller ``order`` first, then smaller ``number``.

    ``work`` is the seconds of the whole cluster that its client was charged; ``attempt`` counts from 1. ``position`` (from 1;
    0: it never had to wait) and ``why`` are what could be said when it came.
    """

    tag: float
    order: float
    number: int
    work: float
    attempt: int = 1
    position: int = 0
    why: str = ""


class Waiting:
    """One request in the queue. ``since`` is when it came in, or came back."""

    __slots__ = ("exclude", "excluded_at", "group", "key", "load", "load_at", "place", "queued", "since", "stuck_since", "task")

    def __init__(self, task: Task, group: Group, place: Place, since: float) -> None:
        self.task = task
        self.group = group
        self.place = place
        self.key = (place.order, place.number)
        self.since = since
        self.exclude: frozenset[str] = frozenset()
        self.excluded_at = 0.0
        self.load: Load | None = None
        self.load_at = 0.0
        self.queued = False
        self.stuck_since: float | None = None

    def __lt__(self, other: Waiting) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        return id(self)  # said here because a compiled class that can be ordered has no hash of its own

    def size(self, state: ClusterState, now: float) -> Load:
        """The size of the request as estimates stand; looked at anew after a second, or when a prefix may have moved."""
        load = self.load
        if load is None or now - self.load_at > _REFRESH or (self.task.prompt.boundaries and now > self.load_at):
            load = self.load = Load(self.task, state)
            self.load_at = now
        return load

    def typical(self, state: ClusterState, now: float) -> bool:
        """Whether only its size tells the request from others of its group."""
        task = self.task
        if self.exclude or task.pin is not None or task.mode is not Mode.BALANCED:
            return False
        return self.size(state, now).prefixes is None

    def avoids(self, node: NodeState) -> bool:
        """Whether the request may not go to ``node``: pinned elsewhere, or failed there and the node was not down since."""
        pin = self.task.pin
        if pin is not None and pin not in (node.id, node.node.name):
            return True
        return node.id in self.exclude and node.health.returned_at <= self.excluded_at


class Group:
    """Requests with one key, and what each node that could ever serve them offers.

    ``open`` are the terms of nodes that can take requests now, ``free`` how many slots they have free together;
    ``ranked``: nodes differ in priority; ``limited``: some have a context that a prompt may not fit; ``usable``: some node is.
    ``breakers``: one keeps some node out; ``stuck``: nobody was usable at the last look. ``awake``: it must be looked at;
    ``looked_at`` is when that was done last. ``waiting`` is in order, ``ages`` by age.
    """

    __slots__ = (
        "_fresh_at",
        "_layout",
        "_tags",
        "ages",
        "awake",
        "breakers",
        "by_node",
        "free",
        "key",
        "limited",
        "looked_at",
        "open",
        "ranked",
        "shortlist",
        "slots",
        "stuck",
        "terms",
        "unit",
        "usable",
        "waiting",
        "why",
        "why_until",
        "work_waiting",
    )

    def __init__(self, key: GroupKey) -> None:
        self.key = key
        self.terms: list[Term] = []
        self.by_node: dict[str, Term] = {}
        self.open: list[Term] = []
        self.free = 0
        self.waiting: list[Waiting] = []
        self.ages: dict[Waiting, None] = {}
        self.work_waiting = 0.0
        self.awake = False
        self.breakers = False
        self.stuck = False
        self.looked_at = -1.0
        self.why = ""
        self.why_until = -1.0
        self._tags: list[float] = []
        self._layout = -1
        self._fresh_at = -1.0
        self.slots = 1
        self.unit = (0.0, 0.0)
        self.usable = False
        self.ranked = False
        self.limited = False
        self.shortlist: Shortlist | None = None

    def add(self, entry: Waiting) -> None:
        """Put a request in its place."""
        entry.queued = True
        insort(self.waiting, entry)
        insort(self._tags, entry.place.tag)
        self.ages[entry] = None
        self.work_waiting += entry.place.work

    def remove(self, entry: Waiting) -> None:
        """Take a waiting request out; it must be in."""
        entry.queued = False
        del self.waiting[bisect_left(self.waiting, entry)]
        del self._tags[bisect_left(self._tags, entry.place.tag)]
        del self.ages[entry]
        self.work_waiting = self.work_waiting - entry.place.work if self.waiting else 0.0

    def ahead(self, entry: Waiting) -> tuple[int, float]:
        """How many of the group are before the request, and about how many seconds of the cluster they take."""
        before = bisect_left(self.waiting, entry)
        return before, before * self.work_waiting / len(self.waiting) if before else 0.0

    @property
    def least_tag(self) -> float:
        return self._tags[0] if self._tags else float("inf")

    def refresh(self, state: ClusterState, now: float, roughly: bool = False) -> None:
        """Bring terms up to ``now``: only those of nodes that an event touched, or whose time is up, are worked out anew.

        ``roughly``: a busy node that only became a little more or less busy is left for its time to be up. `Rooms` marks the
        terms that events gave or took room; else many groups would work out every node anew at every event.
        """
        if self._layout != state.layout:
            self._rebuild(state)
        key = self.key
        changed = False
        for term in self.terms:
            if term.until <= now or (term.version != term.node.version and (term.version < 0 or term.free > 0 or not roughly)):
                was, unusable = term.blocked, term.unusable
                term.renew(key, state, now)
                changed = changed or bool(was) != bool(term.blocked) or unusable != term.unusable
        if changed or self._layout != state.layout:
            self.open = [term for term in self.terms if not term.blocked]
            self.usable = any(not term.unusable for term in self.terms)
            self.breakers = any(term.blocked and term.node.health.state in _BROKEN for term in self.terms)
            self._layout = state.layout

    def shares_slots(self) -> bool:
        """Whether requests for other models take the same slots on some node."""
        return any(term.node.shares_slots() for term in self.terms)

    def count_free(self) -> int:
        """Free slots of all open nodes together, as of the last `refresh` and what was handed out since."""
        self.free = sum([term.free for term in self.open])
        return self.free

    def shorten(self, state: ClusterState, now: float) -> None:
        """Prepare for a round over many requests: in a large cluster each looks at a few nodes only."""
        if len(self.open) > SMALL and len(self.waiting) > 1 and not self.ranked and not self.limited:
            self.shortlist = Shortlist(self.waiting[0].size(state, now), self.open, now, weight(Mode.BALANCED))

    def moved(self, term: Term) -> None:
        """Slots or reservations of one node changed within the round."""
        if self.shortlist is not None:
            self.shortlist.moved(term)

    def restore(self) -> None:
        """Forget reservations of the last round."""
        self.shortlist = None
        for term in self.terms:
            term.frees = term.pristine

    def work(self, load: Load, now: float) -> float:
        """Seconds of the whole cluster that a request of this size takes: the least run over nodes ÷ (0.6 × slots)."""
        if now - self._fresh_at >= _REFRESH or self._fresh_at < 0.0:
            self._fresh_at = now
            terms = self.open or [term for term in self.terms if term.per_answer]
            fastest = min(terms, key=lambda term: _UNIT_PROMPT * term.per_prompt + _UNIT_ANSWER * term.per_answer, default=None)
            self.unit = (fastest.per_prompt, fastest.per_answer) if fastest is not None else (0.001, 0.025)
            self.slots = max(1, sum(term.node.slots.count for term in terms))
        return (load.prompt * self.unit[0] + load.answer * self.unit[1]) / (0.6 * self.slots)

    def _rebuild(self, state: ClusterState) -> None:
        model = self.key[0]
        self.terms = [Term(node) for node in state.known.values() if not model or model in node.models]
        self.ranked = len({term.node.node.priority for term in self.terms}) > 1 or any(
            term.node.node.priority == 1 for term in self.terms
        )
        self.limited = any(term.node.kind is not NodeKind.OLLAMA for term in self.terms)
        self.by_node = {term.node_id: term for term in self.terms}
        self._fresh_at = -1.0


def candidates(groups: list[Group], sharing: int) -> list[Waiting]:
    """The first 48, in rounds over the groups, put in order: many waiters for one model do not hide another's.

    ``sharing`` groups have a free slot, those counted that need no look now: each gives its part of the 48 only. How far down a
    line somebody is sent does then not depend on how many of the groups one event touched.
    """
    if sharing == 1:
        # In a large cluster 48 requests are over too soon to show that waiting for the fast nodes is the longer way.
        return groups[0].waiting[: max(LOOKED_AT, groups[0].slots if groups[0].shortlist is not None else 0)]
    deep = max(1, LOOKED_AT // sharing)
    chosen = [entry for group in groups for entry in group.waiting[:deep]]
    chosen.sort()
    return chosen
