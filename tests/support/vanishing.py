"""Run inside a network namespace: a gateway, a node here, and a machine elsewhere that vanishes without a word.

The argument is the address of that machine. What was measured comes as lines of JSON; a line on standard
input says that it is gone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from tests.support.front import Front, front

from sollol.core.types import Health
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec

BODY = {"model": LLAMA_1B.name, "messages": [{"role": "user", "content": "Hello!"}], "stream": False}
NEAR = NodeSpec("near", prefill=1e6, decode=1e5, slots=8, fixed_delay=0.001, models=(LLAMA_1B,))


async def timed(gate: Front, **headers: str) -> dict[str, Any]:
    begun = time.perf_counter()
    reply = await gate.ask("POST", "/api/chat", BODY, {name.replace("_", "-"): value for name, value in headers.items()})
    return {
        "status": reply.status,
        "seconds": time.perf_counter() - begun,
        "node": reply.header("x-sollol-node"),
        "attempts": reply.header("x-sollol-attempts"),
        "body": reply.body.decode() if reply.status != 200 else "",
    }


def tell(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def main(far: str) -> None:
    async with EmulatedCluster([NEAR]) as cluster, front(*cluster.urls, f"http://{far}") as gate:
        warm = [await timed(gate, X_SOLLOL_Node=node) for node in (far, cluster.urls[0][7:])]
        for node in gate.context.engine.state.nodes.values():
            gate.context.engine.transport.forget(node.node.endpoint)  # the next connection has to be made anew
        tell({"warm": warm})
        await asyncio.to_thread(sys.stdin.readline)
        begun = time.perf_counter()
        burst = [asyncio.create_task(timed(gate)) for _ in range(12)]  # more than one node takes: some go to the lost one
        down = None
        while down is None and time.perf_counter() - begun < 8:
            await asyncio.sleep(0.01)
            if gate.context.engine.state.nodes[far].state is Health.DOWN:
                down = time.perf_counter() - begun
        after = [await timed(gate) for _ in range(20)]
        tell({"burst": [await one for one in burst], "down": down, "after": after})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
