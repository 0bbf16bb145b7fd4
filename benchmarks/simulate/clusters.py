"""Sets of nodes for the scenarios."""

from __future__ import annotations

from dataclasses import replace

from sollol.emulator.specs import ModelSpec, NodeSpec

GB = 1_000_000_000

CHAT = ModelSpec("llama3.1:8b", 4_920_753_328)

FIVE = (
    ModelSpec("llama3.1:8b", 4_920_753_328),
    ModelSpec("qwen2.5:7b", 4_683_087_332),
    ModelSpec("gemma2:9b", 5_443_152_417),
    ModelSpec("mistral-nemo:12b", 7_071_713_232),
    ModelSpec("phi4:14b", 9_053_116_391),
)


def unequal(context: int = 4096) -> tuple[NodeSpec, ...]:
    """Five machines as they stand about in an office: from a fast GPU with four slots to a CPU.

    A ``context`` beyond the usual comes with twice the memory, so that every node can hold the model.
    """
    models = (CHAT,)
    nodes = (
        NodeSpec("gpu-fast", True, 24 * GB, 4, 2.0, 4000, 110, 0.15, models=models),
        NodeSpec("gpu-good", True, 16 * GB, 2, 1.5, 2500, 70, 0.2, models=models),
        NodeSpec("gpu-old", True, 12 * GB, 2, 1.0, 1200, 40, 0.3, models=models),
        NodeSpec("gpu-small", True, 12 * GB, 1, 1.0, 600, 20, 0.3, models=models),
        NodeSpec("cpu", False, 32 * GB, 1, 0.8, 60, 8, 0.9, models=models),
    )
    more = 2 if context > 4096 else 1
    return tuple(replace(node, context=context, memory=more * node.memory) for node in nodes)


def equal(count: int) -> tuple[NodeSpec, ...]:
    """GPUs that are all alike, of two slots each."""
    return tuple(NodeSpec(f"gpu-{place + 1}", True, 16 * GB, 2, 1.5, 2500, 70, 0.2, models=(CHAT,)) for place in range(count))


def many(count: int) -> tuple[NodeSpec, ...]:
    """Machines of ten kinds: speeds from 20 to 110 tokens/s, one to four slots."""
    out = []
    for place in range(count):
        kind = place % 10
        slots = (1, 2, 2, 4)[kind % 4]
        base = NodeSpec(f"node-{place + 1}", True, 24 * GB, slots, 1.5, 600 + 380 * kind, 20 + 10 * kind, 0.2, models=(CHAT,))
        out.append(base)
    return tuple(out)


def alike(count: int, slots: int) -> tuple[NodeSpec, ...]:
    """Nodes of three speeds with the same number of slots; more slots at once slow each other less."""
    base = NodeSpec(memory=24 * GB, slots=slots, load_gbps=1.5, models=(CHAT,), contention=0.3 if slots < 4 else 0.1)
    speeds = ((3000, 90), (2000, 60), (1000, 30))
    return tuple(
        replace(base, name=f"node-{place + 1}", prefill=prefill, decode=decode)
        for place in range(count)
        for prefill, decode in (speeds[place % len(speeds)],)
    )


def shelf() -> tuple[NodeSpec, ...]:
    """Four GPUs that all have the same five models on disk, and memory for two or three of them each."""
    return (
        NodeSpec("gpu-1", True, 24 * GB, 4, 2.0, 4000, 100, 0.15, models=FIVE),
        NodeSpec("gpu-2", True, 16 * GB, 2, 1.5, 2500, 70, 0.2, models=FIVE),
        NodeSpec("gpu-3", True, 16 * GB, 2, 1.0, 1500, 45, 0.3, models=FIVE),
        NodeSpec("gpu-4", True, 12 * GB, 1, 1.0, 1000, 30, 0.3, models=FIVE),
    )
