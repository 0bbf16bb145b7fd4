"""What each node would need for a request, in seconds, and which one it goes to.

::

    cost  = (start + slow*run + lost) / success
    start = weight*wait on a warm node, else max(wait, ready);  ready = loads ahead + load + drain + evict
    run   = (1 + a*b) * [(prompt - cached)/prefill + answer/decode]
    eta   = max(wait, load) + slow*run

A `Term` holds what does not depend on the single request: one per (group of alike requests, node), renewed when an event
touched the node or its time is up. Ranking a request is then a few multiplications a node.
"""

from __future__ import annotations

from heapq import heapify, heapreplace
from math import exp

from .estimates import Rates
from .gates import USABLE, GroupKey, gate
from .mirror import KvSlot, oldest_free
from .node import NodeState, speed_or
from .residency import plan
from .state import ClusterState
from .types import Cost, Health, Kind, Mode, Task

SAME_PERCENT, SAME_SECONDS = 0.10, 0.5
"""Costs within 10 %, or half a second, of the best are equal where nodes have priorities."""
LAST_RESORT_SECONDS = 30.0
ASYNC_FACTOR = 4.0
LEAST_SUCCESS = 0.05
_MODELLESS_SLOTS = 64
_LONG, _SHORT = 30.0, 0.5
_WEIGHTS = {Mode.FAST: 2.0}


def group_key(task: Task) -> GroupKey:
    """Requests with the same key are alike to every node but for their sizes."""
    return task.model, task.num_ctx, task.needs, task.kind is Kind.EMBED


def weight(mode: Mode) -> float:
    """How much a second of waiting on a warm node counts."""
    return _WEIGHTS.get(mode, 1.5)


class Term:
    """What a node offers to one group. ``until`` is when it must be renewed even if nothing happens there.

    ``per_prompt`` and ``per_answer`` are seconds a token, contention and slowness included; ``held`` is what the slot that
    would be overwritten holds (seconds to make again); ``frees`` is a heap of the times when slots become free.
    """

    __slots__ = (
        "blocked",
        "decode",
        "evict",
        "factor",
        "free",
        "frees",
        "held",
        "held_at",
        "inverse",
        "inverse_squared",
        "load",
        "node",
        "node_id",
        "per_answer",
        "per_prompt",
        "pristine",
        "ready",
        "slow",
        "success",
        "unit",
        "until",
        "unusable",
        "version",
        "warm",
    )

    def __init__(self, node: NodeState) -> None:
        self.node = node
        self.node_id = node.id
        self.version = -1
        self.until = 0.0
        self.blocked = ""
        self.unusable = False
        self.free = 0
        self.frees: list[float] = []
        self.pristine: list[float] = []
        self.warm = True
        self.ready = self.load = self.evict = 0.0
        self.per_prompt = self.per_answer = self.decode = 0.0
        self.factor = self.slow = self.success = self.inverse = self.inverse_squared = 1.0
        self.held = self.held_at = 0.0
        self.unit = 0.0

    def renew(self, key: GroupKey, state: ClusterState, now: float) -> None:
        """Work everything out anew for ``now``."""
        node = self.node
        self.version = node.version
        self.until = now + _LONG
        health = node.health.at(now)
        self.blocked = gate(node, key, health, now)
        self.unusable = health not in USABLE
        if self.blocked:
            self.free = 0
            self.until = now + _SHORT
            return
        self._speed(key[0], state, now)
        self._room(key, state, now)
        if health is Health.HALF_OPEN:
            self.free = min(self.free, 1)
            self.until = now + _SHORT

    def _speed(self, model: str, state: ClusterState, now: float) -> None:
        node = self.node
        rates = node.rates.get(model)
        prefill, decode, a = _rates(rates, node, model, state, now)
        if rates is None or rates.decode is None or rates.decode.moving(now):
            self.until = now + 1.0
        share = node.health.success if rates is None else rates.success
        if share.value >= 1.0 and node.slow.value == 1.0:  # the usual case
            slow = self.slow = self.success = self.inverse = self.inverse_squared = 1.0
        else:
            self.until = now + 1.0
            self.slow = slow = node.slow.factor(now)
            self.success = success = max(LEAST_SUCCESS, share.rate(now))
            self.inverse = 1.0 / success
            self.inverse_squared = self.inverse * self.inverse
        self.unit = a * slow
        self.factor = factor = 1.0 + a * len(node.running)
        self.per_prompt = slow * factor / prefill
        self.per_answer = slow * factor / decode

    def _room(self, key: GroupKey, state: ClusterState, now: float) -> None:
        """Slots, residency, and whose prefix would be lost."""
        node, model = self.node, key[0]
        self.ready = self.load = self.evict = self.held = 0.0
        self.warm = True
        if not model:
            self.free = max(0, _MODELLESS_SLOTS - len(node.running))
            self.pristine = self.frees = [now] if not self.free else []
            return
        runner = node.runners.get(model)
        if runner is None or not runner.lives(now) or not node.suits(runner, key[1]):
            self._cold(model, state, now)
        elif runner.loading:
            self.load = self.ready = max(0.0, runner.ready_at - now)
            self.warm = False
            self.until = now + _SHORT
        else:
            if runner.expires is not None and runner.expires < self.until:
                self.until = runner.expires
            if runner.kv and len(runner.kv) >= node.slots.count:
                slot = oldest_free(runner.kv)
                if slot is not None and slot.tokens:
                    self.held = state.mirror.alive**2 * slot.tokens * self.per_prompt / (self.slow * self.factor)
                    self.held_at = slot.used
        self._slots(key, model, now)

    def _slots(self, key: GroupKey, model: str, now: float) -> None:
        node = self.node
        count = node.at_runner(model)
        window = 1 if key[3] and node.serial(Kind.EMBED, model) else node.slots.window
        self.free = window - count
        if not self.warm and not node.slots.told and self.free > 0:
            # Nothing is lost by waiting here while the model loads, and the node may turn out slow or to have one slot.
            self.free = 0 if count else 1
            self.pristine = self.frees = [now + self.load] * window if count else []
        elif self.free <= 0:
            self.free = 0
            # Whoever waits will find fewer others there: those that had to end first are gone.
            others = max(0, len(node.running) - (count - window + 1))
            less = (1.0 + self.unit / self.slow * others) / self.factor
            self.per_prompt *= less
            self.per_answer *= less
            self._busy(model, window, now)

    def _cold(self, model: str, state: ClusterState, now: float) -> None:
        needed = plan(state, self.node, model, now)
        self.load = needed.seconds
        self.evict = needed.evict
        self.ready = needed.seconds + needed.evict
        self.warm = False
        self.until = now + (_SHORT if needed.ahead or needed.drain else 5.0)

    def _busy(self, model: str, window: int, now: float) -> None:
        """When slots become free, from the remaining work of what holds them."""
        node = self.node
        shared = node.shares_slots()
        ends = sorted(now + run.remaining(now) for run in node.running.values() if shared or run.task.model == model)
        self.pristine = self.frees = ends[len(ends) - window :] if len(ends) > window else ends
        self.until = now + _SHORT

    # --- inside one round of decisions

    def give(self, same_slots: bool, run: float, now: float) -> None:
        """A slot is handed out for ``run`` seconds; the node's next version will tell the same."""
        if same_slots:
            self.free -= 1
            self.frees = [*self.frees, now + self.load + run]
            heapify(self.frees)
        more = self.factor
        self.factor = more + self.unit / self.slow
        self.per_prompt *= self.factor / more
        self.per_answer *= self.factor / more
        self.version = -1

    def reserve(self, run: float, now: float) -> None:
        """The slot that frees first is kept for somebody who will run ``run`` seconds in it."""
        if self.frees is self.pristine:
            self.frees = list(self.frees)
        frees = self.frees
        if frees:
            heapreplace(frees, max(frees[0], now) + run)
        else:
            frees.append(now + run)


def _rates(rates: Rates | None, node: NodeState, model: str, state: ClusterState, now: float) -> tuple[float, float, float]:
    if rates is not None and rates.prefill is not None and rates.decode is not None:
        return rates.prefill.rate(now), rates.decode.rate(now), rates.contention.a
    if not model:
        return 1000.0, 40.0, 0.0
    prefill, decode = state.unseen_rates(node, model, now)
    if rates is None:
        return prefill, decode, node.contention(model)
    return speed_or(rates.prefill, prefill, now), speed_or(rates.decode, decode, now), rates.contention.a


# --- cost of one request on one node


Prefixes = dict[str, tuple[float, KvSlot]]


class Load:
    """The size of one request in tokens, as the estimates stand, and the prefixes that nodes still hold for it."""

    __slots__ = ("answer", "per_char", "prefixes", "prompt")

    def __init__(self, task: Task, state: ClusterState) -> None:
        self.prompt = state.prompt_tokens(task)
        self.answer = state.answer_tokens(task)
        prompt = task.prompt
        self.prefixes: Prefixes | None = None
        self.per_char = self.prompt / prompt.chars if prompt.chars else 0.0
        if prompt.boundaries:
            self.prefixes = state.mirror.find(prompt, task.model) or None
        if task.load_only:
            self.prompt = 0.0

    def run(self, term: Term) -> float:
        """Seconds of work on the node, slowness included, prefixes left out."""
        return self.prompt * term.per_prompt + self.answer * term.per_answer

    def cached(self, node_id: str) -> float:
        """Prompt tokens that the node need not work on again."""
        held = self.prefixes.get(node_id) if self.prefixes is not None else None
        return min(self.prompt, held[0] * self.per_char) if held is not None else 0.0


def seconds(load: Load, term: Term, now: float, wait_weight: float, reliable: bool) -> float:
    """The cost that ranks. `best` has the same sum written out, for speed; a test keeps the two equal."""
    cached = load.cached(term.node_id)
    total = _start(term, now, wait_weight) + (load.prompt - cached) * term.per_prompt + load.answer * term.per_answer
    if term.held and not cached and term.free > 0:
        total += term.held * exp((term.held_at - now) / 60.0)
    return total * (term.inverse_squared if reliable else term.inverse)


def _start(term: Term, now: float, wait_weight: float) -> float:
    if term.free > 0:
        return term.ready
    wait = term.frees[0] - now if term.frees else 0.0
    wait = max(wait, 0.0)
    return wait_weight * wait if term.warm else max(wait, term.ready)


def best(load: Load, terms: list[Term], now: float, wait_weight: float, reliable: bool) -> tuple[list[float], int, int]:
    """Costs in the order of ``terms`` and the places of the two lowest (-1: there is none).

    Written out in one loop: it runs once a request and node.
    """
    prompt, answer, prefixes, per_char = load.prompt, load.answer, load.prefixes, load.per_char
    first = second = -1
    low = lower = float("inf")
    costs = []
    for place, term in enumerate(terms):
        tokens = prompt
        held = None
        if prefixes is not None and (held := prefixes.get(term.node_id)) is not None:
            tokens = max(0.0, prompt - held[0] * per_char)
        if term.free > 0:
            cost = term.ready + tokens * term.per_prompt + answer * term.per_answer
            if term.held and held is None:
                cost += term.held * exp((term.held_at - now) / 60.0)
        else:
            cost = _start(term, now, wait_weight) + tokens * term.per_prompt + answer * term.per_answer
        cost *= term.inverse_squared if reliable else term.inverse
        costs.append(cost)
        if cost < low:
            if cost < lower:
                low, second = lower, first
                lower, first = cost, place
            else:
                low, second = cost, place
    return costs, first, second


def choose(task: Task, terms: list[Term], costs: list[float], first: int, now: float) -> int:
    """The place of the node that gets the request, given its costs: modes and priorities of nodes on top of the lowest cost."""
    if task.mode is Mode.ASYNC:
        limit = ASYNC_FACTOR * costs[first]
        chosen = max((place for place, cost in enumerate(costs) if cost <= limit), key=lambda place: (costs[place], -place))
    else:
        limit = costs[first] + max(SAME_PERCENT * costs[first], SAME_SECONDS)
        near = (place for place, cost in enumerate(costs) if cost <= limit)
        chosen = min(near, key=lambda place: (-terms[place].node.node.priority, costs[place], place))
    if terms[chosen].node.node.priority > 1:
        return chosen
    others = [
        place
        for place, term in enumerate(terms)
        if term.node.node.priority > 1 and now - task.arrived + _delay(term, now) < LAST_RESORT_SECONDS
    ]
    return min(others, key=lambda place: (costs[place], place)) if others else chosen


def _delay(term: Term, now: float) -> float:
    """Seconds until the request would start on the node."""
    wait = 0.0 if term.free > 0 or not term.frees else max(0.0, term.frees[0] - now)
    return max(wait, term.load)


def explained(load: Load, term: Term, now: float, wait_weight: float, reliable: bool) -> Cost:
    """The cost on an open node. Contention is in ``prefill`` and ``decode``; ``eta`` leaves out the price of evictions."""
    return itemised(load, term, now, seconds(load, term, now, wait_weight, reliable))


def itemised(load: Load, term: Term, now: float, total: float) -> Cost:
    """As `explained`, where `best` has told the ``total`` already."""
    cached = load.cached(term.node_id)
    free = term.free > 0
    wait = 0.0 if free or not term.frees else max(0.0, term.frees[0] - now)
    slow = term.slow
    prefill = (load.prompt - cached) * term.per_prompt / slow
    decode = load.answer * term.per_answer / slow
    lost = term.held * exp((term.held_at - now) / 60.0) if term.held and not cached and free else 0.0
    return Cost(
        term.node_id,
        wait,
        term.load,
        prefill,
        decode,
        term.evict,
        lost,
        slow,
        term.success,
        total,
        max(wait, term.load) + slow * (prefill + decode),
        load.prompt,
        cached,
        load.answer,
        free,
        name=term.node.node.name,
    )
