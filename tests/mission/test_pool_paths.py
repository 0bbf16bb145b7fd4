"""What importing and making a pool does, and does not do; the documented import paths; the types that checkers see."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.need import require

from sollol.emulator.presets import instant
from sollol.emulator.threaded import Machines

ROOT = Path(__file__).parents[2]
PATHS = {
    "sollol": ["AsyncPool", "HybridRouter", "OllamaPool", "Priority", "RPCBackend", "SOLLOL", "SOLLOLConfig", "SyncPool"],
    "sollol.client": ["AsyncClient", "Client"],
    "sollol.discovery": ["discover_ollama_nodes"],
    "sollol.docker_ip_resolver": ["is_docker_ip", "resolve_docker_ip"],
    "sollol.gpu_controller": ["SOLLOLGPUController", "integrate_with_router"],
    "sollol.hedging": ["AdaptiveHedging"],
    "sollol.intelligence": ["IntelligentRouter", "TaskContext"],
    "sollol.ollama": ["AsyncClient", "ChatResponse", "Client", "ResponseError"],
    "sollol.pool": ["AsyncPool", "OllamaPool", "SyncPool"],
    "sollol.priority_helpers": ["Priority", "get_priority_for_role"],
    "sollol.routing_modes": ["RoutingMode", "TaskPriority"],
    "sollol.sync_wrapper": ["HybridRouter", "OllamaPool"],
}


def said(script: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in PATHS.items() for name in names])
def test_documented_paths_have_their_names(path, name):
    module = importlib.import_module(path)
    assert getattr(module, name) is not None


@pytest.mark.parametrize("path", ["sollol", "sollol.pool"])
def test_an_unknown_name_is_an_attribute_error(path):
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = importlib.import_module(path).nothing_like_it


def test_an_import_loads_nothing_and_starts_nothing():
    script = (
        "import sys, threading, time; before = set(sys.modules); began = time.perf_counter(); import sollol; "
        "took = time.perf_counter() - began; "
        "print(took < 0.15, threading.active_count(), sorted(n for n in set(sys.modules) - before if n.startswith('sollol')))"
    )
    assert said(script) == "True 1 ['sollol']"
    script = "import sys, sollol; stdlib = sys.stdlib_module_names; print([m for m in sys.modules if m.split('.')[0] in ("
    assert said(script + "'msgspec', 'httptools', 'psutil', 'click', 'prometheus_client', 'asyncio')])") == "[]"


@pytest.mark.parametrize("kind", ["AsyncPool", "SyncPool", "OllamaPool"])
def test_making_a_pool_with_nodes_contacts_nobody_and_is_quick(kind):
    script = (
        "import sys, threading, time, sollol; make = getattr(sollol, sys.argv[1]); began = time.perf_counter(); "
        "pool = make(nodes=[sys.argv[2]]); print(time.perf_counter() - began < 0.1, threading.active_count())"
    )
    with Machines(instant(0.0)) as machines:
        assert said(script, kind, machines.urls[0]) == "True 1"
        assert machines.see(lambda cluster: cluster.nodes[0].stats.connections) == 0


TYPES = """
from collections.abc import Awaitable
from typing import Any, assert_type

from sollol import AsyncPool, HybridRouter, OllamaPool, SyncPool
from sollol.intelligence import IntelligentRouter, TaskContext
from sollol.ollama import AsyncClient, Client
from sollol.pool.replies import ChatReply, EmbedReply, GenerateReply, Message, Routing
from sollol.pool.streams import AsyncReplies
from sollol.pool.sync_pool import SyncReplies
from sollol.sync_wrapper import OllamaPool as WaitingPool


def sync(pool: SyncPool, both: OllamaPool, waiting: WaitingPool, client: Client, streamed: bool) -> None:
    assert_type(pool.chat("m", []), ChatReply)
    assert_type(pool.chat("m", [], stream=False), ChatReply)
    assert_type(pool.chat("m", [], stream=True), SyncReplies[ChatReply])
    assert_type(pool.chat("m", [], stream=streamed), ChatReply | SyncReplies[ChatReply])
    assert_type(pool.generate("m", "p", options={"seed": 1}), GenerateReply)
    assert_type(pool.embed("m", ["a"]), EmbedReply)
    assert_type(pool.chat("m", []).message.content, str | None)
    assert_type(waiting.chat("m", [], timeout=5).message, Message)
    assert_type(client.chat("m", []), ChatReply)
    assert_type([piece.response for piece in pool.generate("m", "p", stream=True)], list[str])
    assert_type([piece.message.content for piece in both.chat("m", [], stream=True)], list[str | None])
    assert_type(pool.list().models[0].size, int)
    assert_type(pool.nodes[0].host, str)
    assert_type(pool.add_node("h", 1).port, int)
    assert_type(pool.remove_node("h"), bool)
    assert_type(both.get_stats(), dict[str, Any])
    assert_type(pool.chat_batch("m", [[]]), list[ChatReply])
    assert_type(both.generate_batch("m", ["p"])[0].response, str)
    assert_type(both.warm_model("m"), bool)
    assert_type(both.warm_models(["m"]), dict[str, bool])
    assert_type(both.count_unique_physical_hosts(), int)
    assert_type(OllamaPool.auto_configure(), OllamaPool)
    assert_type(IntelligentRouter(both).route_request("m", [], TaskContext(operation="chat")), ChatReply)
    assert_type(both.chat("m", []).message.role, str)
    reply: ChatReply = both.chat("m", [], priority=7)
    assert_type(reply.routing, Routing | None)


async def asynchronous(pool: AsyncPool, both: OllamaPool, client: AsyncClient, router: HybridRouter) -> None:
    call: Awaitable[ChatReply] = pool.chat("m", [])
    assert_type(await call, ChatReply)
    assert_type(await pool.chat("m", []), ChatReply)
    assert_type(await client.chat("m", []), ChatReply)
    assert_type(await pool.embed("m", "x"), EmbedReply)
    assert_type(pool.chat("m", [], stream=True), AsyncReplies[ChatReply])
    async for piece in pool.generate("m", "p", stream=True):
        assert_type(piece, GenerateReply)
    async for part in both.chat("m", [], stream=True):
        assert_type(part, ChatReply)
    assert_type(await both.chat("m", []), ChatReply)
    assert_type(await both.embed("m", []), EmbedReply)
    assert_type(await both.chat_async("m", []), ChatReply)
    assert_type(await both.generate_async("m", "p"), GenerateReply)
    async for last in await both.chat_async("m", [], stream=True):
        assert_type(last, ChatReply)
    assert_type(await OllamaPool.auto_configure(), OllamaPool)
    assert_type(len((await both.embed_batch("m", ["a"], priority=7))[0]), int)
    assert_type(await both.chat_batch("m", [[]]), list[ChatReply])
    assert_type(await pool.generate_batch("m", ["p"]), list[GenerateReply])
    assert_type(await router.generate("m", messages=[]), ChatReply | GenerateReply)
    async with AsyncPool() as opened:
        assert_type(opened, AsyncPool)
"""
WRONG = """
from sollol import OllamaPool, SyncPool

def wrong(pool: SyncPool, both: OllamaPool) -> None:
    pool.chat("m", [], stream=True).message
    both.chat("m", [], colour="red")
    number: int = pool.embed("m", ["a"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_see_real_types(checker, tmp_path):
    require(importlib.util.find_spec(checker), f"{checker}: run `make test`")
    (tmp_path / "program.py").write_text(TYPES)
    (tmp_path / "wrong.py").write_text(WRONG)
    options = {"mypy": ["--strict", "--follow-imports=silent"], "pyright": ["--pythonpath", sys.executable]}[checker]
    right, wrong = (
        subprocess.run(
            [sys.executable, "-m", checker, *options, str(tmp_path / name)],
            cwd=ROOT if checker == "mypy" else tmp_path,
            capture_output=True,
            text=True,
            timeout=55,
            check=False,
        )
        for name in ("program.py", "wrong.py")
    )
    assert right.returncode == 0, right.stdout + right.stderr
    assert wrong.returncode == 1
    assert {int(line) for line in re.findall(r"wrong\.py:(\d+)(?::\d+)?(?: -|:) error", wrong.stdout)} == {5, 6, 7}, (
        wrong.stdout
    )
