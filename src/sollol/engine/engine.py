"""The engine: owns the cluster's state in one event loop. Every change goes through `publish`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cached_property

from sollol.core.events import Event
from sollol.core.ports import Clock, Transport
from sollol.core.scheduler import Scheduler
from sollol.core.state import ClusterState

Listener = Callable[[Event], None]


class Engine:
    """State, queue and transport of one cluster, used from one event loop only.

    `listen` is for observers that are quick and never fail (metrics, the request log).
    ``stopped`` is true once running requests are being ended because the gateway stops.
    """

    def __init__(self, state: ClusterState, scheduler: Scheduler, transport: Transport, clock: Clock) -> None:
        self.state = state
        self.scheduler = scheduler
        self.transport = transport
        self.clock = clock
        self.stopped = False
        self._listeners: list[tuple[Listener, frozenset[type[Event]]]] = []
        self._by_type: dict[type[Event], tuple[Listener, ...]] = {}

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the engine is used from. Asked for once: asyncio makes a system call to find it."""
        return asyncio.get_running_loop()

    def listen(self, listener: Listener, *kinds: type[Event]) -> None:
        """Call `listener` with every event of these kinds (none given: of all) from now on, after the state has changed."""
        self._listeners.append((listener, frozenset(kinds)))
        self._by_type.clear()

    def publish(self, event: Event) -> None:
        """State first, then the observers. A change of a node's health follows as an event of its own."""
        changes = self.state.apply(event)
        listeners = self._by_type.get(type(event))
        for listener in self._who_hears(type(event)) if listeners is None else listeners:
            listener(event)
        if changes:
            for change in changes:
                self.publish(change)

    def _who_hears(self, kind: type[Event]) -> tuple[Listener, ...]:
        heard = tuple(listener for listener, kinds in self._listeners if not kinds or kind in kinds)
        self._by_type[kind] = heard
        return heard
