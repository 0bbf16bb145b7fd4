"""`sollol emulate`: nodes that answer like real ones, to try things on."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import click
import msgspec

from sollol.core.types import NodeKind
from sollol.drivers.loops import fastest
from sollol.emulator import NodeSpec, presets
from sollol.emulator.server import EmulatedCluster

_KINDS = [k.value for k in NodeKind if k is not NodeKind.SOLLOL]


def chosen(
    *, preset: str | None, nodes: int | None, kind: str, models: str | None, slots: int | None, delay: float, speed: float
) -> Sequence[NodeSpec]:
    """The nodes that the options ask for."""
    if preset == "instant":
        specs = presets.instant(delay, count=nodes or 1)
    elif preset == "demo" or (preset is None and nodes is None):
        specs = presets.demo()[: nodes or 3]
    else:
        specs = presets.same(nodes or 1)
    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    if names:
        specs = [replace(s, models=tuple(presets.model(n) for n in names)) for s in specs]
    if slots is not None:
        specs = [replace(s, slots=slots) for s in specs]
    specs = [replace(s, kind=NodeKind(kind)) for s in specs]
    if NodeKind(kind) is NodeKind.LLAMACPP:
        specs = [replace(s, models=s.models[:1]) for s in specs]  # such a server has one model
    return [s.faster(speed) for s in specs] if speed != 1 else specs


def _print(cluster: EmulatedCluster, *, as_json: bool) -> None:
    nodes = [
        {"name": n.name, "url": n.url, "kind": n.kind.value, "slots": n.spec.slots, "models": [m.name for m in n.spec.models]}
        for n in cluster.nodes
    ]
    if as_json:
        click.echo(msgspec.json.encode({"nodes": nodes}))
    else:
        for node in cluster.nodes:
            models = ", ".join(m.name for m in node.spec.models)
            click.echo(f"{node.url}  {node.name} (emulated {node.kind.value}): {models}")
        click.echo("\nCtrl-C stops them. What they have seen: GET /_emulator; faults: POST /_emulator/faults.")
    sys.stdout.flush()


async def _run(specs: Sequence[NodeSpec], host: str, port: int, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    ends = (signal.SIGINT, signal.SIGTERM)
    with suppress(NotImplementedError):  # Windows has no signal handlers in its event loop: there Ctrl-C raises
        for number in ends:
            loop.add_signal_handler(number, stop.set)
    try:
        async with EmulatedCluster(specs, host=host, port=port) as cluster:
            _print(cluster, as_json=as_json)
            await stop.wait()
    finally:
        with suppress(NotImplementedError):  # as above
            for number in ends:
                loop.remove_signal_handler(number)


def run_forever(specs: Sequence[NodeSpec], host: str, port: int, *, as_json: bool) -> None:
    """Run the nodes until a signal; on uvloop where it is installed."""
    with asyncio.Runner(loop_factory=fastest()) as runner:
        runner.run(_run(specs, host, port, as_json=as_json))


@click.command()
@click.option("--nodes", type=click.IntRange(1, 200), help="How many equal nodes (default: the three of the demo).")
@click.option("--preset", type=click.Choice(["demo", "same", "instant"]), help="Which nodes: demo = fast GPU, slow GPU, CPU.")
@click.option(
    "--delay", type=click.FloatRange(0), default=0.1, show_default=True, help="Seconds per answer of --preset instant."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65335), default=21434, show_default=True, help="First port; 0: any free ones.")
@click.option("--kind", type=click.Choice(_KINDS), default="ollama", show_default=True, help="What the nodes answer like.")
@click.option("--models", help="Names of their models, separated by commas.")
@click.option("--slots", type=click.IntRange(1), help="Requests that a model runs at once.")
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="How many times as fast."
)
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as JSON.")
def emulate(
    *,
    nodes: int | None,
    preset: str | None,
    delay: float,
    host: str,
    port: int,
    kind: str,
    models: str | None,
    slots: int | None,
    speed: float,
    as_json: bool,
) -> None:
    """Run emulated nodes until Ctrl-C.

    They answer like real Ollama nodes (or llama.cpp, vLLM, LM Studio), in the time that such machines would take, with text
    that is made up. POST JSON such as {"status": 503} or {"die_after": 5} to a node's /_emulator/faults to make it fail.
    """
    specs = chosen(preset=preset, nodes=nodes, kind=kind, models=models, slots=slots, delay=delay, speed=speed)
    try:
        run_forever(specs, host, port, as_json=as_json)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error.strerror or error}; try another --port") from None
    except KeyboardInterrupt:
        pass
