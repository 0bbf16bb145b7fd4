"""Rows of the contract that the library keeps, on real llama.cpp servers that it finds by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.make_model import SMALL

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(120)]

HELLO = [{"role": "user", "content": "how are you today"}]
SHORT: Any = {"num_predict": 12, "temperature": 0}


@pytest.fixture
def found(llama_server, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Two servers with a chat model and one with vectors are what a search finds; the addresses of the two."""
    servers = [llama_server(model="llama3.2"), llama_server(model="llama3.2")]
    vectors = llama_server(model="mxbai-embed-large", embeddings=True)
    monkeypatch.setenv("SOLLOL_DISCOVERY_PORTS", ",".join(str(server.port) for server in (*servers, vectors)))
    monkeypatch.setenv("SOLLOL_DISCOVERY_DOCKER", "false")
    monkeypatch.setenv("SOLLOL_DISCOVERY_MDNS", "false")
    return {f"127.0.0.1:{server.port}" for server in servers}


def test_a3_a16_a65_programs_that_wait(found):
    from sollol import OllamaPool, sync_wrapper
    from sollol.priority_helpers import Priority

    pool = OllamaPool.auto_configure()
    response = pool.chat(model="llama3.2", messages=[{"role": "user", "content": "Hello!"}], options=SHORT)
    assert response["message"]["content"]
    assert len(pool.nodes) == 3
    text, last = "", None
    for chunk in pool.chat(model="llama3.2", messages=HELLO, stream=True, options=SHORT):
        text += chunk.get("message", {}).get("content", "")
        last = chunk
    assert text == pool.chat(model="llama3.2", messages=HELLO, options=SHORT)["message"]["content"]
    assert last is not None
    assert last["_sollol_routing"]["host"] in found
    pieces = list(pool.generate(model="llama3.2", prompt="how are", stream=True, options=SHORT))
    assert len(pieces) > 5
    assert "".join(chunk.get("response", "") for chunk in pieces)
    pool.close()
    with sync_wrapper.OllamaPool.auto_configure() as waiting:
        response = waiting.chat(model="llama3.2", messages=HELLO, priority=Priority.HIGH, timeout=60, options=SHORT)
        assert response["message"]["content"]
        assert response.get("_sollol_routing", {}).get("host", "unknown") in found


async def test_a17_a_program_that_awaits(found):
    from sollol import OllamaPool

    pool = await OllamaPool.auto_configure()
    response = await pool.chat(model="llama3.2", messages=HELLO, options=SHORT)
    assert response["message"]["content"]
    assert response["_sollol_routing"]["host"] in found
    assert response["_sollol_routing"]["task_type"] == "chat"
    pieces = [piece async for piece in pool.chat(model="llama3.2", messages=HELLO, stream=True, options=SHORT)]
    assert "".join(piece.message.content for piece in pieces) == response["message"]["content"]
    pool.close()


def test_a36_vectors(found):
    from sollol import OllamaPool

    with OllamaPool.auto_configure() as pool:
        vectors = pool.embed(model="mxbai-embed-large", input=["good day", "the house"])
        assert [len(vector) for vector in vectors] == [SMALL.width] * 2


def test_a4_c1_c16_many_texts(found):
    from sollol import OllamaPool

    texts = [f"text number {number}" for number in range(60)]
    with OllamaPool.auto_configure() as pool:
        embeddings = pool.embed_batch(model="mxbai-embed-large", inputs=texts, use_adaptive=True, priority=7)
        assert [len(vector) for vector in embeddings] == [SMALL.width] * len(texts)
        one = pool.embed(model="mxbai-embed-large", input=texts[37])
        assert list(embeddings[37]) == pytest.approx(list(one), rel=1e-3, abs=1e-5)
        few = pool.embed_batch(model="mxbai-embed-large", inputs=texts[:8], use_adaptive=False, max_workers=4, priority=7)
        assert list(few[3]) == pytest.approx(list(embeddings[3]), rel=1e-3, abs=1e-5)
