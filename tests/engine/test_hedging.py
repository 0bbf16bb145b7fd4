"""Two nodes, one request: who may run it too, who wins, and what becomes of the loser."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.support.core_cluster import a_survey
from tests.support.fakes import LAST, WORD, FakeExchange, House, answers, fails, hangs, house, says, turns

from sollol.core.events import AttemptEnded, TaskEnded
from sollol.core.races import LEAST
from sollol.engine.hedge import Hedge
from sollol.engine.pipeline import Deadline, Observe, compose
from sollol.errors import AllAttemptsFailed, DeadlineExceeded, NodeClosed

pytestmark = pytest.mark.looptime

HEDGED = b"x-sollol-hedged"


def racing(home: House, *, always: bool = False) -> None:
    """Put the layer into the pipeline."""
    layers = (Observe(home.engine), Deadline(home.engine), Hedge(home.engine, always=always))
    home.handler = compose(layers, home.dispatch)


def ask(home: House, **fields: Any) -> Any:
    return home.ask(plain=True, **({"hedge": 2} | fields))


async def slow(exchange: FakeExchange) -> None:
    """The first word after five seconds."""
    await asyncio.sleep(5.0)
    await answers(exchange)


async def soon(exchange: FakeExchange) -> None:
    """The first word after a tenth of a second."""
    await asyncio.sleep(0.1)
    await answers(exchange)


def outcomes(home: House) -> dict[str, str]:
    return {event.node: event.outcome for event in home.of(AttemptEnded)}


async def test_the_first_word_wins_and_the_loser_is_cancelled_at_once() -> None:
    async with house() as home:
        racing(home)
        home.add("a", slow)
        home.add("b", answers)
        request = ask(home)
        await turns(10)
        exchanges = {exchange.node.id: exchange for exchange in home.transport.sent}
        assert exchanges["a"].closed
        assert not exchanges["b"].closed
        assert home.state.nodes["a"].in_flight == 0
        outcome = await request.outcome()
        assert request.sink.body == 3 * WORD + LAST
        assert (outcome.nodes, outcome.hedged) == (("b",), "a")
        assert request.sink.headers[HEDGED] == b"a"
        assert request.sink.headers[b"x-sollol-node"] == b"b"
        assert outcomes(home) == {"a": "cancelled", "b": "ok"}
        (ended,) = home.of(TaskEnded)
        assert (ended.hedged, ended.task) == ("a", request.task)
        assert home.state.nodes["a"].failed == 0
        assert home.state.nodes["a"].health.success.value == 1.0


async def test_the_first_run_may_win_too() -> None:
    async with house() as home:
        racing(home)
        home.add("a", soon)
        home.add("b", slow)
        request = ask(home)
        outcome = await request.outcome()
        assert (outcome.nodes, outcome.hedged) == (("a",), "b")
        assert outcomes(home) == {"a": "ok", "b": "cancelled"}


async def test_more_than_two_when_asked() -> None:
    async with house() as home:
        racing(home)
        for name, script in (("a", slow), ("b", hangs), ("c", answers), ("d", answers)):
            home.add(name, script)
        request = ask(home, hedge=3)
        outcome = await request.outcome()
        assert (outcome.nodes, outcome.hedged) == (("c",), "a,b")
        assert home.transport.asked == ["a", "b", "c"]


@pytest.mark.parametrize("fields", [{"hedge": None}, {"hedge": 1}, {"plain": False}, {"pin": "a"}], ids=str)
async def test_requests_that_run_once(fields: dict[str, Any]) -> None:
    async with house() as home:
        racing(home)
        home.add("a", soon)
        home.add("b", soon)
        request = home.ask(**({"plain": True, "hedge": 2} | fields))
        outcome = await request.outcome()
        assert home.transport.asked == ["a"]
        assert outcome.hedged == ""
        assert HEDGED not in request.sink.headers


async def test_nodes_that_are_not_used_for_a_second_run() -> None:
    async with house() as home:
        racing(home)
        home.add("a", soon)
        home.add("cold", survey=a_survey(("m",)))
        home.add("other", survey=a_survey(("n",), ("n",)))
        home.add("gone")
        home.down("gone")
        home.add("busy", answers)
        blocker = home.ask(pin="busy")
        await turns()
        request = ask(home)
        await request.outcome()
        await blocker.outcome()
        assert home.transport.asked == ["busy", "a"]


async def test_nobody_races_while_somebody_waits() -> None:
    async with house() as home:
        racing(home)
        home.add("a", soon)
        home.add("b", soon)
        home.add("c", answers)
        pinned = [home.ask(pin="c"), home.ask(pin="c")]
        await turns()
        request = ask(home)
        await request.outcome()
        for one in pinned:
            await one.outcome()
        assert home.transport.asked.count("b") == 0


async def test_a_late_answer_is_hedged_where_that_is_configured() -> None:
    async with house() as home:
        racing(home, always=True)
        home.add("a", slow)
        home.add("b", answers)
        request = ask(home, hedge=None)
        await asyncio.sleep(1.9)
        assert home.transport.asked == ["a"]
        outcome = await request.outcome()
        assert (outcome.nodes, outcome.hedged) == (("b",), "a")
        assert 2.0 <= home.of(TaskEnded)[0].seconds < 5.0


async def test_an_urgent_one_is_hedged_at_once_where_that_is_configured() -> None:
    async with house() as home:
        racing(home, always=True)
        home.add("a", slow)
        home.add("b", answers)
        await ask(home, hedge=None, priority=10).outcome()
        assert home.of(TaskEnded)[0].seconds < 1.0


async def test_an_answer_in_time_is_not_hedged() -> None:
    async with house() as home:
        racing(home, always=True)
        home.add("a", answers)
        home.add("b", answers)
        await ask(home, hedge=None).outcome()
        await asyncio.sleep(5.0)
        assert home.transport.asked == ["a"]


async def test_second_runs_are_limited() -> None:
    async with house() as home:
        racing(home)
        home.add("a", soon)
        home.add("b", soon)
        for _ in range(LEAST + 3):
            await ask(home).outcome()
        assert len(home.transport.sent) == LEAST + 3 + LEAST


async def test_a_second_run_that_fails_is_no_failure() -> None:
    async with house() as home:
        racing(home)
        home.add("a", slow)
        home.add("b", fails(lambda node: NodeClosed(node, "gone")))
        request = ask(home)
        outcome = await request.outcome()
        assert (outcome.status, outcome.nodes) == (200, ("a",))
        assert home.transport.asked == ["a", "b"]


async def test_a_second_run_that_is_refused_does_not_answer() -> None:
    async with house() as home:
        racing(home)
        home.add("a", slow)
        home.add("b", says(400, b'{"error":"no"}'))
        request = ask(home)
        assert (await request.outcome()).status == 200
        assert request.sink.body == 3 * WORD + LAST


async def test_where_both_fail_the_first_one_tells_of_it() -> None:
    async with house() as home:
        racing(home)
        for name in "ab":
            home.add(name, fails(lambda node: NodeClosed(node, "gone"), seconds=1.0))
        error = await ask(home).error()
        assert isinstance(error, AllAttemptsFailed)


async def test_the_first_run_fails_and_the_second_answers() -> None:
    async with house() as home:
        racing(home)
        home.add("a", fails(lambda node: NodeClosed(node, "gone"), seconds=1.0))
        home.add("b", slow)
        request = ask(home)
        assert (await request.outcome()).status == 200
        assert request.sink.body == 3 * WORD + LAST


async def test_a_client_that_leaves_ends_all_runs() -> None:
    async with house() as home:
        racing(home)
        home.add("a", hangs)
        home.add("b", hangs)
        request = ask(home)
        await turns(10)
        assert len(home.transport.sent) == 2
        request.sink.exchange.pause()
        assert all(exchange.paused for exchange in home.transport.sent)
        request.sink.exchange.resume()
        request.leave()
        assert all(exchange.closed for exchange in home.transport.sent)
        await turns(10)
        assert all(node.in_flight == 0 for node in home.state.nodes.values())
        assert outcomes(home) == {"a": "cancelled", "b": "cancelled"}


async def test_a_deadline_in_the_middle() -> None:
    async with house() as home:
        racing(home)
        home.add("a", slow)
        home.add("b", answers)
        request = ask(home, deadline=home.clock.now() + 0.15)
        assert isinstance(await request.error(), DeadlineExceeded)
        assert request.sink.body == 2 * WORD
        assert outcomes(home) == {"a": "cancelled", "b": "cancelled"}
