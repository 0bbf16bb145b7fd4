"""A gateway from start to stop: as an object, as a command, on any thread, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from tests.support.front import front
from tests.support.gateway import get_json, post, wait_until_up
from tests.support.processes import Running, python
from tests.support.wait import wait_until

from sollol import SOLLOL, SOLLOLConfig
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines
from sollol.errors import ConfigError, PortTaken, SollolError

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
QUICK = NodeSpec("quick", prefill=100_000, decode=5_000, slots=4, load_gbps=1e6, models=(LLAMA_1B,))
SLOW = NodeSpec("slow", prefill=100_000, decode=10, slots=4, load_gbps=1e6, models=(LLAMA_1B,))


@pytest.fixture(scope="module", autouse=True)
def one_before() -> None:
    """uvloop opens two descriptors once for the whole process; here they are not to be mistaken for something left."""
    with SOLLOL(settings()):
        pass


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([QUICK]) as opened:
        yield opened


def settings(*hosts: str, **more: Any) -> SOLLOLConfig:
    return SOLLOLConfig(hosts=list(hosts), gateway_port=0, **more)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def nothing_left() -> Iterator[None]:
    """No thread, no socket and no open file more than before, once the event loops are closed."""
    process = psutil.Process()

    def more() -> bool:
        return threading.active_count() > threads or process.num_fds() > descriptors

    gc.collect()  # what earlier tests left for it is not counted as ours
    threads, descriptors = threading.active_count(), process.num_fds()
    yield
    try:
        wait_until(lambda: not more(), 5)  # the other end of a closed connection is closed by another thread
    except AssertionError as error:
        raise AssertionError(f"{threading.enumerate()}, {process.net_connections()}") from error


# as an object


def test_start_returns_when_the_port_answers_and_stop_ends_everything(machines):
    with nothing_left():
        gate = SOLLOL(settings(*machines.urls))
        assert gate.address == ""
        gate.start(blocking=False)
        port = port_of(gate.address)
        assert get_json(f"{gate.address}/api/health")["service"] == "SOLLOL"
        wait_until_up(gate.address, 1)
        assert post(f"{gate.address}/api/chat", {"model": MODEL, "messages": HELLO})[0] == 200
        begun = time.perf_counter()
        gate.stop()
        assert time.perf_counter() - begun < 0.5
        assert gate.address == ""
        assert not answers(port)
        gate.stop()  # a second time does nothing


def test_as_a_context_manager_and_again():
    gate = SOLLOL(settings())
    with nothing_left():
        for _ in range(2):
            with gate as running:
                assert running is gate
                assert answers(port_of(gate.address))
            assert gate.address == ""


def test_it_stops_also_when_the_block_fails():
    with nothing_left(), pytest.raises(ZeroDivisionError), SOLLOL(settings()):
        raise ZeroDivisionError


def test_starting_twice_is_an_error_and_harms_nothing():
    with SOLLOL(settings()) as gate:
        with pytest.raises(SollolError, match="runs already"):
            gate.start(blocking=False)
        assert get_json(f"{gate.address}/api/health")["status"] == "no-nodes"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_taken_port_is_an_error_at_once(blocking):
    with SOLLOL(settings()) as first, nothing_left():
        port = port_of(first.address)
        second = SOLLOL(SOLLOLConfig(hosts=[], gateway_port=port))
        with pytest.raises(PortTaken, match=str(port)):
            second.start(blocking=blocking)
        assert second.address == ""
        second.stop()
        assert get_json(f"{first.address}/api/health")["service"] == "SOLLOL"


def test_a_taken_metrics_port_leaves_nothing_behind():
    with SOLLOL(settings()) as first, nothing_left(), pytest.raises(PortTaken):
        SOLLOL(settings(metrics_port=port_of(first.address))).start(blocking=False)


def test_blocking_until_stop_is_called_from_another_thread():
    gate = SOLLOL(settings())
    with nothing_left():
        thread = threading.Thread(target=gate.start)
        thread.start()
        wait_until(lambda: gate.address)
        assert answers(port_of(gate.address))
        gate.stop()
        thread.join(5)
        assert not thread.is_alive()


def test_many_at_once_in_one_process(machines):
    with nothing_left():
        gates = [SOLLOL(settings(*machines.urls)) for _ in range(4)]
        starters = [threading.Thread(target=gate.start, kwargs={"blocking": False}) for gate in gates]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join(10)
        for gate in gates:
            wait_until_up(gate.address, 1)
            assert post(f"{gate.address}/api/chat", {"model": MODEL, "messages": HELLO})[0] == 200
        for gate in gates:
            gate.stop()


async def test_started_and_stopped_inside_a_running_loop(machines):
    """An application with an event loop of its own: the gateway has another one."""
    gate = SOLLOL(settings(*machines.urls))
    gate.start(blocking=False)
    try:
        assert (await asyncio.to_thread(get_json, f"{gate.address}/api/health"))["service"] == "SOLLOL"
    finally:
        gate.stop()


def test_a_config_and_single_settings_together_are_refused():
    with pytest.raises(ConfigError):
        SOLLOL(settings(), port=0)


def test_stopping_lets_a_running_answer_finish(machines):
    with Machines([SLOW]) as slow, SOLLOL(settings(*slow.urls)) as gate:
        wait_until_up(gate.address, 1)
        replies: list[Any] = []
        url = gate.address
        body = {"model": MODEL, "messages": HELLO, "stream": False, "options": {"num_predict": 20}}
        asking = threading.Thread(target=lambda: replies.append(post(f"{url}/api/chat", body)))
        asking.start()
        wait_until(lambda: slow.see(lambda cluster: cluster["slow"].stats.in_flight))
        gate.stop()
        asking.join(10)
        assert json.loads(replies[0][2])["eval_count"] == 20


# as a command


@contextmanager
def up(*arguments: str, folder: Any) -> Iterator[tuple[Running, str]]:
    env = {"SOLLOL_DATA_DIR": str(folder)}
    with python("-m", "sollol", "up", "--port", "0", "--no-discovery", *arguments, env=env) as running:
        url = running.line_with("SOLLOL listens on ").split()[3].rstrip(".,;")
        yield running, url


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_sollol_up_at_once(machines, tmp_path, number):
    with up("--node", machines.urls[0], folder=tmp_path) as (running, url):
        wait_until_up(url, 1)
        assert post(f"{url}/api/chat", {"model": MODEL, "messages": HELLO})[0] == 200
        idle = socket.create_connection(("127.0.0.1", port_of(url)))
        with idle:
            assert psutil.Process(running.process.pid).children() == []
            begun = time.perf_counter()
            running.process.send_signal(number)
            assert running.process.wait(5) == 0
            # half a second is the bar; the rest is for a machine that does other things at the same time
            assert time.perf_counter() - begun < 1.5
    assert list(tmp_path.glob("*.json")) == []
    assert running.process.stdout is not None
    assert "Traceback" not in "".join(running.said)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_second_signal_does_not_wait(tmp_path):
    with Machines([SLOW]) as slow, up("--node", slow.urls[0], folder=tmp_path) as (running, url):
        wait_until_up(url, 1)
        body = json.dumps({"model": MODEL, "messages": HELLO, "options": {"num_predict": 5_000}}).encode()
        with socket.create_connection(("127.0.0.1", port_of(url))) as client:
            client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            running.process.terminate()
            running.line_with("stopping")
            running.process.terminate()
            assert running.process.wait(5) != 0


# time


@pytest.mark.looptime
async def test_a_cold_load_of_ten_minutes_is_waited_for(monkeypatch):
    """In virtual time: every timer of the door, the relay and the watch sees ten minutes pass."""
    loop = asyncio.get_running_loop()

    class LoopClock:
        def __init__(self) -> None:
            self.now, self.wall, self.jitter = loop.time, loop.time, lambda: 0.5

    monkeypatch.setattr("sollol.assemble.SystemClock", LoopClock)
    cold = NodeSpec("cold", prefill=1e5, decode=1e4, load_gbps=LLAMA_1B.size / 599e9, models=(LLAMA_1B,))
    async with EmulatedCluster([cold]) as cluster, front(*cluster.urls) as gate:
        begun = loop.time()
        for stream in (True, False):
            reply = await gate.ask("POST", "/api/chat", {"model": MODEL, "messages": HELLO, "stream": stream})
            assert reply.status == 200
            assert reply.header("x-sollol-attempts") == "1"
            assert b'"done":true' in reply.body
            assert loop.time() - begun > 600
        assert cluster["cold"].stats.paths["POST /api/chat"] == 2


# loops


async def test_a_gateway_does_not_take_itself_for_a_node():
    async with front() as gate:
        reply = await gate.ask("POST", "/api/nodes", {"url": f"http://127.0.0.1:{gate.port}"})
        assert reply.status == 400
        assert "this gateway itself" in reply.json["error"]
        assert (await gate.ask("GET", "/api/nodes")).json["nodes"] == []


async def test_two_gateways_that_have_each_other_end_the_loop():
    async with EmulatedCluster([QUICK]) as cluster, front(*cluster.urls) as first, front() as second:
        for gate, other, name in ((second, first, "first"), (first, second, "second")):
            added = await gate.ask("POST", "/api/nodes", {"url": f"http://127.0.0.1:{other.port}", "name": name})
            assert (added.status, added.json["kind"]) == (201, "sollol")
        through = await second.ask("POST", "/api/chat", {"model": MODEL, "messages": HELLO, "stream": False})
        assert (through.status, through.header("x-sollol-node")) == (200, "first")
        # sent on to the other one, which could only send it back
        for path in ("/api/chat", "/v1/chat/completions"):
            pinned = await first.ask("POST", path, {"model": MODEL, "messages": HELLO}, {"X-SOLLOL-Node": "second"})
            assert pinned.status == 508
            assert "went through already" in str(pinned.json["error"])
        states = second.context.engine.state.nodes.values()
        assert [(node.label, node.failed) for node in states] == [("first", 0)]
        again = await second.ask("POST", "/api/chat", {"model": MODEL, "messages": HELLO, "stream": False})
        assert again.status == 200
