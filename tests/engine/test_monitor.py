"""Looks at nodes: how often, at whom, and that a node that hangs delays only itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from tests.support.core_cluster import a_model, a_node, a_survey, a_task
from tests.support.fakes import FakeTransport, LoopClock, turns

from sollol.core.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    ModelLearned,
    NodeAdded,
    NodeChanged,
    NodeRemoved,
    NodeSurveyed,
)
from sollol.core.scheduler import Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import Cost, Decision, Health, Model, Node, NodeKind, Progress, Survey
from sollol.engine import monitor as module
from sollol.engine.engine import Engine
from sollol.engine.monitor import Monitor
from sollol.errors import BadReply, NodeClosed, NodeError, NodeSilent, NodeUnreachable

pytestmark = pytest.mark.looptime


class Looks:
    """Nodes as they answer looks. ``at`` is when each was looked at."""

    def __init__(self) -> None:
        self.at: dict[str, list[float]] = {}
        self.errors: dict[str, NodeError] = {}
        self.seconds: dict[str, float] = {}
        self.surveys: dict[str, Survey] = {}
        self.shown: list[tuple[str, str]] = []
        self.show_errors: dict[str, NodeError] = {}
        self.forgotten: list[str] = []

    async def survey(self, node: Node) -> Survey:
        self.at.setdefault(node.id, []).append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.seconds.get(node.id, 0.0))
        if node.id in self.errors:
            raise self.errors[node.id]
        return self.surveys.get(node.id, a_survey())

    async def show(self, node: Node, model: Model) -> Model:
        self.shown.append((model.name, model.digest))
        await asyncio.sleep(0)
        if model.name in self.show_errors:
            raise self.show_errors[model.name]
        return replace(model, capabilities=frozenset({"completion"}))

    def forget(self, node: Node) -> None:
        self.forgotten.append(node.id)


class Watched:
    def __init__(self) -> None:
        self.looks = Looks()
        self.transport = FakeTransport()
        self.state = ClusterState()
        self.clock = LoopClock()
        self.engine = Engine(self.state, Scheduler(self.state), self.transport, self.clock)
        self.events: list[Event] = []
        self.engine.listen(self.events.append)
        self.monitor = Monitor(self.engine, self.looks)

    def add(self, *names: str) -> None:
        for name in names:
            self.engine.publish(NodeAdded(self.clock.now(), a_node(name)))

    def work(self, name: str, *outcomes: str) -> None:
        """Real work there that ended so."""
        for number, outcome in enumerate(outcomes):
            task = a_task(number)
            self.engine.publish(AttemptStarted(self.clock.now(), Decision(task, name, (Cost(name),)), Progress()))
            self.engine.publish(AttemptEnded(self.clock.now(), task, name, outcome))

    def gaps(self, name: str) -> list[float]:
        at = self.looks.at[name]
        return [round(later - earlier, 3) for earlier, later in itertools.pairwise(at)]


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    made = Watched()
    try:
        yield made
    finally:
        await made.monitor.close()


async def test_a_new_node_is_looked_at_at_once() -> None:
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a", "nobody"])
        assert here.looks.at["a"] == [0.0]
        assert here.state.nodes["a"].state is Health.UP


async def test_a_look_that_is_hung_up_on_is_repeated_at_once() -> None:
    """The connection may have been the last of a process that has just died, and now nothing listens there."""
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a"])
        answers = iter([NodeClosed("a", "reset"), NodeUnreachable("a", "refused")])

        async def survey(node: Node) -> Survey:
            raise next(answers)

        here.looks.survey = survey  # type: ignore[method-assign]  # the fake's own answer to this look
        here.monitor.look("a")
        await here.monitor.looked(["a"])
        assert here.state.nodes["a"].state is Health.DOWN


@pytest.mark.parametrize(
    ("rate", "interval"),
    [(0.009, 60.0), (0.045, 30.0), (0.14, 15.0), (0.3, 5.0)],
)
async def test_the_interval_follows_the_failure_rate(rate: float, interval: float) -> None:
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a"])
        here.work("a", *["failed"] * 4)
        while here.state.nodes["a"].health.failure_rate(here.clock.now()) > rate:
            here.work("a", "ok")
        here.monitor.look("a")
        await turns()
        await asyncio.sleep(interval + 1)
        assert here.gaps("a")[-1] == pytest.approx(interval, abs=0.01)


async def test_a_node_that_is_down_is_looked_at_every_second_and_taken_back_at_once() -> None:
    async with watched() as here:
        here.looks.errors["a"] = NodeUnreachable("a", "refused")
        here.add("a")
        await asyncio.sleep(5.5)
        assert here.state.nodes["a"].state is Health.DOWN
        assert here.gaps("a") == [1.0] * 5
        assert len(here.transport.forgotten) == 6, "kept connections to it are of no use"
        del here.looks.errors["a"]
        await asyncio.sleep(1)
        assert here.state.nodes["a"].state is Health.UP


async def test_a_node_that_work_finds_down_is_not_left_to_its_interval() -> None:
    async with watched() as here:
        here.add("a")
        await asyncio.sleep(20)
        here.looks.errors["a"] = NodeUnreachable("a", "refused")
        task = a_task(1)
        here.engine.publish(AttemptStarted(here.clock.now(), Decision(task, "a", (Cost("a"),)), Progress()))
        here.engine.publish(AttemptEnded(here.clock.now(), task, "a", "failed", unreachable=True))
        assert here.state.nodes["a"].state is Health.DOWN
        await asyncio.sleep(3)
        assert len(here.looks.at["a"]) >= 4


async def test_silence_must_come_twice() -> None:
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a"])
        here.looks.errors["a"] = NodeSilent("a", "no answer")
        here.looks.seconds["a"] = 3.0
        here.monitor.look("a")
        await asyncio.sleep(3.1)
        assert here.state.nodes["a"].state is Health.UP
        await asyncio.sleep(4)
        assert here.state.nodes["a"].state is Health.DOWN
        assert not here.transport.forgotten


async def test_a_node_that_hangs_delays_only_itself() -> None:
    async with watched() as here:
        here.looks.seconds["a"] = 1e6
        here.add("a", "b", "c")
        await here.monitor.looked(["b", "c"])
        assert here.clock.now() == 0.0
        here.monitor.look("b")
        await turns()
        assert len(here.looks.at["b"]) == 2
        assert here.state.nodes["a"].state is Health.UNKNOWN


async def test_a_look_asked_for_while_one_runs_follows_it() -> None:
    async with watched() as here:
        here.looks.seconds["a"] = 2.0
        here.add("a")
        await asyncio.sleep(1)
        here.monitor.look("a")
        here.monitor.look("a")
        await asyncio.sleep(10)
        assert here.looks.at["a"] == [0.0, 2.0]


async def test_a_changed_node_is_looked_at() -> None:
    async with watched() as here:
        here.add("a")
        await asyncio.sleep(7)
        here.engine.publish(NodeChanged(here.clock.now(), replace(here.state.nodes["a"].node, name="new")))
        await turns()
        assert here.looks.at["a"] == [0.0, 7.0]


async def test_an_overdue_request_shortens_the_interval() -> None:
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a"])
        here.engine.publish(NodeSurveyed(here.clock.now(), "a", a_survey(("m",), ("m",))))
        task = a_task(1)
        cost = Cost("a", prefill=0.1, decode=0.4, prompt_tokens=100, out_tokens=10)
        here.engine.publish(AttemptStarted(here.clock.now(), Decision(task, "a", (cost,)), Progress()))
        await asyncio.sleep(31)
        assert len(here.looks.at["a"]) >= 5


@pytest.mark.parametrize("when", ["while it is looked at", "between looks"])
async def test_a_removed_node_is_left_alone(when: str) -> None:
    async with watched() as here:
        if when == "while it is looked at":
            here.looks.seconds["a"] = 2.0
        here.add("a")
        await asyncio.sleep(1)
        waiting = asyncio.ensure_future(here.monitor.looked(["a"]))
        await turns()
        here.engine.publish(NodeRemoved(here.clock.now(), "a"))
        await waiting
        here.monitor.look("a")
        await asyncio.sleep(200)
        assert here.looks.at["a"] == [0.0]
        assert not any(isinstance(event, NodeSurveyed) and event.at >= 1.0 for event in here.events)


async def test_a_node_that_was_removed_and_added_again_is_watched_once() -> None:
    async with watched() as here:
        here.looks.seconds["a"] = 2.0
        here.add("a")
        await asyncio.sleep(1)
        here.engine.publish(NodeRemoved(here.clock.now(), "a"))
        here.add("a")
        await here.monitor.looked(["a"])
        await asyncio.sleep(100)
        assert here.looks.at["a"] == [0.0, 1.0, 63.0]


async def test_a_node_added_twice_is_watched_once() -> None:
    async with watched() as here:
        here.add("a", "a")
        await asyncio.sleep(1)
        assert here.looks.at["a"] == [0.0]


async def test_each_model_is_asked_about_once_for_each_digest() -> None:
    async with watched() as here:
        here.looks.surveys["a"] = a_survey((a_model("m", digest="1"), a_model("n", digest="1")))
        here.add("a")
        await asyncio.sleep(130)
        assert here.looks.shown == [("m", "1"), ("n", "1")]
        here.looks.surveys["a"] = a_survey((a_model("m", digest="2"), a_model("n", digest="1")))
        await asyncio.sleep(60)
        assert here.looks.shown[2:] == [("m", "2")]
        assert sum(isinstance(event, ModelLearned) for event in here.events) == 3
        assert here.state.nodes["a"].models["m"].capabilities == {"completion"}


async def test_a_model_that_could_not_be_asked_about_is_asked_about_again() -> None:
    async with watched() as here:
        here.looks.surveys["a"] = a_survey((a_model("m"), a_model("n")))
        here.looks.show_errors["m"] = NodeSilent("a", "busy")
        here.add("a")
        await asyncio.sleep(1)
        assert here.looks.shown == [("m", "")], "a node that does not answer is not asked on"
        here.looks.show_errors.clear()
        await asyncio.sleep(60)
        assert here.looks.shown == [("m", ""), ("m", ""), ("n", "")]


async def test_a_model_that_the_node_cannot_tell_about_is_passed_over() -> None:
    async with watched() as here:
        here.looks.surveys["a"] = a_survey((a_model("m"), a_model("n")))
        here.looks.show_errors["m"] = BadReply("a", "/api/show gave 500")
        here.add("a")
        await asyncio.sleep(130)
        assert here.looks.shown == [("m", ""), ("n", "")]


async def test_models_that_come_and_go_do_not_use_up_what_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODELS_ASKED", 3)
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a"])
        for digest in "23456":
            here.looks.surveys["a"] = a_survey(tuple(a_model(name, digest=digest) for name in ("m", "n")))
            here.monitor.look("a")
            await turns(10)
        assert here.looks.shown[-2:] == [("m", "6"), ("n", "6")]
        here.looks.surveys["a"] = a_survey(tuple(a_model(f"m{number}") for number in range(9)))
        here.monitor.look("a")
        await turns(20)
        assert [name for name, _ in here.looks.shown if name.startswith("m") and name != "m"] == ["m0", "m1", "m2"]


async def test_other_kinds_are_not_asked_about_models() -> None:
    async with watched() as here:
        here.looks.surveys["a"] = a_survey(kind=NodeKind.LLAMACPP)
        here.add("a")
        await asyncio.sleep(1)
        assert not here.looks.shown


async def test_a_node_removed_while_it_is_asked_about_models() -> None:
    async with watched() as here:
        here.looks.surveys["a"] = a_survey((a_model("m"), a_model("n")))
        here.engine.listen(lambda event: here.engine.publish(NodeRemoved(0.0, "a")), ModelLearned)
        here.add("a")
        await asyncio.sleep(1)
        assert here.looks.shown == [("m", "")]


async def test_closing_ends_every_watch() -> None:
    here = Watched()
    here.looks.seconds["b"] = 1e6
    here.add("a", "b")
    await turns()
    await here.monitor.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("watch")]


async def test_a_node_whose_work_breaks_is_looked_at_at_once_but_not_after_each_failure() -> None:
    async with watched() as here:
        here.add("a")
        await asyncio.sleep(0.25)
        here.work("a", "failed", "failed")
        await asyncio.sleep(0.5)
        here.work("a", "failed")
        await asyncio.sleep(0.25)
        assert here.looks.at["a"] == [0.0, 0.25]
        await asyncio.sleep(0.25)
        here.work("a", "failed")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert here.looks.at["a"] == [0.0, 0.25, 1.25]
        here.engine.publish(AttemptEnded(here.clock.now(), a_task(9), "nobody", "failed"))


async def test_a_look_says_when_it_was_begun() -> None:
    async with watched() as here:
        here.looks.seconds["a"] = 2.0
        here.add("a")
        await here.monitor.looked(["a"])
        (survey,) = [event for event in here.events if isinstance(event, NodeSurveyed)]
        assert survey.begun is not None
        assert survey.at - survey.begun == pytest.approx(2.0)


@pytest.mark.parametrize("how", ["refused", "cut"])
async def test_all_is_asked_again_of_a_node_that_may_have_been_started_anew(how: str) -> None:
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a"])
        await turns()
        assert (here.looks.shown, here.looks.forgotten) == ([("m", "")], [])
        if how == "refused":
            here.looks.errors["a"] = NodeUnreachable("a", "refused")
            here.monitor.look("a")
            await here.monitor.looked(["a"])
            assert here.state.nodes["a"].state is Health.DOWN
            del here.looks.errors["a"]
            await asyncio.sleep(1.5)
        else:
            task = a_task(1)
            here.engine.publish(AttemptStarted(here.clock.now(), Decision(task, "a", (Cost("a"),)), Progress()))
            here.engine.publish(AttemptEnded(here.clock.now(), task, "a", "failed", cut=True))
            await here.monitor.looked(["a"])
            await turns()
        assert here.looks.forgotten == ["a"]
        assert here.looks.shown == [("m", "")] * 2


async def test_a_newer_version_of_a_node_is_asked_about_its_models_again() -> None:
    async with watched() as here:
        here.add("a")
        await here.monitor.looked(["a"])
        here.looks.surveys["a"] = replace(a_survey(), version="2.0")
        for _ in range(2):
            here.monitor.look("a")
            await here.monitor.looked(["a"])
            await turns()
        assert here.looks.shown == [("m", "")] * 2
