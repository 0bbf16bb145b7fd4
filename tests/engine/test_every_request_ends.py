"""Whatever nodes and clients do, in whatever order: every request ends once, and nothing stays taken."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.core_cluster import a_survey
from tests.support.fakes import LAST, WORD, FakeExchange, House, Script, answers, fails, hangs, house, says

from sollol.core.events import NodeRemoved
from sollol.core.scheduler import Limits
from sollol.errors import BadReply, NodeClosed, NodeUnreachable


async def stalls(exchange: FakeExchange) -> None:
    exchange.head()
    exchange.data(WORD, WORD[:9])


SCRIPTS: dict[str, Script] = {
    "answers": answers,
    "refuses": fails(lambda node: NodeUnreachable(node, "refused")),
    "closes": fails(lambda node: NodeClosed(node, "closed"), seconds=0.05),
    "breaks": fails(lambda node: NodeClosed(node, "closed"), [WORD, WORD], seconds=0.05),
    "frames badly": fails(lambda node: BadReply(node, "framing"), [WORD[:7]]),
    "500": says(500, b'{"error":"panic"}'),
    "cannot load": says(500, b'{"error":"error loading model"}'),
    "busy": says(503, b'{"error":"busy"}'),
    "loading": says(503, b'{"error":{"message":"Loading model"}}'),
    "gone": says(404, b'{"error":"model \'m\' not found"}'),
    "no": says(400, b'{"error":"no"}'),
    "garbage": says(200, b"\xff\xfe garbage\n"),
    "half": says(200, WORD),
    "error line": says(200, WORD + b'{"error":"oom"}\n'),
    "whole": says(200, WORD + LAST),
    "stalls": stalls,
    "hangs": hangs,
}


@dataclass(frozen=True)
class Step:
    """What happens after so many seconds."""

    after: float
    what: str
    which: int


STEPS = st.builds(
    Step,
    st.sampled_from([0.0, 0.0, 0.03, 0.1, 1.0, 7.0]),
    st.sampled_from(
        ["ask", "ask", "ask", "ask with a deadline", "ask for a document", "leave", "down", "seen", "remove", "add"]
    ),
    st.integers(0, 5),
)
PLAYS = st.lists(st.lists(st.sampled_from(list(SCRIPTS)), min_size=1, max_size=4), min_size=1, max_size=4)


def act(here: House, step: Step, plays: list[list[str]]) -> None:
    name = f"n{step.which % len(plays)}"
    match step.what:
        case "ask":
            here.ask(priority=1 + step.which)
        case "ask with a deadline":
            here.ask(deadline=here.clock.now() + 0.5 * step.which)
        case "ask for a document":
            here.ask(stream=False, details=step.which > 2)
        case "leave" if here.requests:
            here.requests[step.which % len(here.requests)].leave()
        case "down":
            here.down(name)
        case "seen":
            here.seen(name, a_survey(("m",), ("m",)))
        case "remove":
            here.engine.publish(NodeRemoved(here.clock.now(), name))
        case "add":
            here.add(name, slots=1 + step.which % 2)


async def play(plays: list[list[str]], steps: list[Step]) -> None:
    async with house(Limits(waiting=4)) as here:
        for number, scripts in enumerate(plays):
            here.add(f"n{number}", *[SCRIPTS[script] for script in scripts])
        for step in steps:
            await asyncio.sleep(step.after)
            act(here, step, plays)
        await asyncio.sleep(40)
        for request in here.requests:  # those that a node keeps waiting for ever end when their client leaves
            request.leave()
        await asyncio.gather(*(request.running for request in here.requests), return_exceptions=True)
        for request in here.requests:
            sink = request.sink
            assert not (sink.ended and sink.aborted)
            if sink.ended and sink.status == 200 and request.task.stream:
                assert sink.body.endswith(b"\n"), "clients read lines"


@settings(max_examples=60)
@given(PLAYS, st.lists(STEPS, min_size=1, max_size=14))
def test_every_request_ends_once_and_nothing_stays_taken(plays: list[list[str]], steps: list[Step]) -> None:
    looptime_run(plays, steps)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_run(seed: int) -> None:
    chance = random.Random(seed)
    plays = [chance.choices(list(SCRIPTS), k=40) for _ in range(6)]
    what = ["ask"] * 10 + ["ask with a deadline", "ask for a document", "leave", "down", "seen", "seen", "add", "remove"]
    steps = [Step(chance.choice([0.0, 0.02, 0.2, 0.5]), chance.choice(what), chance.randrange(200)) for _ in range(300)]
    looptime_run(plays, [Step(step.after, step.what, step.which % (9 if "ask" in step.what else 200)) for step in steps])


def looptime_run(plays: list[list[str]], steps: list[Step]) -> None:
    """Play it in virtual time, on a loop of its own."""
    loop = looptime.new_event_loop(start=0)
    try:
        loop.run_until_complete(play(plays, steps))
    finally:
        loop.close()
