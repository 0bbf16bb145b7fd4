"""Keeps the list of nodes: takes in those that are named, searches for others again and again, and knows who is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from sollol.core.events import Event, NodeAdded, NodeChanged, NodeRemoved, NodeSurveyed, Searched
from sollol.core.ports import Clock, Surveyor
from sollol.core.state import ClusterState
from sollol.core.topology import Candidate, Found, Place, Places
from sollol.core.types import Endpoint, Health, Node, NodeKind, Origin
from sollol.errors import BadRequest, NodeError

SECONDS = 60.0
SECONDS_WITHOUT_NODES = 5.0
FORGET_SECONDS = 600.0
QUIET_SECONDS = 300.0
OLLAMA_PORT = 11434
_ASKED_AT_ONCE = 16
_KEPT = frozenset({Origin.STATIC, Origin.API, Origin.DEMO})
_BIND = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


class Search(Protocol):
    """One way of searching. It finds out where something listens; what that is, is asked afterwards."""

    async def find(self) -> Found: ...


class SearchStatus(Struct, frozen=True):
    """What was searched last, in plain words. ``ended`` is on the engine's clock; None before the first round's end."""

    enabled: bool
    rounds: int
    ended: float | None
    seconds: float
    found: int
    where: tuple[str, ...]
    notes: tuple[str, ...]


class Finder:
    """Publishes `NodeAdded`, `NodeRemoved` and, after each round, `Searched`. Used from the engine's loop.

    ``addresses`` gives the addresses of this machine, ``resolve`` those of a host name. A round runs every ``seconds``; every
    5 s while no node is known. A node that was found, not named, is forgotten after it was down for 10 minutes.
    """

    def __init__(
        self,
        state: ClusterState,
        publish: Callable[[Event], None],
        clock: Clock,
        surveyor: Surveyor,
        searches: Sequence[Search],
        *,
        addresses: Callable[[], Iterable[str]],
        resolve: Callable[[str], Awaitable[Sequence[str]]],
        seconds: float = SECONDS,
    ) -> None:
        self._state = state
        self._publish = publish
        self._clock = clock
        self._surveyor = surveyor
        self._searches = tuple(searches)
        self._addresses = addresses
        self._resolve = resolve
        self._seconds = seconds
        self._own = tuple(addresses())
        self._names: dict[str, Sequence[str]] = {}
        self._never: tuple[Endpoint, ...] = ()
        self._ignored: set[Place] = set()
        self._asking: set[Place] = set()
        self._quiet: dict[Endpoint, float] = {}
        self._gateways: dict[Endpoint, str] = {}
        self._at_once = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._refused: tuple[str, ...] = ()
        self._status = SearchStatus(bool(self._searches), 0, None, 0.0, 0, (), ())

    def never(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Where this gateway itself listens: never taken for a node, under any of this machine's addresses."""
        self._never = tuple(Endpoint(_BIND.get(host, host), port) for host, port in addresses)

    def start(self, nodes: Iterable[Node] = ()) -> None:
        """Take in the nodes that are known beforehand, at once, and begin to search. One that is this gateway is left out."""
        refused = []
        for node in nodes:
            try:
                self.add(node)
            except BadRequest as error:
                refused.append(str(error))
        self._refused = tuple(refused)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="find nodes")

    def search_by(self, searches: Sequence[Search], seconds: float) -> None:
        """Search in these ways from now on, at once and then every ``seconds``. Who was found stays."""
        self._searches, self._seconds = tuple(searches), seconds
        self._status = SearchStatus(bool(searches), self._status.rounds, None, 0.0, 0, (), self._refused)
        if self._task is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(self._task), name="find nodes")

    async def searched(self) -> None:
        """Wait for the end of the first round."""
        await self._first.wait()

    def status(self) -> SearchStatus:
        """What was searched last, for people."""
        return self._status

    async def close(self) -> None:
        """Stop searching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def add(self, node: Node) -> Node:
        """Take in a node that was named, at once and without asking it; gives back the node as it is known from now on.

        One that is known already under another of its addresses stays that one, with the new settings if it had been found
        rather than named. Raises `BadRequest` when the address is this gateway's own.
        """
        places = self._places()
        if any(places.same(node.endpoint, own) for own in self._never):
            raise BadRequest(f"{node.endpoint.url} is this gateway itself")
        self._ignored -= places.of(node.endpoint)
        known = self._known(places, node.endpoint)
        now = self._clock.now()
        if known is None:
            added = replace(node, id=self._free_id(node))
            self._publish(NodeAdded(now, added))
            return added
        if known.origin in _KEPT:
            return known
        changed = replace(node, id=known.id, endpoint=known.endpoint, kind=known.kind, emulated=known.emulated)
        self._publish(NodeChanged(now, changed))
        return changed

    def known(self, endpoint: Endpoint) -> Node | None:
        """The node that is known at that address, under whatever other one."""
        return self._known(self._places(), endpoint)

    def remove(self, node_id: str, reason: str = "removed on request", *, again: bool = False) -> bool:
        """Forget a node, and do not find it again until it is named, unless ``again``; False when it is not known."""
        known = self._state.nodes.get(node_id)
        if known is None:
            return False
        if not again:
            self._ignored |= self._places().of(known.node.endpoint)
        self._publish(NodeRemoved(self._clock.now(), node_id, reason))
        return True

    async def _run(self, before: asyncio.Task[None] | None = None) -> None:
        """Search for ever. ``before`` did so until now."""
        if before is not None:
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        while True:
            await self._round()
            self._first.set()
            if not self._searches:
                return
            await asyncio.sleep(self._seconds if self._state.nodes else min(SECONDS_WITHOUT_NODES, self._seconds))

    async def _round(self) -> None:
        started = self._clock.now()
        self._own = tuple(self._addresses())
        await self._resolve_names()
        self._merge()
        if not self._searches:
            self._status = replace(self._status, notes=self._refused)
            return
        results: list[tuple[Found, int]] = []
        async with asyncio.TaskGroup() as group:
            for search in self._searches:
                group.create_task(self._search(search, results))
        self._forget()
        ended = self._clock.now()
        where = tuple(dict.fromkeys(place for found, _ in results for place in found.where))
        notes = (*dict.fromkeys(note for found, _ in results for note in found.notes), *self._gateways.values())
        total = sum(count for _, count in results)
        rounds = self._status.rounds + 1
        self._status = SearchStatus(True, rounds, ended, ended - started, total, where, (*self._refused, *notes))
        self._publish(Searched(ended, where, total, ended - started, self._status.notes))

    async def _search(self, search: Search, results: list[tuple[Found, int]]) -> None:
        try:
            found = await search.find()
        except OSError as error:
            # One way of searching that this system does not allow must not end the others.
            results.append((Found(notes=(f"{type(search).__name__}: {error}",)), 0))
            return
        results.append((found, await self._verify(found.candidates)))

    async def _verify(self, candidates: Iterable[Candidate]) -> int:
        """Ask what listens at each place, once per place; how many are nodes, known ones included."""
        places = self._places()
        groups: dict[frozenset[Place], list[Candidate]] = {}
        for candidate in candidates:
            groups.setdefault(places.of(candidate.endpoint), []).append(candidate)
        never = frozenset(place for own in self._never for place in places.of(own))
        known = frozenset(place for node in self._state.nodes.values() for place in places.of(node.node.endpoint))
        out = never | self._ignored | self._asking
        new = {place: group for place, group in groups.items() if place.isdisjoint(out) and place.isdisjoint(known)}
        answers = await asyncio.gather(*(self._ask(place, group) for place, group in new.items()))
        return sum(answers) + sum(1 for place in groups if not place.isdisjoint(known))

    async def _ask(self, place: frozenset[Place], group: Sequence[Candidate]) -> bool:
        """Ask under each address of one place until one answers as a node; then it is known from now on."""
        self._asking |= place
        try:
            async with self._at_once:
                for candidate in group:
                    if self._quiet.get(candidate.endpoint, 0.0) <= self._clock.now() and await self._take(candidate):
                        return True
            return False
        finally:
            self._asking -= place

    async def _take(self, candidate: Candidate) -> bool:
        endpoint = candidate.endpoint
        node = Node(endpoint.authority, endpoint, candidate.kind or NodeKind.OLLAMA, candidate.name, origin=candidate.origin)
        try:
            survey = await self._surveyor.survey(node)
        except NodeError:
            self._leave_alone(endpoint)
            return False
        if survey.kind is NodeKind.SOLLOL:
            self._leave_alone(endpoint)
            self._gateways[endpoint] = f"{endpoint.url} is another SOLLOL, so it is not used; name it as a node to use it"
            return False
        self._gateways.pop(endpoint, None)
        if self._known(self._places(), endpoint) is not None:
            return True
        now = self._clock.now()
        node = replace(node, id=self._free_id(node), kind=survey.kind, emulated=survey.emulated)
        self._publish(NodeAdded(now, node))
        self._publish(NodeSurveyed(now, node.id, survey))
        return True

    def _leave_alone(self, endpoint: Endpoint) -> None:
        """Somebody's other server is not asked again every minute; on Ollama's own port it is."""
        if endpoint.port != OLLAMA_PORT:
            self._quiet[endpoint] = self._clock.now() + QUIET_SECONDS

    async def _resolve_names(self) -> None:
        hosts = {node.node.endpoint.host for node in self._state.nodes.values() if not _is_address(node.node.endpoint.host)}
        names = sorted(hosts)
        answers = await asyncio.gather(*(self._resolve(name) for name in names))
        # A resolver that is silent for a moment does not make one node into two.
        self._names = {name: answer or self._names.get(name, ()) for name, answer in zip(names, answers, strict=True)}

    def _merge(self) -> None:
        """Forget nodes that turned out to be another one; those that were named stay, else the one known longest."""
        places = self._places()
        kept: list[Node] = []
        for state in sorted(self._state.nodes.values(), key=lambda known: known.node.origin not in _KEPT):
            same = next((node for node in kept if places.same(node.endpoint, state.node.endpoint)), None)
            if same is None:
                kept.append(state.node)
            else:
                self._publish(NodeRemoved(self._clock.now(), state.node.id, f"the same node as {same.id}"))

    def _forget(self) -> None:
        now = self._clock.now()
        gone = [
            known.node.id
            for known in self._state.nodes.values()
            if known.node.origin not in _KEPT and known.state is Health.DOWN and now - known.health.since > FORGET_SECONDS
        ]
        for node_id in gone:
            self._publish(NodeRemoved(now, node_id, f"down for {FORGET_SECONDS / 60:.0f} minutes"))
        self._quiet = {endpoint: until for endpoint, until in self._quiet.items() if until > now}

    def _places(self) -> Places:
        return Places(self._own, self._names)

    def _known(self, places: Places, endpoint: Endpoint) -> Node | None:
        return next((known.node for known in self._state.nodes.values() if places.same(known.node.endpoint, endpoint)), None)

    def _free_id(self, node: Node) -> str:
        """The id asked for, else "host:port/base", else that with a number."""
        nodes = self._state.nodes
        wanted = node.id or node.endpoint.authority
        if wanted in nodes:
            wanted = node.endpoint.authority + node.endpoint.base
        number = 2
        free = wanted
        while free in nodes:
            free, number = f"{wanted}#{number}", number + 1
        return free


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
