"""The layer that gives kept answers again, and what makes them go: time, bounds, and changes of the models behind them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

from sollol.core.caching import Answer, Store
from sollol.core.events import Event, NodeRemoved, NodeSurveyed
from sollol.core.ports import Header, Sink
from sollol.core.types import Task
from sollol.engine.engine import Engine
from sollol.engine.flight import Flight
from sollol.engine.pipeline import Handler, Outcome
from sollol.wire.routing import recalled

_HIT: Final[Header] = (b"x-sollol-cache", b"hit")


class Cache:
    """The layer: answers from ``store`` what is in it; `keep` fills it.

    An answer is given again only while some known node lists its model with the digest by which it was made, and one that
    was on its way while the list of a node changed is not kept. ``changes`` counts how often a model that was there before
    has changed or gone, on any node.
    """

    def __init__(self, engine: Engine, store: Store, *, enabled: bool = True) -> None:
        self.store = store
        self.enabled = enabled
        self.changes = 0
        self._engine = engine
        self._listed: dict[str, dict[str, str]] = {}
        engine.listen(self._heard, NodeSurveyed, NodeRemoved)

    def __call__(self, task: Task, sink: Sink, *, call_next: Handler) -> Awaitable[Outcome]:
        if not task.key or not self.enabled:
            return call_next(task, sink)
        now = self._engine.clock.now()
        answer = self.store.get(task.key, now, task.max_age, self._holds)
        if answer is None:
            return call_next(task, sink)
        return self._give(answer, task, sink, now)

    def keep(self, flight: Flight, outcome: Outcome) -> None:
        """Store an answer, if it is a complete and good one of a node whose models have not changed since it was asked."""
        task = flight.task
        if not self.enabled or outcome.outcome != "ok" or flight.status != 200 or not flight.total:
            return
        if flight.began != self.changes or outcome.resumed:
            return
        node = self._engine.state.nodes.get(outcome.nodes[-1]) if outcome.nodes else None
        model = node.models.get(task.model) if node is not None else None
        if model is None:
            return
        headers = tuple(header for header in flight.headers if not header[0].startswith(b"x-sollol-"))
        now = self._engine.clock.now()
        self.store.put(task.key, Answer(flight.status, headers, flight.body, task.model, model.digest, now, task.stream))

    async def _give(self, answer: Answer, task: Task, sink: Sink, now: float) -> Outcome:
        body = recalled(answer.body) if task.details else answer.body
        age: Header = (b"age", b"%d" % max(0.0, now - answer.at))
        sink.head(answer.status, (*answer.headers, age, _HIT), None if answer.stream else len(body))
        sink.data(body)
        sink.end()
        return Outcome(answer.status, first_byte=now, cache="hit")

    def _holds(self, answer: Answer) -> bool:
        nodes = self._engine.state.nodes.values()
        return any((model := node.models.get(answer.model)) is not None and model.digest == answer.digest for node in nodes)

    def _heard(self, event: Event) -> None:
        if isinstance(event, NodeSurveyed):
            if event.survey.loading and not event.survey.models:
                return
            listed = {model.name: model.digest for model in event.survey.models}
            before = self._listed.get(event.node)
            self._listed[event.node] = listed
            if before is None or before == listed:
                return
            gone = [name for name, digest in before.items() if listed.get(name) != digest]
        elif isinstance(event, NodeRemoved):
            gone = list(self._listed.pop(event.node, ()))
        else:
            return
        if gone:
            self.changes += 1
            for name in gone:
                self.store.counts.outdated += self.store.forget(name, unless=self._holds)
