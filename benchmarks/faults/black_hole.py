"""A machine that is gone without a word: what is sent to it is dropped. Needs root, for network namespaces of its own.

`python -m benchmarks.faults.black_hole COUNT NAMESPACE` is run inside: nodes, gateway and clients are here, the machine that
will vanish is in the other namespace.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys

import msgspec
from benchmarks.faults.client import SHAPES, eventually
from benchmarks.faults.middle import is_down
from benchmarks.faults.nodes import ROOT
from benchmarks.faults.stage import Found, Setup, p95, stage
from tests.support.netns import environment, lan

FAR = "10.77.9.20"
NEEDS = "network namespaces: run as root with iproute2 (`apt-get install iproute2`)"


async def black_hole(count: int, short: bool) -> Found:
    """Play it in namespaces of its own."""
    if os.geteuid() or not shutil.which("ip"):
        return Found(skipped=NEEDS)
    return await asyncio.to_thread(_outside, count, short)


def _outside(count: int, short: bool) -> Found:
    with lan() as network:
        network.address("10.77.9.1/24")
        network.others(FAR)
        network.route_back("10.77.9.1/32")
        network.drop([FAR])  # its hardware address stays known, so that packets to it are really sent
        here = [sys.executable, "-m", "benchmarks.faults.black_hole", str(count), network.there, "short" if short else "long"]
        command = ["ip", "netns", "exec", network.here, *here]
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment(), capture_output=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-2000:])
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Found)


async def inside(count: int, there: str, *, short: bool) -> Found:
    """The victim vanishes while it is idle; then come the requests."""
    found = Found()
    setup = Setup(lone=True, host=FAR, away=("ip", "netns", "exec", there))
    async with stage(setup, count, short=short) as here:
        shapes = SHAPES[:1] if count == 1 else SHAPES
        healthy = await here.burst(count, shape=shapes[0] if count == 1 else None)
        command = ["ip", "-n", there, "addr", "del", f"{FAR}/32", "dev", "lan1"]
        await asyncio.to_thread(subprocess.run, command, check=True)
        hit = await here.burst(count, shape=shapes[0] if count == 1 else None)
        down = await eventually(lambda: is_down(here), 10)
        later = await here.burst(count)
        found.count([*hit, *later])
        before, after, then = (p95(one.seconds for one in some) for some in (healthy, hit, later))
        found.figures = {"p95_s": after, "healthy_p95_s": before, "later_p95_s": then}
        found.headline = f"p95 {after:.2f} s, {before:.2f} s before, {then:.2f} s later"
        found.must(down is not None, "the vanished machine is not taken for dead")
        found.must(after <= before + 10, f"p95 {after:.1f} s")
        found.must(then <= before + 1, f"later requests still waited for it: p95 {then:.1f} s")
        found.nothing_lost()
    return found


if __name__ == "__main__":
    result = asyncio.run(inside(int(sys.argv[1]), sys.argv[2], short=sys.argv[3] == "short"))
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
