"""Who has waited in vain: a deadline that passed or is out of reach, or no usable node for too long."""

from __future__ import annotations

from msgspec import Struct

from ..errors import DeadlineExceeded, NoNodes, SollolError
from .estimates import Recent
from .fairness import SHARE
from .line import Line
from .routing import Load, Term
from .state import ClusterState
from .types import Task
from .waiting import Group, Waiting

LEARNED = 3
"""Answers of a client to a model from which on their mean counts as known."""
_TRIED = 10

Over = list[tuple[Waiting, SollolError]]


class _Floor(Struct):
    """The soonest that any node could be done: seconds until it can begin, then seconds a token of prompt and answer."""

    start: float
    per_prompt: float
    per_answer: float


class Late:
    """Tells when a deadline cannot be met any more, by learned figures alone; whatever is a guess counts as possible.

    Of the requests of one client that are refused so on arrival every tenth is tried all the same: else a wrong figure would
    never be corrected.
    """

    __slots__ = ("_refused", "_state")

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._refused: Recent[tuple[str, str, str], int] = Recent(4096)

    def newcomer(self, task: Task, group: Group, ahead: float, now: float) -> DeadlineExceeded | None:
        """The error for a request that came just now, with ``ahead`` seconds of work of its group before it."""
        floor = self._floor(group, now)
        if floor is None:
            return None
        start, end = self._soonest(task, Load(task, self._state), floor, ahead)
        error = _missed(task, start, end, now)
        if error is not None:
            key = _key(task)
            refused = self._refused.put(key, self._refused.get(key, 0) + 1)
            if refused % _TRIED == 0:
                return None
        return error

    def waiters(self, line: Line, now: float) -> Over:
        """Requests in the queue whose deadline passed or is out of reach."""
        over: Over = []
        floors: dict[Group, _Floor | None] = {}
        for entry in line.timed:
            task, group = entry.task, entry.group
            assert task.deadline is not None
            if now >= task.deadline:
                text = "the request waited in the queue until its deadline"
                over.append((entry, DeadlineExceeded(text, retry_after=1.0)))
                continue
            floor = floors[group] if group in floors else floors.setdefault(group, self._floor(group, now))
            if floor is None:
                continue
            start, end = self._soonest(task, entry.size(self._state, now), floor, group.ahead(entry)[1])
            error = _missed(task, start, end, now)
            if error is not None:
                over.append((entry, error))
        return over

    def _soonest(self, task: Task, load: Load, floor: _Floor, ahead: float) -> tuple[float, float]:
        """Seconds until the request could begin and end at best. A prompt of which some node holds a part counts as read."""
        start = floor.start + ahead * SHARE
        prompt = 0.0 if load.prefixes is not None else load.prompt
        mean = self._state.answers.get(_key(task))
        answer = load.answer if mean is not None and mean.count >= LEARNED else 0.0
        return start, start + prompt * floor.per_prompt + answer * floor.per_answer

    def _floor(self, group: Group, now: float) -> _Floor | None:
        """None while no node is open, or one is whose figures are a guess."""
        starts, prompts, answers = [], [], []
        for term in group.open:
            if not _learned(term, group.key[0]):
                return None
            wait = 0.0 if term.free > 0 or not term.pristine else max(0.0, min(term.pristine) - now)
            starts.append(max(wait, term.load))
            prompts.append(term.per_prompt)
            answers.append(term.per_answer)
        return _Floor(min(starts), min(prompts), min(answers)) if starts else None


def _key(task: Task) -> tuple[str, str, str]:
    return task.client, task.app, task.model


def _learned(term: Term, model: str) -> bool:
    rates = term.node.rates.get(model)
    if rates is None or rates.prefill is None or rates.decode is None:
        return False
    return term.load <= 0.0 or term.node.load_rate is not None


def _missed(task: Task, start: float, end: float, now: float) -> DeadlineExceeded | None:
    assert task.deadline is not None
    left = task.deadline - now
    if end <= left:
        return None
    text = f"the deadline cannot be met: done in {end:.1f} s at best, {max(0.0, left):.1f} s are left"
    return DeadlineExceeded(text, retry_after=max(1.0, start))


def stranded(line: Line, limit: float, now: float) -> Over:
    """Requests that no usable node could serve for ``limit`` seconds."""
    over: Over = []
    for group in line.active.values():
        if group.usable and not group.stuck:
            continue
        group.stuck = not group.usable
        for entry in group.waiting:
            if entry not in line.picky:
                _judge(entry, usable=group.usable, limit=limit, now=now, over=over)
    for entry in line.picky:
        usable = any(not term.unusable and not entry.avoids(term.node) for term in entry.group.terms)
        _judge(entry, usable=usable, limit=limit, now=now, over=over)
    return over


def _judge(entry: Waiting, *, usable: bool, limit: float, now: float, over: Over) -> None:
    if usable:
        entry.stuck_since = None
    elif entry.stuck_since is None:
        entry.stuck_since = now
    elif now - entry.stuck_since >= limit:
        text = f"no node that has '{entry.task.model}' is reachable"
        over.append((entry, NoNodes(text, retry_after=limit)))
