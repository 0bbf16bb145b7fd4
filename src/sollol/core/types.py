"""The values that everything speaks about: nodes, models, tasks, decisions.

Times are seconds, sizes bytes, rates per second. They are msgspec structs because a request makes a dozen of them: one costs
about 0.2 µs, where a frozen dataclass costs 1–3 µs. `msgspec.structs.replace` makes a changed copy.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from msgspec import Struct


class NodeKind(StrEnum):
    """What answers at an address; found by asking it."""

    OLLAMA = "ollama"
    LLAMACPP = "llama.cpp"
    VLLM = "vllm"
    LMSTUDIO = "lmstudio"
    OPENAI = "openai"
    SOLLOL = "sollol"


class Dialect(StrEnum):
    """The protocol of a request or a node; it decides the shape of errors and the end of a stream."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    RESPONSES = "responses"


class Kind(StrEnum):
    """What a task asks for; embedding runs on models and slots of its own."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    OTHER = "other"


class Mode(StrEnum):
    """How a request weighs the terms of the cost (`docs/how-it-decides.md`)."""

    BALANCED = "balanced"
    FAST = "fast"
    RELIABLE = "reliable"
    ASYNC = "async"


class Priority(IntEnum):
    """Names on the one scale of priorities, 1 to 10; every int between is valid too."""

    CRITICAL = 10
    URGENT = 9
    HIGH = 7
    NORMAL = 5
    LOW = 3
    BATCH = 1


class Health(StrEnum):
    """State of a node; the transitions are the table in `core/health.py`."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    OPEN = "open"
    HALF_OPEN = "half-open"
    DRAINING = "draining"


class Origin(StrEnum):
    """How a node came to be known. A static node stays when it is down; a found one is forgotten after a while."""

    STATIC = "static"
    LOCAL = "local"
    SCAN = "scan"
    DOCKER = "docker"
    MDNS = "mdns"
    API = "api"
    DEMO = "demo"


class Endpoint(Struct, frozen=True):
    """Where a node listens: scheme, host, port and a base path ("" or "/prefix", no slash at its end)."""

    host: str
    port: int
    tls: bool = False
    base: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.base}"

    @property
    def authority(self) -> str:
        """The value of a Host header: "host:port"."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Node(Struct, frozen=True):
    """What is configured or found out once about a node; what changes lives in `core.state`.

    ``id`` is stable and unique ("host:port" unless two share it). ``priority`` is 1–10, higher preferred, 1 the last resort.
    ``slots`` and ``memory`` (bytes) are configured values and win over learned ones; None means learn. ``names`` are pairs of
    canonical names: what the node calls a model, and what it is called here.
    """

    id: str
    endpoint: Endpoint
    kind: NodeKind = NodeKind.OLLAMA
    name: str = ""
    priority: int = 5
    slots: int | None = None
    memory: int | None = None
    api_key: str | None = None
    origin: Origin = Origin.STATIC
    emulated: bool = False
    draining: bool = False
    names: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:  # the key stays out of logs and tracebacks
        return f"Node({self.id!r}, {self.kind.value!r}, {self.endpoint.url!r})"

    @property
    def label(self) -> str:
        """What people are shown: the name, else the id."""
        return self.name or self.id


class Model(Struct, frozen=True):
    """One model as one node has it. ``name`` is canonical (lower case, with a tag), ``native`` what the node itself calls it.

    ``size`` 0 means unknown. ``raw`` is the node's own entry of /api/tags (JSON bytes) where it has one. ``renamed``: it is
    called otherwise here than on the node, so requests have to say ``native``.
    """

    name: str
    native: str
    size: int = 0
    digest: str = ""
    capabilities: frozenset[str] = frozenset()
    context_length: int | None = None
    parameters: float | None = None
    modified_at: str = ""
    raw: bytes = b""
    renamed: bool = False


class Resident(Struct, frozen=True):
    """One model that is loaded on a node (`/api/ps`).

    ``expires_in`` is seconds from when it was read; None: never, or unknown.
    """

    name: str
    size: int = 0
    size_vram: int = 0
    context_length: int | None = None
    expires_in: float | None = None
    digest: str = ""
    raw: bytes = b""


class Survey(Struct, frozen=True):
    """What one look at a node found. ``slots`` is what the node itself says (llama.cpp), else None. ``speaks`` are paths beyond
    those that every node of its kind has, such as "/v1/messages".
    """

    kind: NodeKind
    version: str
    latency: float
    models: tuple[Model, ...]
    resident: tuple[Resident, ...]
    slots: int | None = None
    emulated: bool = False
    loading: bool = False
    speaks: frozenset[str] = frozenset()


class Prompt(Struct, frozen=True):
    """What one scan of the request found. ``boundaries`` are (characters so far, rolling hash so far) after each message.

    Only lengths and hashes: the text itself stays in the body. ``images`` counts pictures, which are not counted as text.
    """

    chars: int = 0
    images: int = 0
    boundaries: tuple[tuple[int, int], ...] = ()


class Task(Struct, eq=False):
    """One request, from the door to the last byte. Set once at the door; nothing here changes while it waits.

    ``model`` is the canonical name. ``max_tokens`` None: not limited. ``deadline`` is on the engine's clock. ``inputs`` is
    the number of texts to embed. ``client`` is the key of fairness (API key, else application, else address).
    ``plain`` is chat or generate without tools, schema, thinking or images: text that can be resumed or re-assembled.
    ``key`` is the same for requests that may share one answer, and empty where answers are not shared (`core.caching`);
    ``max_age`` is how many seconds old a kept answer may be. ``hedge`` is on how many nodes the request may run at once until
    one of them answers; None: as configured. ``once``: when its attempt fails it is not tried elsewhere, the one who sent it
    decides what follows.
    """

    id: int
    kind: Kind
    dialect: Dialect
    path: str
    model: str
    body: bytes
    arrived: float
    stream: bool = True
    priority: int = 5
    mode: Mode = Mode.BALANCED
    client: str = ""
    app: str = ""
    deadline: float | None = None
    num_ctx: int | None = None
    needs: frozenset[str] = frozenset()
    prompt: Prompt = Prompt()
    inputs: int = 1
    max_tokens: int | None = None
    keep_alive: float | None = None
    pin: str | None = None
    load_only: bool = False
    plain: bool = False
    details: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()
    hops: int = 0
    key: bytes = b""
    max_age: float = float("inf")
    hedge: int | None = None
    once: bool = False


class Cost(Struct, frozen=True):
    """Seconds that `node` would need; each term is kept because the terms are the explanation.

    ``total`` is the cost that ranks (section "cost" of `docs/how-it-decides.md`), ``eta`` the expected time to the end of
    the answer. ``blocked`` is empty, or why a gate keeps the node out (its terms are then meaningless). ``name`` is what people
    call the node, where it has a name.
    """

    node: str
    wait: float = 0.0
    load: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    evict: float = 0.0
    lost: float = 0.0
    slow: float = 1.0
    success: float = 1.0
    total: float = 0.0
    eta: float = 0.0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    out_tokens: float = 0.0
    free: bool = False
    blocked: str = ""
    name: str = ""

    @property
    def score(self) -> float:
        """100 / (1 + total): higher is better."""
        return 100.0 / (1.0 + self.total)


class Decision(Struct, frozen=True):
    """`task` goes to `node` now. ``ranked`` is best first and starts with the chosen node; ``queued`` is seconds waited.

    ``position`` is its place in line when it came (0: it did not have to wait) and ``why`` what it waited for.
    """

    task: Task
    node: str
    ranked: tuple[Cost, ...]
    queued: float = 0.0
    attempt: int = 1
    position: int = 0
    why: str = ""

    @property
    def cost(self) -> Cost:
        return self.ranked[0]


class Queued(Struct, frozen=True):
    """Where a request stands that waits. ``position`` is from 1 (0: it does not wait); ``start`` is how many seconds from now
    it is expected to start, None where nobody can say; ``why`` is what it waits for, in words.
    """

    position: int = 0
    start: float | None = None
    why: str = ""


class Counters(Struct, frozen=True):
    """What a reply says about its own work. Durations in seconds; None where the dialect or the engine does not say.

    ``cached_tokens`` are prompt tokens that were reused, where the engine reports it.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    total: float | None = None
    load: float | None = None
    prefill: float | None = None
    decode: float | None = None
    done_reason: str = ""


class Progress(Struct, eq=False):
    """How far a running attempt is; the relay counts here, nobody else writes. Times are on the engine's clock."""

    tokens: int = 0
    first_at: float | None = None
    last_at: float | None = None
