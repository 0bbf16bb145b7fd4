"""Ready-made sets of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sollol.core.types import NodeKind
from sollol.emulator.specs import ModelSpec, NodeSpec, embedder

LLAMA_8B = ModelSpec("llama3.1:8b", 4_920_753_328, family="llama", parameter_size="8.0B", capabilities=("completion", "tools"))
LLAMA_1B = ModelSpec("llama3.2:1b", 1_321_098_329, family="llama", parameter_size="1.2B", capabilities=("completion", "tools"))
QWEN_THINKING = ModelSpec(
    "qwen3:4b", 2_620_788_260, family="qwen3", parameter_size="4.0B", capabilities=("completion", "tools", "thinking")
)
KNOWN = {m.name: m for m in (LLAMA_8B, LLAMA_1B, QWEN_THINKING, embedder())}


def model(name: str) -> ModelSpec:
    """A model by its name: a known one, an embedding model if the name says so, else an 8B chat model."""
    full = name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
    if full in KNOWN:
        return KNOWN[full]
    return embedder(full) if "embed" in full else ModelSpec(full, capabilities=("completion", "tools"))


def demo(models: Sequence[ModelSpec] = (LLAMA_8B, LLAMA_1B, embedder())) -> list[NodeSpec]:
    """Three unequal machines: a fast GPU, a slow GPU and a CPU."""
    chosen = tuple(models)
    return [
        NodeSpec("fast-gpu", True, 24_000_000_000, 4, 2.0, 4000, 110, 0.15, models=chosen),
        NodeSpec("slow-gpu", True, 12_000_000_000, 2, 1.0, 1200, 40, 0.3, models=chosen),
        NodeSpec("cpu", False, 32_000_000_000, 1, 0.8, 60, 8, 0.9, models=chosen),
    ]


def same(count: int, spec: NodeSpec | None = None) -> list[NodeSpec]:
    """`count` equal nodes named node-1, node-2, ..."""
    base = spec or NodeSpec(prefill=2000, decode=60, slots=2, models=(LLAMA_8B, LLAMA_1B, embedder()))
    return [replace(base, name=f"node-{i + 1}") for i in range(count)]


def instant(
    delay: float = 0.1, *, count: int = 1, slots: int = 1024, tokens: int = 20, kind: NodeKind = NodeKind.OLLAMA
) -> list[NodeSpec]:
    """Nodes that answer every request after exactly `delay` seconds, however many there are: for benchmarks."""
    models = (ModelSpec("bench:latest", 1_000_000_000, answer_tokens=tokens), embedder("bench-embed:latest"))
    return [
        NodeSpec(f"instant-{i + 1}", slots=slots, contention=0.0, kind=kind, models=models, fixed_delay=delay)
        for i in range(count)
    ]
