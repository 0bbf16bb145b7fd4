"""How a decision is told to the client: `X-SOLLOL-*` headers, and `_sollol_routing` in the body for those who ask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from sollol.core.analyze import analyze
from sollol.core.explain import reason
from sollol.core.ports import Header
from sollol.core.types import Decision, Mode, Node, NodeKind

DETAILS: Final = "_sollol_routing"
"""The member in which a reply tells where it was made."""
_DETAILS: Final = b'"_sollol_routing":'


def headers(decision: Decision, node: Node, kind: NodeKind) -> list[Header]:
    """The headers of a routed reply. Values are plain ASCII without line breaks, whatever the node is called."""
    said = [
        *_of_node(node, kind, decision.task.mode),
        (b"x-sollol-score", b"%.1f" % decision.ranked[0].score),
        (b"x-sollol-attempts", b"%d" % decision.attempt),
        (b"x-sollol-queue-ms", b"%.1f" % (decision.queued * 1000.0)),
        (b"x-sollol-reason", ascii_value(reason(decision.ranked))),
    ]
    if decision.position:
        said += waited(decision.position, decision.why)
    return said


def waited(position: int, why: str) -> tuple[Header, Header]:
    """The headers of a request that had to wait: its place in line when it came, and what it waited for."""
    return (b"x-sollol-queue-position", b"%d" % position), (b"x-sollol-queue-reason", ascii_value(why))


@lru_cache(maxsize=1024)
def _of_node(node: Node, kind: NodeKind, mode: Mode) -> tuple[Header, ...]:
    """What is the same in all replies of a node."""
    return (
        (b"x-sollol-node", ascii_value(node.label)),
        (b"x-sollol-host", node.endpoint.authority.encode()),
        (b"x-sollol-backend", kind.value.encode()),
        (b"x-sollol-mode", mode.value.encode()),
    )


def details(decision: Decision, node: Node, kind: NodeKind) -> dict[str, Any]:
    """The value of `_sollol_routing`."""
    task = decision.task
    found = analyze(task)
    return {
        "host": node.endpoint.authority,
        "node": node.label,
        "port": node.endpoint.port,
        "task_type": found.task_type,
        "complexity": found.complexity,
        "requires_gpu": found.needs_gpu,
        "expected_seconds": round(decision.cost.eta, 3),
        "mode": task.mode.value,
        "score": round(decision.cost.score, 1),
        "reason": reason(decision.ranked),
        "attempts": decision.attempt,
        "queue_ms": round(decision.queued * 1000.0, 1),
        "backend": kind.value,
    }


def recalled(body: bytes) -> bytes:
    """A kept answer with its `_sollol_routing`, which says now that nothing was decided: it comes from the cache.

    The node is the one that made the answer. A body without routing details stays as it is.
    """
    start = body.rfind(_DETAILS)
    if start < 0:
        return body
    end = body.rfind(b"}")
    try:
        known = msgspec.json.decode(body[start + len(_DETAILS) : end])
    except msgspec.DecodeError:
        return body
    if not isinstance(known, dict):
        return body
    known |= {"expected_seconds": 0.0, "attempts": 0, "queue_ms": 0.0, "reason": "answered from the cache", "cache": "hit"}
    return body[: start + len(_DETAILS)] + msgspec.json.encode(known) + body[end:]


def ascii_value(text: str) -> bytes:
    """`text` as a header value: printable ASCII, everything else replaced."""
    if text.isascii() and text.isprintable():
        return text.encode("ascii")
    return "".join(c if " " <= c <= "~" else "?" for c in text).encode("ascii")


class Annotate:
    """Adds `_sollol_routing` to the last line of an NDJSON stream, or to a document; other lines pass untouched.

    ``resumed`` names the nodes that said the beginning of the answer.
    """

    def __init__(self, decision: Decision, node: Node, kind: NodeKind, resumed: Sequence[str] = ()) -> None:
        self._of = decision, node, kind, resumed
        self._value = b""
        self._rest = b""

    def prepare(self) -> None:
        """Write down what will be added; done when it is needed, if not before."""
        if not self._value:
            decision, node, kind, resumed = self._of
            told = details(decision, node, kind)
            if resumed:
                told["resumed_from"] = resumed
            self._value = _DETAILS + msgspec.json.encode(told)

    def feed(self, data: bytes, now: float) -> bytes:
        """Complete lines of `data`, the last one of the answer annotated; an incomplete line is kept back."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return b"".join(self._line(line) + b"\n" for line in lines)

    def finish(self, now: float) -> bytes:
        """What is left of the stream."""
        rest, self._rest = self._rest, b""
        return self._line(rest) if rest else b""

    def document(self, body: bytes, now: float) -> bytes:
        return self._add(body)

    def _line(self, line: bytes) -> bytes:
        return self._add(line) if b'"done":true' in line else line

    def _add(self, document: bytes) -> bytes:
        body = document.rstrip()
        if not body.endswith(b"}"):
            return document
        self.prepare()
        comma = b"" if body == b"{}" else b","
        return body[:-1] + comma + self._value + b"}"
