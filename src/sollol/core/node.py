"""What is believed about one node: models, runners, what runs there, rates. Only `state` writes here; others read."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from types import MappingProxyType

from msgspec.structs import replace

from .estimates import ANSWER_TOKENS, SIZE_8B, Rates, Recent, SlowVerdict, Speed
from .health import NodeHealth
from .mirror import KvSlot
from .slots import Slots
from .types import Health, Kind, Model, Node, NodeKind, Progress, Resident, Survey, Task

ALWAYS_RESIDENT = frozenset({NodeKind.LLAMACPP, NodeKind.VLLM, NodeKind.OPENAI, NodeKind.SOLLOL})
SERIAL_EMBEDDING = frozenset({NodeKind.OLLAMA})
KEEP_ALIVE = 300.0
LEAST_LEFT = 0.6
"""Share of the foreseen answer that is still to come at least, however much is there: long answers are far longer than most."""
_CONTENTION = {NodeKind.VLLM: 0.03}


class Running:
    """One attempt at work, with what was foreseen for it when it was sent (seconds, tokens)."""

    __slots__ = (
        "beside",
        "cached",
        "decode",
        "first_at",
        "first_integral",
        "integral",
        "k",
        "kv",
        "loads",
        "out",
        "prefill",
        "progress",
        "prompt",
        "ready_at",
        "runner",
        "started",
        "task",
        "wait",
    )

    def __init__(self, task: Task, runner: Runner, progress: Progress, started: float) -> None:
        self.task = task
        self.runner = runner
        self.progress = progress
        self.started = started
        self.ready_at = started
        self.first_at: float | None = None
        self.loads = False
        self.k = 0
        self.integral = 0.0
        self.first_integral = 0.0
        self.beside = 0
        self.kv: KvSlot | None = None
        self.wait = self.prefill = self.decode = 0.0
        self.prompt = self.cached = 0.0
        self.out = ANSWER_TOKENS

    @property
    def run(self) -> float:
        """Seconds of work foreseen."""
        return self.prefill + self.decode

    def remaining(self, now: float) -> float:
        """Seconds of work left: pace by relayed tokens × what is to come of the answer, never beyond the request's limit."""
        tokens = self.progress.tokens
        first = self.progress.first_at
        if tokens < 4 or first is None:
            waiting = self.ready_at - now
            spent = now - max(self.started, self.ready_at)
            least = LEAST_LEFT * self.decode
            left = max(self.prefill + self.decode - max(0.0, spent), least)
            return left + waiting if waiting > 0.0 else left
        last = self.progress.last_at or now
        pace = (last - first) / (tokens - 1)
        left = max(self.out - tokens, LEAST_LEFT * self.out)
        limit = self.task.max_tokens
        if limit is not None and 0 < limit < tokens + left:
            left = max(0.0, float(limit - tokens))
        return left * pace


class Runner:
    """One model loaded, or being loaded, on a node.

    ``num_ctx`` is what the request asked that loaded it (None: the node's default), ``context`` what the node says it has.
    ``made_at`` is when it became known, ``used_at`` when a request was last done with it.
    """

    __slots__ = (
        "context",
        "expires",
        "keep",
        "kv",
        "leaving_for",
        "loading",
        "made_at",
        "model",
        "node",
        "num_ctx",
        "ready_at",
        "running",
        "used_at",
    )

    def __init__(self, node: str, model: str, num_ctx: int | None, loading: bool, ready_at: float) -> None:
        self.node = node
        self.model = model
        self.num_ctx = num_ctx
        self.context: int | None = None
        self.loading = loading
        self.ready_at = ready_at
        self.expires: float | None = None
        self.leaving_for = ""
        self.keep: float | None = None
        self.running = 0
        self.made_at = self.used_at = -inf
        self.kv: list[KvSlot] = []

    def lives(self, now: float) -> bool:
        """False once its keep_alive is over."""
        return self.running > 0 or self.loading or self.expires is None or self.expires > now

    def suits(self, num_ctx: int | None) -> bool:
        """Whether a request with this ``num_ctx`` runs on it without a reload."""
        return num_ctx == self.num_ctx or (num_ctx is not None and num_ctx == self.context)


class NodeState:
    """One node as it is believed to be; the public attributes are also what listings and metrics show.

    ``version`` changes with every event that can change a decision about it. ``resident`` is what the last look found loaded,
    as the node itself told it, and ``told_at`` when that look began; ``gone`` and ``unloaded``: models that turned out to be
    missing, or left its memory, since the last look, and when. ``speaks`` is that of `Survey`. ``models``: canonical name ->
    model, in the order the node lists them; None-ness is told by ``surveyed``. ``barred``: model -> why the node may not be
    used for it (`core.digests`).
    """

    __slots__ = (
        "_models",
        "attempts",
        "barred",
        "busy_at",
        "busy_integral",
        "emulated",
        "failed",
        "gone",
        "gpu",
        "health",
        "index",
        "keep",
        "kind",
        "latency",
        "load_rate",
        "loading",
        "memory_seen",
        "models",
        "node",
        "rates",
        "resident",
        "runners",
        "running",
        "shown",
        "sizes",
        "slots",
        "slow",
        "speaks",
        "surveyed",
        "told_at",
        "unloaded",
        "version",
        "version_text",
    )

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.index = index
        self.kind = node.kind
        self.health = NodeHealth()
        self.health.draining = node.draining
        self._models: dict[str, Model] = {}
        self.models: Mapping[str, Model] = MappingProxyType(self._models)
        self.runners: dict[str, Runner] = {}
        self.running: dict[int, Running] = {}
        self.rates: Recent[str, Rates] = Recent(256)
        self.sizes: Recent[str, float] = Recent(256)
        self.shown: Recent[str, Model] = Recent(1024)
        self.resident: tuple[Resident, ...] = ()
        self.told_at = -inf
        self.gone: dict[str, float] = {}
        self.unloaded: dict[str, float] = {}
        self.barred: Mapping[str, str] = {}
        self.slots = Slots(node.kind, node.slots)
        self.slow = SlowVerdict()
        self.gpu = True
        self.load_rate: float | None = None
        self.memory_seen = 0.0
        self.keep = KEEP_ALIVE
        self.latency = 0.0
        self.version = 0
        self.version_text = ""
        self.speaks: frozenset[str] = frozenset()
        self.surveyed = False
        self.loading = False
        self.emulated = node.emulated
        self.busy_integral = 0.0
        self.busy_at = 0.0
        self.attempts = 0
        self.failed = 0

    # --- what listings show

    @property
    def id(self) -> str:
        return self.node.id

    @property
    def label(self) -> str:
        return self.node.label

    @property
    def in_flight(self) -> int:
        """Requests that are on the node now."""
        return len(self.running)

    @property
    def state(self) -> Health:
        return self.health.state

    def overdue(self, now: float) -> bool:
        """Whether a request there should have ended, or begun, long ago."""
        return any(
            now - run.started > 3.0 * (run.wait + run.run) + 2.0 and not run.runner.loading for run in self.running.values()
        )

    @property
    def last_error(self) -> str:
        return self.health.last_error

    def residents(self, now: float) -> list[Runner]:
        """Runners believed loaded at ``now``, those still loading included."""
        return [runner for runner in self.runners.values() if runner.lives(now)]

    # --- what decisions ask

    def runner(self, model: str, now: float) -> Runner | None:
        """The live runner of ``model``, loading ones included."""
        runner = self.runners.get(model)
        if runner is None:
            return None
        return runner if runner.lives(now) else None

    def suits(self, runner: Runner, num_ctx: int | None) -> bool:
        """Whether a request with ``num_ctx`` runs on ``runner`` without a reload."""
        return num_ctx == runner.num_ctx or self.kind in ALWAYS_RESIDENT or runner.suits(num_ctx)

    def size(self, model: str) -> float:
        """Bytes of the model's weights; an unknown size counts as 8B."""
        known = self._models.get(model)
        return float(known.size) if known is not None and known.size else SIZE_8B

    def footprint(self, model: str) -> float:
        """Bytes the model takes while loaded, as last seen there; else its size."""
        return self.sizes.get(model) or self.size(model)

    def load_seconds(self, model: str) -> float:
        """Seconds to load ``model``, nothing else loading; 10 if its size is unknown."""
        known = self._models.get(model)
        if known is None or not known.size:
            return 10.0
        return 1.0 + known.size / 1e9 / (self.load_rate or 1.0)

    def rates_of(self, model: str) -> Rates:
        """The record of ``model``, made when missing."""
        rates = self.rates.get(model)
        if rates is None:
            prior = _CONTENTION.get(self.kind, 0.3 if self.gpu else 0.9)
            rates = self.rates.put(model, Rates(self.size(model), prior))
        return rates

    def contention(self, model: str) -> float:
        rates = self.rates.get(model)
        return rates.contention.a if rates is not None else _CONTENTION.get(self.kind, 0.3 if self.gpu else 0.9)

    def serial(self, task_kind: Kind, model: str) -> bool:
        """Whether ``model`` runs one request at a time whatever the slots are: embedding models of Ollama."""
        if self.kind not in SERIAL_EMBEDDING:
            return False
        known = self._models.get(model)
        return task_kind is Kind.EMBED and known is not None and "completion" not in known.capabilities

    def shares_slots(self) -> bool:
        """Whether all models of the node share one number of slots."""
        return self.kind is not NodeKind.OLLAMA and self.kind is not NodeKind.LMSTUDIO

    def at_runner(self, model: str) -> int:
        """Requests that hold, or wait for, slots that a request for ``model`` needs."""
        if self.shares_slots():
            return len(self.running)
        runner = self.runners.get(model)
        return runner.running if runner is not None else 0

    # --- what `state` writes

    def advance(self, now: float) -> None:
        """Bring the integral of requests over time up to ``now``; call before the number changes."""
        if now > self.busy_at:
            self.busy_integral += self.at_work() * (now - self.busy_at)
            self.busy_at = now

    def integral(self, now: float) -> float:
        """Requests × seconds on the node until ``now``."""
        return self.busy_integral + self.at_work() * max(0.0, now - self.busy_at)

    def at_work(self) -> int:
        """Requests there whose model is not still loading."""
        count = len(self.running)
        for runner in self.runners.values():
            if runner.loading:
                count -= runner.running
        return count

    def beside(self, run: Running) -> list[Running]:
        """What runs there in the same slots as ``run``, itself included."""
        shared = self.shares_slots()
        return [other for other in self.running.values() if shared or other.runner is run.runner]

    def take_models(self, survey: Survey) -> bool:
        """Take the catalogue of a survey; what `/api/show` told about the same digest is kept. True when names changed."""
        if survey.loading and not survey.models:
            return False
        fresh: dict[str, Model] = {}
        for model in survey.models:
            shown = self.shown.get(model.name)
            if shown is not None and shown.digest == model.digest:
                model = replace(  # noqa: PLW2901 - the same model, better known
                    model,
                    capabilities=shown.capabilities,
                    context_length=shown.context_length,
                    parameters=shown.parameters,
                )
            fresh[model.name] = model
        changed = list(map(_traits, fresh.values())) != list(map(_traits, self._models.values()))
        self._models = fresh
        self.models = MappingProxyType(fresh)
        return changed

    def put_model(self, model: Model) -> None:
        self._models[model.name] = model
        self.shown.put(model.name, model)

    def drop_model(self, name: str, at: float) -> bool:
        self.gone[name] = at
        return self._models.pop(name, None) is not None


def _traits(model: Model) -> tuple[object, ...]:
    """What decisions ask of a model."""
    return model.name, model.capabilities, model.context_length, model.size, model.digest


def speed_or(known: Speed | None, otherwise: float, now: float) -> float:
    """The learned rate at ``now``, else the other figure."""
    return known.rate(now) if known is not None else otherwise
