"""What a node and its models are, what is asked of a node, and what then happens: values only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from sollol.core.types import Counters, NodeKind

REFERENCE_SIZE = 4.7e9
"""Bytes of an 8-billion-parameter model at four bits: the model for which the rates of a node are given."""

MODEL_CONTEXT = 131_072

LOAD_BASE_SECONDS = 1.0
"""A load takes this long plus the time to read the weights."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as a node has it.

    ``size`` is bytes of weights; ``prefill`` and ``decode`` are tokens per second on this node when it runs alone, 0 means
    "from the node's rates and the size". ``answer_tokens`` is the mean length of its answers. Models with the same
    ``digest`` share one runner (a copy keeps the digest of its original); "" derives one from the name.
    """

    name: str
    size: int = 4_700_000_000
    kind: str = "chat"
    prefill: float = 0.0
    decode: float = 0.0
    context_length: int = MODEL_CONTEXT
    capabilities: tuple[str, ...] = ("completion",)
    answer_tokens: int = 60
    embedding_length: int = 4096
    family: str = "llama"
    parameter_size: str = "8.0B"
    quantization: str = "Q4_K_M"
    parameters: str = ""
    template: str = "{{ .Prompt }}"
    system: str = ""
    license: str = ""
    digest: str = ""
    modified_at: float = 1_760_000_000.0

    def __post_init__(self) -> None:
        if not self.digest:
            object.__setattr__(self, "digest", hashlib.sha256(self.name.encode()).hexdigest())

    @property
    def embeds(self) -> bool:
        return self.kind == "embed"

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of key-value cache for `tokens` tokens of context (128 KiB a token for the reference model)."""
        return 0 if self.embeds else int(tokens * self.size * 2.8e-5)


def embedder(name: str = "nomic-embed-text:latest", *, size: int = 274_302_450, dimension: int = 768) -> ModelSpec:
    """An embedding model; the defaults are those of nomic-embed-text."""
    return ModelSpec(
        name,
        size,
        "embed",
        context_length=2048,
        capabilities=("embedding",),
        embedding_length=dimension,
        family="nomic-bert",
        parameter_size="137M",
        quantization="F16",
    )


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One machine. Sizes are bytes, rates tokens per second for an 8B model running alone, durations seconds.

    ``slots`` is how many requests one chat model runs at once, ``contention`` the share by which each further running
    request slows all of them, ``max_queue`` how many requests may wait for a model to be loaded, ``context`` the context
    of a request that names none. ``load_gbps`` and ``pull_gbps`` are gigabytes per second from the disk and from the
    registry. ``fixed_delay`` replaces the rates: every request takes exactly that long.
    """

    name: str = "node"
    gpu: bool = True
    memory: int = 24_000_000_000
    slots: int = 1
    load_gbps: float = 1.0
    prefill: float = 1000.0
    decode: float = 40.0
    contention: float = 0.3
    max_loaded: int = 3
    max_queue: int = 512
    keep_alive: float = 300.0
    context: int = 4096
    kind: NodeKind = NodeKind.OLLAMA
    version: str = "0.33.0"
    models: tuple[ModelSpec, ...] = field(default=(ModelSpec("llama3.1:8b"),))
    fixed_delay: float | None = None
    pull_gbps: float = 4.0

    def faster(self, factor: float) -> NodeSpec:
        """The same node with everything `factor` times as fast (loads included, apart from their fixed second)."""
        models = tuple(replace(m, prefill=m.prefill * factor, decode=m.decode * factor) for m in self.models)
        return replace(
            self,
            prefill=self.prefill * factor,
            decode=self.decode * factor,
            load_gbps=self.load_gbps * factor,
            models=models,
        )

    def prefill_rate(self, model: ModelSpec) -> float:
        """Tokens per second in which a prompt is read, alone."""
        return model.prefill or self.prefill * REFERENCE_SIZE / max(1, model.size)

    def decode_rate(self, model: ModelSpec) -> float:
        """Tokens per second in which an answer is written, alone."""
        return model.decode or self.decode * REFERENCE_SIZE / max(1, model.size)

    def load_seconds(self, model: ModelSpec) -> float:
        """How long it takes to load `model` once there is room."""
        if self.fixed_delay is not None:
            return 0.0
        return LOAD_BASE_SECONDS + model.size / (self.load_gbps * 1e9)

    @property
    def always_resident(self) -> bool:
        """Servers of one fixed model have it loaded from the start and for ever."""
        return self.kind in (NodeKind.LLAMACPP, NodeKind.VLLM, NodeKind.OPENAI)


@dataclass(frozen=True, slots=True)
class Work:
    """What one request asks of a node.

    ``boundaries`` are (tokens so far, rolling hash so far) after each message, ``after`` the same after the answer: equal
    hashes mean an equal beginning, which a slot that still holds it need not read again. ``keep_alive`` in seconds, below 0
    for ever, None leaves it as it is. ``load_only`` ends as soon as the model is loaded.
    """

    model: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    num_ctx: int | None = None
    boundaries: tuple[tuple[int, int], ...] = ()
    after: tuple[int, int] | None = None
    keep_alive: float | None = None
    load_only: bool = False
    done_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model can serve from now on."""

    time: float
    model: str
    num_ctx: int


@dataclass(frozen=True, slots=True)
class Unloaded:
    """The model left the memory."""

    time: float
    model: str
    num_ctx: int


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The prompt is read and the first token is out."""

    time: float
    handle: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The request is over; `counters` is what its reply says (durations in seconds)."""

    time: float
    handle: int
    counters: Counters


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not taken: too many wait for a load."""

    time: float
    handle: int
    status: int = 503


Happening = Loaded | Unloaded | FirstToken | Finished | Refused


@dataclass(frozen=True, slots=True)
class Residency:
    """One loaded model: bytes it takes, when it leaves if nobody asks (infinity: never) and what runs or waits in it."""

    model: ModelSpec
    num_ctx: int
    size: int
    size_vram: int
    expires_at: float
    running: int
    waiting: int
