"""One shape for everything that wraps a request; the order of the layers is the list in `assemble.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from msgspec import Struct

from sollol.core.events import TaskArrived, TaskEnded, TaskRefused
from sollol.core.ports import Sink
from sollol.core.types import Counters, Decision, Task
from sollol.engine.engine import Engine
from sollol.errors import DeadlineExceeded, RequestError, ShuttingDown, SollolError


class Outcome(Struct, frozen=True):
    """How a request ended for its client. ``first_byte`` is on the engine's clock; ``queued`` in seconds.

    ``resumed`` counts how often another node went on with the answer in its middle. ``cache`` is "hit" for an answer that was
    kept, "shared" for that of an identical request under way: then no node was asked. ``hedged`` is the node that ran the
    request too and lost the race, if any.
    """

    status: int
    outcome: str = "ok"
    nodes: tuple[str, ...] = ()
    queued: float = 0.0
    first_byte: float | None = None
    counters: Counters | None = None
    decision: Decision | None = None
    text: str = ""
    resumed: int = 0
    cache: str = ""
    hedged: str = ""


Handler = Callable[[Task, Sink], Awaitable[Outcome]]
RESTART_SECONDS = 2.0
"""After which a client may try again when the gateway stops: a restarted one answers by then."""


class Layer(Protocol):
    """Something around a request: calls ``call_next`` once, or answers in its place."""

    def __call__(self, task: Task, sink: Sink, *, call_next: Handler) -> Awaitable[Outcome]: ...


def compose(layers: Sequence[Layer], last: Handler) -> Handler:
    """Nest layers around `last`; the first layer is the outermost."""
    handler = last
    for layer in reversed(layers):
        handler = partial(layer, call_next=handler)
    return handler


class Observe:
    """Publishes the beginning and the end of every request, however it ends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, task: Task, sink: Sink, *, call_next: Handler) -> Outcome:
        engine = self._engine
        engine.publish(TaskArrived(task.arrived, task))
        outcome = Outcome(499, "cancelled", text="the client left")
        try:
            outcome = await call_next(task, sink)
        except SollolError as error:
            outcome = Outcome(error.status, "client-error" if isinstance(error, RequestError) else "failed", text=str(error))
            engine.publish(TaskRefused(engine.clock.now(), task, error.status, str(error)))
            raise
        except asyncio.CancelledError:
            if not engine.stopped:
                raise
            stopped = ShuttingDown("the gateway stopped before the answer was complete", retry_after=RESTART_SECONDS)
            outcome = Outcome(stopped.status, "failed", text=str(stopped))
            raise stopped from None
        finally:
            self._publish_end(task, outcome)
        return outcome

    def _publish_end(self, task: Task, outcome: Outcome) -> None:
        now = self._engine.clock.now()
        self._engine.publish(
            TaskEnded(
                now,
                task,
                outcome.status,
                outcome.outcome,
                outcome.nodes,
                outcome.queued,
                now - task.arrived,
                None if outcome.first_byte is None else outcome.first_byte - task.arrived,
                outcome.counters,
                outcome.decision,
                outcome.text,
                outcome.resumed,
                outcome.cache,
                outcome.hedged,
            ),
        )


class Deadline:
    """Ends a request that has a deadline when it passes, wherever it is."""

    def __init__(self, engine: Engine) -> None:
        self._clock = engine.clock

    def __call__(self, task: Task, sink: Sink, *, call_next: Handler) -> Awaitable[Outcome]:
        if task.deadline is None:
            return call_next(task, sink)
        return self._limited(task, sink, task.deadline, call_next)

    async def _limited(self, task: Task, sink: Sink, deadline: float, call_next: Handler) -> Outcome:
        left = deadline - self._clock.now()
        if left <= 0.0:
            raise DeadlineExceeded("the deadline of the request had passed when it came")
        try:
            async with asyncio.timeout(left):
                return await call_next(task, sink)
        except TimeoutError as error:
            if isinstance(error, SollolError):
                raise
            raise DeadlineExceeded(f"not answered within {deadline - task.arrived:g} s") from None
