"""Forty questions in the background and one that is urgent: the urgent one does not wait for the forty.

python examples/priorities.py
"""

import asyncio
import os
import time

from sollol import AsyncPool, Priority

MODEL = os.environ.get("SOLLOL_MODEL", "llama3.2:1b")


async def ask(pool: AsyncPool, text: str, priority: Priority) -> float:
    """Seconds until the answer was there."""
    began = time.perf_counter()
    await pool.chat(MODEL, [{"role": "user", "content": text}], priority=priority, options={"num_predict": 20})
    return time.perf_counter() - began


async def main() -> None:
    async with AsyncPool() as pool:
        await pool.warm_model(MODEL)
        began = time.perf_counter()
        background = [asyncio.create_task(ask(pool, f"Question number {n}", Priority.BATCH)) for n in range(40)]
        await asyncio.sleep(0.1)
        urgent = await ask(pool, "Somebody waits for this", Priority.CRITICAL)
        left = sum(not task.done() for task in background)
        print(f"urgent: {urgent:.2f} s, while {left} of {len(background)} others were still to be done")
        await asyncio.gather(*background)
        print(f"everything: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
