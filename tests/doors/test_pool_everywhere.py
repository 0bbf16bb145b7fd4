"""`OllamaPool` wherever programs run: notebooks, threads with loops of their own, loops one after another, other processes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from tests.support.need import require

from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.specs import NodeSpec, embedder
from sollol.emulator.threaded import Machines
from sollol.errors import ShuttingDown
from sollol.pool.async_pool import AsyncPool
from sollol.pool.ollama_pool import OllamaPool

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
SPEC = NodeSpec("a", slots=8, fixed_delay=0.002, models=(LLAMA_1B, embedder()))
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
beside_threads = pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # Python 3.12 warns of forks beside threads


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([SPEC, replace(SPEC, name="b")]) as opened:
        yield opened


@pytest.fixture
def pool(machines: Machines) -> Iterator[OllamaPool]:
    with OllamaPool(machines.urls) as opened:
        yield opened


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sollol pool"]


# --- notebooks

CELLS = [
    "import asyncio\nfrom sollol import OllamaPool, SyncPool\npool = OllamaPool(nodes=NODES)\nhello = HELLO",
    "print(pool.chat(model=MODEL, messages=hello)['message']['content'] != '')",
    "print((await pool.chat(model=MODEL, messages=hello)).message.content != '')",
    "replies = await asyncio.gather(*[pool.chat(model=MODEL, messages=hello) for _ in range(5)])\nprint(len(replies))",
    "print(''.join(piece.message.content for piece in pool.chat(model=MODEL, messages=hello, stream=True)) != '')",
    "print([piece.done async for piece in pool.generate(model=MODEL, prompt='x', stream=True)][-1])",
    "print(len(pool.embed(model='nomic-embed-text', input='a text')))",
    "print(pool.warm_model(MODEL) == True, sum(pool.warm_models([MODEL]).values()))",
    "print(pool.get_stats()['failed_requests'], len(pool.nodes), pool.explain(MODEL)['chosen'] is not None)",
    "with SyncPool(NODES) as waiting:\n    print(waiting.chat(MODEL, hello).message.content != '')",
    "found = await OllamaPool(nodes=NODES)\nprint((await found.chat_async(MODEL, hello)).done)\nfound.close()",
    "async with OllamaPool(nodes=NODES) as other:\n    print(await other.chat(MODEL, hello) != {})",
    "pool.close()\nimport threading\nprint([t.name for t in threading.enumerate() if t.name == 'sollol pool'])",
]
PRINTED = ["True", "True", "5", "True", "True", "768", "True 1", "0 2 True", "True", "True", "True", "[]"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # of the notebook's own machinery
def test_a_notebook_in_every_form(machines):
    for name in ("nbclient", "nbformat", "ipykernel"):
        require(importlib.util.find_spec(name), f"{name}: run `make test`")
    import nbclient
    import nbformat

    given = f"NODES = {machines.urls!r}\nMODEL = {MODEL!r}\nHELLO = {HELLO!r}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in [given, *CELLS]])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert "".join(output.text for output in outputs if output.get("name") == "stdout").splitlines() == PRINTED
    told = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert told.count("RuntimeWarning") == 1  # one call blocked the loop of the notebook, and it says so once


# --- threads and loops


def test_fifty_threads_that_wait_and_fifty_with_loops_of_their_own(pool):
    def waits(_: int) -> Any:
        return pool.chat(MODEL, HELLO)

    def awaits(_: int) -> Any:
        async def main() -> Any:
            return (await asyncio.gather(pool.chat(MODEL, HELLO), pool.chat_async(MODEL, HELLO)))[0]

        return asyncio.run(main())

    with ThreadPoolExecutor(100) as threads:
        calls = [threads.submit(work, number) for number in range(50) for work in (waits, awaits)]
        assert all(call.result(30).message.content for call in calls)
    assert len(pool_threads()) == 1
    assert pool.get_stats()["successful_requests"] == 150


def test_one_loop_after_another_and_none_between(pool):
    async def main() -> list[Any]:
        stream = pool.chat(MODEL, HELLO, stream=True)
        return [
            await pool.chat(MODEL, HELLO),
            [piece async for piece in stream][-1],
            await pool.embed_async("nomic-embed-text", "x"),
        ]

    for _ in range(3):
        assert all(asyncio.run(main()))
        assert pool.chat(MODEL, HELLO).done


async def test_what_is_not_awaited_ends_all_the_same(machines, pool):
    waiting = pool.chat(MODEL, HELLO)
    del waiting
    async with asyncio.timeout(5):
        while (await asyncio.to_thread(pool.get_stats))["successful_requests"] == 0:  # noqa: ASYNC110 - another thread's doing
            await asyncio.sleep(0.005)


async def test_a_wait_that_is_cancelled_ends_the_request_at_the_node():
    slow = replace(SPEC, fixed_delay=30.0)
    with Machines([slow]) as machines, OllamaPool(machines.urls) as pool:
        in_flight = lambda: machines.see(lambda cluster: cluster["a"].stats.in_flight)  # noqa: E731 - asked again and again
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.chat(MODEL, HELLO), 0.3)
        end = time.monotonic() + 5
        while in_flight():
            assert time.monotonic() < end
            await asyncio.sleep(0.005)


# --- other processes


def asked(pool: OllamaPool, answers: Any) -> None:
    answers.put((pool.chat(MODEL, HELLO).message.content != "", len(pool_threads())))
    pool.close()


def asked_by_awaiting(pool: AsyncPool, answers: Any) -> None:
    async def main() -> bool:
        async with pool:
            return (await pool.chat(MODEL, HELLO)).message.content != ""

    answers.put((asyncio.run(main()), 0))


def in_child(way: str, target: Any, pool: Any) -> Any:
    context = multiprocessing.get_context(way)
    answers = context.Queue()
    process = context.Process(target=target, args=(pool, answers))
    process.start()
    try:
        return answers.get(timeout=30)
    except queue.Empty:
        raise AssertionError(f"the child said nothing within 30 s; exit code {process.exitcode}") from None
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
        answers.close()
        answers.join_thread()


@forks
@beside_threads
@pytest.mark.parametrize("used", [True, False])
def test_a_forked_child_uses_what_it_inherits(machines, pool, used):
    if used:
        pool.chat(MODEL, HELLO)
    assert in_child("fork", asked, pool) == (True, 1)
    assert pool.chat(MODEL, HELLO).done


def test_a_spawned_child_gets_a_pool_of_its_own(pool):
    pool.chat(MODEL, HELLO)
    assert in_child("spawn", asked, pool) == (True, 1)


@forks
@beside_threads
def test_a_fork_in_the_middle_of_calls_hangs_nobody(pool):
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            pool.chat(MODEL, HELLO)

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(busy) for _ in range(4)]
        try:
            for _ in range(5):
                assert in_child("fork", asked, pool) == (True, 1)
        finally:
            over.set()
        for call in calls:
            call.result(10)


@forks
@beside_threads
async def test_a_forked_child_uses_an_async_pool_in_its_own_loop(machines):
    async with AsyncPool(machines.urls) as pool:
        await pool.chat(MODEL, HELLO)
        assert await asyncio.to_thread(in_child, "fork", asked_by_awaiting, pool) == (True, 0)
        assert (await pool.chat(MODEL, HELLO)).done


@forks
@beside_threads
def test_a_closed_pool_is_closed_in_the_child_too(machines):
    pool = OllamaPool(machines.urls)
    pool.chat(MODEL, HELLO)
    pool.close()
    child = os.fork()
    if child == 0:  # nothing of pytest may run on in here
        signal.alarm(20)
        code = 1
        try:
            pool.chat(MODEL, HELLO)
        except ShuttingDown:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def one(pool: OllamaPool, number: int) -> str:
    return str(pool.chat(MODEL, [{"role": "user", "content": str(number)}]).model)


def test_workers_of_an_executor_share_the_recipe_of_a_pool(pool):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as workers:
        assert set(workers.map(one, [pool] * 4, range(4))) == {MODEL}


def test_a_pool_is_pickled_with_its_mode(machines):
    with OllamaPool(machines.urls, app_name="mine", enable_hedging=True) as pool:
        pool.set_routing_mode("fast")
        with pickle.loads(pickle.dumps(pool)) as again:
            assert type(again) is OllamaPool
            assert again.chat(MODEL, HELLO).routing.mode == "fast"


# --- nothing behind the back

QUIET = """
import json, os, sys, threading, time
began = time.perf_counter()
import sollol
imported = time.perf_counter() - began
from sollol.drivers.loops import fastest
if fastest() is not None:
    fastest()().close()  # libuv has one pipe for the whole process, made with the first loop and never closed
files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
pool = sollol.OllamaPool(nodes=json.loads(sys.argv[1]))
pool.chat(sys.argv[2], [{"role": "user", "content": "Hello!"}])
list(pool.chat(sys.argv[2], [{"role": "user", "content": "Hello!"}], stream=True))
began = time.perf_counter()
pool.close()
closed = time.perf_counter() - began
again = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
print(json.dumps([imported, closed, threading.active_count(), again - files]))
"""


def test_a_program_is_left_as_it_was(machines):
    import subprocess

    command = [sys.executable, "-W", "error", "-c", QUIET, json.dumps(machines.urls), MODEL]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    imported, closed, threads, files = json.loads(ran.stdout)
    assert imported < 0.15
    assert closed < 0.5
    assert (threads, files) == (1, 0)
