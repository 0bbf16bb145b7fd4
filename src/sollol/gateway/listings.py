"""What is answered from what is known, at once: which models there are, what is loaded, which version.

No node is asked, so one that does not answer delays nothing; only the first look at a new node is waited for. Models of nodes
that are down are left out, unless every node is down: then the last known catalogue is shown rather than an empty one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from sollol.core.digests import modified
from sollol.core.node import NodeState, Runner
from sollol.core.ports import Header, Sink
from sollol.core.types import Model, NodeKind
from sollol.errors import NoNodeForModel
from sollol.gateway.answers import JSON, send, send_json, send_text
from sollol.gateway.context import Gateway
from sollol.gateway.http import Request
from sollol.gateway.showing import described
from sollol.gateway.targets import newest_first, reachable
from sollol.wire.bodies import changed
from sollol.wire.names import canonical, tagged

Handler = Callable[[Gateway, Request, Sink], Awaitable[None]]

OUR_VERSION: Final = "0.33.0"
"""The version of Ollama whose API this one follows; told where no Ollama node says its own."""

_PLAIN_JSON: Final[Header] = (b"content-type", b"application/json")
_FAR: Final = "2318-01-01T00:00:00Z"
_LONG: Final = 100 * 365 * 86_400.0  # seconds that are for ever: a calendar has an end
_ANTHROPIC: Final = b"anthropic-version"  # every client of that API sends it
ALIAS_OF: Final = "alias_of"
_NUMBERS: Final = re.compile(r"\d{1,9}")


async def root(gateway: Gateway, request: Request, sink: Sink) -> None:
    """What `ollama` and browsers look for at "/"."""
    send_text(sink, "Ollama is running")


async def version(gateway: Gateway, request: Request, sink: Sink) -> None:
    """The lowest version among the Ollama nodes: what every one of them can do."""
    nodes = [node for node in _shown(gateway) if node.kind is NodeKind.OLLAMA and node.version_text]
    lowest = min((node.version_text for node in nodes), key=version_key, default=OUR_VERSION)
    send_json(sink, {"version": lowest})


async def tags(gateway: Gateway, request: Request, sink: Sink) -> None:
    """The union of the models, newest first. Each entry says on which nodes it is.

    One name with different digests is listed once for each of them, so that a difference is seen.
    """
    await gateway.monitor.all_looked_at()
    aliases, found = gateway.catalogue.aliases, union(gateway)
    spelt: dict[str, str] = {}
    entries = []
    for model, nodes in found:
        if model.name in aliases:
            continue  # whoever asks for that name gets another model
        shown = spelt.setdefault(model.name, _shown_name(model))
        entry = _tag(nodes[0], model)
        if shown != _shown_name(model):
            entry = changed(entry, {"name": shown, "model": shown})
        entries.append(_with(entry, "nodes", [node.label for node in nodes]))
    for alias, model, nodes in _aliased(gateway, found) if aliases else ():
        name = tagged(alias)  # Ollama's names have a tag; OpenAI's clients look for the name that they were given
        entry = changed(_tag(nodes[0], model), {"name": name, "model": name, ALIAS_OF: spelt[model.name]})
        entries.append(_with(entry, "nodes", [node.label for node in nodes]))
    send(sink, 200, b'{"models":[' + b",".join(entries) + b"]}", [JSON])


async def ps(gateway: Gateway, request: Request, sink: Sink) -> None:
    """What is loaded where; each entry says on which node. A model is absent while it loads."""
    now = gateway.engine.clock.now()
    wall = gateway.engine.clock.wall()
    entries = [
        _with(_loaded(node, runner, now, wall), "node", node.label)
        for node in _shown(gateway)
        if reachable(node)
        for runner in node.residents(now)
        if not runner.loading and runner.model in node.models
    ]
    send(sink, 200, b'{"models":[' + b",".join(entries) + b"]}", [JSON])


async def v1_models(gateway: Gateway, request: Request, sink: Sink) -> None:
    """The models in OpenAI's shape, or in Anthropic's for its clients; each name once."""
    await gateway.monitor.all_looked_at()
    seen: dict[str, dict[str, Any]] = {}
    found = union(gateway)
    for model, _ in found:
        seen.setdefault(model.name, _v1(_shown_name(model), model))
    for alias, model, _ in _aliased(gateway, found) if gateway.catalogue.aliases else ():
        seen[canonical(alias)] = {**_v1(alias, model), ALIAS_OF: seen[model.name]["id"]}
    told = {"object": "list", "data": list(seen.values())}
    if request.header(_ANTHROPIC):
        told = _anthropic_list(list(seen.values()))
    body = msgspec.json.encode(told) + b"\n"
    send(sink, 200, body, [_PLAIN_JSON])


async def v1_model(gateway: Gateway, request: Request, sink: Sink) -> None:
    """One model in OpenAI's shape, under the name that was asked for."""
    await gateway.monitor.all_looked_at()
    asked = unquote(request.path.removeprefix("/v1/models/"))
    name = gateway.catalogue.model(asked)
    nodes = [node for node in _shown(gateway) if name in node.models]
    if not nodes:
        raise NoNodeForModel(name)
    told = _v1(asked, newest_first(nodes, name)[0].models[name])
    if gateway.catalogue.is_alias(asked):
        told[ALIAS_OF] = _shown_name(nodes[0].models[name])
    body = msgspec.json.encode(_anthropic_model(told) if request.header(_ANTHROPIC) else told) + b"\n"
    send(sink, 200, body, [_PLAIN_JSON])


def union(gateway: Gateway) -> list[tuple[Model, list[NodeState]]]:
    """Every (name, digest) that a shown node has, with its nodes, newest first."""
    found: dict[tuple[str, str], tuple[Model, list[NodeState]]] = {}
    for node in _shown(gateway):
        for model in node.models.values():
            found.setdefault((model.name, model.digest), (model, []))[1].append(node)
    return sorted(found.values(), key=lambda entry: -modified(entry[0]))


def _aliased(gateway: Gateway, found: list[tuple[Model, list[NodeState]]]) -> Iterator[tuple[str, Model, list[NodeState]]]:
    """Aliases of models that are there, each with the newest of its model and the nodes that have that."""
    newest: dict[str, tuple[Model, list[NodeState]]] = {}
    for model, nodes in found:
        newest.setdefault(model.name, (model, nodes))
    for name, target in gateway.catalogue.aliases.items():
        if target in newest:
            yield (gateway.catalogue.written[name], *newest[target])


def _shown_name(model: Model) -> str:
    """How it is spelt: as the first Ollama node writes it (clients look for what they wrote themselves), else in plain form."""
    return model.native if model.raw and not model.renamed else model.name


def version_key(text: str) -> tuple[list[int], bool]:
    """Orders "0.9.1" before "0.33.0-rc2" before "0.33.0"."""
    release, dash, _ = text.partition("-")
    return [int(number) for number in _NUMBERS.findall(release)], not dash


def _shown(gateway: Gateway) -> list[NodeState]:
    nodes = list(gateway.engine.state.nodes.values())
    return [node for node in nodes if reachable(node)] or nodes


def _tag(node: NodeState, model: Model) -> bytes:
    """The node's own entry; else one of what is known. Clients want every key, and `details` never null."""
    if model.raw:
        return model.raw
    known = described(node, model)
    return msgspec.json.encode(
        {
            "name": model.name,
            "model": model.name,
            "modified_at": known["modified_at"],
            "size": model.size,
            "digest": model.digest,
            "details": {**known["details"], **({"context_length": model.context_length} if model.context_length else {})},
            "capabilities": known["capabilities"],
        },
    )


def _loaded(node: NodeState, runner: Runner, now: float, wall: float) -> bytes:
    """The node's own entry of its last look, with what is known since; else all of it is what is known."""
    left = math.inf if runner.expires is None else runner.expires - now
    until = _FAR if left > _LONG else datetime.fromtimestamp(wall + left, UTC).isoformat().replace("+00:00", "Z")
    for resident in node.resident:
        if resident.name == runner.model and resident.raw and runner.made_at <= node.told_at:
            told = runner.used_at <= node.told_at or runner.running or node.kind is not NodeKind.OLLAMA
            return resident.raw if told else changed(resident.raw, {"expires_at": until})
    model = node.models[runner.model]
    size = int(node.sizes.get(model.name) or model.size)
    return msgspec.json.encode(
        {
            "name": model.name,
            "model": model.name,
            "size": size,
            "digest": model.digest,
            "details": described(node, model)["details"],
            "expires_at": until,
            "size_vram": size if node.gpu else 0,
            # what the model could have says nothing of what it was loaded with
            **({"context_length": runner.context} if runner.context else {}),
        },
    )


def _v1(shown: str, model: Model) -> dict[str, Any]:
    return {"id": shown, "object": "model", "created": int(modified(model)), "owned_by": "library"}


def _anthropic_model(told: dict[str, Any]) -> dict[str, Any]:
    """An entry of OpenAI's shape in Anthropic's."""
    made = datetime.fromtimestamp(told["created"], UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": told["id"], "display_name": told["id"], "created_at": made}


def _anthropic_list(entries: list[dict[str, Any]]) -> dict[str, Any]:
    data = [_anthropic_model(told) for told in entries]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def _with(entry: bytes, key: str, value: Any) -> bytes:
    """One key more at the end of a JSON object, everything else byte for byte as it was."""
    body = entry.rstrip()[:-1].rstrip()
    comma = b"" if body.endswith(b"{") else b","
    return body + comma + msgspec.json.encode(key) + b":" + msgspec.json.encode(value) + b"}"


ROUTES: Final[dict[tuple[str, str], Handler]] = {
    ("GET", "/"): root,
    ("HEAD", "/"): root,
    ("GET", "/api/version"): version,
    ("HEAD", "/api/version"): version,
    ("GET", "/api/tags"): tags,
    ("HEAD", "/api/tags"): tags,
    ("GET", "/api/ps"): ps,
    ("GET", "/v1/models"): v1_models,
}
PREFIXES: Final[dict[str, dict[str, Handler]]] = {"/v1/models/": {"GET": v1_model}}
