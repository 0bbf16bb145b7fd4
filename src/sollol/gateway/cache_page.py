"""`/api/cache`: what the response cache holds and did, and emptying it."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from sollol.core.caching import Store
from sollol.core.ports import Sink
from sollol.errors import BadRequest
from sollol.gateway.answers import send_json
from sollol.gateway.context import Gateway
from sollol.gateway.http import Request

PATH: Final = "/api/cache"


class CacheState(Struct):
    """The response cache. ``size`` counts answers, ``bytes`` their sizes, ``hit_rate`` is the share of look-ups that found one.

    ``shared`` requests got the answer of an identical one under way. ``outdated`` answers went because their model changed.
    """

    enabled: bool
    coalesce: bool
    size: int
    max_size: int
    bytes: int
    max_bytes: int
    ttl_seconds: float
    hits: int
    misses: int
    hit_rate: float
    shared: int
    stored: int
    evicted: int
    expired: int
    outdated: int


class Which(Struct, forbid_unknown_fields=True):
    """What to clear: the answers of one model, or everything."""

    model: Annotated[str, Meta(min_length=1, max_length=1000)] | None = None


class Cleared(Struct):
    """How many answers went."""

    cleared: int


async def show(gateway: Gateway, request: Request, sink: Sink) -> None:
    """What is kept, and what came of it."""
    send_json(sink, state(gateway))


async def clear(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Drop all answers, or those of one model. Figures are counted on."""
    pairs = parse_qsl(request.query, keep_blank_values=True)
    values = dict(pairs)
    if len(values) < len(pairs):
        raise BadRequest("a parameter was given twice")
    try:
        which = msgspec.convert(values, Which)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
    store = gateway.cache.store if gateway.cache is not None else None
    gone = 0
    if store is not None:
        gone = store.clear() if which.model is None else store.forget(gateway.catalogue.model(which.model))
    send_json(sink, Cleared(gone))


def state(gateway: Gateway) -> CacheState:
    """The figures as they stand."""
    settings, cache = gateway.config.cache, gateway.cache
    store = cache.store if cache is not None else Store()
    counts = store.counts
    return CacheState(
        enabled=cache is not None and cache.enabled,
        coalesce=settings.coalesce,
        size=len(store),
        max_size=settings.entries,
        bytes=store.bytes,
        max_bytes=settings.size_bytes,
        ttl_seconds=settings.ttl_seconds,
        hits=counts.hits,
        misses=counts.misses,
        hit_rate=round(counts.hit_rate, 4),
        shared=counts.shared,
        stored=counts.stored,
        evicted=counts.evicted,
        expired=counts.expired,
        outdated=counts.outdated,
    )
