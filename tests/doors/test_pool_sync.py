"""`SyncPool`: threads, processes, Ctrl-C, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection

import pytest
from tests.support.wait import wait_until

from sollol.emulator.presets import LLAMA_1B, instant
from sollol.emulator.specs import NodeSpec, embedder
from sollol.emulator.threaded import Machines
from sollol.errors import ShuttingDown
from sollol.pool.sync_pool import SyncPool

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
SPEC = NodeSpec("a", slots=8, fixed_delay=0.002, models=(LLAMA_1B, embedder()))


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([SPEC, replace(SPEC, name="b")]) as opened:
        yield opened


@pytest.fixture
def pool(machines: Machines) -> Iterator[SyncPool]:
    with SyncPool(machines.urls) as opened:
        yield opened


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sollol pool"]


def test_every_call(pool, tmp_path):
    assert pool.ready() is pool
    assert pool.chat(MODEL, HELLO).message.content
    assert pool.generate(MODEL, "Tell me").response
    assert len(pool.embed("nomic-embed-text", ["a", "b"])) == 2
    assert pool.embeddings("nomic-embed-text", "a").embedding
    assert [piece.done for piece in pool.chat(MODEL, HELLO, stream=True, options={"num_predict": 2})] == [False, False, True]
    assert [piece.done for piece in pool.generate(MODEL, "x", stream=True, options={"num_predict": 1})] == [False, True]
    assert MODEL in {model.model for model in pool.list().models}
    assert pool.ps().models[0].size > 0
    assert pool.show(MODEL).details.family
    assert pool.pull("mistral").status == "success"
    assert [piece.status for piece in pool.pull("mistral", stream=True)][-1] == "success"
    assert pool.copy("mistral", "mine").status == "success"
    assert pool.create("yours", from_="mine").status == "success"
    assert [piece.status for piece in pool.create("yours", from_="mine", stream=True)][-1] == "success"
    assert pool.delete("mine").status == "success"
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert pool.create_blob(file).startswith("sha256:")
    assert pool.get_stats()["failed_requests"] == 0


def test_nodes_can_be_read_and_changed_from_here(pool, machines):
    first, second = machines.urls
    assert [node.url for node in pool.nodes] == [first, second]
    assert pool.remove_node(second)
    pool.chat(MODEL, HELLO)
    assert [(node.url, node.is_healthy) for node in pool.nodes] == [(first, True)]
    assert pool.add_node(second).url == second
    assert pool.chat(MODEL, HELLO, node=second.removeprefix("http://")).routing.host in second


def test_fifty_threads_at_once(machines, pool):
    with ThreadPoolExecutor(50) as threads:
        replies = list(threads.map(lambda _: pool.chat(MODEL, HELLO), range(200)))
    assert all(reply.message.content for reply in replies)
    assert len(pool_threads()) == 1
    assert pool.get_stats()["successful_requests"] == 200


def test_it_begins_with_the_first_call_and_leaves_no_thread(machines):
    began = time.perf_counter()
    pool = SyncPool(machines.urls)
    assert time.perf_counter() - began < 0.1
    assert pool_threads() == []
    assert [node.url for node in pool.nodes] == machines.urls
    assert pool_threads() == []
    pool.chat(MODEL, HELLO)
    assert len(pool_threads()) == 1
    began = time.perf_counter()
    pool.close()
    assert time.perf_counter() - began < 0.5
    assert pool_threads() == []
    pool.close()
    with pytest.raises(ShuttingDown, match="closed"):
        pool.chat(MODEL, HELLO)


def test_forgetting_it_ends_it(machines):
    pool = SyncPool(machines.urls)
    pool.chat(MODEL, HELLO)
    del pool
    gc.collect()
    wait_until(lambda: not pool_threads(), 5)


def test_a_loop_that_is_left_ends_the_answer_at_the_node():
    slow = replace(SPEC, fixed_delay=None, decode=20)
    with Machines([slow]) as machines, SyncPool(machines.urls) as pool:
        in_flight = lambda: machines.see(lambda cluster: cluster["a"].stats.in_flight)  # noqa: E731 - asked again and again
        for _ in pool.generate(MODEL, "x", stream=True, options={"num_predict": 5_000}):
            break
        wait_until(lambda: in_flight() == 0, 5)
        with pool.generate(MODEL, "x", stream=True, options={"num_predict": 5_000}) as stream:
            next(stream)
            assert in_flight() == 1
        wait_until(lambda: in_flight() == 0, 5)


def test_closing_ends_calls_of_other_threads():
    with Machines(instant(30.0)) as machines, ThreadPoolExecutor(2) as threads:
        pool = SyncPool(machines.urls)
        pool.generate("bench", "")  # loads it; else the second request waits while the first one loads the model
        call = threads.submit(pool.chat, "bench", HELLO)
        stream = threads.submit(next, pool.chat("bench", HELLO, stream=True))
        wait_until(lambda: machines.see(lambda cluster: cluster.nodes[0].stats.in_flight) == 2, 5)
        began = time.perf_counter()
        pool.close()
        assert time.perf_counter() - began < 0.5
        for waiting in (call, stream):
            with pytest.raises(ShuttingDown):
                waiting.result(5)


async def test_it_waits_also_where_a_loop_runs(pool):
    assert pool.chat(MODEL, HELLO).message.content
    replies = await asyncio.gather(*(asyncio.to_thread(pool.chat, MODEL, HELLO) for _ in range(5)))
    assert len(replies) == 5


CTRL_C = """
import os, signal, sys, threading, time
from sollol.pool.sync_pool import SyncPool

pool = SyncPool(sys.argv[1])
pool.ready()
hello = [{"role": "user", "content": "Hello!"}]
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    if sys.argv[2] == "whole":
        pool.chat("bench", hello)
    else:
        next(pool.chat("bench", hello, stream=True))
except KeyboardInterrupt:
    print(f"{time.monotonic() - began:.2f}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("way", ["whole", "stream"])
def test_ctrl_c_works_at_once_and_the_process_ends(way):
    with Machines(instant(30.0)) as machines:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", CTRL_C, machines.urls[0], way],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr == ""
        assert float(ran.stdout) < 1.0
        wait_until(lambda: machines.see(lambda cluster: cluster.nodes[0].stats.in_flight) == 0, 5)


def test_a_process_ends_though_its_pool_was_not_closed(machines):
    script = "import sys; from sollol.pool.sync_pool import SyncPool; p = SyncPool(sys.argv[1]); print(len(p.list().models))"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, machines.urls[0]],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "2\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 warns of any fork beside threads
def test_a_forked_child_can_use_the_pool(pool):
    pool.chat(MODEL, HELLO)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run on in here
        signal.alarm(20)
        said = b"nothing"
        try:
            reply = pool.chat(MODEL, HELLO)
            said = f"{bool(reply.message.content)} {len(pool_threads())}".encode()
            pool.close()
        finally:
            os.write(writing, said)
            os._exit(0)
    assert os.read(reading, 100) == b"True 1"
    assert os.waitpid(child, 0)[1] == 0
    os.close(reading)
    os.close(writing)
    assert pool.chat(MODEL, HELLO).message.content


def child(pool: SyncPool, answers: Connection) -> None:
    with pool:
        answers.send(pool.chat(MODEL, HELLO).message.content)


def test_a_spawned_child_gets_a_pool_of_its_own(pool):
    pool.chat(MODEL, HELLO)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=child, args=(pool, there))
    process.start()
    assert here.poll(20)
    assert here.recv()
    process.join(20)
    assert process.exitcode == 0


def test_a_pool_can_be_pickled_with_what_it_was_told(machines):
    pool = SyncPool(machines.urls[0], app_name="mine", timeout=7)
    pool.add_node(machines.urls[1])
    with pickle.loads(pickle.dumps(pool)) as again:
        assert [node.url for node in again.nodes] == machines.urls
        assert again.chat(MODEL, HELLO).message.content
