"""Ollama's paths about models, with the meaning "one Ollama over many nodes".

Where a request goes: to the nodes that its body names (``"nodes": ["gpu1", …]`` or ``"all"``; taken out before it is sent on),
else show to one owner; pull to every node that has the model already (so that copies stay alike), else to the best fitting one;
push from one owner; copy and delete to every owner; create to where its blobs or its base model are. Owners that are down are
skipped and named in ``X-SOLLOL-Skipped``. What changes a node is sent once, never again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from sollol.core.events import Unloaded
from sollol.core.node import NodeState
from sollol.core.ports import Header, Headers, Outgoing, Sink
from sollol.core.types import Node, NodeKind
from sollol.errors import AllAttemptsFailed, BadRequest, NodeError, NoNodeForModel, NoNodes, Unsupported
from sollol.gateway import uploads
from sollol.gateway.answers import send, send_json
from sollol.gateway.context import Gateway
from sollol.gateway.fanout import PassChange, Reply, Sent, answer_all, ask, change, change_all, own_headers, stream_all
from sollol.gateway.http import Request
from sollol.gateway.showing import described
from sollol.gateway.targets import best_fit, chosen, holders, idle_first, is_model_name, newest_first, ollama_nodes
from sollol.wire.bodies import changed
from sollol.wire.fields import check_utf8
from sollol.wire.gojson import complaint
from sollol.wire.names import canonical, tagless
from sollol.wire.routing import ascii_value

Handler = Callable[[Gateway, Request, Sink], Awaitable[None]]

DONE: Final = b'{"status":"success"}'
# The answer to a change does not wait longer for a node that does not say what it has now.
SETTLE_SECONDS: Final = 1.0


class Ask(Struct):
    """What is read of a body; everything else is the node's to judge."""

    model: str | None = None
    name: str | None = None
    source: str | None = None
    destination: str | None = None
    base: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    stream: bool | None = None
    nodes: str | list[str] | None = None

    @property
    def which(self) -> str:
        """The model, by its new or its old key."""
        return self.model or self.name or ""


_ask: Final = msgspec.json.Decoder(Ask)
_keys: Final = msgspec.json.Decoder(dict[str, Raw])


def read(body: bytes, struct: str) -> Ask:
    """The body of a request; `struct` is Ollama's name of its type. Raises `BadRequest` in Ollama's words."""
    if not body.strip():
        raise BadRequest("missing request body")
    if not body.isascii():
        check_utf8(body)
    try:
        return _ask.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(complaint(error, body, struct)) from None


def without_nodes(body: bytes, asked: Ask) -> bytes:
    """The body as a node gets it: untouched, unless it names nodes."""
    if asked.nodes is None:
        return body
    return msgspec.json.encode({key: value for key, value in _keys.decode(body).items() if key != "nodes"})


async def show(gateway: Gateway, request: Request, sink: Sink) -> None:
    """An owner's answer; the next owner's if it fails. Nodes that are no Ollama are described from what is known of them."""
    asked = read(request.body, "ShowRequest")
    model = _named(gateway, asked.which, "model is required")
    await gateway.monitor.all_looked_at()
    up, down = holders(gateway, model)
    failed: list[NodeError] = []
    for node in newest_first(up, model):
        if node.kind is not NodeKind.OLLAMA:
            send_json(sink, described(node, node.models[model]), headers=_routed([node]))
            return
        outgoing = _outgoing(gateway, request, asked, model)(node.node)
        reply = await ask(gateway.engine.transport, node.node, outgoing, sink)
        if reply.error is not None:
            failed.append(reply.error)
            continue
        if reply.status == 404:
            # Gone since the last look: another owner may still have it.
            gateway.monitor.look(node.id)
            continue
        send(sink, reply.status, reply.body, [*own_headers(reply.headers), *_routed([node])])
        return
    if failed:
        raise AllAttemptsFailed(failed)
    if down and not up:
        raise _all_down(model, down)
    raise NoNodeForModel(model)


async def pull(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Download a model to the nodes named, to all that have it (an update), or to the one where it fits best."""
    asked = read(request.body, "PullRequest")
    model = _named(gateway, asked.which, "invalid model name")
    owners = [node for node in holders(gateway, model)[0] if node.kind is NodeKind.OLLAMA]
    owners.sort(key=lambda node: node.index)
    nodes = _by_wish(gateway, asked) or owners or [best_fit(ollama_nodes(gateway))]
    await _stream(gateway, request, sink, asked, nodes, model=model)


async def push(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Upload a model from one node that has it."""
    asked = read(request.body, "PushRequest")
    model = _named(gateway, asked.which, "model is required")
    # A model that nobody has is any node's to refuse: what it says, and with which status, is in a stream.
    nodes = _by_wish(gateway, asked) or idle_first(_owners(gateway, model)) or [best_fit(ollama_nodes(gateway))]
    await _stream(gateway, request, sink, asked, nodes[:1] if asked.nodes is None else nodes, model=model)


async def create(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Make a model where its blobs were put; else where its base model is; else where it fits best."""
    asked = read(request.body, "CreateRequest")
    _named(gateway, asked.which, "invalid model name")
    _no_alias(gateway, asked.which)
    base = gateway.catalogue.model(asked.base or "")
    digests = [*(asked.files or {}).values(), *(asked.adapters or {}).values()]
    nodes = _by_wish(gateway, asked) or uploads.places(gateway, digests, request)
    if not nodes:
        owners = idle_first(_owners(gateway, base)) if base else []
        nodes = owners[:1] or [best_fit(ollama_nodes(gateway))]
    await _stream(gateway, request, sink, asked, nodes, model=base)


async def copy(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Give a model a second name on every node that has it."""
    asked = read(request.body, "CopyRequest")
    for role, name in (("source", asked.source or ""), ("destination", asked.destination or "")):
        if not is_model_name(name):
            raise BadRequest(f'{role} "{name}" is invalid')
    source = asked.source or ""
    _no_alias(gateway, asked.destination or "")
    model = gateway.catalogue.model(source)
    nodes, down = _wished_or_owners(gateway, asked, model)
    if not nodes:
        send_json(sink, {"error": f'model "{source}" not found'}, 404)
        return
    await _everywhere(gateway, _outgoing(gateway, request, asked, model), sink, nodes, _routed(nodes, down))


async def delete(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Delete a model from every node that has it."""
    asked = read(request.body, "DeleteRequest")
    model = _named(gateway, asked.which, "model is required")
    _no_alias(gateway, asked.which)
    nodes, down = _wished_or_owners(gateway, asked, model)
    if not nodes:
        raise NoNodeForModel(tagless(asked.which))
    for reply in await _everywhere(gateway, _outgoing(gateway, request, asked, model), sink, nodes, _routed(nodes, down)):
        if reply.ok:
            gateway.engine.publish(Unloaded(gateway.engine.clock.now(), reply.node.id, model))


async def unload_everywhere(gateway: Gateway, model: str, request: Request, sink: Sink) -> None:
    """Unload `model` from every node that has it; answers when all have answered.

    The request takes no slot and does not wait in the queue. Nodes that are down are skipped and named. Raises
    `NoNodeForModel`, `NoNodes`, or `Unsupported` where only nodes have it that keep their one model loaded.
    """
    name = gateway.catalogue.model(model)
    up, down = holders(gateway, name)
    nodes = [node for node in up if node.kind is NodeKind.OLLAMA]
    if not nodes:
        _nobody_to_unload(model, up, down)
    outgoing = _outgoing(gateway, request, Ask(model), name)
    replies = await change_all(gateway.engine.transport, [node.node for node in nodes], outgoing, sink)
    for reply in replies:
        if reply.ok:
            gateway.engine.publish(Unloaded(gateway.engine.clock.now(), reply.node.id, name))
            gateway.monitor.look(reply.node.id)
    answer_all(sink, replies, _unloaded(gateway, request), _routed(nodes, down), already=404)


def _unloaded(gateway: Gateway, request: Request) -> bytes:
    """The answer as one Ollama gives it, with the name as the client wrote it."""
    model = read(request.body, "Request").model or ""
    now = datetime.fromtimestamp(gateway.engine.clock.wall(), UTC).isoformat().replace("+00:00", "Z")
    document: dict[str, Any] = {"model": model, "created_at": now}
    if request.path == "/api/chat":
        document["message"] = {"role": "assistant", "content": ""}
    else:
        document["response"] = ""
    return msgspec.json.encode({**document, "done": True, "done_reason": "unload"})


def _nobody_to_unload(model: str, up: list[NodeState], down: list[NodeState]) -> None:
    if up:
        raise Unsupported(f"'{model}' is only on nodes that keep it loaded: {', '.join(node.label for node in up)}")
    if down:
        raise _all_down(model, down)
    raise NoNodeForModel(model)


async def _stream(gateway: Gateway, request: Request, sink: Sink, asked: Ask, nodes: list[NodeState], *, model: str) -> None:
    """A change that reports its progress: untouched from one node, merged from several, or as one document."""
    outgoing = _outgoing(gateway, request, asked, model)
    transport = gateway.engine.transport
    extra = _routed(nodes)
    settle = partial(_settle, gateway)
    if len(nodes) == 1:
        receiver = PassChange(nodes[0].node, sink, extra)
        reply = await change(transport, outgoing, receiver, sink)
        await settle([reply])
        if reply.error is not None and not sink.started:
            raise reply.error
        receiver.answer()
    elif asked.stream is False:
        replies = await change_all(transport, [node.node for node in nodes], outgoing, sink)
        await settle(replies)
        answer_all(sink, replies, DONE, extra)
    else:
        await stream_all(transport, [node.node for node in nodes], outgoing, sink, settle=settle, extra=extra)


async def _everywhere(gateway: Gateway, outgoing: Sent, sink: Sink, nodes: list[NodeState], extra: Headers) -> list[Reply]:
    """A change without progress on several nodes."""
    replies = await change_all(gateway.engine.transport, [node.node for node in nodes], outgoing, sink)
    await _settle(gateway, replies)
    answer_all(sink, replies, b"", extra, already=404)
    return replies


def _outgoing(gateway: Gateway, request: Request, asked: Ask, model: str) -> Callable[[Node], Outgoing]:
    """What a node gets: the request without what is ours, and naming ``model`` as that node does."""
    body = without_nodes(request.body, asked)
    headers = gateway.guard.onward(request.headers)

    def made(node: Node) -> Outgoing:
        state = gateway.engine.state.nodes.get(node.id)
        known = state.models.get(model) if state is not None else None
        own = known.native if known is not None and known.renamed else model
        fields = (("model", asked.model), ("name", asked.name), ("source", asked.source), ("from", asked.base))
        put = {
            key: own
            for key, name in fields
            if name and gateway.catalogue.model(name) == model and canonical(name) != canonical(own)
        }
        return Outgoing(request.method, request.path, headers, changed(body, put) if put else body)

    return made


async def _settle(gateway: Gateway, replies: Iterable[Reply]) -> None:
    """Look at the nodes again, so that what comes after the answer sees the change; also where it failed halfway."""
    nodes = [reply.node.id for reply in replies]
    for node in nodes:
        gateway.monitor.look(node)
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_SECONDS):
            await gateway.monitor.looked(nodes)


def _no_alias(gateway: Gateway, name: str) -> None:
    """Refuse to make or delete what only the settings make."""
    if gateway.catalogue.is_alias(name):
        model = tagless(gateway.catalogue.model(name))
        raise BadRequest(f"'{tagless(name)}' is an alias of '{model}' in the settings of the gateway, and no model of its own")


def _named(gateway: Gateway, name: str, missing: str) -> str:
    """The canonical name of the model that a request names, or that an alias stands for."""
    if not name:
        raise BadRequest(missing)
    if not is_model_name(name):
        raise BadRequest("invalid model name")
    return gateway.catalogue.model(name)


def _by_wish(gateway: Gateway, asked: Ask) -> list[NodeState]:
    return chosen(gateway, asked.nodes) if asked.nodes is not None else []


def _wished_or_owners(gateway: Gateway, asked: Ask, model: str) -> tuple[list[NodeState], list[NodeState]]:
    """The nodes that the body names, else all owners; and the owners that are down, which are skipped."""
    if asked.nodes is not None:
        return chosen(gateway, asked.nodes), []
    up, down = _all_owners(gateway, model)
    if down and not up:
        raise _all_down(model, down)
    return up, down


def _owners(gateway: Gateway, model: str) -> list[NodeState]:
    return _all_owners(gateway, model)[0]


def _all_owners(gateway: Gateway, model: str) -> tuple[list[NodeState], list[NodeState]]:
    """Ollama nodes that have the model, as they became known: reachable ones, and those that are down."""
    up, down = holders(gateway, model)
    found = [node for node in up if node.kind is NodeKind.OLLAMA]
    if up and not found:
        raise Unsupported(f"'{model}' is only on nodes that do not manage models: {', '.join(node.label for node in up)}")
    found.sort(key=lambda node: node.index)
    return found, [node for node in down if node.kind is NodeKind.OLLAMA]


def _all_down(model: str, down: Iterable[NodeState]) -> NoNodes:
    names = ", ".join(node.label for node in down)
    return NoNodes(f"every node that has '{model}' is down: {names}", retry_after=1.0)


def _routed(nodes: Iterable[NodeState], down: Iterable[NodeState] = ()) -> Headers:
    headers: list[Header] = [(b"x-sollol-node", ascii_value(", ".join(node.label for node in nodes)))]
    skipped = ", ".join(node.label for node in down)
    if skipped:
        headers.append((b"x-sollol-skipped", ascii_value(skipped)))
    return headers


ROUTES: Final[dict[tuple[str, str], Handler]] = {
    ("POST", "/api/show"): show,
    ("POST", "/api/pull"): pull,
    ("POST", "/api/push"): push,
    ("POST", "/api/create"): create,
    ("POST", "/api/copy"): copy,
    ("DELETE", "/api/delete"): delete,
}
PREFIXES: Final[dict[str, dict[str, Handler]]] = {"/api/blobs/": {"HEAD": uploads.head_blob, "POST": uploads.post_blob}}
# Routes whose bodies are not collected: `Request.chunks` yields them, without a limit.
STREAMS: Final = frozenset({("POST", "/api/blobs/")})
