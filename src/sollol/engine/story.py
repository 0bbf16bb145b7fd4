"""What a plain answer has come to over all of its attempts, and the words with which another node goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from sollol.core.node import NodeState, Running
from sollol.core.ports import Header, Headers, Outgoing, Sent
from sollol.core.resuming import continues, same, unfit
from sollol.core.stall import Watched
from sollol.core.types import Counters, Decision, Dialect, Model, NodeKind, Task
from sollol.engine.attempt import Attempt, Filter, Plan
from sollol.engine.judge import judge
from sollol.engine.plain import Parts, PlainAttempt
from sollol.engine.plan import RETOLD, asked_of, plan
from sollol.engine.retold import RetoldAttempt
from sollol.errors import BadReply, CannotCarry, NodeError, RequestError
from sollol.wire import continuation as wire
from sollol.wire.errors import message
from sollol.wire.replies import Ending, document, watcher
from sollol.wire.routing import Annotate
from sollol.wire.said import SaidLines
from sollol.wire.said_events import SaidEvents
from sollol.wire.translate import Translation, translation

_JSON: Final[Header] = (b"content-type", b"application/json")
_GENERATE: Final = "/api/generate"
_APPLY: Final = "/apply-template"
_PROMPT_BYTES: Final = 64 * 1024 * 1024


_UNSAID: Final = SaidLines()  # nothing is ever added to it


class Story:
    """One plain answer. ``said`` is what the client was told; ``resumed`` counts how often another node went on.

    Where the answer is ``retold``, ``said`` is what the nodes said, and ``made`` the translation by which the client is told.
    """

    __slots__ = ("before", "first_at", "kind", "made", "model", "nodes", "resumed", "retold", "said")

    def __init__(self, said: wire.Said | None) -> None:
        self.retold = said is None
        self._start(said or _UNSAID)

    def _start(self, said: wire.Said) -> None:
        self.said = said
        self.made: Translation | None = None
        self.kind = NodeKind.OLLAMA
        self.model: Model | None = None
        self.before = wire.Before()
        self.resumed = 0
        self.nodes: list[str] = []
        self.first_at: float | None = None

    def forget(self, task: Task) -> None:
        """Nothing of it was shown: the next attempt answers from the start."""
        self._start(wire.said_by(task) or _UNSAID)

    def attempt(self, parts: Parts, kind: NodeKind) -> Attempt:
        """An attempt at a node of `kind`."""
        if not self.retold:
            return PlainAttempt(parts, self.said)
        made = parts[2].made
        if made is None or not continues(kind):
            self._start(_UNSAID)
            return Attempt(*parts)
        if not self.begun:
            self.made, self.said = made, wire.said_at(made.dialect, parts[1].decision.task)
        return RetoldAttempt(parts, self.said)

    @property
    def begun(self) -> bool:
        """Whether something was said that has to be continued."""
        return self.model is not None

    def broke(self, run: Running | None, node: NodeState | None, now: float) -> None:
        """An attempt broke off: add up what it did, and remember which model it was that spoke."""
        self.said.read()
        if run is None or node is None:
            return
        if self.model is None and self.said.tokens:
            self.kind, self.model = node.kind, node.models.get(run.task.model)
        first, last = run.progress.first_at, run.progress.last_at
        before = self.before
        if self.said.tokens > before.tokens:
            self.nodes.append(node.label)
        self.first_at = self.first_at or first
        self.before = wire.Before(
            self.said.tokens,
            before.prefill + (max(0.0, first - run.started) if first is not None else 0.0),
            before.decode + (max(0.0, last - first) if first is not None and last is not None else 0.0),
            max(0.0, now - run.task.arrived),
        )

    def stays(self, task: Task) -> str:
        """Why the answer cannot be continued by anybody; empty when it may be."""
        said = self.said
        if not said.plain:
            return "thoughts and calls of tools are not continued"
        if not said.tokens:
            return ""
        if self.model is None or not continues(self.kind):
            return "an answer of this kind of node is not continued"
        try:
            return "its last character is not whole" if said.text.endswith("\ufffd") else ""
        except UnicodeDecodeError:
            return "it cannot be read"

    def unfit(self, nodes: Iterable[NodeState]) -> frozenset[str]:
        """Ids of the nodes that cannot go on."""
        return frozenset() if self.model is None else unfit(self.kind, self.model, nodes)

    def left(self, task: Task) -> int | None:
        """Tokens that may still be said; None: no limit."""
        return None if task.max_tokens is None else max(0, task.max_tokens - self.said.tokens)

    def counted(self) -> dict[str, int]:
        """The counters of an Ollama answer of which only the last line was missing."""
        before = self.before
        times = (("total_duration", before.elapsed), ("prompt_eval_duration", before.prefill), ("eval_duration", before.decode))
        return {"eval_count": before.tokens, **{name: round(seconds * wire.NS) for name, seconds in times}}

    def closing(self, task: Task, prompt: float, now: float, *, shown: bool) -> bytes:
        """The end of an answer whose text is complete; all of a document, of which nothing was ``shown``.

        ``prompt``: about how many tokens the prompt has.
        """
        said, made = self.said, self.made
        usage = wire.counts(prompt, said.tokens) if self.retold or wire.wants_counts(task) else None
        end = said.closing("length", self.counted(), usage)
        if made is not None:
            return made.feed(end, now) + made.finish(now)
        if shown or isinstance(said, SaidEvents):
            return end
        said.add(end)
        return said.document()

    def summed(self, counters: Counters | None) -> Counters | None:
        """The counters of the whole answer, where those of its last part are known."""
        before = self.before
        if counters is None or not self.resumed:
            return counters
        return Counters(
            prompt_tokens=None if counters.prompt_tokens is None else max(1, counters.prompt_tokens - before.tokens),
            # What made no token any more says nothing of them.
            output_tokens=(counters.output_tokens or 0) + before.tokens,
            cached_tokens=counters.cached_tokens,
            total=None if counters.total is None else counters.total + before.elapsed,
            load=counters.load,
            prefill=(counters.prefill or 0.0) + before.prefill,
            decode=(counters.decode or 0.0) + before.decode,
            done_reason=counters.done_reason,
        )


def begin(task: Task) -> Story | None:
    """The story of `task`, if it is one whose answer can be continued or put together."""
    said = wire.said_by(task)
    return Story(said) if said is not None or task.path in RETOLD else None


class Rendering:
    """The receiver of a prompt that a node renders. `finished` gets the body, or the `NodeError`."""

    def __init__(self, node: str) -> None:
        self.finished: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.exchange: Sent | None = None
        self._node = node
        self._status = 0
        self._pieces: list[bytes] = []
        self._size = 0

    watched = Watched(streamed=True, paused=False)

    def on_head(self, status: int, headers: Headers) -> None:
        """From the transport."""
        self._status = status

    def on_data(self, data: bytes) -> None:
        """From the transport."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > _PROMPT_BYTES:
            self.fail(BadReply(self._node, "the rendered prompt has no end"))

    def on_end(self) -> None:
        """From the transport."""
        body = b"".join(self._pieces)
        if self._status < 300:
            if not self.finished.done():
                self.finished.set_result(body)
            return
        error = judge(self._node, self._status, body)
        self.fail(error or CannotCarry(self._node, RequestError(message(body))))

    def on_error(self, error: Exception) -> None:
        """From the transport."""
        self.fail(error if isinstance(error, NodeError) else BadReply(self._node, str(error)))

    def on_writable(self, writable: bool) -> None:
        """From the transport; requests here are sent whole."""

    def fail(self, error: NodeError) -> None:
        """End it from outside."""
        if not self.finished.done():
            self.finished.set_exception(error)

    def end_line(self) -> None:
        """Nothing of this is shown to the client."""


def rendering(task: Task, known: NodeState, story: Story, decision: Decision) -> Outgoing | None:
    """The request that has the node render the prompt; None where the prompt is what the client wrote.

    Raises `CannotCarry` when this node cannot go on.
    """
    node = known.node.id
    if story.model is None or not same(story.kind, story.model, known):
        raise CannotCarry(node, RequestError("it does not have the same model as the node that began the answer"))
    if wire.raw_prompt(task, known.kind) is not None:
        return None
    if known.kind is NodeKind.OLLAMA and task.dialect is not Dialect.OLLAMA:
        made = _translated(task, known)
        body = made.body if story.retold else wire.as_native(made.body)
        return Outgoing("POST", made.path, task.headers, wire.rendering(body))
    if known.kind is NodeKind.OLLAMA:
        return Outgoing("POST", task.path, task.headers, wire.rendering(_asked(task, known)))
    body = _translated(task, known).body if story.retold else plan(task, known, decision).outgoing.body
    return Outgoing("POST", _APPLY, (*task.headers, _JSON), wire.template_body(body))


def prompt_of(node: str, kind: NodeKind, reply: bytes) -> str:
    """The prompt in the reply to that. Raises `BadReply`."""
    try:
        return wire.rendered(reply) if kind is NodeKind.OLLAMA else wire.templated(reply)
    except msgspec.DecodeError as error:
        raise BadReply(node, f"it rendered no prompt: {error}") from None


def going_on(task: Task, known: NodeState, story: Story, decision: Decision, prompt: str | None) -> Plan:
    """The plan for the attempt that goes on. ``prompt`` is the rendered one, None for the client's own."""
    text = wire.raw_prompt(task, known.kind) if prompt is None else prompt
    prompt = (text or "") + story.said.text
    left = story.left(task)
    # Whoever asked for details gets this one with the others.
    extra: tuple[Filter, ...] = (Annotate(decision, known.node, known.kind, resumed=story.nodes),) if task.details else ()
    told = () if extra else story.nodes
    if story.made is not None:
        return _retold(task, known, story, prompt, left)
    if known.kind is NodeKind.OLLAMA and task.dialect is Dialect.OPENAI:
        return _in_events(task, known, story, prompt, left)
    content = b"" if task.stream else b"application/json; charset=utf-8"
    if known.kind is NodeKind.OLLAMA:
        outgoing = Outgoing("POST", _GENERATE, task.headers, wire.going_on(_asked(task, known), prompt, left))
        shape: tuple[Filter, ...] = () if task.path == _GENERATE else (wire.AsChat(),)
        filters = (*shape, wire.Sum(story.before, translated=False, nodes=told), *extra)
        watch = watcher(Dialect.OLLAMA, _GENERATE) if task.stream else None
        return Plan(outgoing, watch, _native, filters, content, gathered=not task.stream)
    usual = plan(task, known, decision)
    body = wire.completing(usual.outgoing.body, prompt, left)
    outgoing = Outgoing("POST", wire.COMPLETIONS, usual.outgoing.headers, body)
    watch = watcher(Dialect.OPENAI, wire.COMPLETIONS)
    if task.dialect is Dialect.OLLAMA:
        filters = (usual.filters[0], wire.Sum(story.before, translated=True, nodes=told), *extra)
        return Plan(outgoing, watch, usual.document, filters, usual.content_type, usual.refusal, made=usual.made)
    assert isinstance(story.said, SaidEvents)
    return Plan(outgoing, watch, usual.document, (wire.AsChunks(story.said, story.before, story.nodes),))


def _retold(task: Task, known: NodeState, story: Story, prompt: str, left: int | None) -> Plan:
    """What was translated goes on in the same translation, fed with the rest in the shape of what broke off."""
    made = story.made
    assert made is not None
    body = _translated(task, known).body
    headers = (*(header for header in task.headers if header[0] != b"content-type"), _JSON)
    if known.kind is NodeKind.OLLAMA:
        outgoing = Outgoing("POST", _GENERATE, headers, wire.going_on(body, prompt, left))
        watch = watcher(Dialect.OLLAMA, _GENERATE)
        shape: tuple[Filter, ...] = (wire.AsChat(), wire.Sum(story.before, translated=False))
    else:
        outgoing = Outgoing("POST", wire.COMPLETIONS, headers, wire.completing(body, prompt, left))
        watch = watcher(Dialect.OPENAI, wire.COMPLETIONS)
        assert isinstance(story.said, SaidEvents)
        shape = (wire.AsChunks(story.said, story.before),)
    made.resumed(story.nodes)
    return Plan(outgoing, watch, _native, shape, made.content_type, made.error, made=made)


def _in_events(task: Task, known: NodeState, story: Story, prompt: str, left: int | None) -> Plan:
    """A stream of OpenAI's dialect goes on at an Ollama node, which is asked in its own."""
    made = _translated(task, known)
    body = wire.going_on(wire.as_native(made.body), prompt, left)
    outgoing = Outgoing("POST", _GENERATE, task.headers, body)
    assert isinstance(story.said, SaidEvents)
    filters = (made, wire.AsChunks(story.said, story.before, story.nodes))
    watch = watcher(Dialect.OLLAMA, _GENERATE)
    return Plan(outgoing, watch, _native, filters, made.content_type, made.error, made=made)


def _translated(task: Task, known: NodeState) -> Translation:
    model = known.models.get(task.model)
    native = model.native if model is not None else task.model
    return translation(task, native, known.kind, gathered=not task.stream)


def _asked(task: Task, known: NodeState) -> bytes:
    return asked_of(known.models.get(task.model), task.body)


def _native(body: bytes) -> Ending:
    return document(Dialect.OLLAMA, _GENERATE, body)
