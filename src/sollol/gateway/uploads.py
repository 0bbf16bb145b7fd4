"""Blobs: streamed to the nodes where a model will be made of them, as they come in, without a limit and never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs

from sollol.core.node import NodeState
from sollol.core.ports import Outgoing, Sink
from sollol.errors import BadRequest
from sollol.gateway.answers import send_json
from sollol.gateway.blobs import is_digest
from sollol.gateway.context import Gateway
from sollol.gateway.fanout import Collect, Group, Reply, answer_all, ask
from sollol.gateway.http import Request
from sollol.gateway.targets import best_fit, chosen, idle_first, ollama_nodes

_PREFIX: Final = "/api/blobs/"


def places(gateway: Gateway, digests: Sequence[str], request: Request) -> list[NodeState]:
    """The nodes on which a model can be made of these blobs; empty when no blob is needed.

    Those that are known to have all of them; when none is (an older upload, or a restart since), where this client's go.
    """
    if not digests:
        return []
    up = ollama_nodes(gateway)
    having = gateway.blobs.with_all(digests)
    return [node for node in up if node.id in having] or _home(gateway, request, up)


async def head_blob(gateway: Gateway, request: Request, sink: Sink) -> None:
    """200 only if every node that this client's blobs go to has the blob; without such nodes yet, the first that has it."""
    digest = _digest(request)
    up = idle_first(ollama_nodes(gateway))
    home = _wished(gateway, request) or _home(gateway, request, up)
    replies: list[Reply] = []
    for node in home or up:
        outgoing = Outgoing("HEAD", request.path, gateway.guard.onward(request.headers))
        reply = await ask(gateway.engine.transport, node.node, outgoing, sink)
        replies.append(reply)
        if not reply.ok:
            gateway.blobs.missing(digest, node.id)
        if reply.ok is not bool(home):
            break
    found = [reply for reply in replies if reply.ok]
    if found and (not home or len(found) == len(home)):
        gateway.blobs.put(digest, [reply.node.id for reply in found], request.client, gateway.engine.clock.now())
        sink.head(200, ())
        sink.end()
        return
    if replies[-1].error is not None:
        raise replies[-1].error
    send_json(sink, {"error": f"blob {digest.lower()} not found"}, replies[-1].status)


async def post_blob(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Pass a blob on to the nodes where this client's blobs go, else to the one where a model fits best.

    ``?nodes=a,b`` (or ``all``) names them. The node itself checks the digest.
    """
    digest = _digest(request)
    up = ollama_nodes(gateway)
    nodes = _wished(gateway, request) or _home(gateway, request, up) or [best_fit(up)]
    replies = await _Upload(gateway, request, nodes).run(sink)
    good = [reply for reply in replies if reply.ok]
    if good:
        gateway.blobs.put(digest, [reply.node.id for reply in good], request.client, gateway.engine.clock.now())
    if len(good) == len(replies):
        sink.head(max(reply.status for reply in good), (), length=0)
        sink.end()
    elif len(replies) == 1 and replies[0].error is not None:
        raise replies[0].error
    else:
        answer_all(sink, replies, b"")


class _Upload:
    """One body to several nodes. The slowest of them and the client's own speed set the pace; nothing is kept."""

    def __init__(self, gateway: Gateway, request: Request, nodes: Sequence[NodeState]) -> None:
        self._transport = gateway.engine.transport
        self._request = request
        self._room = asyncio.Event()
        self._full: set[str] = set()
        self._room.set()
        length = request.length if request.chunks is not None else len(request.body)
        self._outgoing = Outgoing("POST", request.path, gateway.guard.onward(request.headers), upload=True, length=length)
        self._receivers = [Collect(node.node, self._listener(node.id)) for node in nodes]

    async def run(self, sink: Sink) -> list[Reply]:
        """Send the body; returns when every node has answered, be it before it had all of it."""
        group = Group()
        sink.attach(group)
        try:
            exchanges = [self._transport.send(receiver.reply.node, self._outgoing, receiver) for receiver in self._receivers]
            for exchange in exchanges:
                group.add(exchange)
            answered = asyncio.gather(*(receiver.done for receiver in self._receivers))
            sending = asyncio.ensure_future(self._send(group))
            both: set[asyncio.Future[Any]] = {answered, sending}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not answered.done():
                    # The whole body went out (or the client broke off, which is raised here): the nodes have the word now.
                    sending.result()
                return await answered
            finally:
                sending.cancel()
                answered.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        finally:
            group.close()
            sink.attach(None)

    async def _send(self, group: Group) -> None:
        if self._request.chunks is None:
            group.write(self._request.body)
        else:
            async for chunk in self._request.chunks:
                group.write(chunk)
                await self._room.wait()
        group.finish()

    def _listener(self, node: str) -> _Room:
        return _Room(self._full, self._room, node)


class _Room:
    """Hears whether one node's socket takes more; a node that has answered already no longer holds the others up."""

    def __init__(self, full: set[str], room: asyncio.Event, node: str) -> None:
        self._full = full
        self._room = room
        self._node = node

    def __call__(self, writable: bool) -> None:
        if writable:
            self._full.discard(self._node)
        else:
            self._full.add(self._node)
        if self._full:
            self._room.clear()
        else:
            self._room.set()


def _digest(request: Request) -> str:
    digest = request.path.removeprefix(_PREFIX)
    if not is_digest(digest):
        raise BadRequest("invalid digest format")
    return digest


def _wished(gateway: Gateway, request: Request) -> list[NodeState]:
    names = [name for value in parse_qs(request.query).get("nodes", ()) for name in value.split(",") if name]
    return chosen(gateway, names) if names else []


def _home(gateway: Gateway, request: Request, up: Sequence[NodeState]) -> list[NodeState]:
    """Where this client's blobs went before; empty once one of these nodes cannot be reached."""
    ids = gateway.blobs.home(request.client, gateway.engine.clock.now())
    nodes = [node for node in up if node.id in ids]
    return nodes if len(nodes) == len(ids) else []
