"""What one finished attempt teaches: rates, contention, slots, load speed, answer lengths, characters per token."""

from __future__ import annotations

from .estimates import IMAGE_TOKENS, Mean, ModelStats, Recent
from .events import AttemptEnded
from .node import NodeState, Running
from .types import Counters, Kind

_OWN_END = frozenset({"", "stop", "end_turn", "tool_calls", "tool_use", "stop_sequence"})
_NOTHING = Counters()
_TELLING = 8
"""Tokens of an answer that say something about its node's speed."""

Answers = Recent[tuple[str, str, str], Mean]


def learn(node: NodeState, run: Running, event: AttemptEnded, stats: ModelStats, answers: Answers) -> None:
    """Take in an attempt that ended well. The node's integral of requests must be up to date and the attempt taken off it."""
    task = run.task
    if task.load_only or task.kind is Kind.OTHER:
        _loaded(node, run, event.counters)
        return
    counters = event.counters or _NOTHING
    rates = node.rates_of(task.model)
    prefill, decode = phases(run, counters, event.at)
    streamed = run.first_at is not None and event.at - run.first_at > 0.5 * decode
    others = crowd(node, run, event.at, streamed)
    fresh = _uncached(run, counters)
    if prefill and fresh is not None and fresh >= 16.0:
        beside = run.beside if streamed else others
        rates.learn_prefill(fresh / prefill * (1.0 + rates.contention.a * beside), event.at)
    output = counters.output_tokens if counters.output_tokens is not None else run.progress.tokens
    if decode and output >= 2:
        sample = output / decode * (1.0 + rates.contention.a * others)
        rates.learn_decode(sample, event.at)
        if node.slow.value != 1.0 and output >= _TELLING and rates.decode is not None:
            node.slow.shown(rates.decode.rate(event.at) / sample, event.at)
        rates.contention.learn(others, decode / output)
    if not event.part:
        _lengths(run, counters, stats, answers)
    if node.slots.fixed is None:
        _slots(node, run, counters, event, output)
    if run.loads:
        _loaded(node, run, counters)


def crowd(node: NodeState, run: Running, now: float, streamed: bool) -> float:
    """Mean number of other requests at work there since the first token of ``run``; if not ``streamed``, since it was sent."""
    streamed = streamed and run.first_at is not None
    begun, integral = (run.first_at or 0.0, run.first_integral) if streamed else (run.started, run.integral)
    seconds = now - begun
    if seconds <= 0.0:
        return 0.0
    return max(0.0, (node.integral(now) - integral) / seconds - 1.0)


def phases(run: Running, counters: Counters, now: float) -> tuple[float, float]:
    """Seconds of prefill and of decoding, 0 where they cannot be told apart: from the counters, else from chunk times."""
    if counters.prefill is not None or counters.decode is not None:
        return counters.prefill or 0.0, counters.decode or 0.0
    progress = run.progress
    waited = run.ready_at > run.started or run.wait > 0.0
    if progress.first_at is None or progress.last_at is None or progress.tokens < 2:
        if waited or not counters.output_tokens:
            return 0.0, 0.0
        return 0.0, max(0.0, now - run.started - run.prefill)  # one piece: what the prompt should not have taken
    decode = (progress.last_at - progress.first_at) * progress.tokens / (progress.tokens - 1)
    return (0.0 if waited else progress.first_at - run.started), decode


def _uncached(run: Running, counters: Counters) -> float | None:
    """Prompt tokens really worked on; None when reuse makes that a guess (some versions count reused tokens, some do not)."""
    prompt = counters.prompt_tokens
    if prompt is None:
        return None
    if counters.cached_tokens is not None:
        return float(prompt - counters.cached_tokens)
    if run.cached > 0.0:
        expected = run.prompt - run.cached
        return float(prompt) if prompt <= 1.25 * expected else None
    return float(prompt)


def _lengths(run: Running, counters: Counters, stats: ModelStats, answers: Answers) -> None:
    task = run.task
    output = counters.output_tokens
    if output is not None and counters.done_reason in _OWN_END and task.kind is not Kind.EMBED:
        stats.answer.learn(output)
        key = (task.client, task.app, task.model)
        (answers.get(key) or answers.put(key, Mean())).learn(output)
    prompt, chars = counters.prompt_tokens, task.prompt.chars
    if not prompt or run.cached > 0.0:
        return
    text = chars / stats.chars_per_token
    if task.prompt.images:
        per_image = (prompt - text) / task.prompt.images
        stats.image_tokens += 0.1 * (min(16 * IMAGE_TOKENS, max(1.0, per_image)) - stats.image_tokens)
    elif chars >= 200 and prompt >= 16:
        stats.chars_per_token += 0.1 * (min(12.0, max(0.3, chars / prompt)) - stats.chars_per_token)


def _slots(node: NodeState, run: Running, counters: Counters, event: AttemptEnded, output: int) -> None:
    task = run.task
    if run.ready_at > run.started or node.serial(task.kind, task.model):
        return
    if event.native and counters.total is not None:
        load = counters.load or 0.0
        if load > 0.2:
            return
        ran = (counters.prefill or 0.0) + (counters.decode or 0.0)
        node.slots.waited(run.k, max(0.0, counters.total - load - ran), ran)
        return
    here = 1 + len(node.running) if node.shares_slots() else run.runner.running
    node.slots.flowed(float(output or 1), here, event.at)


def _loaded(node: NodeState, run: Running, counters: Counters | None) -> None:
    """Load speed, from the request that began a load on a node with nothing to wait for."""
    if not run.loads or counters is None or counters.load is None or counters.load <= 0.2:
        return
    known = node.models.get(run.task.model)
    if known is None or not known.size:
        return
    sample = known.size / 1e9 / max(counters.load - 1.0, 0.25 * counters.load)
    node.load_rate = sample if node.load_rate is None else 0.5 * (node.load_rate + sample)
