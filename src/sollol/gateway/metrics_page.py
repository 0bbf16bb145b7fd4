"""`GET /metrics`, on the gateway's own port and, where configured, on a port of its own."""

from __future__ import annotations

from functools import partial
from typing import Final

from sollol.core.ports import Headers, Sink
from sollol.core.types import Dialect
from sollol.drivers.metrics import CONTENT_TYPE, Gauge
from sollol.errors import SollolError
from sollol.gateway.answers import send
from sollol.gateway.context import Gateway
from sollol.gateway.http import Request, Route
from sollol.gateway.passthrough import not_found, wrong_method
from sollol.gateway.targets import usable
from sollol.wire.errors import error_body

PATH: Final = "/metrics"
_METHODS: Final = ("GET", "HEAD")


async def metrics(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Everything in Prometheus's text format."""
    send(sink, 200, gateway.metrics.page(gauges(gateway)), [(b"content-type", CONTENT_TYPE.encode())])


def gauges(gateway: Gateway) -> list[Gauge]:
    """What is read from the state when somebody asks. The rates are left out for nodes that did no work yet."""
    nodes = list(gateway.engine.state.nodes.values())
    rates = [((known.id,), tally.success_rate) for known in nodes if (tally := gateway.statistics.nodes.get(known.id))]
    host = ("host",)
    return [
        Gauge("sollol_success_rate", "Share of requests that ended well", host, [(k, v) for k, v in rates if v is not None]),
        Gauge("sollol_queue_depth", "Requests that wait", (), [((), float(gateway.admission.waiting))]),
        Gauge("sollol_in_flight", "Requests on the node now", host, [((n.id,), float(n.in_flight)) for n in nodes]),
        Gauge("sollol_node_up", "1 if the node takes requests", host, [((n.id,), float(usable(n))) for n in nodes]),
        *_of_cache(gateway),
        Gauge("sollol_node_slots", "Slots, learned or configured", host, [((n.id,), float(n.slots.count)) for n in nodes]),
    ]


def _of_cache(gateway: Gateway) -> list[Gauge]:
    if gateway.cache is None:
        return []
    store = gateway.cache.store
    return [
        Gauge("sollol_cache_answers", "Answers that are kept", (), [((), float(len(store)))]),
        Gauge("sollol_cache_bytes", "Size of the answers that are kept", (), [((), float(store.bytes))]),
    ]


class MetricsApp:
    """A door that has only `/metrics`; the keys and origins of the gateway hold here too."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def route(self, request: Request) -> Route:
        """Raises a `SollolError` to refuse."""
        answered = self._gateway.guard.intercept(request, _METHODS)
        if answered is None and request.path != PATH:
            answered = _nothing_else
        elif answered is None:
            known = request.method in _METHODS
            answered = partial(metrics, self._gateway) if known else partial(wrong_method, methods=_METHODS)
        return Route(answered, 1 << 16)

    def refuse(self, request: Request | None, sink: Sink, error: SollolError) -> None:
        """In Ollama's shape."""
        status, headers, body = error_body(Dialect.OLLAMA, error)
        send(sink, status, body, headers)

    def reply_headers(self, request: Request | None) -> Headers:
        """As on the gateway's own port."""
        return self._gateway.guard.reply_headers(request)


async def _nothing_else(request: Request, sink: Sink) -> None:
    not_found(sink)
