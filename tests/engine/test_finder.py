from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from tests.support.fakes import LoopClock

from sollol.core.events import NodeAdded, NodeChanged, NodeRemoved, NodeSurveyed, ProbeFailed, Searched
from sollol.core.state import ClusterState
from sollol.core.topology import Candidate, Found
from sollol.core.types import Endpoint, Health, Model, Node, NodeKind, Origin, Survey
from sollol.engine.finder import Finder
from sollol.errors import BadRequest, NodeUnreachable

pytestmark = pytest.mark.looptime


class Network:
    """What listens where, and what it is; counts who is asked."""

    def __init__(self) -> None:
        self.kinds: dict[str, NodeKind] = {}
        self.emulated = False
        self.asked: list[str] = []
        self.names: dict[str, Sequence[str]] = {}
        self.seconds = 0.0

    async def survey(self, node: Node) -> Survey:
        self.asked.append(node.endpoint.authority)
        await asyncio.sleep(self.seconds)
        kind = self.kinds.get(node.endpoint.authority)
        if kind is None:
            raise NodeUnreachable(node.id, "refused")
        return Survey(kind, "1", 0.001, (), (), emulated=self.emulated)

    async def show(self, node: Node, model: Model) -> Model:
        return model

    def forget(self, node: Node) -> None:
        """It remembers nothing."""

    async def resolve(self, host: str) -> Sequence[str]:
        return self.names.get(host, ())


class Listed:
    """A search that finds what it is told, after a while."""

    def __init__(
        self, *authorities: str, origin: Origin = Origin.SCAN, seconds: float = 0.1, where: str = "10.0.0.0/24"
    ) -> None:
        self.authorities = list(authorities)
        self.origin = origin
        self.seconds = seconds
        self.where = where
        self.error: OSError | None = None

    async def find(self) -> Found:
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        candidates = tuple(Candidate(endpoint(text), self.origin) for text in self.authorities)
        return Found(candidates, (self.where,), (f"a note on {self.where}",))


def endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint(host.strip("[]"), int(port))


def named(text: str, **settings) -> Node:
    return Node(text, endpoint(text), **settings)


class House:
    """A finder around a real state, with the list of what it published."""

    def __init__(self, network: Network, *searches: Listed, own: Sequence[str] = ("127.0.0.1", "::1", "10.0.0.7")) -> None:
        self.state = ClusterState()
        self.events: list[object] = []
        self.finder = Finder(
            self.state,
            self.publish,
            LoopClock(),
            network,
            searches,
            addresses=lambda: own,
            resolve=network.resolve,
        )

    def publish(self, event) -> None:
        self.state.apply(event)
        self.events.append(event)

    def of(self, kind) -> Iterator:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def ids(self) -> list[str]:
        return list(self.state.nodes)


@asynccontextmanager
async def house(network: Network, *searches: Listed, nodes: Sequence[Node] = (), **settings):
    made = House(network, *searches, **settings)
    made.finder.start(nodes)
    try:
        yield made
    finally:
        await made.finder.close()


def ollamas(*authorities: str) -> Network:
    network = Network()
    network.kinds = dict.fromkeys(authorities, NodeKind.OLLAMA)
    return network


async def test_static_nodes_are_known_at_once_and_without_being_asked():
    network = Network()
    async with house(network, Listed(seconds=30.0), nodes=[named("10.0.0.1:11434"), named("gpu-box:11434")]) as home:
        assert home.ids == ["10.0.0.1:11434", "gpu-box:11434"]
        assert network.asked == []


async def test_what_listens_is_asked_and_becomes_known_with_what_it_is():
    network = ollamas("10.0.0.1:11434")
    network.kinds["10.0.0.2:8080"] = NodeKind.LLAMACPP
    network.emulated = True
    async with house(network, Listed("10.0.0.1:11434", "10.0.0.2:8080", "10.0.0.3:11434")) as home:
        await home.finder.searched()
        assert sorted(home.ids) == ["10.0.0.1:11434", "10.0.0.2:8080"]
        llama = home.state.nodes["10.0.0.2:8080"]
        assert (llama.kind, llama.node.kind, llama.node.origin, llama.emulated) == (
            NodeKind.LLAMACPP,
            NodeKind.LLAMACPP,
            Origin.SCAN,
            True,
        )
        assert llama.state is Health.UP
        assert len(home.of(NodeSurveyed)) == 2
        assert sorted(network.asked) == ["10.0.0.1:11434", "10.0.0.2:8080", "10.0.0.3:11434"]


async def test_the_end_of_a_round_says_where_was_searched():
    network = ollamas("10.0.0.1:11434")
    async with house(network, Listed("10.0.0.1:11434"), Listed(where="this machine", seconds=0.5)) as home:
        assert home.finder.status().ended is None
        await home.finder.searched()
        (event,) = home.of(Searched)
        assert (event.where, event.found, event.seconds) == (("10.0.0.0/24", "this machine"), 1, 0.5)
        assert event.notes == ("a note on 10.0.0.0/24", "a note on this machine")
        status = home.finder.status()
        assert (status.enabled, status.rounds, status.ended, status.found) == (True, 1, event.at, 1)
        assert status.where == event.where
        assert status.notes == event.notes


async def test_rounds_are_quick_until_a_node_is_known_and_then_slow():
    network, search = ollamas("10.0.0.1:11434"), Listed()
    async with house(network, search) as home:
        await asyncio.sleep(21)
        assert [round(event.at, 1) for event in home.of(Searched)] == [0.1, 5.2, 10.3, 15.4, 20.5]
        search.authorities = ["10.0.0.1:11434"]
        await asyncio.sleep(119)
        assert [round(event.at, 1) for event in home.of(Searched)][5:] == [25.6, 85.7]
        assert network.asked == ["10.0.0.1:11434"]
        assert home.of(Searched)[-1].found == 1


async def test_a_node_under_all_addresses_of_this_machine_is_one():
    network = ollamas("127.0.0.1:11434", "[::1]:11434", "10.0.0.7:11434")
    local = Listed("127.0.0.1:11434", "[::1]:11434", origin=Origin.LOCAL)
    async with house(network, local, Listed("10.0.0.7:11434", seconds=0.2)) as home:
        await asyncio.sleep(200)
        assert home.ids == ["127.0.0.1:11434"]
        assert len(home.of(NodeAdded)) == 1


async def test_two_searches_that_find_the_same_at_the_same_time_make_one_node():
    network = ollamas("127.0.0.1:11434", "10.0.0.7:11434")
    network.seconds = 1.0
    async with house(network, Listed("127.0.0.1:11434"), Listed("10.0.0.7:11434")) as home:
        await home.finder.searched()
        assert len(home.of(NodeAdded)) == 1


async def test_where_one_address_does_not_answer_the_next_is_asked():
    network = ollamas("[::1]:11434")
    async with house(network, Listed("127.0.0.1:11434", "[::1]:11434")) as home:
        await home.finder.searched()
        assert home.ids == ["[::1]:11434"]


async def test_a_static_name_and_its_address_are_one_node():
    network = ollamas("10.0.0.1:11434")
    network.names["gpu-box"] = ("10.0.0.1",)
    async with house(network, Listed("10.0.0.1:11434"), nodes=[named("gpu-box:11434")]) as home:
        await asyncio.sleep(100)
        assert home.ids == ["gpu-box:11434"]
        assert network.asked == []


async def test_a_found_node_gives_way_to_a_static_name_that_resolves_later():
    network = ollamas("10.0.0.1:11434")
    async with house(network, Listed("10.0.0.1:11434"), nodes=[named("gpu-box:11434")]) as home:
        await home.finder.searched()
        assert len(home.ids) == 2
        network.names["gpu-box"] = ("10.0.0.1",)
        await asyncio.sleep(61)
        assert home.ids == ["gpu-box:11434"]
        assert home.of(NodeRemoved)[0].reason == "the same node as gpu-box:11434"
        network.names.clear()
        await asyncio.sleep(120)
        assert home.ids == ["gpu-box:11434"]


async def test_two_static_names_for_one_node_become_one():
    network = Network()
    network.names.update({"a": ("10.0.0.1", "fd00::1"), "b": ("fd00::1",)})
    async with house(network, Listed(), nodes=[named("a:11434"), named("b:11434"), named("b:11435")]) as home:
        await home.finder.searched()
        assert home.ids == ["a:11434", "b:11435"]


async def test_another_sollol_is_left_alone_but_said_and_used_when_named():
    network = Network()
    network.kinds["10.0.0.2:8000"] = NodeKind.SOLLOL
    async with house(network, Listed("10.0.0.2:8000")) as home:
        await home.finder.searched()
        assert home.ids == []
        assert "http://10.0.0.2:8000 is another SOLLOL" in home.of(Searched)[0].notes[-1]
        home.finder.add(named("10.0.0.2:8000"))
        assert home.ids == ["10.0.0.2:8000"]


@pytest.mark.parametrize("bound", ["0.0.0.0", "127.0.0.1", "::", "10.0.0.7"])
async def test_the_gateway_itself_is_never_a_node(bound):
    network = ollamas("127.0.0.1:11434", "10.0.0.7:11434", "10.0.0.1:11434")
    home = House(network, Listed("127.0.0.1:11434", "10.0.0.7:11434", "10.0.0.1:11434"))
    home.finder.never([(bound, 11434)])
    home.finder.start([named("localhost:11434"), named("localhost:11435")])
    try:
        await home.finder.searched()
        assert home.ids == ["localhost:11435", "10.0.0.1:11434"]
        assert network.asked == ["10.0.0.1:11434"]
        assert "http://localhost:11434 is this gateway itself" in home.finder.status().notes
        with pytest.raises(BadRequest, match="this gateway itself"):
            home.finder.add(named("10.0.0.7:11434"))
    finally:
        await home.finder.close()


async def test_somebody_elses_server_is_asked_seldom_and_ollamas_port_always():
    network, search = Network(), Listed("127.0.0.1:8080", "127.0.0.1:11434")
    async with house(network, search) as home:
        await asyncio.sleep(290)
        assert network.asked.count("127.0.0.1:8080") == 1
        assert network.asked.count("127.0.0.1:11434") == len(home.of(Searched))
        network.kinds["127.0.0.1:8080"] = NodeKind.LLAMACPP
        await asyncio.sleep(20)
        assert home.ids == ["127.0.0.1:8080"]


async def fail(home: House, node_id: str) -> None:
    home.publish(ProbeFailed(asyncio.get_running_loop().time(), node_id, refused=True, text="refused"))


async def test_a_found_node_is_forgotten_after_ten_minutes_down_and_found_again():
    network, search = ollamas("10.0.0.1:11434"), Listed("10.0.0.1:11434")
    async with house(network, search, nodes=[named("10.0.0.2:11434"), named("10.0.0.3:11434", origin=Origin.API)]) as home:
        await home.finder.searched()
        search.authorities = []
        for node_id in home.ids:
            await fail(home, node_id)
        await asyncio.sleep(590)
        assert len(home.ids) == 3
        await asyncio.sleep(80)
        assert home.ids == ["10.0.0.2:11434", "10.0.0.3:11434"]
        assert home.of(NodeRemoved)[0].reason == "down for 10 minutes"
        search.authorities = ["10.0.0.1:11434"]
        await asyncio.sleep(61)
        assert "10.0.0.1:11434" in home.ids


async def test_a_node_that_was_removed_stays_away_until_it_is_named():
    network = ollamas("10.0.0.1:11434")
    async with house(network, Listed("10.0.0.1:11434")) as home:
        await home.finder.searched()
        assert home.finder.remove("10.0.0.1:11434") is True
        assert home.finder.remove("10.0.0.1:11434") is False
        await asyncio.sleep(100)
        assert home.ids == []
        assert home.finder.add(named("10.0.0.1:11434", origin=Origin.API)).id == "10.0.0.1:11434"
        home.finder.remove("10.0.0.1:11434")
        home.finder.add(named("10.0.0.9:11434"))
        assert home.ids == ["10.0.0.9:11434"]


async def test_naming_a_found_node_gives_it_the_settings():
    network = ollamas("127.0.0.1:11434")
    async with house(network, Listed("127.0.0.1:11434", origin=Origin.LOCAL)) as home:
        await home.finder.searched()
        known = home.finder.add(named("10.0.0.7:11434", name="mine", priority=9, origin=Origin.API))
        assert (known.id, known.name, known.priority, known.origin) == ("127.0.0.1:11434", "mine", 9, Origin.API)
        assert home.of(NodeChanged)[0].node == known
        assert home.finder.add(named("localhost:11434", name="other")) == known
        assert len(home.ids) == 1


async def test_ids_are_unique():
    home = House(Network())
    plain = named("10.0.0.1:80")
    first = home.finder.add(plain)
    second = home.finder.add(replace(plain, endpoint=Endpoint("10.0.0.1", 80, base="/b")))
    third = home.finder.add(replace(plain, id="10.0.0.1:80/b", endpoint=Endpoint("10.0.0.1", 80, base="/c")))
    fourth = home.finder.add(Node("10.0.0.1:80", Endpoint("10.0.0.9", 81)))
    fifth = home.finder.add(Node("10.0.0.9:81", Endpoint("10.0.0.8", 81)))
    sixth = home.finder.add(Node("10.0.0.8:81", Endpoint("10.0.0.8", 81, base="/x")))
    assert [node.id for node in (first, second, third)] == ["10.0.0.1:80", "10.0.0.1:80/b", "10.0.0.1:80/c"]
    assert [node.id for node in (fourth, fifth, sixth)] == ["10.0.0.9:81", "10.0.0.8:81", "10.0.0.8:81/x"]
    assert home.finder.add(Node("10.0.0.8:81", Endpoint("10.0.0.5", 1))).id == "10.0.0.5:1"
    home.finder.add(Node("b", Endpoint("10.0.1.1", 1)))
    home.finder.add(Node("10.0.1.2:1", Endpoint("10.0.1.3", 1)))
    assert home.finder.add(Node("b", Endpoint("10.0.1.2", 1))).id == "10.0.1.2:1#2"


async def test_without_searches_nothing_is_searched_or_said():
    network = Network()
    network.names.update({"a": ("10.0.0.1",), "b": ("10.0.0.1",)})
    async with house(network, nodes=[named("a:1"), named("b:1")]) as home:
        await home.finder.searched()
        assert home.ids == ["a:1"]
        assert home.of(Searched) == []
        assert home.finder.status().enabled is False


async def test_a_search_that_the_system_forbids_does_not_end_the_others():
    network, broken = ollamas("10.0.0.1:11434"), Listed()
    broken.error = PermissionError("not allowed")
    async with house(network, broken, Listed("10.0.0.1:11434")) as home:
        await home.finder.searched()
        assert home.ids == ["10.0.0.1:11434"]
        assert "Listed: not allowed" in home.finder.status().notes


async def test_closing_ends_a_round_under_way_and_can_be_done_twice():
    home = House(Network(), Listed(seconds=1e6))
    await home.finder.close()
    home.finder.start()
    await asyncio.sleep(1)
    await home.finder.close()
    await home.finder.close()
    assert home.of(Searched) == []
    assert len(asyncio.all_tasks()) == 1
