"""Why a request would go where: the decision for an imagined request, with each term in seconds. Nothing is sent."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from sollol.core.estimates import CHARS_PER_TOKEN
from sollol.core.explain import reason
from sollol.core.ports import Sink
from sollol.core.types import Cost, Dialect, Kind, Mode, Prompt, Task
from sollol.errors import BadRequest
from sollol.gateway.answers import send_json
from sollol.gateway.context import Gateway
from sollol.gateway.http import Request

_NOT_SENT: Final = 0


class Question(Struct, forbid_unknown_fields=True):
    """The imagined request. ``kind``: what it asks for; ``prompt_tokens`` and ``max_tokens`` its size."""

    model: Annotated[str, Meta(min_length=1, max_length=500)]
    prompt_tokens: Annotated[int, Meta(ge=0, le=10_000_000)] = 100
    # Not "or None": in a query the word "null" would then be taken for it.
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=1, le=10)] = 5
    mode: Mode | UnsetType = UNSET
    kind: Kind = Kind.CHAT


class NodeTerms(Struct):
    """One node: why it is out (``blocked``), else its cost. All terms are seconds but ``slow``, ``success`` and ``score``."""

    node: str
    name: str
    state: str
    blocked: str
    wait: float
    load: float
    prefill: float
    decode: float
    evict: float
    lost: float
    slow: float
    success: float
    cost: float
    eta: float
    score: float
    free: bool


class Explanation(Struct):
    """``chosen`` is null when no node could serve the request; ``nodes`` are best first, blocked ones last."""

    model: str
    mode: str
    chosen: str | None
    reason: str
    nodes: list[NodeTerms]


async def explain(gateway: Gateway, request: Request, sink: Sink) -> None:
    """Rank the nodes for an imagined request."""
    question = _read(request.query)
    task = _task(gateway, question)
    costs = gateway.engine.scheduler.explain(task, gateway.engine.clock.now())
    ranked = [*(cost for cost in costs if not cost.blocked), *(cost for cost in costs if cost.blocked)]
    chosen = ranked[0].node if ranked and not ranked[0].blocked else None
    nodes = [_terms(gateway, cost) for cost in ranked]
    send_json(sink, Explanation(task.model, task.mode.value, chosen, _reason(ranked, chosen), nodes))


def _reason(ranked: list[Cost], chosen: str | None) -> str:
    if chosen is not None:
        return reason(ranked)
    return "; ".join(f"{cost.name or cost.node}: {cost.blocked}" for cost in ranked[:20]) or "no node is known"


def _read(query: str) -> Question:
    pairs = parse_qsl(query, keep_blank_values=True)
    values = dict(pairs)
    if len(values) < len(pairs):
        raise BadRequest("a parameter was given twice")
    if not values.get("model"):
        raise BadRequest("model is required")
    try:
        return msgspec.convert(values, Question, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def _task(gateway: Gateway, question: Question) -> Task:
    model = gateway.catalogue.model(question.model)
    known = gateway.engine.state.models.get(model)
    chars = question.prompt_tokens * (known.chars_per_token if known is not None else CHARS_PER_TOKEN)
    return Task(
        id=_NOT_SENT,
        kind=question.kind,
        dialect=Dialect.OLLAMA,
        path="/api/chat",
        model=model,
        body=b"",
        arrived=gateway.engine.clock.now(),
        priority=question.priority,
        mode=gateway.config.routing.mode if question.mode is UNSET else question.mode,
        prompt=Prompt(chars=round(chars)),
        max_tokens=None if question.max_tokens is UNSET else question.max_tokens,
        needs=frozenset({"embedding"}) if question.kind is Kind.EMBED else frozenset(),
    )


def _terms(gateway: Gateway, cost: Cost) -> NodeTerms:
    node = gateway.engine.state.nodes[cost.node]
    return NodeTerms(
        node=cost.node,
        name=node.label,
        state=node.state.value,
        blocked=cost.blocked,
        wait=round(cost.wait, 4),
        load=round(cost.load, 4),
        prefill=round(cost.prefill, 4),
        decode=round(cost.decode, 4),
        evict=round(cost.evict, 4),
        lost=round(cost.lost, 4),
        slow=round(cost.slow, 3),
        success=round(cost.success, 4),
        cost=round(cost.total, 4),
        eta=round(cost.eta, 4),
        score=0.0 if cost.blocked else round(cost.score, 2),
        free=cost.free,
    )
