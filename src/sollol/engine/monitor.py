"""Looks at every node again and again, as often as its failure rate asks for; one small task per node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from math import inf

from sollol.core.events import (
    AttemptEnded,
    Event,
    HealthChanged,
    ModelLearned,
    NodeAdded,
    NodeChanged,
    NodeRemoved,
    NodeSurveyed,
    ProbeFailed,
)
from sollol.core.ports import Surveyor
from sollol.core.types import Health, Node, NodeKind, Survey
from sollol.engine.engine import Engine
from sollol.errors import BadReply, NodeClosed, NodeError, NodeUnreachable

log = logging.getLogger(__name__)

# Capabilities are asked for model by model (`/api/show`); a node with more models than this keeps what `/api/tags` said.
MODELS_ASKED = 200
# An overdue request shortens the interval without any event, so the interval is looked at this often.
RECKON_SECONDS = 5.0
# Work that fails asks for a look, but not for one after each failure.
AGAIN_SECONDS = 1.0
# Who asks for what nobody is known to have waits so long for a second look.
AFRESH_SECONDS = 1.0


class Monitor:
    """Watches nodes from `NodeAdded` to `NodeRemoved`. Looks are independent: a node that hangs delays only itself."""

    def __init__(self, engine: Engine, surveyor: Surveyor) -> None:
        self._engine = engine
        self._surveyor = surveyor
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._woken: dict[str, asyncio.Event] = {}
        self._wanted: set[str] = set()
        self._seen: dict[str, asyncio.Event] = {}
        # What the look that is under way will set: a look that is asked for meanwhile comes after it.
        self._looking: dict[str, asyncio.Event] = {}
        self._asked: dict[str, set[tuple[str, str, str]]] = {}
        # When work that broke last asked for a look.
        self._broke: dict[str, float] = {}
        engine.listen(self._heard, NodeAdded, NodeChanged, HealthChanged, NodeRemoved)
        engine.listen(self._worked, AttemptEnded)

    def look(self, node: str) -> None:
        """Look at a node now; harmless for one that is not known."""
        if node in self._woken:
            seen = self._seen[node]
            if seen.is_set() or seen is self._looking.get(node):
                self._seen[node] = asyncio.Event()
            self._wanted.add(node)
            self._woken[node].set()

    async def looked(self, nodes: Iterable[str]) -> None:
        """Wait until each of `nodes` has been looked at since the last `look` (found up or down), or is gone."""
        for node in nodes:
            if node in self._seen:
                await self._seen[node].wait()

    async def afresh(self, since: float) -> bool:
        """Look again at every node that is not down and was last looked at before ``since`` (on the engine's clock).

        Waits a second at most. False when every one of them was looked at since.
        """
        nodes = self._engine.state.nodes.values()
        stale = [node.id for node in nodes if node.state is not Health.DOWN and node.health.looked_at < since]
        for node in stale:
            self.look(node)
        with suppress(TimeoutError):
            async with asyncio.timeout(AFRESH_SECONDS):
                await self.looked(stale)
        return bool(stale)

    async def all_looked_at(self) -> None:
        """Wait until every node was looked at once; a second at most."""
        nodes = self._engine.state.nodes.values()
        if all(node.health.looks for node in nodes):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(AFRESH_SECONDS):
                await self.looked([node.id for node in nodes if not node.health.looks])

    async def close(self) -> None:
        """Stop watching."""
        watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        for seen in (*self._seen.values(), *self._looking.values()):
            seen.set()  # nobody looks any more: who waits for that, waits no longer

    def _heard(self, event: Event) -> None:
        match event:
            case NodeAdded(node=node):
                if node.id not in self._watchers:
                    self._woken[node.id], self._seen[node.id] = asyncio.Event(), asyncio.Event()
                    self._watchers[node.id] = asyncio.get_running_loop().create_task(
                        self._watch(node.id),
                        name=f"watch {node.id}",
                    )
            case NodeChanged(node=node):
                self.look(node.id)
            case HealthChanged(node=node_id, new=new):
                # A node that went down is looked at every second from now on, not at the end of its last interval.
                if node_id in self._woken:
                    self._woken[node_id].set()
                    if new == Health.DOWN:
                        self._forget(node_id)
            case NodeRemoved(node=node_id):
                watcher = self._watchers.pop(node_id, None)
                if watcher is not None:
                    watcher.cancel()
                self._woken.pop(node_id, None)
                self._wanted.discard(node_id)
                for waited in (self._seen, self._looking):
                    waited.pop(node_id, asyncio.Event()).set()
                self._asked.pop(node_id, None)
                self._broke.pop(node_id, None)

    def _worked(self, event: Event) -> None:
        """Work that breaks may mean that the node is gone, or that another one is there: the next request must not find out."""
        if not isinstance(event, AttemptEnded) or event.outcome != "failed" or event.node not in self._woken:
            return
        if event.at - self._broke.get(event.node, -inf) >= AGAIN_SECONDS:
            self._broke[event.node] = event.at
            if event.cut or event.unreachable:  # it may be back before the look, as another
                self._forget(event.node)
            self.look(event.node)

    def _forget(self, node_id: str) -> None:
        """What comes back there may have been started with other flags, or be another version: all of it is asked again."""
        self._asked.pop(node_id, None)
        known = self._engine.state.nodes.get(node_id)
        if known is not None:
            self._surveyor.forget(known.node)

    async def _watch(self, node_id: str) -> None:
        while node_id in self._engine.state.nodes:
            self._wanted.discard(node_id)
            await self._look(node_id)
            await self._until_due(node_id)

    async def _until_due(self, node_id: str) -> None:
        """Wait for the next look. The interval is worked out anew whenever the node's health changes."""
        woken, clock = self._woken[node_id], self._engine.clock
        while node_id not in self._wanted:
            known = self._engine.state.nodes.get(node_id)
            if known is None:
                return
            now = clock.now()
            left = known.health.probe_at(now, known.overdue(now)) - now
            if left <= 0.0:
                return
            woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, RECKON_SECONDS)):
                    await woken.wait()

    async def _look(self, node_id: str) -> None:
        engine = self._engine
        node = engine.state.nodes[node_id].node
        seen = self._looking[node_id] = self._seen[node_id]
        begun = engine.clock.now()
        try:
            survey = await self._survey(node)
        except NodeError as error:
            if node_id in engine.state.nodes:
                refused = isinstance(error, NodeUnreachable)
                engine.publish(ProbeFailed(engine.clock.now(), node_id, refused=refused, text=error.text))
                seen.set()
                if refused:
                    engine.transport.forget(node.endpoint)
            return
        if node_id in engine.state.nodes:
            engine.publish(NodeSurveyed(engine.clock.now(), node_id, survey, begun))
            seen.set()
            await self._ask_about_new_models(node_id, survey)

    async def _survey(self, node: Node) -> Survey:
        """One that hangs up is asked again: it may have been the last of what was there, and now nothing is, or another one."""
        try:
            return await self._surveyor.survey(node)
        except NodeClosed:
            return await self._surveyor.survey(node)

    async def _ask_about_new_models(self, node_id: str, survey: Survey) -> None:
        """`/api/tags` leaves capabilities out; each model is asked about once for each digest and version of the node."""
        if survey.kind is not NodeKind.OLLAMA:
            return
        asked = self._asked.setdefault(node_id, set())
        version = survey.version  # a newer one knows more of the same model
        asked &= {(model.name, model.digest, version) for model in survey.models}
        new = [model for model in survey.models if (model.name, model.digest, version) not in asked]
        for model in new[: max(0, MODELS_ASKED - len(asked))]:
            known = self._engine.state.nodes.get(node_id)
            if known is None:
                return
            try:
                learned = await self._surveyor.show(known.node, model)
            except NodeError as error:
                log.debug("show failed", extra={"node": node_id, "model": model.name, "error": str(error)})
                if not isinstance(error, BadReply):
                    return  # it does not answer: the rest is asked after the next look
                learned = None
            asked.add((model.name, model.digest, version))
            if learned is not None and node_id in self._engine.state.nodes:
                self._engine.publish(ModelLearned(self._engine.clock.now(), node_id, learned))
