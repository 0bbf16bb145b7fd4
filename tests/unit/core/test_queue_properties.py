"""Whatever happens in whatever order: no window is overrun, nothing is lost or sent twice, urgent goes first."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.core_cluster import a_node, a_survey, a_task, counters

from sollol.core.events import (
    AttemptEnded,
    AttemptStarted,
    FirstToken,
    NodeAdded,
    NodeChanged,
    NodeRemoved,
    NodeSlow,
    NodeSurveyed,
    ProbeFailed,
    TaskArrived,
    Unloaded,
)
from sollol.core.scheduler import Limits, Scheduler
from sollol.core.state import ClusterState
from sollol.core.types import Decision, Health, Mode, NodeKind, Progress, Prompt, Task

MODELS = ("m", "x", "y")
NODES = ("a", "b", "c")
KINDS = (NodeKind.OLLAMA, NodeKind.LLAMACPP, NodeKind.OPENAI)


class Queue(RuleBasedStateMachine):
    """Three nodes of three kinds, three models that do not fit together on the first."""

    small_line = 400

    @initialize(slots=st.lists(st.one_of(st.none(), st.integers(1, 4)), min_size=3, max_size=3))
    def begin(self, slots):
        self.state = ClusterState()
        self.queue = Scheduler(self.state, Limits(waiting=15))
        self.queue._rounds.small_line = self.small_line
        self.now = 0.0
        self.number = 0
        self.waiting: dict[int, Task] = {}
        self.running: dict[int, Decision] = {}
        self.over: set[int] = set()
        self.slots = dict(zip(NODES, slots, strict=True))
        for name in NODES:
            self.state.apply(NodeAdded(0.0, self.node(name)))
            self.look(name)

    def node(self, name: str, **fields):
        memory = 11_000_000_000 if name == "a" else None
        return a_node(name, kind=KINDS[NODES.index(name)], slots=self.slots[name], memory=memory, **fields)

    def look(self, name: str) -> None:
        node = self.state.known[name]
        loaded = [runner.model for runner in node.runners.values() if not runner.loading]
        self.state.apply(NodeSurveyed(self.now, name, a_survey(MODELS, loaded, kind=KINDS[NODES.index(name)])))

    def pump(self) -> None:
        for decision in self.queue.pump(self.now):
            task = decision.task
            assert task.id in self.waiting, "lost, or sent twice"
            assert decision.ranked[0].node == decision.node
            node = self.state.known[decision.node]
            assert node.health.at(self.now) not in {Health.DOWN, Health.DRAINING}
            assert task.pin in {None, decision.node}
            there = node.at_runner(task.model)
            assert there < node.slots.window or node.health.state is Health.OPEN
            del self.waiting[task.id]
            self.running[task.id] = decision
            self.state.apply(AttemptStarted(self.now, decision, Progress()))

    @rule(
        model=st.sampled_from(MODELS),
        priority=st.integers(1, 10),
        client=st.sampled_from("pq"),
        how=st.tuples(st.sampled_from(list(Mode)), st.sampled_from([None, None, None, *NODES]), st.integers(0, 3)),
        seconds=st.sampled_from([None, None, 5.0, 100.0]),
    )
    def arrive(self, model, priority, client, how, seconds):
        mode, pin, talk = how
        self.number += 1
        prompt = Prompt(1000 * talk, 0, tuple((1000 * turn, turn) for turn in range(1, talk + 1)))
        task = a_task(
            self.number, model, self.now, priority=priority, client=client, mode=mode, pin=pin, prompt=prompt, max_tokens=100
        )
        task.deadline = None if seconds is None else self.now + seconds
        self.state.apply(TaskArrived(self.now, task))
        self.waiting[task.id] = task
        for refused in self.queue.arrive(task, self.now):
            del self.waiting[refused.id]
            self.over.add(refused.id)
        self.pump()
        for refused in self.queue.overflow():
            del self.waiting[refused.id]
            self.over.add(refused.id)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), good=st.booleans())
    def end(self, data, good):
        number = data.draw(st.sampled_from(sorted(self.running)))
        decision = self.running.pop(number)
        task = decision.task
        if good:
            self.state.apply(FirstToken(self.now, task, decision.node))
            wait = data.draw(st.sampled_from([0.0, 0.0, 3.0]))
            said = counters(2.0, wait)
            self.state.apply(AttemptEnded(self.now, task, decision.node, "ok", counters=said, native=True))
            self.over.add(number)
        else:
            outcome = data.draw(st.sampled_from(["failed", "busy", "load-failed", "cancelled"]))
            self.state.apply(AttemptEnded(self.now, task, decision.node, outcome, text="x"))
            if outcome == "cancelled":
                self.over.add(number)
            else:
                self.waiting[number] = task
                self.queue.again(task, self.now, frozenset({decision.node}))
        self.pump()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        task = self.waiting.pop(data.draw(st.sampled_from(sorted(self.waiting))))
        self.queue.leave(task, self.now)
        self.over.add(task.id)

    @rule(seconds=st.sampled_from([0.01, 1.0, 6.0, 70.0]))
    def time(self, seconds):
        self.now += seconds
        self.pump()
        for task, _ in self.queue.expired(self.now):
            del self.waiting[task.id]
            self.over.add(task.id)

    @rule(name=st.sampled_from(NODES), what=st.sampled_from(["look", "down", "drain", "back", "slow", "unload", "again"]))
    def node_event(self, name, what):
        at = self.now
        if what == "look":
            self.look(name)
        elif what == "down":
            self.state.apply(ProbeFailed(at, name, True, "refused"))
        elif what == "slow":
            self.state.apply(NodeSlow(at, name, 4.0))
        elif what == "unload":
            self.state.apply(Unloaded(at, name, "m"))
        elif what == "again":
            self.state.apply(NodeRemoved(at, name))
            self.running = {number: decision for number, decision in self.running.items() if decision.node != name}
            self.state.apply(NodeAdded(at, self.node(name)))
            self.look(name)
        else:
            self.state.apply(NodeChanged(at, self.node(name, draining=what == "drain")))
        self.pump()

    @invariant()
    def counts_agree(self):
        if not hasattr(self, "state"):
            return
        assert self.queue.waiting == len(self.waiting)
        for node in self.state.nodes.values():
            here = [decision for decision in self.running.values() if decision.node == node.id]
            assert node.in_flight == len(here)
            for runner in node.runners.values():
                assert 0 <= runner.running <= len(here)
                assert sum(slot.busy for slot in runner.kv) <= runner.running
        assert not set(self.waiting) & set(self.running)
        assert not set(self.waiting) & self.over
        positions = sorted(self.queue.position(task) for task in self.waiting.values())
        assert positions == list(range(1, len(positions) + 1))
        for task in self.waiting.values():
            stands = self.queue.queued(task, self.now)
            assert stands.why, "who waits has a reason"
            assert stands.start is None or stands.start >= 0.0

    def teardown(self):
        """Everybody is served in the end when nodes work."""
        if not hasattr(self, "state"):
            return
        self.now += 1.0
        for name in NODES:
            self.state.apply(NodeChanged(self.now, self.node(name)))
            self.state.apply(ProbeFailed(self.now, name, True, "restarted"))
            self.look(name)
        for _ in range(400):
            if not self.waiting and not self.running:
                break
            self.now += 7.0
            self.pump()
            for number in sorted(self.running):
                decision = self.running.pop(number)
                self.state.apply(FirstToken(self.now, decision.task, decision.node))
                self.state.apply(AttemptEnded(self.now, decision.task, decision.node, "ok"))
        assert not self.waiting


Queue.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestQueue = Queue.TestCase


class LongLine(Queue):
    """The same where an event looks only at whom it can affect."""

    small_line = 0


LongLine.TestCase.settings = Queue.TestCase.settings
TestLongLine = LongLine.TestCase
