"""Attempts that make no progress are ended where another node could take the request, and only there. In virtual time."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.fakes import WORD, FakeExchange, answers, hangs, house

from sollol.core.events import NodeSlow

pytestmark = pytest.mark.looptime


async def says_one_word(exchange: FakeExchange) -> None:
    exchange.head()
    exchange.data(WORD)


async def test_a_node_that_says_nothing_loses_the_request_to_another() -> None:
    async with house() as here:
        here.add("a", hangs)
        request = here.ask(plain=True)
        await asyncio.sleep(1)
        here.add("b", answers)
        here.seen("a")  # it has the model loaded, as it says itself: so it could have answered
        await request.outcome()
        assert request.sink.status == 200
        assert 16 < here.clock.now() < 60
        assert [event.node for event in here.of(NodeSlow)] == ["a"]


async def test_without_another_node_it_may_take_its_time() -> None:
    async with house() as here:
        here.add("a", hangs)
        request = here.ask(plain=True)
        await asyncio.sleep(1)
        here.seen("a")
        await asyncio.sleep(100)
        assert not request.running.done()
        assert not here.of(NodeSlow)
        request.leave()


async def test_an_answer_that_nobody_can_go_on_with_ends_in_words() -> None:
    async with house() as here:
        here.add("a", says_one_word)
        request = here.ask(max_tokens=10)
        await asyncio.sleep(1)
        here.add("b", answers)
        outcome = await request.outcome()
        assert outcome.outcome == "failed"
        assert outcome.text.startswith("a failed in the middle of the answer: no answer for ")
        assert request.sink.body.startswith(WORD)
        assert b'{"error":' in request.sink.body
        assert len(here.of(NodeSlow)) == 1
