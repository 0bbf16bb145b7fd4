"""What no table has: unknown paths of Ollama's API go to a node that knows them, the rest is told as Ollama tells it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final
from urllib.parse import unquote

from sollol.core.ports import Header, Headers, Outgoing, Sink
from sollol.core.types import NodeKind
from sollol.errors import NodeUnreachable
from sollol.gateway.answers import send
from sollol.gateway.context import Gateway
from sollol.gateway.fanout import Collect, Pass, change
from sollol.gateway.http import Handler, Request
from sollol.gateway.targets import idle_first, reachable
from sollol.wire.routing import ascii_value

_PLAIN: Final[Header] = (b"content-type", b"text/plain")
_HTML: Final[Header] = (b"content-type", b"text/html; charset=utf-8")
_ORDER: Final = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE")
_SEGMENT: Final = "/api/"
_UNSAFE: Final = frozenset({".", ".."})


async def unknown(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Ask the Ollama nodes in turn until one does not say 404. A request that reached a node is not sent to another."""
    if request.path.startswith(_SEGMENT) and not _climbs(request.path):
        nodes = [n for n in gateway.engine.state.nodes.values() if n.kind is NodeKind.OLLAMA and reachable(n)]
        target = request.path + (f"?{request.query}" if request.query else "")
        for node in idle_first(nodes):
            outgoing = Outgoing(request.method, target, gateway.guard.onward(request.headers), request.body)
            receiver = _Unless404(node.node, sink, [(b"x-sollol-node", ascii_value(node.label))])
            reply = await change(gateway.engine.transport, outgoing, receiver, sink)
            if reply.error is not None and not isinstance(reply.error, NodeUnreachable) and not sink.started:
                raise reply.error
            if sink.started:
                return
    not_found(sink)


def not_found(sink: Sink) -> None:
    """Nobody knows that path."""
    send(sink, 404, b"404 page not found", [_PLAIN])


async def wrong_method(request: Request, sink: Sink, methods: Iterable[str] = ()) -> None:
    """The path is known, but not with this method; ``methods`` are those it has."""
    allow = ", ".join(sorted(methods, key=_ORDER.index)).encode()
    send(sink, 405, b"405 method not allowed", [(b"allow", allow), _PLAIN] if allow else [_PLAIN])


def fixed(path: str) -> str:
    """The path without doubled slashes and without one at its end; "/" stays."""
    return "/" + "/".join(part for part in path.split("/") if part)


def redirect(path: str) -> Handler:
    """A handler that sends the client to the `fixed` form of its path, which has to be a known one."""
    return partial(_redirect, path=path)


async def _redirect(request: Request, sink: Sink, path: str) -> None:
    """As Ollama: 301 for a slash at the end of what is read with GET, 307 for doubled slashes and for other methods."""
    moved = "//" not in request.path and request.method == "GET"
    status, words = (301, "Moved Permanently") if moved else (307, "Temporary Redirect")
    location = path + (f"?{request.query}" if request.query else "")
    headers: Headers = [(b"location", ascii_value(location))]
    if request.method not in ("GET", "HEAD"):
        send(sink, status, b"", headers)
        return
    shown = location.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;")
    send(sink, status, f'<a href="{shown}">{words}</a>.\n\n'.encode(), [_HTML, *headers])


def _climbs(path: str) -> bool:
    """Whether a node could read another path out of it than the one whose rules were applied."""
    return any(part in _UNSAFE or "/" in part or "\\" in part for part in map(unquote, path.split("/")))


class _Unless404(Pass):
    """Passes a reply on, but keeps a 404 back: another node may know the path."""

    def on_head(self, status: int, headers: Headers) -> None:
        if status == 404:
            Collect.on_head(self, status, headers)
        else:
            super().on_head(status, headers)

    def on_end(self) -> None:
        if self.reply.status == 404:
            Collect.on_end(self)
        else:
            super().on_end()
