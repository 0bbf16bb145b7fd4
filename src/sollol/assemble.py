"""Makes a working engine of a configuration: the only place that knows the concrete classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sollol.config import Config, NodeSettings
from sollol.config_sources import catalogue_of
from sollol.core.caching import Bounds, Store
from sollol.core.scheduler import Limits, Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import Node, NodeKind, Origin
from sollol.drivers.clock import SystemClock
from sollol.drivers.http import HttpTransport
from sollol.drivers.interfaces import own_addresses, resolve
from sollol.drivers.searches import searches
from sollol.drivers.survey import HttpSurveyor
from sollol.engine.admission import Admission
from sollol.engine.cache import Cache
from sollol.engine.coalesce import Coalesce
from sollol.engine.dispatch import Dispatch
from sollol.engine.engine import Engine
from sollol.engine.finder import Finder
from sollol.engine.hedge import Hedge
from sollol.engine.monitor import Monitor
from sollol.engine.naming import NamingSurveyor
from sollol.engine.pipeline import Deadline, Handler, Observe, compose
from sollol.wire.address import parse_endpoint
from sollol.wire.names import canonical

GIGABYTE: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class House:
    """Everything below the doors, for one event loop."""

    engine: Engine
    admission: Admission
    monitor: Monitor
    finder: Finder
    pipeline: Handler
    cache: Cache
    take: Callable[[Config, Config], None]
    """Takes the settings (old, new) that may change while it runs. Raises `ConfigError`, and has changed nothing then."""

    async def close(self) -> None:
        """End every task and close every connection."""
        await self.finder.close()
        await self.monitor.close()
        self.admission.close()
        await self.engine.transport.close()


def build(config: Config) -> House:
    """Put the parts together; call in a running loop. Nothing is searched or contacted before `Finder.start`."""
    clock = SystemClock()
    transport = HttpTransport(connect_timeout=config.health.connect_seconds)
    surveyor = HttpSurveyor(transport, clock, config.health.probe_seconds)
    state = ClusterState(clock.jitter)
    state.digests = config.models.digests
    scheduler = Scheduler(state, _limits(config))
    engine = Engine(state, scheduler, transport, clock)
    admission = Admission(engine)
    naming = NamingSurveyor(surveyor, catalogue_of(config).names["names"])
    monitor = Monitor(engine, naming)
    finder = Finder(
        state,
        engine.publish,
        clock,
        naming,
        searches(config.discovery),
        addresses=own_addresses,
        resolve=resolve,
        seconds=config.discovery.interval_seconds,
    )
    # The order of the layers is the way of every request, from outside in.
    cache = Cache(engine, Store(_bounds(config)), enabled=config.cache.enabled)
    coalesce = Coalesce(engine, cache.store.counts, cache, join=config.cache.coalesce)
    hedge = Hedge(engine, always=config.routing.hedging)
    dispatch = Dispatch(engine, admission, monitor.look, monitor.afresh)
    pipeline = compose((Observe(engine), Deadline(engine), cache, coalesce, hedge), dispatch)

    def take(old: Config, new: Config) -> None:
        if new.discovery != old.discovery:
            finder.search_by(searches(new.discovery), new.discovery.interval_seconds)
        if new.models != old.models:
            state.take_digests(new.models.digests)
        if new.names != old.names:
            naming.names = catalogue_of(new).names["names"]
            for node in state.nodes:
                monitor.look(node)
        scheduler.limits = _limits(new)
        cache.enabled, coalesce.join, cache.store.bounds = new.cache.enabled, new.cache.coalesce, _bounds(new)
        hedge.always = new.routing.hedging
        if not new.cache.enabled:
            cache.store.clear()
        transport.connect_timeout, surveyor.probe_seconds = new.health.connect_seconds, new.health.probe_seconds

    return House(engine, admission, monitor, finder, pipeline, cache, take)


def _limits(config: Config) -> Limits:
    queue = config.queue
    return Limits(queue.limit, queue.priority_step_seconds, queue.no_node_seconds, queue.body_bytes)


def _bounds(config: Config) -> Bounds:
    cache = config.cache
    return Bounds(cache.ttl_seconds, cache.entries, cache.size_bytes)


def configured_nodes(config: Config) -> list[Node]:
    """The nodes that the configuration names. Raises `ConfigError` for an address that cannot be read."""
    return [_node(settings) for settings in config.nodes]


def _node(settings: NodeSettings) -> Node:
    endpoint = parse_endpoint(settings.url)
    return Node(
        endpoint.authority + endpoint.base,
        endpoint,
        settings.kind or NodeKind.OLLAMA,
        settings.name,
        settings.priority,
        settings.slots,
        None if settings.memory_gb is None else int(settings.memory_gb * GIGABYTE),
        settings.api_key,
        Origin.STATIC,
        draining=settings.draining,
        names=tuple((canonical(own), canonical(public)) for own, public in settings.names.items()),
    )
