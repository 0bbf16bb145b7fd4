"""Questions about your own texts: vectors of all nodes go into a store (usearch), the best passages go into the prompt.

pip install usearch
python examples/rag.py "How hot does the oven have to be?"
"""

import os
import sys

import numpy
from usearch.index import Index

from sollol import SyncPool

MODEL = os.environ.get("SOLLOL_MODEL", "llama3.2:1b")
EMBEDDER = os.environ.get("SOLLOL_EMBEDDER", "nomic-embed-text")
PASSAGES = [
    "Bread is baked at 220 degrees for the first ten minutes, then at 190 degrees.",
    "A sourdough starter is fed once a day with equal parts of flour and water.",
    "Rye flour binds more water than wheat flour, so the dough stays sticky.",
    "Let the loaf cool for an hour before you cut it.",
]


def vectors(pool: SyncPool, texts: list[str]) -> numpy.ndarray:
    return numpy.asarray(pool.embed(EMBEDDER, texts), dtype=numpy.float32)


def main(question: str) -> None:
    with SyncPool() as pool:
        known = vectors(pool, PASSAGES)
        index = Index(ndim=known.shape[1], metric="cos")
        index.add(numpy.arange(len(PASSAGES)), known)

        found = index.search(vectors(pool, [question])[0], 2)
        passages = [PASSAGES[int(match.key)] for match in found]
        print("From:", *passages, sep="\n  ")

        prompt = "Answer from these notes alone:\n" + "\n".join(passages) + f"\n\nQuestion: {question}"
        reply = pool.chat(MODEL, [{"role": "user", "content": prompt}], options={"temperature": 0})
        print("Answer:", reply.message.content)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "How hot does the oven have to be?")
