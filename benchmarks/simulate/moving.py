"""What the engine does when an attempt breaks or stalls. The rules are those of `core`; only carrying them out is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.simulate.world import Failure

from sollol.core.attempts import MAX_ATTEMPTS, MoveBudget, Next, after_failure
from sollol.core.events import AttemptEnded, NodeSlow
from sollol.core.node import Running
from sollol.core.stall import StallWatch, Watched
from sollol.core.state import SILENT
from sollol.core.types import Health, Task
from sollol.engine.judge import outcome_of
from sollol.errors import NodeBusy, NodeClosed, NodeError, NodeFailed, NodeSilent, NodeUnreachable

if TYPE_CHECKING:
    from benchmarks.simulate.shipped import Shipped

_WATCHED = Watched(streamed=True, paused=False)
_STATUS = {Failure.BUSY: 503, Failure.ERROR: 500}


def error_of(failure: Failure, node: str) -> NodeError:
    """What the engine would make of it."""
    text = failure.value
    match failure:
        case Failure.REFUSED:
            return NodeUnreachable(node, text)
        case Failure.CLOSED:
            return NodeClosed(node, text)
        case Failure.BUSY:
            return NodeBusy(node, text)
        case Failure.ERROR:
            return NodeFailed(node, text, 500, node.encode())


class Moves:
    """Requests whose attempts failed. What a client has of an answer stays, and the next node goes on from there."""

    def __init__(self, driver: Shipped) -> None:
        self._driver = driver
        self.budget = MoveBudget()
        self._watch = StallWatch(lambda node: driver.world.at(driver.world.now, lambda: driver.look(node)))
        self.worked = self._watch.worked
        self._tried: dict[int, list[NodeError]] = {}
        self._exclude: dict[int, frozenset[str]] = {}

    def over(self, task: Task) -> None:
        """The request has ended: forget where it was tried."""
        self._tried.pop(task.id, None)
        self._exclude.pop(task.id, None)

    def broke(self, task: Task, node: str, failure: Failure) -> None:
        """The attempt failed by itself."""
        self._failed(task, error_of(failure, node), _STATUS.get(failure, 0))

    def all_from(self, node: str) -> None:
        """The node went down: what runs there ends at once."""
        world = self._driver.world
        for run in list(self._driver.state.known[node].running.values()):
            world.at(world.now, lambda run=run: self._end(run, NodeClosed(node, "the node went down")))  # type: ignore[misc] # the default binds the loop variable

    def give_up_stalled(self) -> None:
        """Move what makes no progress, if another node could take it."""
        driver = self._driver
        now = driver.world.now
        for found in self._watch.look(driver.state, now, lambda _node, _task: _WATCHED):
            run = driver.state.attempt(found.node, found.task)
            if run is not None and driver.scheduler.usable(found.task, now, frozenset((found.node,))):
                driver.tell(NodeSlow(now, found.node, SILENT))
                self._end(run, NodeSilent(found.node, found.text))

    def _end(self, run: Running, error: NodeError) -> None:
        known = self._driver.state.known[error.node]
        if known.running.get(run.task.id) is run:
            self._driver.world.cancel(self._driver.world.records[run.task.id].request, error.node)
            self._failed(run.task, error, 0)

    def _failed(self, task: Task, error: NodeError, status: int) -> None:
        driver, now = self._driver, self._driver.world.now
        driver.tell(
            AttemptEnded(
                now,
                task,
                error.node,
                outcome_of(error),
                text=error.text,
                status=status,
                sent=driver.world.records[task.id].first is not None,
                part=True,
                unreachable=isinstance(error, NodeUnreachable),
            )
        )
        tried = self._tried.setdefault(task.id, [])
        tried.append(error)
        exclude = self._exclude.get(task.id, frozenset()) | {error.node}
        left = driver.scheduler.usable(task, now, exclude)
        match after_failure(tried, len(tried) + left):
            case Next.PASS_ON:
                driver.refuse(task, error.text)
                return
            case Next.GIVE_UP if left or len(tried) >= MAX_ATTEMPTS or self._serves_still(task, exclude):
                driver.refuse(task, "; ".join(str(one) for one in tried))
                return
            case Next.GIVE_UP:
                tried.clear()
                exclude = frozenset()
        self._exclude[task.id] = exclude
        self._when_allowed(task, max(0, len(tried) - 1))

    def _when_allowed(self, task: Task, moves_before: int) -> None:
        driver, now = self._driver, self._driver.world.now
        if not self.budget.take(now, moves_before):
            pause = max(self.budget.next_chance(now), 0.05)
            driver.world.at(now + pause, lambda: self._when_allowed(task, moves_before))
            return
        driver.scheduler.again(task, now, self._exclude[task.id])
        driver.waits(task)

    def _serves_still(self, task: Task, tried: frozenset[str]) -> bool:
        nodes = (self._driver.state.known[node] for node in tried)
        return any(node.state is not Health.DOWN and task.model in node.models for node in nodes)
