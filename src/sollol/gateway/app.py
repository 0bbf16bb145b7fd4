"""The table of paths: who answers what, and what is refused before a body is read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from sollol.core.ports import Headers, Sink
from sollol.errors import SollolError
from sollol.gateway import admin, listings, models, passthrough
from sollol.gateway.answers import send
from sollol.gateway.context import Gateway
from sollol.gateway.count_tokens import CountTokens
from sollol.gateway.http import Request, Route
from sollol.gateway.inference import PATHS, Inference
from sollol.wire import errors as wire_errors
from sollol.wire.newer_requests import COUNT_TOKENS
from sollol.wire.requests import dialect_of

# Bodies of the own API and of everything that is not known are small.
SMALL_BODY: Final = 1 << 20
# Blobs are passed on as they come; their size is the node's business.
UNLIMITED: Final = 1 << 62


Methods = Mapping[str, Route]


class GatewayApp:
    """What the door asks. Tables are built once; a request costs one look-up by path."""

    def __init__(self, gateway: Gateway, inference: Inference) -> None:
        self._gateway = gateway
        self._inference = inference
        self.settle()

    def settle(self) -> None:
        """Build the tables from the settings as they are now."""
        gateway, inference = self._gateway, self._inference
        self._guard = gateway.guard
        limit = gateway.config.limits.json_body_bytes
        self._exact: dict[str, dict[str, Route]] = {path: {"POST": Route(inference, limit)} for path in PATHS}
        self._exact[COUNT_TOKENS] = {"POST": Route(CountTokens(gateway, inference), limit)}
        self._prefixes: dict[str, dict[str, Route]] = {}
        self._unknown = Route(partial(passthrough.unknown, gateway), limit)
        for table in (listings.ROUTES, models.ROUTES, admin.ROUTES):
            for (method, path), handler in table.items():
                self._exact.setdefault(path, {})[method] = Route(partial(handler, gateway), limit)
        for prefixes in (listings.PREFIXES, models.PREFIXES, admin.PREFIXES):
            for prefix, handlers in prefixes.items():
                self._prefixes[prefix] = {
                    method: Route(partial(handler, gateway), UNLIMITED, streams=True)
                    if (method, prefix) in models.STREAMS
                    else Route(partial(handler, gateway), limit)
                    for method, handler in handlers.items()
                }

    def route(self, request: Request) -> Route:
        """The route of a request whose headers are complete. Raises a `SollolError` to refuse it."""
        methods = self._methods(request.path)
        if methods is None:
            # Before anybody decides by the path who may ask for it.
            request.path = passthrough.meant(request.path, self._known)
            methods = self._methods(request.path)
        answered = self._guard.intercept(request, methods or ())
        if answered is not None:
            return Route(answered, SMALL_BODY)
        if methods is None:
            return self._unknown
        found = methods.get(request.method)
        if found is not None:
            return found
        return Route(partial(passthrough.wrong_method, methods=tuple(methods)), SMALL_BODY)

    def refuse(self, request: Request | None, sink: Sink, error: SollolError) -> None:
        """Answer an error in the dialect of the path."""
        path = request.path if request is not None else ""
        status, headers, body = wire_errors.error_body(dialect_of(path), error, path)
        send(sink, status, body, headers)

    def reply_headers(self, request: Request | None) -> Headers:
        """What every reply carries: X-Powered-By, and CORS where the origin is allowed."""
        return self._guard.reply_headers(request)

    def _known(self, path: str) -> bool:
        return self._methods(path) is not None

    def _methods(self, path: str) -> Methods | None:
        found = self._exact.get(path)
        if found is not None:
            return found
        for prefix, routes in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix) and not path.endswith("/") and "//" not in path:
                return routes
        return None
