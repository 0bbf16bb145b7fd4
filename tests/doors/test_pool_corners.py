"""Pools where something is odd: terminals that are gone, calls in the wrong thread, values of other kinds, nodes that lie."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
import time
from collections import OrderedDict, UserDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Annotated, Any

import pytest
from tests.support.fakes import FakeExchange
from tests.support.raw_peer import Told
from tests.support.scripted import Seen, scripted

from sollol import HybridRouter, OllamaPool
from sollol.core.ports import Outgoing
from sollol.core.types import Endpoint, Node
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.specs import NodeSpec, embedder
from sollol.emulator.threaded import Machines
from sollol.errors import (
    AllAttemptsFailed,
    BadRequest,
    BadValue,
    BrokeMidStream,
    ConfigError,
    NodeUnreachable,
    NoNodes,
    ShuttingDown,
    SollolError,
)
from sollol.gpu_controller import SOLLOLGPUController
from sollol.intelligence import IntelligentRouter, TaskContext
from sollol.pool import bodies
from sollol.pool.async_pool import AsyncPool
from sollol.pool.client import CONNECTION, as_ollama_says
from sollol.pool.sinks import Flow
from sollol.pool.sync_pool import SyncPool

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
SPEC = NodeSpec("a", slots=8, fixed_delay=0.002, models=(LLAMA_1B, embedder()))


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([SPEC]) as opened:
        yield opened


@pytest.fixture
def pool(machines: Machines) -> Iterator[OllamaPool]:
    with OllamaPool(machines.urls) as opened:
        yield opened


# the terminal


@contextmanager
def at_a_terminal(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard error is a terminal; this is the end of the person there. The machines are what a search finds."""
    monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", machines.urls[0].rpartition(":")[2])
    monkeypatch.setenv("SOLLOL_DISCOVERY_DOCKER", "false")
    monkeypatch.setenv("SOLLOL_DISCOVERY_MDNS", "false")
    ours, theirs = pty.openpty()
    with suppress(OSError), open(theirs, "w") as out, monkeypatch.context() as patch:  # noqa: PTH123 - a descriptor
        patch.setattr(sys, "stderr", out)
        yield ours


def test_a_person_at_a_terminal_is_told_what_was_found_and_chosen(machines, monkeypatch):
    with at_a_terminal(machines, monkeypatch) as person:
        with OllamaPool() as pool:
            assert pool.chat(MODEL, HELLO)["done"]
        os.set_blocking(person, False)
        told = os.read(person, 4_000).decode().splitlines()
        os.close(person)
    place = machines.urls[0].removeprefix("http://")
    assert told[:2] == ["Discovering Ollama nodes...", f"Found 1 node: {place}"]
    assert told[2].startswith(f"Selected node: {place} (")


def test_a_terminal_that_is_gone_costs_no_request(machines, monkeypatch):
    answers: list[object] = []
    with at_a_terminal(machines, monkeypatch) as person, OllamaPool() as pool:
        assert pool.ready()
        os.close(person)
        answers += [pool.chat(MODEL, HELLO)["done"], len(pool.embed_batch("nomic-embed-text", ["a", "b"], progress=True))]
    assert answers == [True, 2]


def test_a_program_without_standard_error(machines, monkeypatch):
    """As a program with windows only has it."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        with OllamaPool(machines.urls, search=True) as pool:
            assert pool.chat(MODEL, HELLO)["done"]
            assert pool.embed_batch("nomic-embed-text", ["a", "b"], progress=True)


# calls in other threads, before the beginning and after the end


def test_a_call_that_would_wait_for_itself_is_refused(pool):
    async def calls_the_pool() -> object:
        return pool.get_stats()

    with pytest.raises(SollolError, match="in the pool's own thread"):
        pool.begin(calls_the_pool()).result(10)


def test_work_that_is_given_up_before_it_began_does_not_begin(pool):
    began: list[str] = []

    async def holds_the_loop() -> None:
        time.sleep(0.05)  # noqa: ASYNC251 - so that nothing else begins meanwhile

    async def begins() -> None:
        began.append("it")

    holding, given_up = pool.begin(holds_the_loop()), pool.begin(begins())
    assert given_up.cancel()
    holding.result(10)
    assert pool.blocking(asyncio.sleep(0, "done")) == "done"
    assert not began


def test_a_pool_that_was_closed_before_its_first_call_stays_closed(machines):
    pool = OllamaPool(machines.urls)
    pool.close()
    for call in (lambda: pool.chat(MODEL, HELLO), pool.get_stats, lambda: pool.begin(asyncio.sleep(0)), pool.ready):
        with pytest.raises(ShuttingDown, match="closed"):
            call()
    with pytest.raises(ShuttingDown, match="closed"):
        list(pool.chat(MODEL, HELLO, stream=True))


async def test_it_is_closed_by_an_async_block_and_streams_prompts(machines):
    async with OllamaPool(machines.urls) as pool:
        pieces = [piece async for piece in await pool.generate_async(MODEL, "Hi", stream=True, options={"num_predict": 3})]
        assert pieces[-1].done
        coming = pool.chat(MODEL, HELLO)
        with pytest.warns(RuntimeWarning, match="await"):
            coming.note = "mine"  # to change it is to use it: it waits
        assert (coming["note"], coming["done"]) == ("mine", True)
    with pytest.raises(ShuttingDown):
        await pool.chat_async(MODEL, HELLO)


def test_many_different_wishes_are_all_kept_to(machines):
    with SyncPool(machines.urls) as pool:
        for seconds in range(1, 261):
            assert pool.embed("nomic-embed-text", "same", timeout=seconds).embeddings


# models


def test_a_model_is_pushed():
    own = replace(LLAMA_1B, name="ann/own:latest", size=1_000)
    with Machines([replace(SPEC, models=(own,))]) as machines, SyncPool(machines.urls) as pool:
        assert pool.push("ann/own").status == "success"
        assert [piece.status for piece in pool.push("ann/own", stream=True)][-1] == "success"


async def test_a_model_is_made_with_messages_of_any_kind():
    async def made(seen: Seen) -> None:
        seen.reply(200, {"status": "success"})

    async with scripted("m") as node, AsyncPool([node.url]) as pool:
        node.answers["POST", "/api/create"] = made
        assert (await pool.create("new", from_="m", messages=[UserDict(role="user", content="Hi")])).status == "success"
        [seen] = node.asked("POST", "/api/create")
    assert seen.json["messages"] == [{"role": "user", "content": "Hi"}]
    assert seen.json["from"] == "m"


# what nodes may answer


async def in_a_stream(answer: Any) -> list[Any]:
    async with scripted("m") as node, AsyncPool([node.url]) as pool:
        node.answers["POST", "/api/chat"] = answer
        return [piece async for piece in pool.chat("m", HELLO, stream=True)]


async def test_a_line_that_is_no_object_breaks_the_stream():
    async def list_instead(seen: Seen) -> None:
        seen.begin()
        seen.line({"model": "m", "message": {"content": "a"}, "done": False})
        seen.line(["done"])
        seen.end()

    with pytest.raises(BrokeMidStream, match="no JSON object"):
        await in_a_stream(list_instead)


async def test_a_stream_that_is_refused_says_why_in_full():
    async def refuses(seen: Seen) -> None:
        seen.reply(400, {"error": "why " * 20_000})

    with pytest.raises(BadRequest, match="why why why"):
        await in_a_stream(refuses)


# the sink of a stream


async def test_a_reader_who_is_slow_slows_the_node():
    node = Node("a:1", Endpoint("a", 1))
    flow = Flow()
    exchange, later = (FakeExchange(node, Outgoing("POST", "/", ()), Told()) for _ in range(2))
    flow.attach(exchange)
    flow.head(200, ())
    flow.data(b"x" * 262_143)
    assert not exchange.paused
    flow.data(b"x")
    assert exchange.paused
    flow.attach(later)  # another node goes on with the answer
    assert later.paused
    assert len(await flow.read()) == 262_144
    assert not later.paused
    flow.attach(None)
    flow.data(b"x" * 300_000)
    flow.abort()
    assert len(await flow.read()) == 300_000
    assert (await flow.read(), flow.aborted) == (b"", True)


# values


def fruits(basket: "Nowhere", how: Annotated[int, "of them"] = 1) -> str:  # type: ignore[name-defined]  # noqa: F821, UP037
    """Count fruits.

    Args:
        they are counted
        basket: where
          they lie
    """
    return f"{basket}{how}"


def typed(
    how: Annotated[int, "of them"], sizes: Mapping[str, int], kept: OrderedDict[str, int], names: Iterator[str], what: object
) -> None:
    """All kinds."""


def test_hints_of_all_kinds():
    (unknown, known) = bodies.tools([fruits, typed])
    assert unknown["function"]["parameters"]["properties"] == {
        "basket": {"type": "string", "description": "where they lie"},
        "how": {"type": "string", "description": ""},
    }
    kinds = {name: value["type"] for name, value in known["function"]["parameters"]["properties"].items()}
    assert kinds == {"how": "integer", "sizes": "object", "kept": "object", "names": "array", "what": "string"}


def test_values_that_are_like_others():
    assert bodies.messages(None) is None
    assert bodies.encoded({"options": UserDict(seed=1)}) == b'{"options":{"seed":1}}'
    assert bodies.messages([UserDict(role="user")]) == [{"role": "user"}]
    long = "QUFB" * 200  # longer than a name of a file may be
    assert bodies.images([long]) == [long]
    endless: list[Any] = []
    endless.append(endless)
    for wrong in (endless, "\ud800"):
        with pytest.raises(BadValue, match="cannot be written as JSON"):
            bodies.encoded({"options": wrong})


@pytest.mark.parametrize(("wishes", "words"), [({"hedge": 5}, "hedge"), ({"hedge": True}, "hedge"), ({"cache": "no"}, "cache")])
async def test_wishes_that_cannot_be(machines, wishes, words):
    async with AsyncPool(machines.urls) as pool:
        with pytest.raises(BadValue, match=words):
            await pool.chat(MODEL, HELLO, **wishes)


def test_what_the_other_package_would_raise():
    unreachable = AllAttemptsFailed([NodeUnreachable("a:1", "no route")])
    mixed = AllAttemptsFailed([NodeUnreachable("a:1", "no route"), BrokeMidStream("b:1", "gone")])
    assert isinstance(as_ollama_says(unreachable), ConnectionError)
    assert str(as_ollama_says(NoNodes("none"))) == f"{CONNECTION}: none"
    assert as_ollama_says(mixed).status_code == mixed.status


# routers


def test_the_hybrid_router_answers_prompts_and_texts(pool):
    with HybridRouter(ollama_pool=pool) as router:
        assert router.generate(MODEL, "Hi", options={"num_predict": 3})["response"]
        assert router.embed("nomic-embed-text", ["a", "b"]).embeddings
        assert router.get_stats()["splitting"] is False
    assert pool.chat(MODEL, HELLO)


@pytest.mark.parametrize(
    ("wrong", "words"), [({"port": 1}, 'needs a "host"'), ({"host": ""}, 'needs a "host"'), (5, "not int"), ("a:b", "a:b")]
)
def test_an_rpc_backend_that_cannot_be(wrong, words):
    with pytest.raises(ConfigError, match=words):
        HybridRouter(rpc_backends=[wrong])


def test_a_router_without_a_context_or_a_hurry(pool):
    router = IntelligentRouter(pool)
    assert router.route_request(MODEL, HELLO)["done"]
    assert router.route_request(MODEL, HELLO, TaskContext(requires_gpu=False))["done"]
    assert router.analyze_request("nobody-has-it", HELLO).expected_seconds is None


@pytest.mark.parametrize(("given", "words"), [({"priority_models": MODEL}, "list of names"), ({"every": 0}, "over 0")])
def test_a_gpu_controller_that_cannot_be(pool, given, words):
    with pytest.raises(BadValue, match=words):
        SOLLOLGPUController(pool, **given)


def test_the_gpu_controller_says_which_node_could_not():
    with Machines([SPEC, replace(SPEC, name="b", gpu=False)]) as machines, OllamaPool(machines.urls) as pool:
        machines.see(lambda cluster: cluster["a"].faults.set(status=500))
        with SOLLOLGPUController(pool, [MODEL]) as controller:
            [first], [second] = controller.ensure(), controller.ensure()
        for kept in (first, second):
            assert not kept.on_gpu
            assert f"{machines.urls[0].removeprefix('http://')} could not load it" in kept.note
        assert f"{machines.urls[1].removeprefix('http://')} has no GPU" in second.note  # once a model was loaded there
        with SOLLOLGPUController(pool) as idle:
            idle.wants(MODEL)
            assert idle.report() == []
