"""POST /v1/messages/count_tokens: how long a prompt is, by the tokenizer of a node that has the model; else an estimate.

Ollama tells no count without reading the whole prompt, which can take a minute, and clients ask often: there the count is
estimated from the texts' length and what was learned of the model. An estimate is marked by a header.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from sollol.core.node import NodeState
from sollol.core.ports import Header, Outgoing, Sink
from sollol.core.types import NodeKind, Task
from sollol.drivers.collect import Reply, ask
from sollol.errors import BadReply, BadRequest, NodeError, NoNodeForModel, NoNodes
from sollol.gateway.answers import JSON, send, send_json
from sollol.gateway.context import Gateway
from sollol.gateway.http import Request
from sollol.gateway.inference import Inference
from sollol.gateway.targets import find, idle_first, known_names, nobody, reachable
from sollol.wire.bodies import with_model
from sollol.wire.errors import message
from sollol.wire.newer_requests import COUNT_TOKENS, MESSAGES
from sollol.wire.routing import ascii_value
from sollol.wire.translate import translation

ESTIMATED: Final[Header] = (b"x-sollol-estimated", b"input_tokens")
SECONDS: Final = 10.0
"""A tokenizer that takes longer is not waited for."""
_TYPE: Final = ((b"content-type", b"application/json"),)


_Form = TypeVar("_Form")


class _Named(Struct):
    model: str


class _Count(Struct):
    input_tokens: int


class _Template(Struct):
    prompt: str


class _Tokens(Struct):
    tokens: list[Raw] = []
    count: int | None = None


class CountTokens:
    """Handler of the path."""

    def __init__(self, gateway: Gateway, inference: Inference) -> None:
        self._gateway = gateway
        self._inference = inference

    async def __call__(self, request: Request, sink: Sink) -> None:
        """Answer one request. Raises a `SollolError`: unknown model, no node, or a request that cannot be read."""
        task = self._inference.task(request)
        nodes = self._holders(task)
        for node, way in _ways(nodes):
            try:
                count = await way(self, task, node)
            except NodeError:
                continue  # it is only a count: the next one is asked, and else it is estimated
            send(sink, 200, msgspec.json.encode(_Count(count)), (JSON, (b"x-sollol-node", ascii_value(node.label))))
            return
        estimate = max(1, round(self._gateway.engine.state.prompt_tokens(task)))
        send_json(sink, _Count(estimate), headers=(ESTIMATED,))

    def _holders(self, task: Task) -> list[NodeState]:
        """The nodes that can be asked, idle ones first; none where all that have the model are down."""
        gateway = self._gateway
        if not gateway.engine.state.nodes:
            raise NoNodes(nobody(gateway), retry_after=5.0)
        holders = gateway.engine.state.holders(task.model)
        if not holders:
            raise NoNodeForModel(msgspec.json.decode(task.body, type=_Named).model)  # as the client wrote it
        if task.pin is not None:
            pinned = find(gateway, task.pin)
            if pinned is None:
                raise BadRequest(f"X-SOLLOL-Node: node '{task.pin}' is not known (known: {known_names(gateway)})")
            holders = [node for node in holders if node is pinned]
        return idle_first(node for node in holders if reachable(node))

    async def natively(self, task: Task, node: NodeState) -> int:
        """By a node that has the very path. What it says against the request is told to the client."""
        reply = await self._ask(node, COUNT_TOKENS, with_model(task.body, node.models[task.model].native))
        if reply.header(ESTIMATED[0]):
            raise BadReply(node.id, "a gateway that could only estimate")
        return _read(node, reply, _Count).input_tokens

    async def by_template(self, task: Task, node: NodeState) -> int:
        """llama.cpp renders the prompt, then counts it."""
        reply = await self._ask(node, "/apply-template", self._chat(task, node))
        prompt = _read(node, reply, _Template).prompt
        content = {"content": prompt, "add_special": True, "parse_special": True}
        reply = await self._ask(node, "/tokenize", msgspec.json.encode(content))
        return len(_read(node, reply, _Tokens).tokens)

    async def by_chat(self, task: Task, node: NodeState) -> int:
        """vLLM counts a chat."""
        found = _read(node, await self._ask(node, "/tokenize", self._chat(task, node)), _Tokens)
        return len(found.tokens) if found.count is None else found.count

    def _chat(self, task: Task, node: NodeState) -> bytes:
        """The same as a chat in OpenAI's dialect. Raises `RequestError` for what it cannot say."""
        asked = msgspec.structs.replace(task, path=MESSAGES, stream=False)
        return translation(asked, node.models[task.model].native, node.kind).body

    async def _ask(self, node: NodeState, path: str, body: bytes) -> Reply:
        return await ask(self._gateway.engine.transport, node.node, Outgoing("POST", path, _TYPE, body), SECONDS)


_Way = Callable[[CountTokens, Task, NodeState], Awaitable[int]]
_WAYS: Final[dict[NodeKind, _Way]] = {NodeKind.LLAMACPP: CountTokens.by_template, NodeKind.VLLM: CountTokens.by_chat}


def _ways(nodes: list[NodeState]) -> list[tuple[NodeState, _Way]]:
    """The nodes that can count, and how: those first that have the very path."""
    own = [(node, CountTokens.natively) for node in nodes if COUNT_TOKENS in node.speaks]
    return own + [(node, _WAYS[node.kind]) for node in nodes if node.kind in _WAYS and COUNT_TOKENS not in node.speaks]


def _read(node: NodeState, reply: Reply, form: type[_Form]) -> _Form:
    if reply.status in (400, 413, 422):
        raise BadRequest(message(reply.body))
    if reply.status != 200:
        raise BadReply(node.id, f"it counted no tokens: {reply.status} {message(reply.body)}")
    try:
        return msgspec.json.decode(reply.body, type=form)
    except msgspec.DecodeError as error:
        raise BadReply(node.id, f"it counted no tokens: {error}") from None
