"""Batches on real llama.cpp servers: the right vector for each text, also when one of them is killed half-way."""

from __future__ import annotations

import pytest
from tests.support.make_model import SMALL

from sollol import OllamaPool

pytestmark = [pytest.mark.llamacpp]

TEXTS = [f"the house of number {number}" for number in range(300)]


def test_a4_vectors_of_a_batch_are_those_of_the_texts(llama_server):
    servers = [llama_server(model="embedder", embeddings=True) for _ in range(2)]
    with OllamaPool(nodes=[server.url for server in servers]) as pool:
        alone = [list(pool.embed(model="embedder", input=one)) for one in TEXTS[:3]]

        def told(done: int, total: int | None) -> None:
            if done >= 100:
                servers[0].kill()

        vectors = pool.embed_batch(model="embedder", inputs=TEXTS, progress=told)
        again = pool.embed_batch(model="embedder", inputs=TEXTS[:50], use_adaptive=False, max_workers=2)
    assert [len(vector) for vector in vectors] == [SMALL.width] * len(TEXTS)
    for ours, theirs in zip(vectors, alone, strict=False):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    assert again[7] == pytest.approx(vectors[7], rel=1e-3, abs=1e-5)
    assert vectors[7] != pytest.approx(vectors[8], rel=1e-3, abs=1e-5)
