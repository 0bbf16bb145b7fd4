"""What follows a failed attempt: another node, the same words passed on, a wait, or the end."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec.structs import replace
from tests.support.core_cluster import a_survey
from tests.support.fakes import FakeExchange, Script, answers, fails, hangs, house, openai_kind, says, turns

from sollol.core.events import AttemptEnded, AttemptStarted, FailureWithdrawn, NodeChanged, NodeRemoved, TaskEnded
from sollol.core.scheduler import Limits
from sollol.errors import (
    AllAttemptsFailed,
    BadReply,
    DeadlineExceeded,
    NodeBusy,
    NodeClosed,
    NodeUnreachable,
    NoNodeForModel,
    NoNodes,
)

pytestmark = pytest.mark.looptime

LOADING = says(503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
GONE = says(404, b'{"error":"model \'m\' not found"}')
BUSY = says(503, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}')


def refused(node: str) -> NodeUnreachable:
    return NodeUnreachable(node, "refused")


def closed(node: str) -> NodeClosed:
    return NodeClosed(node, "closed early")


def broken(text: str) -> Script:
    return says(500, json.dumps({"error": text}).encode())


MOVES: dict[str, Script] = {
    "refused": fails(refused),
    "closed": fails(closed),
    "bad framing": fails(lambda node: BadReply(node, "framing")),
    "busy": BUSY,
    "429": says(429, b"{}"),
    "408": says(408, b"{}"),
    "500": broken("panic"),
    "model gone": GONE,
    "cannot load": broken("llama-server process has terminated: exit status 2"),
    "loading": LOADING,
}
BLAMED = {
    "refused": "failed",
    "closed": "failed",
    "bad framing": "failed",
    "busy": "busy",
    "429": "busy",
    "408": "failed",
    "500": "failed",
    "model gone": "model-gone",
    "cannot load": "load-failed",
    "loading": "loading",
}


@pytest.mark.parametrize("how", MOVES)
async def test_another_node_answers(how: str) -> None:
    async with house() as here:
        here.add("a", MOVES[how])
        here.add("b", priority=1)
        request = here.ask()
        outcome = await request.outcome()
        assert (outcome.status, outcome.outcome, outcome.nodes) == (200, "ok", ("a", "b"))
        assert request.sink.headers[b"x-sollol-attempts"] == b"2"
        assert [event.outcome for event in here.of(AttemptEnded)] == [BLAMED[how], "ok"]
        assert here.state.nodes["a"].failed == (0 if how in ("loading", "model gone") else 1)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, "bad"),
        (401, "no"),
        (404, "path not found"),
        (501, "no"),
        (500, 'option "seed" must be of type integer'),
        (302, ""),
    ],
)
async def test_the_requests_own_fault_is_passed_on_at_once(status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    async with house() as here:
        here.add("a", says(status, body))
        here.add("b", priority=1)
        request = here.ask()
        outcome = await request.outcome()
        assert (outcome.status, outcome.outcome, outcome.nodes) == (status, "client-error", ("a",))
        assert (request.sink.status, request.sink.body, request.sink.length) == (status, body, len(body))
        assert here.state.nodes["a"].failed == 0


async def test_an_empty_error_reply_is_passed_on_empty() -> None:
    async with house() as here:
        here.add("a", says(400))
        request = here.ask()
        assert (await request.outcome()).status == 400
        assert (request.sink.body, request.sink.length, request.sink.ended) == (b"", 0, True)


async def test_the_same_words_from_two_nodes_are_the_requests_fault() -> None:
    async with house() as here:
        here.add("a", broken("strange prompt"))
        here.add("b", broken("strange prompt"), priority=3)
        here.add("c", priority=1)
        request = here.ask()
        outcome = await request.outcome()
        assert (outcome.status, outcome.outcome, outcome.nodes) == (500, "client-error", ("a", "b"))
        assert (request.sink.status, request.sink.body) == (500, b'{"error": "strange prompt"}')
        assert {event.node for event in here.of(FailureWithdrawn)} == {"a", "b"}
        assert [here.state.nodes[name].failed for name in "abc"] == [0, 0, 0]


async def test_other_words_from_each_are_failures_of_each() -> None:
    async with house() as here:
        for name in "abc":
            here.add(name, broken(f"panic on {name}"))
        error = await here.ask().error()
        assert isinstance(error, AllAttemptsFailed)
        assert (error.status, [node for node, _ in error.attempts]) == (502, ["a", "b", "c"])
        assert all(f"{name}: panic on {name}" in str(error) for name in "abc")
        assert [here.state.nodes[name].failed for name in "abc"] == [1, 1, 1]


async def test_all_busy_is_503_with_a_time_to_come_back() -> None:
    async with house() as here:
        here.add("a", BUSY)
        here.add("b", says(429, b'{"error":"slow down"}'))
        error = await here.ask().error()
        assert isinstance(error, AllAttemptsFailed)
        assert (error.status, error.retry_after) == (503, 1.0)
        assert all(isinstance(one, NodeBusy) for _, one in error.attempts)


async def test_six_attempts_are_the_most() -> None:
    async with house() as here:
        for number in range(9):
            here.add(f"n{number}", broken(f"panic {number}"))
        error = await here.ask().error()
        assert isinstance(error, AllAttemptsFailed)
        assert len(error.attempts) == len(set(here.transport.asked)) == 6


async def test_moves_beyond_the_first_have_a_budget_of_all_requests() -> None:
    """Ten in ten seconds are always allowed; the eleventh waits until the first is forgotten."""
    async with house() as here:
        for name in "abc":
            here.add(name, *[broken(f"error loading model {name}{number}") for number in range(100)], slots=50)
        requests = [here.ask() for _ in range(15)]
        await asyncio.sleep(1)
        assert sum(request.running.done() for request in requests) == 10
        assert len(here.transport.sent) == 15 * 2 + 10
        await asyncio.sleep(10)
        for request in requests:
            assert isinstance(await request.error(), AllAttemptsFailed)
        moves = [event.at for event in here.of(AttemptStarted) if event.decision.attempt == 3]
        assert len([at for at in moves if at < 1.0]) == 10
        assert all(at >= 10.0 for at in moves[10:])


async def test_a_deadline_ends_the_wait_for_a_move() -> None:
    async with house() as here:
        for name in "abc":
            here.add(name, *[broken(f"error loading model {name}{number}") for number in range(100)], slots=50)
        requests = [here.ask(deadline=4.0) for _ in range(12)]
        await asyncio.sleep(4.5)
        errors = [await request.error() for request in requests]
        assert sum(isinstance(error, DeadlineExceeded) for error in errors) == 2
        assert here.clock.now() == 4.5


async def test_a_moved_request_keeps_its_place() -> None:
    """It came first, so it is sent before those who came while it was elsewhere."""

    async def fails_late(exchange: FakeExchange) -> None:
        await asyncio.sleep(0.05)
        exchange.fail(closed(exchange.node.id))

    async with house() as here:
        here.add("a", fails_late)
        first = here.ask()
        await turns()
        here.add("b")
        others = [here.ask() for _ in range(3)]
        assert (await first.outcome()).nodes == ("a", "b")
        started = [event.decision.task for event in here.of(AttemptStarted) if event.decision.node == "b"]
        assert started.index(first.task) == 1, "behind only the one that was running there"
        for request in others:
            request.leave()


async def test_a_single_node_that_fails_ends_the_request() -> None:
    async with house() as here:
        here.add("a", fails(closed))
        error = await here.ask().error()
        assert isinstance(error, AllAttemptsFailed)
        assert error.status == 502
        assert here.clock.now() == 0.0


async def test_all_down_waits_and_then_gives_up() -> None:
    async with house(Limits(no_node_seconds=10.0)) as here:
        here.add("a", fails(refused))
        here.add("b", fails(refused))
        error = await here.ask().error()
        assert isinstance(error, NoNodes)
        assert (error.status, error.retry_after) == (503, 10.0)
        assert 10.0 <= here.clock.now() <= 11.5
        assert sorted(here.transport.asked) == ["a", "b"]


async def test_all_down_and_one_comes_back() -> None:
    async with house() as here:
        here.add("a", fails(refused), answers)
        here.add("b", fails(refused), priority=1)
        request = here.ask()
        await asyncio.sleep(5)
        here.seen("a")
        outcome = await request.outcome()
        assert outcome.status == 200
        assert here.transport.asked == ["a", "b", "a"]
        assert here.clock.now() == pytest.approx(5.3)


async def test_the_attempts_start_afresh_when_nodes_come_back() -> None:
    async with house() as here:
        here.add("a", fails(refused), broken("panic a"))
        here.add("b", fails(refused), answers, priority=1)
        request = here.ask()
        await asyncio.sleep(3)
        here.seen("b", a_survey(("other",)))
        here.seen("a")
        here.seen("b")
        assert (await request.outcome()).nodes == ("a", "b")


async def test_a_model_that_no_node_has_any_more_is_not_found() -> None:
    async with house() as here:
        here.add("a", GONE)
        here.add("b", GONE)
        error = await here.ask().error()
        assert isinstance(error, NoNodeForModel)
        assert error.model == "m"
        assert not here.state.holders("m")


async def test_a_model_that_only_a_node_that_is_down_has_is_waited_for() -> None:
    async with house() as here:
        here.add("a", GONE)
        here.add("b", priority=1)
        here.down("b")
        request = here.ask()
        await asyncio.sleep(2)
        here.seen("b")
        assert (await request.outcome()).status == 200
        assert here.transport.asked == ["a", "b"]


async def test_a_lost_model_and_a_failure_name_both_nodes() -> None:
    async with house() as here:
        here.add("a", GONE)
        here.add("b", broken("panic"), priority=1)
        error = await here.ask().error()
        assert isinstance(error, AllAttemptsFailed)
        assert [node for node, _ in error.attempts] == ["a", "b"]


async def test_a_node_that_loads_is_waited_for_and_not_blamed() -> None:
    async with house() as here:
        here.add(
            "a", LOADING, says(200, b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'), survey=openai_kind()
        )
        request = here.ask(stream=False)
        await asyncio.sleep(20)
        assert here.transport.asked == ["a"]
        assert not request.running.done(), "longer than a node that is down is waited for"
        here.seen("a", openai_kind(loading=True))
        await asyncio.sleep(20)
        here.seen("a", openai_kind())
        assert (await request.outcome()).status == 200
        assert here.state.nodes["a"].failed == 0
        assert here.state.nodes["a"].state == "up"


async def test_a_node_that_says_for_ever_that_it_loads_is_given_up() -> None:
    async with house() as here:
        here.add("a", LOADING)
        request = here.ask()
        while not request.running.done():
            await asyncio.sleep(1)
            here.seen("a")
        error = await request.error()
        assert isinstance(error, AllAttemptsFailed)
        assert error.status == 503
        assert len(here.transport.sent) == 6


async def test_a_node_that_is_removed_while_a_request_waits_for_its_socket() -> None:
    """What runs there goes on; what fails there afterwards moves, and with no node left that is said."""

    async def dies(exchange: FakeExchange) -> None:
        await asyncio.sleep(1)
        exchange.fail(closed("a"))

    async with house() as here:
        here.add("a", dies)
        request = here.ask()
        await turns()
        here.engine.publish(NodeRemoved(here.clock.now(), "a"))
        error = await request.error()
        assert isinstance(error, NoNodes)
        assert here.clock.now() == 1.0


async def test_a_node_removed_between_binding_and_sending_is_no_crash() -> None:
    async with house() as here:
        here.add("a")
        first, second = here.ask(), here.ask()
        await turns()
        here.engine.listen(lambda event: remove(), AttemptStarted)

        def remove() -> None:
            here.engine.publish(NodeRemoved(here.clock.now(), "a"))

        error = await second.error()
        assert isinstance(error, NoNodes)
        assert (await first.outcome()).status == 200


async def test_a_pinned_request_does_not_move() -> None:
    async with house() as here:
        here.add("a", broken("panic"))
        here.add("b")
        request = here.ask(pin="a")
        error = await request.error()
        assert isinstance(error, AllAttemptsFailed)
        assert here.transport.asked == ["a"]


async def test_a_drained_node_finishes_what_it_has() -> None:
    async with house() as here:
        here.add("a")
        request = here.ask()
        await turns()
        here.engine.publish(NodeChanged(here.clock.now(), replace(here.state.nodes["a"].node, draining=True)))
        assert (await request.outcome()).status == 200
        assert isinstance(await here.ask().error(), NoNodes)


async def test_a_client_that_leaves_between_two_attempts() -> None:
    async with house() as here:
        here.add("a", broken("panic"))
        here.add("b", hangs, priority=1)
        other = here.ask(pin="b")
        await turns()
        request = here.ask()
        await turns(10)
        assert here.admission.waiting == 1
        request.leave()
        await turns()
        assert here.admission.waiting == 0
        (ended,) = [event for event in here.of(TaskEnded) if event.task is request.task]
        assert (ended.status, ended.outcome) == (499, "cancelled")
        other.leave()


async def test_the_sink_has_no_exchange_between_attempts() -> None:
    """A slow client must pause the node that answers, not one that has failed."""
    async with house() as here:
        here.add("a", broken("panic"))
        here.add("b", priority=1)
        request = here.ask()
        await request.outcome()
        first, none, second, end = request.sink.attached
        assert none is end is None
        assert [first, second] == here.transport.sent


async def test_a_failed_load_counts_against_the_model_there_and_not_against_the_node() -> None:
    async with house() as here:
        here.add("a", *[broken(f"error loading model {number}") for number in range(6)])
        for _ in range(6):
            assert isinstance(await here.ask().error(), AllAttemptsFailed)
        assert here.state.nodes["a"].state == "up"
