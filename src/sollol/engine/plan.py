"""How one attempt speaks to its node: untouched where the node speaks the client's dialect, translated where it does not."""

from __future__ import annotations

from functools import partial

from sollol.core.ports import Header, Outgoing
from sollol.core.types import Decision, Dialect, Model, Node, NodeKind, Task
from sollol.engine.attempt import Filter, Plan
from sollol.wire.bodies import streamed, strip_priority, with_model
from sollol.wire.replies import document, watcher
from sollol.wire.routing import Annotate
from sollol.wire.translate import Translation, translation

_JSON: Header = (b"content-type", b"application/json")
_DOCUMENT = b"application/json; charset=utf-8"


def plan(task: Task, node: Node, kind: NodeKind, model: Model | None, decision: Decision) -> Plan:
    """The request to send and how to read the reply; ``kind`` is what the node turned out to be.

    Raises `RequestError` when the request cannot be said in the node's dialect.
    """
    extra: tuple[Filter, ...] = (Annotate(decision, node, kind),) if task.details and task.dialect is Dialect.OLLAMA else ()
    if task.dialect is Dialect.OLLAMA and kind is not NodeKind.OLLAMA and kind is not NodeKind.SOLLOL:
        return _translated(task, kind, model, extra)
    if kind is NodeKind.OLLAMA:
        if task.plain and not task.stream and task.dialect is Dialect.OLLAMA:
            read = partial(document, Dialect.OLLAMA, task.path)
            return Plan(
                Outgoing("POST", task.path, task.headers, streamed(task.body)), None, read, extra, _DOCUMENT, gathered=True
            )
        body = task.body
    else:
        body = _for_engine(task, model)
    watch = watcher(task.dialect, task.path) if task.stream else None
    return Plan(Outgoing("POST", task.path, task.headers, body), watch, partial(document, task.dialect, task.path), extra)


def _translated(task: Task, kind: NodeKind, model: Model | None, extra: tuple[Filter, ...]) -> Plan:
    made: Translation = translation(task, model.native if model is not None else task.model, kind)
    watch = watcher(Dialect.OPENAI, made.path) if task.stream else None
    content_type = b"application/x-ndjson" if task.stream else b"application/json; charset=utf-8"
    outgoing = Outgoing("POST", made.path, (*task.headers, _JSON), made.body)
    read = partial(document, Dialect.OPENAI, made.path)
    return Plan(outgoing, watch, read, (made, *extra), content_type, made.error)


def _for_engine(task: Task, model: Model | None) -> bytes:
    """Our "priority" means something else to vLLM, and a node may know the model by another name than the client."""
    body = strip_priority(task.body)
    if model is not None and model.native != model.name:
        body = with_model(body, model.native)
    return body
