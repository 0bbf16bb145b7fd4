"""The story of a node that fails and comes back, told with real requests and measured figures."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

from sollol.cli.options import seconds
from sollol.cli.stage import Answer, Stage, ask, poll
from sollol.errors import SollolError

MODEL: Final = "llama3.2:1b"
TOKENS: Final = 30
PROMPTS: Final = ("Why is the sky blue?", "What is a gateway?", "Name three rivers.", "How does a pump work?")
CLIENTS: Final = 16  # enough that loading the model once more is quicker than waiting in line
CALM_SECONDS: Final = 2.0
OUTAGE_SECONDS: Final = 3.0
RETURN_SECONDS: Final = 20.0
AFTER_SECONDS: Final = 1.5
MOST_REQUESTS: Final = 2_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Observations:
    """What was measured. Times are seconds; None where something never happened."""

    victim: str
    requests: int
    answered: int
    lost: int
    wrong: int
    moved: int
    running_when_killed: int
    usual: float
    longest: float
    longest_moved: float | None
    noticed: float | None
    seen_again: float | None
    used_again: float | None

    @property
    def good(self) -> bool:
        """Nothing was lost, every answer was the right one, and the node that came back was used again."""
        return not self.lost and not self.wrong and self.noticed is not None and self.used_again is not None


@dataclass(slots=True)
class Death:
    """What happened to the node that died; the times as in `Observations`."""

    victim: str
    running: int
    usual: float
    noticed: float | None
    seen_again: float | None = None
    used_again: float | None = None


class Crowd:
    """Clients that ask one request after another until told to stop."""

    def __init__(self, url: str) -> None:
        self.asked: list[tuple[str, Answer]] = []
        self._url = url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    @property
    def answers(self) -> list[Answer]:
        """What came back so far."""
        return [answer for _, answer in self.asked]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        while not self._over.is_set() and len(self.asked) < MOST_REQUESTS:
            prompt = PROMPTS[number % len(PROMPTS)]
            number += 1
            self.asked.append((prompt, ask(self._url, MODEL, prompt, tokens=TOKENS)))


def tell_failover(stage: Stage, say: Say) -> Observations:
    """Play it. Every figure is measured here; nothing is said that did not happen."""
    say("1. All is well")
    expected = _first_answers(stage, say)
    crowd = Crowd(stage.url)
    crowd.start()
    try:
        death = _die(stage, crowd, say)
        _come_back(stage, crowd, death, say)
    finally:
        crowd.stop()
    return _observe(crowd, expected, death)


def _die(stage: Stage, crowd: Crowd, say: Say) -> Death:
    time.sleep(CALM_SECONDS)  # the audience sees it work
    calm = [answer for answer in crowd.answers if not answer.error]
    if not calm:
        raise SollolError("no request was answered, even with all nodes alive")
    usual = median(answer.seconds for answer in calm)
    say(f"   {CLIENTS} clients ask all the time: {_by_node(calm)}; an answer takes {seconds(usual)} (median)")
    victim = Counter(answer.node for answer in calm).most_common(1)[0][0]
    say(f"2. {victim}, which does most of the work, dies")
    killed = time.perf_counter()
    running = stage.kill(victim)
    say(f"   +0.00 s  it is gone; it was working on {running} requests")
    noticed = _wait_for(stage, victim, killed, OUTAGE_SECONDS, up=False)
    say(f"   +{noticed:.2f} s  the gateway knows" if noticed is not None else "   the gateway has not noticed")
    time.sleep(max(0.0, OUTAGE_SECONDS - (time.perf_counter() - killed)))  # long enough to see what becomes of the requests
    during = [answer for answer in crowd.answers if answer.ended > killed and not answer.error]
    say(f"   since then: {_by_node(during)}")
    for answer in [answer for answer in during if answer.attempts > 1][:3]:
        say(f"   a request that {victim} had was sent again; {answer.node} answered it after {seconds(answer.seconds)} in all")
    return Death(victim, running, usual, noticed)


def _come_back(stage: Stage, crowd: Crowd, death: Death, say: Say) -> None:
    say(f"3. {death.victim} comes back, with nothing loaded")
    revived = time.perf_counter()
    stage.revive(death.victim)
    death.seen_again = seen = _wait_for(stage, death.victim, revived, RETURN_SECONDS, up=True)
    say(f"   +{seen:.2f} s  the gateway knows" if seen is not None else "   the gateway has not noticed")
    death.used_again = used = _wait_for_answer(crowd, death.victim, revived)
    if used is None:
        say("   it was not used again")
        return
    say(f"   +{used:.2f} s  it has answered again")
    time.sleep(AFTER_SECONDS)  # the audience sees it work again
    say(f"   since then: {_by_node([a for a in crowd.answers if a.ended > revived + used and not a.error])}")


def summary(found: Observations) -> list[str]:
    """The measured figures, a line each."""
    lines = [
        f"requests sent              {found.requests}",
        f"answered                   {found.answered}",
        f"lost                       {found.lost}",
        f"answers that were wrong    {found.wrong}",
        f"moved to another node      {found.moved}  ({found.running_when_killed} were running on {found.victim} when it died)",
        f"usual time of an answer    {seconds(found.usual)}",
        f"longest of those moved     {seconds(found.longest_moved)}",
        f"longest of all             {seconds(found.longest)}",
        f"time to notice the death   {seconds(found.noticed)}",
        f"time to notice the return  {seconds(found.seen_again)}",
        f"return until its answer    {seconds(found.used_again)}",
    ]
    return lines


def as_dict(found: Observations) -> dict[str, object]:
    """The same for programs; times in seconds."""
    return {**asdict(found), "good": found.good}


def _first_answers(stage: Stage, say: Say) -> dict[str, str]:
    """One answer to each prompt: the same prompt has the same answer on every node, so that later ones can be compared."""
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda prompt: ask(stage.url, MODEL, prompt, tokens=TOKENS), PROMPTS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        say(f'   "{prompt}" was answered by {answer.node or "nobody"} in {seconds(answer.seconds)} {answer.error}'.rstrip())
    return {prompt: answer.text for prompt, answer in zip(PROMPTS, answers, strict=True)}


def _wait_for(stage: Stage, node: str, since: float, limit: float, *, up: bool) -> float | None:
    """Seconds from `since` until the gateway sees the node up (or no longer so); None after `limit` seconds."""

    def seen() -> float | None:
        return time.perf_counter() - since if (stage.states().get(node) == "up") == up else None

    return poll(seen, limit)


def _wait_for_answer(crowd: Crowd, node: str, since: float) -> float | None:
    """Seconds from `since` until an answer that was asked for later came from the node."""

    def answered() -> float | None:
        ends = [answer.ended for answer in crowd.answers if answer.node == node and answer.started > since]
        return min(ends) - since if ends else None

    return poll(answered, RETURN_SECONDS)


def _observe(crowd: Crowd, expected: dict[str, str], death: Death) -> Observations:
    answers = crowd.answers
    good = [answer for answer in answers if not answer.error]
    moved = [answer.seconds for answer in good if answer.attempts > 1]
    wrong = sum(1 for prompt, a in crowd.asked if not a.error and a.text != expected[prompt])
    return Observations(
        victim=death.victim,
        requests=len(answers),
        answered=len(good),
        lost=len(answers) - len(good),
        wrong=wrong,
        moved=len(moved),
        running_when_killed=death.running,
        usual=death.usual,
        longest=max(answer.seconds for answer in answers),
        longest_moved=max(moved) if moved else None,
        noticed=death.noticed,
        seen_again=death.seen_again,
        used_again=death.used_again,
    )


def _by_node(answers: list[Answer]) -> str:
    counts = Counter(answer.node for answer in answers)
    return ", ".join(f"{count} answered by {node}" for node, count in counts.most_common()) or "no answer yet"
