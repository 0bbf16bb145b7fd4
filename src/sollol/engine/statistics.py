"""What was measured since the start: counts and means per node and over all, from the events. Nothing here is a constant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sollol.core.events import AttemptEnded, Event, NodeRemoved, TaskEnded

# An attempt that ended so says something about the node; a client that left or asked for nonsense does not.
_SAYS_WELL: Final = "ok"
_SAYS_ILL: Final = frozenset({"failed", "busy", "load-failed"})


@dataclass(slots=True)
class Tally:
    """Counts of one node, or of the whole gateway. Sums are over requests that ended well; times in seconds."""

    ok: int = 0
    failed: int = 0
    seconds: float = 0.0
    first_bytes: int = 0
    first_byte_seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    batch_inputs: int = 0
    batch_seconds: float = 0.0

    @property
    def success_rate(self) -> float | None:
        """Share of requests that ended well, 0 to 1; None before the first."""
        seen = self.ok + self.failed
        return self.ok / seen if seen else None

    @property
    def latency_ms(self) -> float | None:
        """Mean milliseconds from arrival to the last byte; None before the first."""
        return 1000.0 * self.seconds / self.ok if self.ok else None

    @property
    def first_byte_ms(self) -> float | None:
        """Mean milliseconds from arrival to the first byte; None before the first."""
        return 1000.0 * self.first_byte_seconds / self.first_bytes if self.first_bytes else None

    @property
    def batch_throughput(self) -> float | None:
        """Texts per second in embedding requests of more than one text; None before the first."""
        return self.batch_inputs / self.batch_seconds if self.batch_seconds > 0 else None

    def finish(self, event: TaskEnded) -> None:
        """Count a request that ended well."""
        self.ok += 1
        self.seconds += event.seconds
        if event.first_byte is not None:
            self.first_bytes += 1
            self.first_byte_seconds += event.first_byte
        if event.counters is not None:
            self.prompt_tokens += event.counters.prompt_tokens or 0
            self.output_tokens += event.counters.output_tokens or 0
        if event.task.inputs > 1:
            self.batch_inputs += event.task.inputs
            self.batch_seconds += event.seconds


@dataclass(slots=True)
class Statistics:
    """Listens to an engine (``engine.listen(statistics.on_event)``). ``nodes`` is by node id, without nodes that are gone."""

    overall: Tally = field(default_factory=Tally)
    requests: int = 0
    client_errors: int = 0
    cancelled: int = 0
    retried: int = 0
    nodes: dict[str, Tally] = field(default_factory=dict)

    def on_event(self, event: Event) -> None:
        """Count one event; quick, and never fails."""
        if isinstance(event, AttemptEnded):
            if event.outcome in _SAYS_ILL:
                self._node(event.node).failed += 1
        elif isinstance(event, TaskEnded):
            self._ended(event)
        elif isinstance(event, NodeRemoved):
            self.nodes.pop(event.node, None)

    def _ended(self, event: TaskEnded) -> None:
        self.requests += 1
        self.retried += len(event.nodes) > 1
        if event.outcome == _SAYS_WELL:
            self.overall.finish(event)
            if event.nodes:
                self._node(event.nodes[-1]).finish(event)
        elif event.outcome == "client-error":
            self.client_errors += 1
        elif event.outcome == "cancelled":
            self.cancelled += 1
        else:
            self.overall.failed += 1

    def _node(self, node: str) -> Tally:
        tally = self.nodes.get(node)
        if tally is None:
            tally = self.nodes[node] = Tally()
        return tally
