"""Looks at nodes over HTTP: what a node is, which models it has, what is loaded. What to ask is in this file, how to read the
answers in `sollol.wire.survey`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

import msgspec

from sollol.core.ports import Clock, Outgoing, Transport
from sollol.core.types import Endpoint, Model, Node, NodeKind, Resident, Survey
from sollol.drivers.collect import Reply, ask
from sollol.errors import BadReply, NodeBusy, NodeError, NodeFailed
from sollol.wire import survey as wire
from sollol.wire.newer_requests import COUNT_TOKENS, MESSAGES, RERANK, RESPONSES, TRANSCRIPTIONS

PROBE_SECONDS = 3.0
SPOKEN_SECONDS = 300.0
"""For so long it is believed which paths a node has: one that was started anew, with other flags, need not show it."""
_REMEMBERED = 10_000
_JSON = ((b"Content-Type", b"application/json"),)
# Paths that some versions of some engines have; all others belong to the kind of node.
ASKED_FOR = (MESSAGES, COUNT_TOKENS, RESPONSES, RERANK, TRANSCRIPTIONS)

Parsed = TypeVar("Parsed")
Look = Callable[[Node, "_Heard"], Awaitable[Survey | None]]


class _Heard:
    """What was heard in one look, for the parts of a survey that any reply may tell, and for saying why nothing fitted."""

    def __init__(self) -> None:
        self.latency: float | None = None
        self.emulated = False
        self.powered_by_sollol = False
        self.last = ""
        self.locked = False
        self.failure: NodeError | None = None

    def take(self, node: Node, path: str, reply: Reply) -> None:
        if self.latency is None:
            self.latency = reply.seconds
        self.emulated = self.emulated or bool(reply.header(b"x-sollol-emulated"))
        self.powered_by_sollol = self.powered_by_sollol or reply.header(b"x-powered-by").upper() == b"SOLLOL"
        self.last = f"{path} gave {reply.status} {wire.error_text(reply.body)}".rstrip()
        self.locked = self.locked or reply.status == 401
        if reply.status == 503:
            self.failure = NodeBusy(node.id, self.last)
        elif reply.status >= 500:
            self.failure = NodeFailed(node.id, self.last, reply.status, reply.body)

    def error(self, node: Node) -> NodeError:
        if self.locked:
            return BadReply(node.id, "asks for a key (401): give it as the node's api_key")
        return self.failure or BadReply(node.id, f"answers, but is no node of a known kind: {self.last}")


class HttpSurveyor:
    """Asks a node over HTTP. Each request has `probe_seconds`; connecting has the transport's own, shorter limit."""

    def __init__(self, transport: Transport, clock: Clock, probe_seconds: float = PROBE_SECONDS) -> None:
        self._transport = transport
        self._clock = clock
        self.probe_seconds = probe_seconds
        self._kinds: dict[Endpoint, NodeKind] = {}
        # What each speaks, with what it told of itself then and when that was.
        self._spoken: dict[Endpoint, tuple[tuple[object, ...], float, frozenset[str]]] = {}

    async def survey(self, node: Node) -> Survey:
        """Look at a node. The kind that it is believed to be is asked for first, then the others, cheapest first.

        Raises `NodeError`: the transport's when it cannot be reached, `NodeSilent` when it takes longer than the limit,
        `NodeBusy` or `NodeFailed` when all it says is 5xx, `BadReply` when what it says cannot be read or is no node's.
        """
        try:
            found = await self._recognised(node)
        except NodeError:
            self.forget(node)
            raise
        if found.loading:  # it has just been started
            self.forget(node)
            return found
        return msgspec.structs.replace(found, speaks=await self._paths(node, found))

    def forget(self, node: Node) -> None:
        """It may have been started anew: the next look asks for all that can be asked."""
        self._spoken.pop(node.endpoint, None)

    async def _recognised(self, node: Node) -> Survey:
        looks: tuple[Look, ...] = (self._ollama, self._llamacpp, self._lmstudio, self._openai)
        # Most kinds answer /v1/models, so a plain OpenAI server is only what is left after the others.
        first: Look = {
            NodeKind.LLAMACPP: self._llamacpp,
            NodeKind.LMSTUDIO: self._lmstudio,
            NodeKind.VLLM: self._vllm,
        }.get(self._kinds.get(node.endpoint) or node.kind, self._ollama)
        heard = _Heard()
        for look in (first, *(look for look in looks if look != first)):
            found = await look(node, heard)
            if found is not None:
                self._remember(node, found.kind)
                return msgspec.structs.replace(found, latency=heard.latency or 0.0, emulated=heard.emulated)
        raise heard.error(node)

    async def show(self, node: Node, model: Model) -> Model:
        """`model` with its capabilities, context length and parameters, as Ollama's ``/api/show`` tells them.

        Raises `NodeError`; only nodes that speak Ollama's protocol can be asked.
        """
        body = msgspec.json.encode({"model": model.native})
        reply = await ask(self._transport, node, Outgoing("POST", "/api/show", _JSON, body), self.probe_seconds)
        if reply.status != 200:
            raise BadReply(node.id, f"/api/show gave {reply.status} {wire.error_text(reply.body)}".rstrip())
        return _read(node, lambda: wire.parse_show(reply.body, model))

    async def _paths(self, node: Node, found: Survey) -> frozenset[str]:
        """Which of `ASKED_FOR` the node serves. Asked when it looks another than before, and now and then; it costs nothing."""
        traits, now = _traits(found), self._clock.now()
        known = self._spoken.get(node.endpoint)
        if known is not None and known[0] == traits and now - known[1] < SPOKEN_SECONDS:
            return known[2]
        spoken: set[str] = set()
        for path in ASKED_FOR:
            try:
                reply = await ask(self._transport, node, Outgoing("POST", path, _JSON, b"{}"), self.probe_seconds)
            except NodeError:
                return frozenset(spoken)  # the next look asks again
            if wire.speaks(reply.status, reply.body):
                spoken.add(path)
        if len(self._spoken) >= _REMEMBERED:
            self._spoken.clear()
        self._spoken[node.endpoint] = (traits, now, frozenset(spoken))
        return frozenset(spoken)

    def _remember(self, node: Node, kind: NodeKind) -> None:
        if len(self._kinds) >= _REMEMBERED:
            self._kinds.clear()
        self._kinds[node.endpoint] = kind

    async def _get(self, node: Node, path: str, heard: _Heard) -> Reply:
        reply = await ask(self._transport, node, Outgoing("GET", path), self.probe_seconds)
        heard.take(node, path, reply)
        return reply

    async def _ollama(self, node: Node, heard: _Heard) -> Survey | None:
        reply = await self._get(node, "/api/version", heard)
        if wire.is_loading(reply.status, reply.body):
            return _loading()
        version = _maybe(reply, wire.parse_version)
        if version is None:
            return None
        tags = await self._get(node, "/api/tags", heard)
        models = _read(node, lambda: wire.parse_tags(_ok(node, "/api/tags", tags)))
        ps = await self._get(node, "/api/ps", heard)
        resident: tuple[Resident, ...] = ()
        if ps.status != 404:  # very old versions have no /api/ps
            resident = _read(node, lambda: wire.parse_ps(_ok(node, "/api/ps", ps), self._wall(ps)))
        kind = NodeKind.SOLLOL if heard.powered_by_sollol else NodeKind.OLLAMA
        return Survey(kind, version, 0.0, models, resident)

    async def _llamacpp(self, node: Node, heard: _Heard) -> Survey | None:
        reply = await self._get(node, "/props", heard)
        if wire.is_loading(reply.status, reply.body):
            return _loading()
        props = _maybe(reply, wire.parse_props)
        if props is None:
            return None
        reply = await self._get(node, "/v1/models", heard)
        if wire.is_loading(reply.status, reply.body):
            return _loading()
        listing = _read(node, lambda: wire.parse_models(_ok(node, "/v1/models", reply), NodeKind.LLAMACPP))
        resident = tuple(
            msgspec.structs.replace(loaded, context_length=props.context_length or loaded.context_length)
            for loaded in listing.resident
        )
        models = listing.models
        if len(models) == 1:  # of several it tells nothing here
            models = (msgspec.structs.replace(models[0], capabilities=props.capabilities),)
        return Survey(NodeKind.LLAMACPP, props.build, 0.0, models, resident, slots=props.slots)

    async def _lmstudio(self, node: Node, heard: _Heard) -> Survey | None:
        listing = _maybe(await self._get(node, "/api/v0/models", heard), wire.parse_lmstudio)
        return None if listing is None else Survey(listing.kind, "", 0.0, listing.models, listing.resident)

    async def _openai(self, node: Node, heard: _Heard) -> Survey | None:
        listing = _maybe(await self._get(node, "/v1/models", heard), wire.parse_models)
        if listing is None:
            return None
        version = ""
        if listing.kind is NodeKind.VLLM:
            version = _maybe(await self._get(node, "/version", heard), wire.parse_version) or ""
        return Survey(listing.kind, version, 0.0, listing.models, listing.resident)

    async def _vllm(self, node: Node, heard: _Heard) -> Survey | None:
        found = await self._openai(node, heard)
        return found if found is not None and found.kind is NodeKind.VLLM else None

    def _wall(self, reply: Reply) -> float:
        """The node's own clock, as its Date header has it: clocks of machines differ, and `expires_at` is on the node's."""
        try:
            return parsedate_to_datetime(reply.header(b"date").decode("latin-1")).timestamp()
        except ValueError:
            return self._clock.wall()


def _traits(found: Survey) -> tuple[object, ...]:
    """What changes when a node is started with another version or other flags. Models of Ollama and LM Studio come and go."""
    if found.kind in (NodeKind.OLLAMA, NodeKind.LMSTUDIO):
        return found.kind, found.version
    models = tuple((model.name, model.capabilities, model.context_length) for model in found.models)
    return found.kind, found.version, found.slots, models, tuple(one.context_length for one in found.resident)


def _loading() -> Survey:
    return Survey(NodeKind.LLAMACPP, "", 0.0, (), (), loading=True)


def _maybe(reply: Reply, parse: Callable[[bytes], Parsed]) -> Parsed | None:
    """What a reply says, None where it is not of that kind."""
    if reply.status != 200:
        return None
    try:
        return parse(reply.body)
    except ValueError:
        return None


def _ok(node: Node, path: str, reply: Reply) -> bytes:
    text = f"{path} gave {reply.status} {wire.error_text(reply.body)}".rstrip()
    if reply.status == 503:
        raise NodeBusy(node.id, text)
    if reply.status >= 500:
        raise NodeFailed(node.id, text, reply.status, reply.body)
    if reply.status != 200:
        raise BadReply(node.id, text)
    return reply.body


def _read(node: Node, parse: Callable[[], Parsed]) -> Parsed:
    """What a reply says, where the node has to be able to say it."""
    try:
        return parse()
    except ValueError as error:
        raise BadReply(node.id, str(error)) from None
