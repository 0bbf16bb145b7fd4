"""How one attempt speaks to its node: untouched where the node speaks the client's dialect, translated where it does not."""

from __future__ import annotations

from functools import partial
from typing import Final

from sollol.core.node import NodeState
from sollol.core.ports import Header, Outgoing
from sollol.core.resuming import continues
from sollol.core.types import Decision, Dialect, Model, NodeKind, Task
from sollol.engine.attempt import Filter, Plan
from sollol.wire import forms
from sollol.wire.bodies import streamed, strip_priority
from sollol.wire.errors import in_dialect
from sollol.wire.newer_requests import MESSAGES, RESPONSES, TRANSCRIPTIONS
from sollol.wire.replies import document, watcher
from sollol.wire.routing import Annotate
from sollol.wire.translate import Translation, translation

_JSON: Final[Header] = (b"content-type", b"application/json")
_DOCUMENT: Final = b"application/json; charset=utf-8"
_OLLAMA_SPEAKERS: Final = frozenset({NodeKind.OLLAMA, NodeKind.SOLLOL})
_COMPLETIONS: Final = "/v1/completions"
RETOLD: Final = frozenset({MESSAGES, RESPONSES})
"""Whose plain answers go on through the one translation that began them, where they are translated."""
# What every node has that speaks OpenAI's dialect, Ollama included; of other paths a look at the node tells.
_COMMON: Final = frozenset({"/v1/chat/completions", _COMPLETIONS, "/v1/embeddings"})


def plan(task: Task, known: NodeState, decision: Decision) -> Plan:
    """The request to send and how to read the reply.

    Raises `RequestError` when the request cannot be said in the node's dialect.
    """
    kind, model = known.kind, known.models.get(task.model)
    ollama = task.dialect is Dialect.OLLAMA
    extra: tuple[Filter, ...] = (Annotate(decision, known.node, kind),) if task.details and ollama else ()
    if kind not in _OLLAMA_SPEAKERS if ollama else not _serves(known, task):
        return _translated(task, kind, model, extra)
    if kind is NodeKind.OLLAMA:
        if ollama and task.plain and not task.stream:
            read = partial(document, Dialect.OLLAMA, task.path)
            body = streamed(asked_of(model, task.body))
            return Plan(Outgoing("POST", task.path, task.headers, body), None, read, extra, _DOCUMENT, gathered=True)
        body = asked_of(model, task.body)
    else:
        body = _for_engine(task, model)
    watch = watcher(task.dialect, task.path) if task.stream else None
    # Engines that speak Anthropic's dialect tell their errors in OpenAI's all the same.
    refusal = partial(in_dialect, Dialect.ANTHROPIC) if task.dialect is Dialect.ANTHROPIC else None
    outgoing = Outgoing("POST", task.path, task.headers, body)
    return Plan(outgoing, watch, partial(document, task.dialect, task.path), extra, refusal=refusal)


def _serves(known: NodeState, task: Task) -> bool:
    """Whether the node answers this path itself, with all that is asked there."""
    if task.path in _COMMON:
        # llama.cpp passes over a suffix there; what has one goes to its path for insertions.
        return "insert" not in task.needs or known.kind is not NodeKind.LLAMACPP
    if task.path not in known.speaks:
        return False
    if task.path == RESPONSES:
        # llama.cpp's events lack the places by which clients put an answer together, and it passes over the form of an answer.
        return known.kind is not NodeKind.LLAMACPP
    # So do engines on Anthropic's path. Translated, they keep to the form.
    return task.path != MESSAGES or b'"output_config"' not in task.body or b'"json_schema"' not in task.body


def _translated(task: Task, kind: NodeKind, model: Model | None, extra: tuple[Filter, ...]) -> Plan:
    # A document of plain text is put together from a stream, where another node could go on with that.
    gathered = task.plain and not task.stream and task.path in RETOLD and continues(kind)
    made: Translation = translation(task, model.native if model is not None else task.model, kind, gathered=gathered)
    watch = watcher(made.dialect, made.path) if task.stream or gathered else None
    headers = (*(header for header in task.headers if header[0] != b"content-type"), _JSON)
    outgoing = Outgoing("POST", made.path, headers, made.body)
    read = partial(document, made.dialect, made.path)
    return Plan(outgoing, watch, read, (made, *extra), made.content_type, made.error, made=made)


def asked_of(model: Model | None, body: bytes) -> bytes:
    """A request as a node gets it that calls the model by another name than it has here."""
    return forms.naming(body, model.native) if model is not None and model.renamed else body


def _for_engine(task: Task, model: Model | None) -> bytes:
    """Our "priority" means something else to vLLM, and a node may know the model by another name than the client."""
    body = task.body if task.path == TRANSCRIPTIONS else strip_priority(task.body)
    if model is not None and model.native != model.name:
        body = forms.naming(body, model.native)
    return body
