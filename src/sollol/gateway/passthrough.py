"""What no table has: unknown paths of Ollama's API go to a node that knows them, the rest is told as Ollama tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote

from sollol.core.ports import Header, Headers, Outgoing, Sink
from sollol.core.types import NodeKind
from sollol.errors import NodeUnreachable
from sollol.gateway.answers import send
from sollol.gateway.context import Gateway
from sollol.gateway.fanout import Collect, Pass, change
from sollol.gateway.http import Request
from sollol.gateway.targets import idle_first, reachable
from sollol.wire.routing import ascii_value

_PLAIN: Final[Header] = (b"content-type", b"text/plain")
_ORDER: Final = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE")
_SEGMENT: Final = "/api/"
# What stands before the paths of an API in addresses that clients are given, and those of them that have a page of their own.
_BASES: Final = frozenset({"api", "v1", "ollama", "openai", "anthropic"})
_HOMES: Final = frozenset({"", "ollama"})
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


def meant(path: str, known: Callable[[str], bool]) -> str:
    """The path that a client means whose base address has too much or too little in it; as it is where none fits.

    Slashes too many do not count. What clients are given as a base ("/v1", "/api", "/ollama/v1") may stand before a path a
    second time, and "/v1" may be missing. The fewest changes win; ``known`` says which paths there are.
    """
    parts = [part for part in path.split("/") if part]
    while True:
        tidy = "/" + "/".join(parts)
        if known(tidy) and (parts or path.strip("/").lower() in _HOMES):
            return tidy
        if not parts or parts[0].lower() not in _BASES:
            break
        parts = parts[1:]
    tidy = "/v1/" + "/".join(parts)
    return tidy if parts and known(tidy) else path


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
