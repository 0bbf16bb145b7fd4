"""A writer, two critics and an editor: agents that do not depend on each other work at the same time.

python examples/multi_agent.py "Why do rivers bend?"
"""

import asyncio
import os
import sys

from sollol import AsyncPool
from sollol.priority_helpers import get_priority_for_role

MODEL = os.environ.get("SOLLOL_MODEL", "llama3.2:1b")
CRITICS = {
    "researcher": "You check facts. Name what is wrong or missing in this text, in three short points.",
    "reviewer": "You check style. Name what is hard to understand in this text, in three short points.",
}


async def agent(pool: AsyncPool, role: str, orders: str, text: str) -> str:
    messages = [{"role": "system", "content": orders}, {"role": "user", "content": text}]
    reply = await pool.chat(MODEL, messages, priority=get_priority_for_role(role), app_name=role)
    print(f"{role:>10} was answered by {reply.routing.host if reply.routing else 'a node'}", file=sys.stderr)
    return reply.message.content or ""


async def main(question: str) -> None:
    async with AsyncPool() as pool:
        draft = await agent(pool, "writer", "You write one clear paragraph.", question)
        notes = await asyncio.gather(*(agent(pool, role, orders, draft) for role, orders in CRITICS.items()))
        task = "Rewrite the text with these notes in mind.\n\nText:\n" + draft + "\n\nNotes:\n" + "\n".join(notes)
        print(await agent(pool, "editor", "You are an editor. Answer with the text alone.", task))


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "Why do rivers bend?"))
