"""One answer for identical requests: who joins, who leaves, who reads slowly, and what is kept for later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.core_cluster import a_model, a_survey
from tests.support.fakes import LAST, WORD, FakeExchange, FakeSink, House, answers, fails, hangs, house, says, turns

from sollol.core.caching import Store
from sollol.core.events import NodeRemoved
from sollol.core.scheduler import Limits
from sollol.core.types import Mode
from sollol.engine import flight as flights
from sollol.engine.cache import Cache
from sollol.engine.coalesce import Coalesce
from sollol.engine.pipeline import Deadline, Observe, compose
from sollol.errors import AllAttemptsFailed, DeadlineExceeded, NodeClosed, QueueFull

pytestmark = pytest.mark.looptime

KEY = b"k"
CACHE = b"x-sollol-cache"


def sharing(home: House, *, enabled: bool = True, join: bool = True) -> Cache:
    """Put the two layers into the pipeline."""
    cache = Cache(home.engine, Store(), enabled=enabled)
    layers = (Observe(home.engine), Deadline(home.engine), cache, Coalesce(home.engine, cache.store.counts, cache, join=join))
    home.handler = compose(layers, home.dispatch)
    return cache


async def words(exchange: FakeExchange) -> None:
    """Five words of 100 kB, a second apart."""
    exchange.head()
    for _ in range(5):
        exchange.data(WORD.replace(b"word", b"word" * 25_000))
        await asyncio.sleep(1.0)
    exchange.data(LAST)
    exchange.end()


async def test_one_is_sent_and_all_get_the_same_bytes() -> None:
    async with house() as home:
        cache = sharing(home)
        home.add("a", answers, slots=4)
        requests = [home.ask(key=KEY) for _ in range(3)]
        await asyncio.sleep(0.15)
        requests.append(home.ask(key=KEY))  # in the middle of it: from the beginning, then live
        outcomes = [await request.outcome() for request in requests]
        assert len(home.transport.sent) == 1
        assert {request.sink.body for request in requests} == {3 * WORD + LAST}
        assert [request.sink.headers[CACHE] for request in requests] == [b"miss", b"shared", b"shared", b"shared"]
        assert all(request.sink.ended for request in requests)
        assert outcomes[0].nodes == ("a",)
        for request, outcome in zip(requests[1:], outcomes[1:], strict=True):
            assert (outcome.status, outcome.outcome, outcome.cache) == (200, "ok", "shared")
            assert (outcome.nodes, outcome.counters, outcome.queued) == ((), None, 0.0)
            assert b"x-sollol-queue-ms" not in request.sink.headers
            assert request.sink.headers[b"x-sollol-node"] == b"a"
        assert cache.store.counts.shared == 3


async def test_a_later_one_is_answered_without_a_node() -> None:
    async with house() as home:
        cache = sharing(home)
        home.add("a", answers)
        first = home.ask(key=KEY)
        await first.outcome()
        await asyncio.sleep(7.5)
        second = home.ask(key=KEY)
        outcome = await second.outcome()
        assert (outcome.cache, outcome.nodes, outcome.counters) == ("hit", (), None)
        assert second.sink.body == first.sink.body
        assert second.sink.headers == {b"content-type": b"application/x-ndjson", b"age": b"7", CACHE: b"hit"}
        assert len(home.transport.sent) == 1
        assert cache.store.counts.hits == 1


async def test_requests_without_a_key_and_different_ones_share_nothing() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers, slots=8)
        requests = [home.ask(), home.ask(), home.ask(key=b"1"), home.ask(key=b"2")]
        for request in requests:
            await request.outcome()
        assert len(home.transport.sent) == 4
        assert CACHE not in requests[0].sink.headers


async def test_where_nothing_may_be_joined_answers_are_kept_all_the_same() -> None:
    async with house() as home:
        cache = sharing(home, join=False)
        home.add("a", answers, slots=8)
        requests = [home.ask(key=KEY), home.ask(key=KEY)]
        for request in requests:
            await request.outcome()
        assert len(home.transport.sent) == 2
        assert len(cache.store) == 1


async def test_where_nothing_is_kept_requests_share_all_the_same() -> None:
    async with house() as home:
        cache = sharing(home, enabled=False)
        home.add("a", answers, slots=8)
        requests = [home.ask(key=KEY), home.ask(key=KEY)]
        for request in requests:
            await request.outcome()
        assert len(home.transport.sent) == 1
        assert CACHE not in requests[0].sink.headers
        assert len(cache.store) == 0


async def test_the_first_one_leaves_and_its_work_goes_on() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers)
        first, second = home.ask(key=KEY), home.ask(key=KEY)
        await asyncio.sleep(0.15)
        first.leave()
        await second.outcome()
        assert second.sink.body == 3 * WORD + LAST
        assert len(home.transport.sent) == 1


async def test_the_last_one_takes_the_work_along_at_once() -> None:
    async with house() as home:
        cache = sharing(home)
        home.add("a", hangs, slots=1)
        first, second = home.ask(key=KEY), home.ask(key=KEY)
        await turns()
        exchange = home.transport.sent[0]
        first.leave()
        await turns()
        assert not exchange.closed
        assert second.sink.exchange is not None
        second.sink.exchange.close()  # what the door does in the very call in which it learns of it
        assert exchange.closed
        third = home.ask(key=KEY)  # joins no work that is being given up
        second.running.cancel()
        await turns()
        assert len(home.transport.sent) == 2
        third.leave()
        await turns()
        assert home.state.nodes["a"].in_flight == 0
        assert len(cache.store) == 0


async def test_a_slow_reader_slows_nobody_and_gets_everything() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", words)
        quick, slow = home.ask(key=KEY), home.ask(key=KEY)
        await asyncio.sleep(0.5)
        assert slow.sink.exchange is not None
        slow.sink.exchange.pause()
        await quick.outcome()
        assert len(slow.sink.pieces) == 1
        assert not home.transport.sent[0].paused
        assert not slow.running.done()
        slow.sink.exchange.resume()
        await slow.outcome()
        assert slow.sink.body == quick.sink.body


async def test_the_node_is_held_back_only_while_nobody_can_take_more() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", words)
        one, two = home.ask(key=KEY), home.ask(key=KEY)
        await turns()
        exchange = home.transport.sent[0]
        assert one.sink.exchange is not None
        assert two.sink.exchange is not None
        one.sink.exchange.pause()
        assert not exchange.paused
        two.sink.exchange.pause()
        assert exchange.paused
        three = home.ask(key=KEY)
        await turns()
        assert not exchange.paused
        three.leave()
        await turns()
        assert exchange.paused
        one.sink.exchange.resume()
        assert not exchange.paused
        two.sink.exchange.resume()
        await one.outcome()
        await two.outcome()


async def test_who_is_too_far_behind_is_cut_loose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "WHOLE_BYTES", 150_000)
    monkeypatch.setattr(flights, "LAG_BYTES", 250_000)
    async with house() as home:
        cache = sharing(home)
        home.add("a", words, slots=2)
        quick, slow = home.ask(key=KEY), home.ask(key=KEY)
        await asyncio.sleep(0.5)
        assert slow.sink.exchange is not None
        slow.sink.exchange.pause()
        await asyncio.sleep(1.0)
        late = home.ask(key=KEY)  # the beginning is no longer at hand
        outcome = await slow.outcome()
        assert (outcome.outcome, outcome.cache) == ("failed", "shared")
        assert slow.sink.aborted
        await quick.outcome()
        await late.outcome()
        assert quick.sink.body == late.sink.body
        assert len(home.transport.sent) == 2
        assert len(cache.store) == 0  # too long to be kept


async def test_a_slow_reader_that_saw_nothing_yet_is_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "WHOLE_BYTES", 50_000)
    monkeypatch.setattr(flights, "LAG_BYTES", 150_000)

    class Clogged(FakeSink):
        """Its client has not read the reply before yet."""

        def attach(self, exchange: Any) -> None:
            super().attach(exchange)
            if exchange is not None and len(self.attached) == 1:
                exchange.pause()

    async with house() as home:
        sharing(home)
        home.add("a", words, slots=2)
        quick = home.ask(key=KEY)
        slow = home.ask(Clogged(), key=KEY)
        await quick.outcome()
        await slow.outcome()
        assert len(home.transport.sent) == 2
        assert slow.sink.body == quick.sink.body


async def test_all_get_the_failure_of_the_one_that_was_sent() -> None:
    async with house() as home:
        cache = sharing(home)
        home.add("a", fails(lambda node: NodeClosed(node, "gone"), seconds=0.1))
        requests = [home.ask(key=KEY) for _ in range(3)]
        errors = [await request.error() for request in requests]
        assert all(isinstance(error, AllAttemptsFailed) for error in errors)
        assert len(home.transport.sent) == 1
        assert len(cache.store) == 0


@pytest.mark.parametrize(
    "script",
    [
        says(400, b'{"error":"no"}'),
        fails(lambda node: NodeClosed(node, "gone"), after=(WORD,), seconds=0.1),
        says(200, b'{"done":false}\n'),
    ],
    ids=["refused", "broken", "incomplete"],
)
async def test_what_is_no_complete_answer_is_not_kept(script: Any) -> None:
    async with house() as home:
        cache = sharing(home)
        home.add("a", script)
        requests = [home.ask(key=KEY), home.ask(key=KEY)]
        await asyncio.gather(*(request.running for request in requests), return_exceptions=True)
        assert requests[0].sink.body == requests[1].sink.body
        assert len(cache.store) == 0


async def test_an_urgent_request_does_not_wait_behind_a_patient_one() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers, slots=1)
        busy = home.ask()
        await turns()
        patient = home.ask(key=KEY, priority=3)
        equal = home.ask(key=KEY, priority=3)
        await turns()
        urgent = home.ask(key=KEY, priority=9)
        joins = home.ask(key=KEY, priority=5)
        for request in (busy, patient, equal, urgent, joins):
            await request.outcome()
        started = [exchange.request for exchange in home.transport.sent]
        assert len(started) == 3
        firsts = [request.running.result().first_byte for request in (patient, equal, urgent, joins)]
        assert firsts[0] == firsts[1] > firsts[2] == firsts[3]


async def test_a_request_in_a_hurry_does_not_join_one_that_is_not() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers, slots=4)
        requests = [home.ask(key=KEY, mode=Mode.ASYNC), home.ask(key=KEY), home.ask(key=KEY, mode=Mode.ASYNC)]
        for request in requests:
            await request.outcome()
        assert len(home.transport.sent) == 2


async def test_a_fresh_answer_is_asked_for_and_then_kept() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers, slots=4)
        await home.ask(key=KEY).outcome()
        requests = [home.ask(key=KEY, max_age=0.0), home.ask(key=KEY, max_age=0.0)]
        for request in requests:
            await request.outcome()
        assert len(home.transport.sent) == 3
        last = home.ask(key=KEY, max_age=0.5)
        assert (await last.outcome()).cache == "hit"


async def test_the_place_and_the_time_of_the_first_one_are_its_own() -> None:
    async with house(Limits(waiting=2)) as home:
        sharing(home)
        home.add("a", answers, slots=1)
        busy = home.ask()
        await turns()
        first = home.ask(key=KEY, priority=2, deadline=home.clock.now() + 0.29)
        follower = home.ask(key=KEY, priority=2, deadline=home.clock.now() + 0.85)
        await turns()
        assert home.admission.waiting == 1
        assert isinstance(await first.error(), DeadlineExceeded)
        await busy.outcome()
        assert (await follower.outcome()).status == 200


@pytest.mark.parametrize("deadline", [None, 10.0])
async def test_who_has_far_more_time_does_not_lose_its_place_with_the_first_one(deadline: float | None) -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers, slots=1)
        busy = home.ask(client="x")
        await turns()
        first = home.ask(key=KEY, deadline=home.clock.now() + 0.1, client="y")
        patient = home.ask(key=KEY, deadline=None if deadline is None else home.clock.now() + deadline, client="z")
        await turns()
        later = home.ask(client="w")
        assert isinstance(await first.error(), DeadlineExceeded)
        for request in (busy, patient, later):
            await request.outcome()
        begun = [request.running.result().first_byte for request in (patient, later)]
        assert begun[0] < begun[1]


async def test_who_asks_for_a_race_does_not_join_one_that_runs_alone_before_its_first_word() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers, slots=4)
        alone = home.ask(key=KEY)
        race, again = home.ask(key=KEY, hedge=2), home.ask(key=KEY, hedge=2)
        await asyncio.sleep(0.15)
        late = home.ask(key=KEY, hedge=3)
        for request in (alone, race, again, late):
            await request.outcome()
        assert len(home.transport.sent) == 2


async def test_the_first_one_leaves_while_all_wait_and_its_place_is_kept() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers, slots=1)
        busy = home.ask(client="x")
        await turns()
        first, follower = home.ask(key=KEY, client="y"), home.ask(key=KEY, client="z")
        await turns()
        later = home.ask(client="w")
        await turns()
        first.leave()
        for request in (busy, follower, later):
            await request.outcome()
        assert follower.sink.body == 3 * WORD + LAST
        assert follower.running.result().first_byte < later.running.result().first_byte
        assert len(home.transport.sent) == 3
        assert home.state.nodes["a"].in_flight == 0


async def test_who_is_refused_for_a_full_queue_refuses_nobody_else() -> None:
    async with house(Limits(waiting=1)) as home:
        sharing(home)
        home.add("a", answers, slots=1)
        busy = home.ask()
        await turns()
        first = home.ask(key=KEY, priority=2, client="one")
        follower = home.ask(key=KEY, priority=2, client="two")
        await turns()
        urgent = home.ask(priority=9)  # drives the first one out
        assert isinstance(await first.error(), QueueFull)
        assert isinstance(await follower.error(), QueueFull)  # by its own place in the line, which is no better
        await busy.outcome()
        await urgent.outcome()


async def test_the_time_of_one_is_up_in_the_middle() -> None:
    async with house() as home:
        sharing(home)
        home.add("a", answers)
        first = home.ask(key=KEY)
        follower = home.ask(key=KEY, deadline=home.clock.now() + 0.15)
        assert isinstance(await follower.error(), DeadlineExceeded)
        assert follower.sink.body == 2 * WORD
        await first.outcome()
        assert first.sink.body == 3 * WORD + LAST


async def test_an_answer_is_not_given_again_once_its_model_has_changed() -> None:
    async with house() as home:
        cache = sharing(home)
        one, other = (a_survey((a_model("m", digest=digest),), ("m",)) for digest in "12")
        home.add("a", answers, survey=one)
        await home.ask(key=KEY).outcome()
        home.seen("a", one)
        assert len(cache.store) == 1
        home.seen("a", replace(one, models=(), loading=True))  # a server that starts knows nothing yet
        assert len(cache.store) == 1
        home.seen("a", other)
        assert (len(cache.store), cache.store.counts.outdated) == (0, 1)
        await home.ask(key=KEY).outcome()
        assert len(home.transport.sent) == 2


async def test_an_answer_stays_while_any_node_would_give_it() -> None:
    async with house() as home:
        cache = sharing(home)
        home.add("a", answers)
        await home.ask(key=KEY).outcome()
        home.add("b", answers)
        home.engine.publish(NodeRemoved(home.clock.now(), "a"))
        assert (await home.ask(key=KEY).outcome()).cache == "hit"
        home.engine.publish(NodeRemoved(home.clock.now(), "b"))
        assert len(cache.store) == 0


async def test_an_answer_during_which_a_model_changed_is_not_kept() -> None:
    async with house() as home:
        cache = sharing(home)
        one, other = (a_survey((a_model("m", digest=digest),), ("m",)) for digest in "12")
        home.add("a", answers, survey=one)
        request = home.ask(key=KEY)
        await asyncio.sleep(0.15)
        home.seen("a", other)
        await request.outcome()
        assert len(cache.store) == 0


async def test_an_answer_of_a_node_that_is_gone_is_not_kept() -> None:
    async with house() as home:
        cache = sharing(home)
        home.add("a", answers)
        request = home.ask(key=KEY)
        await asyncio.sleep(0.15)
        home.engine.publish(NodeRemoved(home.clock.now(), "a"))
        await request.outcome()
        assert len(cache.store) == 0
