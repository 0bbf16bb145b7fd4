"""Emulated nodes that come and go, and what they do without descriptors."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from tests.support.emulated import ask, encode, read_reply
from tests.support.wait import until

from sollol.emulator import ModelSpec, NodeSpec
from sollol.emulator.server import EmulatedCluster

NODE = NodeSpec("one", models=(ModelSpec("chat:latest", 1_000_000),))


async def test_a_node_that_flaps_comes_back_again_and_again_and_can_be_closed():
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        node.faults.set(flap=0.01)
        for there in (False, True, False, True):
            await until(lambda there=there: node._listener.is_open is there)
        for _ in range(100):
            try:
                assert (await ask(node, "GET", "/api/version")).status == 200
                break
            except (ConnectionError, AssertionError):
                await asyncio.sleep(0)
        else:
            pytest.fail("it was never there")


async def test_without_descriptors_connections_wait_until_there_are_some():
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with EmulatedCluster([NODE]) as cluster:
        node = cluster.nodes[0]
        with socket.socket() as mine:
            mine.setblocking(False)
            lowest = os.dup(mine.fileno())
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, usual[1]))  # there is no number left for another one
            try:
                await asyncio.get_running_loop().sock_connect(mine, (node.host, node.port))
                with pytest.raises(OSError, match="Too many open files"):
                    os.dup(mine.fileno())
                for _ in range(20):
                    await asyncio.sleep(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, usual)
            assert node.stats.connections == 0
            reader, writer = await asyncio.open_connection(sock=mine)
            writer.write(encode("GET", "/api/version"))
            assert (await read_reply(reader)).status == 200
            writer.close()
