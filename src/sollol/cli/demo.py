"""`sollol demo`."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import click

from sollol.cli.explain import print_explanation
from sollol.cli.nodes import print_nodes
from sollol.cli.options import json_option, print_json, seconds
from sollol.errors import PortTaken

if TYPE_CHECKING:
    from sollol.cli.demo_failover import Observations
    from sollol.cli.stage import Stage

MODEL: Final = "llama3.2:1b"
EMBEDDER: Final = "nomic-embed-text"
AT_ONCE: Final = 24


@click.command()
@click.option("--failover", is_flag=True, help="Tell the story of a node that dies and comes back, with measured figures.")
@click.option("--once", is_flag=True, help="End after the tour instead of staying up.")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="P", help="Port of the gateway. Default: 8000 if it is free.")
@click.option("--speed", type=click.FloatRange(0.1, 1_000), default=1.0, help="How many times as fast the machines are.")
@json_option
def demo(failover: bool, once: bool, port: int | None, speed: float, as_json: bool) -> int:
    """Try SOLLOL without any model: three emulated machines (a fast GPU, a slow GPU, a CPU) and real requests to them.

    The requests, the decisions and the times are real; only the machines are emulated. With --failover the exit code is 0 only
    if no request was lost. --json goes with --failover.
    """
    if as_json and not failover:
        raise click.UsageError("--json goes with --failover.")
    from sollol.cli.stage import Stage  # noqa: PLC0415 - `sollol demo --help` does without gateway and emulator
    from sollol.emulator.presets import demo as presets  # noqa: PLC0415 - loaded only when a demo runs

    machines = [machine.faster(speed) for machine in presets()]
    if failover:
        with Stage(machines, port=port or 0) as stage:
            return _failover(stage, as_json)
    with ExitStack() as opened:
        try:
            stage = opened.enter_context(Stage(machines, port=8_000 if port is None else port))
        except PortTaken:
            if port is not None:
                raise
            stage = opened.enter_context(Stage(machines))
        _tour(stage)
        if not once:
            _stay(stage)
    return 0


def _failover(stage: Stage, as_json: bool) -> int:
    from sollol.cli.demo_failover import tell_failover  # noqa: PLC0415 - only this one needs it

    return print_observations(tell_failover(stage, (lambda _: None) if as_json else click.echo), as_json)


def print_observations(found: Observations, as_json: bool) -> int:
    """What was measured, and the exit code: 0 only if no request was lost."""
    from sollol.cli.demo_failover import as_dict, summary  # noqa: PLC0415 - only this one needs it

    if as_json:
        print_json(as_dict(found))
    else:
        click.echo("\nMeasured")
        for line in summary(found):
            click.echo(f"   {line}")
    return 0 if found.good else 1


def _tour(stage: Stage) -> None:
    from sollol.cli.stage import ask  # noqa: PLC0415 - `sollol demo --help` does without it

    click.echo(f"SOLLOL listens on {stage.url}; behind it are three emulated machines:\n")
    print_nodes(stage.gateway.get("/api/nodes"))

    click.echo("\n1. The first request waits until the model is loaded, the second does not.")
    for prompt in ("Why is the sky blue?", "Why is the sea blue?"):
        answer = ask(stage.url, MODEL, prompt)
        click.echo(f"   {answer.error or answer.node}: {seconds(answer.seconds)}   ({answer.reason})")

    click.echo("\n2. The model is loaded on the other machines too: an empty prompt, and a header that names the machine.")
    names = list(stage.states())
    with ThreadPoolExecutor(len(names)) as pool:
        for answer in pool.map(lambda name: ask(stage.url, MODEL, "", path="/api/generate", node=name), names):
            click.echo(f"   {answer.error or answer.node}: {seconds(answer.seconds)}")

    click.echo(f"\n3. {AT_ONCE} requests at once go where each is done soonest.")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda n: ask(stage.url, MODEL, f"What is special about {n}?", tokens=80), range(AT_ONCE)))
    for node, count in Counter(answer.error or answer.node for answer in answers).most_common():
        click.echo(f"   {node}: {count}")
    took = sorted(answer.seconds for answer in answers)
    click.echo(f"   the first was done after {seconds(took[0])}, the last after {seconds(took[-1])}")

    click.echo("\n4. OpenAI's API and embeddings work the same way.")
    for path, model in (("/v1/chat/completions", MODEL), ("/api/embed", EMBEDDER)):
        answer = ask(stage.url, model, "Good morning", path=path)
        click.echo(f"   {path}: {answer.error or answer.node}, {seconds(answer.seconds)}: {answer.text.strip()[:60]}")

    click.echo(f"\n5. Where would a long prompt go now? (sollol explain {MODEL} --prompt-tokens 4000 --url {stage.url})")
    print_explanation(stage.gateway.get("/api/routing/explain", model=MODEL, prompt_tokens=4_000))


def _stay(stage: Stage) -> None:
    body = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    click.echo(f"\nIt stays up until Ctrl-C. Try it:\n  curl {stage.url}/api/chat -d '{body}'")
    click.echo(f"  OLLAMA_HOST={stage.url} ollama run {MODEL}")
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: over.set())
    try:
        with suppress(KeyboardInterrupt):
            while not over.wait(0.5):  # in steps: on Windows a wait without an end would not see Ctrl-C
                pass
    finally:
        signal.signal(signal.SIGTERM, before)
