"""`SOLLOLGPUController`: keeps models loaded on nodes with a GPU, and says what it could not do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final, Self

from msgspec import Struct

from sollol.core.node import NodeState
from sollol.core.types import Health, Resident
from sollol.errors import BadValue
from sollol.pool.inside import Inside
from sollol.pool.intelligent import IntelligentRouter
from sollol.pool.ollama_pool import OllamaPool
from sollol.wire.names import canonical

log = logging.getLogger("sollol.pool")
EVERY_SECONDS: Final = 60.0


class Kept(Struct, frozen=True):
    """How it stands with one model. ``on_gpu``: all of it is in a GPU's memory of ``node``; ``note`` says why it is not.

    ``size`` and ``size_vram`` are bytes, as the node told them.
    """

    model: str
    node: str = ""
    on_gpu: bool = False
    size: int = 0
    size_vram: int = 0
    note: str = ""


class SOLLOLGPUController:
    """Keeps each of ``priority_models`` loaded on one node with a GPU, for good (``keep_alive`` -1).

    It looks at once and then every ``every`` seconds, until `close` or the end of the pool. What it believes is ``size_vram``
    of the nodes' own lists of loaded models; a node's GPU is known only once a model was loaded there. `report` says how each
    model stands, and why one is not on a GPU: no node has it, it does not fit, the node has no GPU.
    """

    def __init__(
        self, pool: OllamaPool | None = None, priority_models: Iterable[str] = (), *, every: float = EVERY_SECONDS
    ) -> None:
        if isinstance(priority_models, str):
            raise BadValue("priority_models has to be a list of names")
        if not every > 0:
            raise BadValue(f"every must be a number of seconds over 0, not {every!r}")
        self.pool = pool if pool is not None else OllamaPool()
        self.priority_models = list(priority_models)
        self._every = every
        self._report: dict[str, Kept] = {}
        self._upkeep = self.pool.begin(self._keep_up()) if self.priority_models else None

    def ensure(self) -> list[Kept]:
        """Look now, load what is not loaded, and say how each model stands. Waits for the loads."""
        return self.pool.blocking(self._ensure(self.priority_models))

    def report(self) -> list[Kept]:
        """How each model stood when it was last looked at; those not looked at yet have a note that says so."""
        return [self._report.get(model, Kept(model, note="not looked at yet")) for model in self.priority_models]

    def wants(self, model: str) -> None:
        """A request for `model` is about to be sent: see that it is loaded, without waiting, if it is one of ours."""
        if canonical(model) in map(canonical, self.priority_models):
            self.pool.begin(self._ensure([model]))

    def close(self) -> None:
        """Stop looking. What is loaded stays loaded."""
        if self._upkeep is not None:
            self._upkeep.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _keep_up(self) -> None:
        while True:
            await self._ensure(self.priority_models)
            await asyncio.sleep(self._every)

    async def _ensure(self, models: Sequence[str]) -> list[Kept]:
        inside = await self.pool.opened()
        found = [await self._one(inside, model) for model in models]
        for kept in found:
            if kept.note and kept != self._report.get(kept.model):
                log.warning("%s is not kept on a GPU: %s", kept.model, kept.note)
            self._report[kept.model] = kept
        return found

    async def _one(self, inside: Inside, model: str) -> Kept:
        name = canonical(model)
        nodes = [node for node in inside.house.engine.state.nodes.values() if node.state is not Health.DOWN]
        holders = [node for node in nodes if name in node.models]
        if not holders:
            return Kept(model, note="no node that answers has it; pull it on one")
        kept = _best(model, name, holders)
        if kept.on_gpu:
            return kept
        tried: list[str] = []
        for node in sorted(holders, key=lambda node: (not node.gpu, node.in_flight, node.index)):
            if not node.gpu and node.surveyed:
                tried.append(f"{node.label} has no GPU")
                continue
            if not await self.pool.load(model, node.id):
                tried.append(f"{node.label} could not load it")
                continue
            inside.house.monitor.look(node.id)
            await inside.house.monitor.looked([node.id])
            kept = _best(model, name, [node])
            if kept.on_gpu:
                return kept
            tried.append(f"{node.label} put {_share(kept)} of it into its GPU's memory")
        return Kept(model, kept.node, False, kept.size, kept.size_vram, "; ".join(tried))


def integrate_with_router(router: IntelligentRouter, controller: SOLLOLGPUController) -> None:
    """Let the router use the controller: its pool where the router has none, and its models are loaded before requests."""
    router.gpu_controller = controller


def _best(model: str, name: str, nodes: Iterable[NodeState]) -> Kept:
    """Where the model stands best among `nodes`, by what these told last."""
    found = [(node, one) for node in nodes for one in node.resident if canonical(one.name) == name]
    if not found:
        return Kept(model)
    node, resident = max(found, key=lambda pair: _in_gpu(pair[1]))
    return Kept(model, node.label, _in_gpu(resident) >= 1.0, resident.size, resident.size_vram)


def _in_gpu(resident: Resident) -> float:
    return resident.size_vram / resident.size if resident.size else 0.0


def _share(kept: Kept) -> str:
    return f"{100 * kept.size_vram / kept.size:.0f} %" if kept.size and kept.size_vram else "nothing"
