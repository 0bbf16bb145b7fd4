"""One question to every model that the cluster has; answers are shown as they come, the quickest first.

python examples/fan_out.py "What is a gateway?"
"""

import asyncio
import sys
import time

from sollol import AsyncPool
from sollol.errors import SollolError


async def ask(pool: AsyncPool, model: str, question: str) -> str:
    began = time.perf_counter()
    try:
        reply = await pool.chat(model, [{"role": "user", "content": question}], options={"num_predict": 60}, timeout=120)
    except SollolError as error:
        return f"{model}: {error}"
    host = reply.routing.host if reply.routing else "?"
    return f"{model} on {host} after {time.perf_counter() - began:.1f} s:\n  {reply.message.content}"


async def main(question: str) -> None:
    async with AsyncPool() as pool:
        known = await pool.list()
        models = [model.model for model in known.models if "embed" not in model.model]
        print(f"asking {len(models)} models")
        for answer in asyncio.as_completed([ask(pool, model, question) for model in models]):
            print(await answer)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is a gateway?"))
