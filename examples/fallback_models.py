"""The best model that can answer in time: the large one first, smaller ones where it is missing, full or too slow.

python examples/fallback_models.py large:70b llama3.2:1b
"""

import sys

from sollol import SyncPool
from sollol.errors import NoNodeForModel, NoNodes, QueueFull, SollolError
from sollol.pool.replies import ChatReply

QUESTION = [{"role": "user", "content": "Name three rivers."}]


def first_answer(pool: SyncPool, models: list[str], seconds: float) -> ChatReply:
    """The answer of the first model that gives one; each has so many seconds."""
    said: list[str] = []
    for model in models:
        try:
            return pool.chat(model, QUESTION, timeout=seconds)
        except NoNodeForModel:
            said.append(f"{model}: no node has it")
        except (NoNodes, QueueFull, TimeoutError) as error:
            said.append(f"{model}: {error}")
    raise SollolError("no model answered: " + "; ".join(said))


def main(models: list[str]) -> None:
    with SyncPool() as pool:
        reply = first_answer(pool, models, seconds=60)
        print(f"{reply.model}: {reply.message.content}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["llama3.3:70b", "llama3.1:8b", "llama3.2:1b"])
