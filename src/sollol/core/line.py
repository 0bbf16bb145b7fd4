"""Everybody who waits: by id, in order, and in groups that are alike to every node."""

from __future__ import annotations

from bisect import bisect_left, insort

from .gates import GroupKey
from .routing import group_key
from .types import Task
from .waiting import Group, Waiting

_GROUPS = 256


class Line:
    """The bookkeeping of the queue. ``order`` holds whoever is queued, first in order first.

    ``active`` are the groups with somebody in them, the one looked at longest ago first; ``models`` the same by model.
    ``moved`` of ``entries`` are back from a failed attempt; the others have ``body_bytes`` of bodies. ``picky`` are those that
    not every node may serve (pinned, or back from a failed attempt), ``timed`` those with a deadline.
    """

    __slots__ = ("_groups", "active", "body_bytes", "entries", "models", "moved", "order", "picky", "timed")

    def __init__(self) -> None:
        self._groups: dict[GroupKey, Group] = {}
        self.active: dict[GroupKey, Group] = {}
        self.models: dict[str, list[Group]] = {}
        self.entries: dict[int, Waiting] = {}
        self.order: list[Waiting] = []
        self.picky: dict[Waiting, None] = {}
        self.timed: dict[Waiting, None] = {}
        self.moved = 0
        self.body_bytes = 0

    def group(self, task: Task) -> Group:
        """The group of ``task``, made when missing; groups in which nobody waits are forgotten when there are many."""
        key = group_key(task)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _GROUPS:
                self._groups = dict(self.active)
            group = self._groups[key] = Group(key)
        return group

    def known(self, task: Task) -> Group | None:
        """The group of ``task`` if there is one."""
        return self._groups.get(group_key(task))

    def take(self, entry: Waiting) -> None:
        """A request came in; it is not queued yet."""
        self.entries[entry.task.id] = entry
        if entry.place.attempt > 1:
            self.moved += 1
        else:
            self.body_bytes += len(entry.task.body)

    def enqueue(self, entry: Waiting) -> None:
        """The request has to wait."""
        group = entry.group
        if not group.waiting:
            self.active[group.key] = group
            self.models.setdefault(group.key[0], []).append(group)
            group.awake = True
        group.add(entry)
        insort(self.order, entry)
        if entry.exclude or entry.task.pin is not None:
            self.picky[entry] = None
        if entry.task.deadline is not None:
            self.timed[entry] = None
        if not group.usable:
            entry.stuck_since = entry.since

    def remove(self, entry: Waiting) -> None:
        """The request waits no more."""
        del self.entries[entry.task.id]
        if entry.place.attempt > 1:
            self.moved -= 1
        else:
            self.body_bytes -= len(entry.task.body)
        if not entry.queued:
            return
        group = entry.group
        group.remove(entry)
        del self.order[bisect_left(self.order, entry)]
        self.picky.pop(entry, None)
        self.timed.pop(entry, None)
        if not group.waiting:
            del self.active[group.key]
            alike = self.models[group.key[0]]
            alike.remove(group)
            if not alike:
                del self.models[group.key[0]]

    def ahead(self, entry: Waiting) -> int:
        """How many are before the request in order, queued or not."""
        return bisect_left(self.order, entry)

    def last_new(self) -> Waiting:
        """The last in order that did not move; there must be one."""
        return next(entry for entry in reversed(self.order) if entry.place.attempt == 1)
