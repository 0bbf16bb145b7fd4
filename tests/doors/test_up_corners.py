"""What `sollol up` says where nodes are odd or missing, and what signals and settings do then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import psutil
import pytest
from msgspec.inspect import type_info
from tests.support.front import Front
from tests.support.ports import refusing
from tests.support.wait import until

from sollol import SOLLOL, SOLLOLConfig
from sollol.announce import tell
from sollol.config import Cache, Config, Discovery, Gateway, NodeSettings
from sollol.config_sources import load
from sollol.config_values import expected, field_types
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec, embedder
from sollol.errors import ConfigError
from sollol.gateway.running import RunningGateway, open_gateway
from sollol.signals import Asked, terminal_there
from sollol.stand_ins import StandIns

OFF = Discovery(enabled=False)
NOWHERE = Discovery(this_machine=False, docker=False, mdns=False, networks=("127.0.0.0/8",), ports=(1,))
CONFIG = Config(gateway=Gateway(port=0, shutdown_seconds=0.0), discovery=OFF)


@asynccontextmanager
async def opened(config: Config, read: Callable[[], Config] | None = None) -> AsyncIterator[RunningGateway]:
    running = await open_gateway(config, read=read)
    try:
        yield running
    finally:
        await running.close(0.0)


async def told(running: RunningGateway, words: str, demo: Callable[[], Awaitable[bool]] | None = None) -> list[str]:
    """What `sollol up` says, up to a line with these words."""
    said: list[str] = []
    telling = asyncio.create_task(tell(running, said.append, demo=demo))
    await until(lambda: any(words in line for line in said))
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    return said


# what is said


async def test_a_node_that_does_not_answer_and_one_that_cannot_chat():
    async with EmulatedCluster([NodeSpec("vectors", models=(embedder(),))]) as cluster:
        with refusing() as port:
            nodes = (NodeSettings(cluster.urls[0], name="vectors"), NodeSettings(f"http://127.0.0.1:{port}", name="desk"))
            async with opened(msgspec.structs.replace(CONFIG, nodes=nodes)) as running:
                said = await told(running, "desk")
                await asyncio.sleep(0)
    _, counted, vectors, desk = said  # and no line to try: nothing there can chat
    assert counted == "2 nodes, 1 up:"
    assert vectors.endswith(", emulated, 1 model")
    assert "desk" in desk
    assert ": " in desk
    assert "refused" in desk


async def test_nothing_is_found_and_emulated_nodes_stand_in_until_the_end():
    async with opened(msgspec.structs.replace(CONFIG, discovery=NOWHERE)) as running:
        stand_ins = StandIns(running)
        said = await told(running, "try it", stand_ins.start_if_empty)
        assert not await StandIns(running).start_if_empty()  # there are nodes now
        await stand_ins.close()
    assert said[1] == "looking for nodes ..."
    assert said[2].startswith("no nodes found. Searched: ")
    counted = said.index("3 nodes, 3 up:")
    assert said[counted - 1].startswith("starting three emulated nodes")


def test_a_program_that_has_nodes_needs_no_stand_ins(monkeypatch):
    monkeypatch.setenv("SOLLOL_DISCOVERY_DEMO_IF_EMPTY", "true")
    with refusing() as port, SOLLOL(SOLLOLConfig(hosts=[f"127.0.0.1:{port}"], gateway_port=0)) as gate:
        assert gate.address


# signals


async def test_a_hang_up_ends_what_had_a_terminal_that_is_gone():
    there = terminal_there()
    assert there is (psutil.Process().terminal() is not None)
    asked, reloads = Asked(), []
    asked.hang_up(had_terminal=True)
    assert asked.stop.is_set() is not there
    other = Asked()
    other.hang_up(had_terminal=False)  # nobody has said yet what to read again
    other.reload = lambda: reloads.append("again")
    other.hang_up(had_terminal=False)
    assert (other.stop.is_set(), reloads) == (False, ["again"])


# settings


async def test_a_cache_that_is_turned_off_is_emptied():
    spec = NodeSpec("a", fixed_delay=0.002, models=(LLAMA_1B,))
    async with EmulatedCluster([spec]) as cluster:
        config = msgspec.structs.replace(CONFIG, nodes=(NodeSettings(cluster.urls[0]),))
        without = msgspec.structs.replace(config, cache=Cache(enabled=False))
        async with opened(config, read=lambda: without) as running:
            gate = Front(running.gateway)
            await gate.looked()
            body = {"model": LLAMA_1B.name, "prompt": "Hi", "stream": False, "options": {"temperature": 0, "num_predict": 3}}
            assert (await gate.ask("POST", "/api/generate", body)).status == 200
            assert len(running.house.cache.store) == 1
            assert (await gate.ask("POST", "/api/reload")).json["changed"] == ["cache.enabled"]
            assert len(running.house.cache.store) == 0
            assert (await gate.ask("DELETE", "/api/cache")).status == 200


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", ["SOLLOL_QUEUE_PRIORITY_STEP_SECONDS", "SOLLOL_DISCOVERY_INTERVAL_SECONDS"])
def test_numbers_are_finite(name: str, value: str):
    with pytest.raises(ConfigError, match=f"{name}: .*expected a number"):
        load(environ={name: value, "HOME": "/nowhere"})


def test_every_number_has_a_range():
    config = load(environ={"HOME": "/nowhere"}).config
    owners = [type(getattr(config, name)) for name in config.__struct_fields__] + [NodeSettings]
    kinds = [type_info(kind) for owner in owners if issubclass(owner, msgspec.Struct) for kind in field_types(owner).values()]
    words = [expected(kind) for kind in kinds if "a number" in expected(kind) or "an integer" in expected(kind)]
    assert len(words) > 20
    assert all(" from " in text or " over " in text for text in words)


def test_hosts_or_no_hosts_say_whether_nodes_are_looked_for():
    assert load(environ={"HOME": "/nowhere"}).config.discovery.enabled
    assert SOLLOLConfig().to_config().discovery.enabled
    assert not SOLLOLConfig(hosts=[]).to_config().discovery.enabled
    assert SOLLOLConfig(hosts=[], discover=True).to_config().discovery.enabled
