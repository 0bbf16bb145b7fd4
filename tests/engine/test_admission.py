"""The waiting room: who gets a slot, who is turned away, and what becomes of those who leave."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.core_cluster import a_survey
from tests.support.fakes import answers, fails, hangs, house, says, turns

from sollol.core.events import AttemptEnded, AttemptStarted, NodeChanged, NodeRemoved, TaskEnded
from sollol.core.scheduler import Limits
from sollol.errors import DeadlineExceeded, NodeUnreachable, NoNodeForModel, NoNodes, QueueFull

pytestmark = pytest.mark.looptime


async def test_requests_wait_for_a_slot_and_are_sent_one_after_another() -> None:
    async with house() as here:
        here.add("a")
        requests = [here.ask() for _ in range(3)]
        await turns()
        assert here.transport.asked == ["a"]
        assert here.admission.waiting == 2
        outcomes = [await request.outcome() for request in requests]
        assert [round(outcome.queued, 3) for outcome in outcomes] == [0.0, 0.3, 0.6]


async def test_a_full_queue_refuses_the_last_in_order() -> None:
    async with house(Limits(waiting=2)) as here:
        here.add("a")
        first, second, third = here.ask(), here.ask(), here.ask()
        await turns()
        urgent, late = here.ask(priority=10), here.ask(priority=1)
        error = await late.error()
        assert isinstance(error, QueueFull)
        assert error.status == 503
        assert 5.0 < error.retry_after <= 60.0, "as long as those before it are expected to take"
        assert (error.queued, error.position) == (0.0, 3)
        assert error.why.startswith("all slots are busy; a is the first to have one")
        assert isinstance(await third.error(), QueueFull), "the more urgent one took the place of the last"
        assert late.sink.attached == third.sink.attached == [], "what was refused was never sent"
        for request in (first, urgent, second):
            assert (await request.outcome()).status == 200
        assert [event.decision.task for event in here.of(AttemptStarted)] == [first.task, urgent.task, second.task]


async def test_bodies_that_wait_are_bounded_too() -> None:
    async with house(Limits(body_bytes=100)) as here:
        here.add("a")
        running = here.ask(body=b" " * 90)
        await turns()
        waiting = here.ask(body=b" " * 90)
        refused = here.ask(body=b" " * 90)
        assert isinstance(await refused.error(), QueueFull)
        assert (await running.outcome()).status == (await waiting.outcome()).status == 200


async def test_a_deadline_ends_the_wait() -> None:
    async with house() as here:
        here.add("a", hangs)
        held = here.ask()
        await turns()
        late = here.ask(deadline=here.clock.now() + 2.5)
        started = here.clock.now()
        error = await late.error()
        assert isinstance(error, DeadlineExceeded)
        assert error.status == 504
        assert here.clock.now() - started == pytest.approx(2.5)
        assert here.admission.waiting == 0
        held.leave()
        await turns()
        assert here.transport.asked == ["a"]


async def test_a_deadline_that_has_passed_already_ends_the_request_unsent() -> None:
    async with house() as here:
        here.add("a")
        await asyncio.sleep(5)
        late = here.ask(deadline=here.clock.now() - 1)
        assert isinstance(await late.error(), DeadlineExceeded)
        assert not late.sink.started
        assert all(exchange.closed for exchange in here.transport.sent)


async def test_who_leaves_the_queue_is_never_sent() -> None:
    async with house() as here:
        here.add("a")
        first, second, third = here.ask(), here.ask(), here.ask()
        await turns()
        second.leave()
        await turns()
        assert here.admission.waiting == 1
        await third.outcome()
        assert len(here.transport.sent) == 2
        assert [event.decision.task for event in here.of(AttemptStarted)] == [first.task, third.task]
        (left,) = [event for event in here.of(TaskEnded) if event.task is second.task]
        assert (left.status, left.outcome) == (499, "cancelled")


async def test_who_leaves_in_the_turn_in_which_a_slot_was_found_gives_it_back() -> None:
    async with house() as here:
        here.add("a")
        first, second, third = here.ask(), here.ask(), here.ask()
        await turns()
        bound = len(here.of(AttemptStarted))
        here.transport.sent[0].data(b'{"done":true}\n')
        here.transport.sent[0].end()
        while len(here.of(AttemptStarted)) == bound:  # noqa: ASYNC110 - counts turns of the loop, not time
            await asyncio.sleep(0)
        second.running.cancel()  # bound, and not yet awake
        await turns()
        assert len(here.transport.sent) == 2
        assert here.transport.sent[1].node.id == "a"
        (given_back,) = [event for event in here.of(AttemptEnded) if event.task is second.task]
        assert given_back.outcome == "cancelled"
        await third.outcome()
        await first.outcome()
        assert here.state.nodes["a"].failed == 0


async def test_a_waiter_that_was_cancelled_but_not_woken_is_not_sent() -> None:
    async with house() as here:
        here.add("a", hangs)
        first, second, third = here.ask(), here.ask(), here.ask()
        await turns()
        second.running.cancel()
        here.engine.publish(NodeChanged(here.clock.now(), here.state.nodes["a"].node))
        first.running.cancel()
        await turns()
        assert [event.decision.task for event in here.of(AttemptStarted) if event.decision.task is not second.task] == [
            first.task,
            third.task,
        ]
        third.leave()
        await turns()
        assert len(here.transport.sent) == 2


async def test_nobody_usable_waits_and_then_says_so() -> None:
    async with house(Limits(no_node_seconds=7.0)) as here:
        here.add("a")
        here.down("a")
        started = here.clock.now()
        error = await here.ask().error()
        assert isinstance(error, NoNodes)
        assert (error.status, error.retry_after) == (503, 7.0)
        assert 7.0 <= here.clock.now() - started <= 8.1
        assert not here.transport.sent


async def test_a_node_that_comes_back_takes_who_waits() -> None:
    async with house() as here:
        here.add("a")
        here.down("a")
        request = here.ask()
        await asyncio.sleep(4)
        here.seen("a")
        assert (await request.outcome()).status == 200
        assert here.transport.asked == ["a"]


async def test_a_new_node_takes_who_waits() -> None:
    async with house() as here:
        here.add("a", hangs)
        first = here.ask()
        await turns()
        second = here.ask()
        await turns()
        here.add("b")
        assert (await second.outcome()).decision.node == "b"
        first.leave()


async def test_without_hope_there_is_no_wait() -> None:
    async with house() as here:
        assert isinstance(await here.ask().error(), NoNodes)
        here.add("a", survey=a_survey(("other",)))
        assert isinstance(await here.ask().error(), NoNodeForModel)
        assert here.clock.now() == 0.0


async def test_who_waits_for_a_node_that_is_removed_is_told_in_the_end() -> None:
    async with house() as here:
        here.add("a", hangs)
        first = here.ask()
        await turns()
        second = here.ask()
        await turns()
        here.engine.publish(NodeRemoved(here.clock.now(), "a"))
        assert isinstance(await second.error(), NoNodes)
        first.leave()


async def test_a_slow_node_is_noticed_while_others_wait() -> None:
    async with house() as here:
        here.add("a")
        for _ in range(3):
            await here.ask().outcome()
        here.transport.script("a", hangs)
        held = here.ask()
        await turns()
        waiting = here.ask()
        await asyncio.sleep(60)
        assert here.state.nodes["a"].slow.factor(here.clock.now()) > 1.5
        held.leave()
        waiting.leave()


async def test_an_open_breaker_lets_one_request_through_at_a_time() -> None:
    async with house() as here:
        here.add("a", *[says(500, b'{"error":"%d"}' % number) for number in range(5)], answers, slots=4)
        for _ in range(5):
            await here.ask().error()
        assert here.state.nodes["a"].state == "open"
        requests = [here.ask() for _ in range(3)]
        await turns()
        assert len(here.transport.sent) == 6, "one of three was let through"
        assert [(await request.outcome()).status for request in requests] == [200] * 3
        assert here.state.nodes["a"].state == "up"


async def test_the_clock_of_the_queue_stops_with_the_last_who_waits() -> None:
    async with house() as here:
        here.add("a", fails(lambda node: NodeUnreachable(node, "refused")))
        request = here.ask()
        await turns()
        assert here.admission.waiting == 1, "its node is down: it waits for it"
        here.admission.close()
        await asyncio.sleep(100)
        assert not request.running.done()
        request.leave()
