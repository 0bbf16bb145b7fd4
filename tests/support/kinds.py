"""One emulated node of each kind, with the same models, and a gateway before each: what a client gets is to be the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.gateway import gateway, post

from sollol.core.types import NodeKind
from sollol.emulator.presets import LLAMA_1B, QWEN_THINKING, embedder
from sollol.emulator.specs import ModelSpec, NodeSpec
from sollol.emulator.threaded import Machines

MODEL, THINKER, EMBEDDER, SEER = LLAMA_1B.name, QWEN_THINKING.name, "nomic-embed-text:latest", "seer:latest"
KINDS = (NodeKind.OLLAMA, NodeKind.OPENAI, NodeKind.VLLM, NodeKind.LMSTUDIO)
_LOADING = (NodeKind.OLLAMA, NodeKind.LMSTUDIO)
_QUICK = {"prefill": 100_000, "decode": 5_000, "slots": 4, "load_gbps": 1e6}


@dataclass(frozen=True)
class Kinds:
    """Addresses by the kind of the node: of the nodes themselves, and of the gateways that have one of them each."""

    nodes: dict[NodeKind, str]
    gateways: dict[NodeKind, str]


@contextmanager
def every_kind(kinds: tuple[NodeKind, ...] = KINDS, *, loaded: bool = True) -> Iterator[Kinds]:
    """They all run until the end of the block. ``loaded``: so are their models but for the one that sees, in three seconds."""
    models = (LLAMA_1B, QWEN_THINKING, embedder(EMBEDDER), ModelSpec(SEER, 10_000_000, capabilities=("completion", "vision")))
    with ExitStack() as stack:
        machines = stack.enter_context(Machines([NodeSpec(kind, **_QUICK, models=models, kind=kind) for kind in kinds]))
        nodes = dict(zip(kinds, machines.urls, strict=True))
        if loaded:
            _load(nodes[kind] for kind in nodes if kind in _LOADING)
        yield Kinds(nodes, {kind: stack.enter_context(gateway(url)) for kind, url in nodes.items()})


def _load(urls: Iterable[str]) -> None:
    """Have every model loaded, which takes a second for each, all at once."""
    hello = [{"role": "user", "content": "hello"}]
    bodies = [(name, {"messages": hello, "max_tokens": 1}) for name in (MODEL, THINKER)] + [(EMBEDDER, {"input": "hello"})]
    with ThreadPoolExecutor(8) as pool:
        for url in urls:
            for name, body in bodies:
                path = "embeddings" if "input" in body else "chat/completions"
                pool.submit(post, f"{url}/v1/{path}", {"model": name, **body})
