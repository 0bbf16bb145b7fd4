"""Two real llama.cpp servers behind a gateway, asked by the packages that people use; one of them is killed in between."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.gateway import gateway, get_json, post
from tests.support.llama_cpp import SLOW
from tests.support.make_model import SMALL

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

HELLO = [{"role": "user", "content": "how are you today"}]
OPTIONS = {"num_predict": 12, "temperature": 0}


@pytest.fixture
def unclosed() -> Iterator[None]:
    """LangChain's classes have no way to close their connections: forgetting them is no error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def direct(url: str) -> str:
    """What the server itself says to `HELLO`."""
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return str(json.loads(reply.read())["choices"][0]["message"]["content"])


def by_ollama(url: str) -> list[str]:
    """A whole answer and a streamed one; both have Ollama's counters and durations."""
    import ollama

    with ollama.Client(host=url) as client:
        whole = client.chat("tiny", HELLO, options=OPTIONS)
        parts = list(client.chat("tiny", HELLO, options=OPTIONS, stream=True))
    for last in (whole, parts[-1]):
        assert (last.done, last.done_reason, last.eval_count) == (True, "length", 12)
        assert last.prompt_eval_count > 4
        assert last.total_duration >= last.eval_duration > 0
        assert last.prompt_eval_duration > 0
    assert all(part.model == "tiny" for part in parts)
    assert len(parts) > 5
    return [whole.message.content, "".join(part.message.content for part in parts)]


def by_openai(url: str) -> list[str]:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens == 12
    return [whole.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)]


def by_langchain(url: str) -> list[str]:
    from langchain_ollama import ChatOllama

    chat = ChatOllama(model="tiny", base_url=url, num_predict=12, temperature=0, validate_model_on_init=True)
    whole = chat.invoke(HELLO[0]["content"])
    assert whole.usage_metadata["output_tokens"] == 12
    assert whole.response_metadata["done_reason"] == "length"
    return [whole.content, "".join(part.content for part in chat.stream(HELLO[0]["content"]))]


PACKAGES: list[Callable[[str], list[str]]] = [by_ollama, by_openai, by_langchain]


def states(url: str) -> list[str]:
    return [node["state"] for node in get_json(f"{url}/api/nodes")["nodes"]]


def test_every_package_is_answered_before_and_after_one_server_dies(llama_server, unclosed):
    first, second = llama_server(), llama_server()
    with gateway(first.url, second.url) as url:
        truth = direct(first.url)
        assert direct(second.url) == truth
        for package in PACKAGES:
            assert package(url) == [truth, truth]
        first.kill()
        for package in PACKAGES:
            assert package(url) == [truth, truth]
        # All of these may have gone to the living one, which is as good: only who asks the dead one finds it out.
        pinned = {"X-SOLLOL-Node": first.url.removeprefix("http://"), "X-SOLLOL-Timeout": "0.5"}
        assert post(f"{url}/api/chat", {"model": "tiny", "messages": HELLO}, pinned)[0] == 504
        assert sorted(states(url)) == ["down", "up"]
        third = llama_server(port=first.port)
        assert third.url == first.url
        while states(url) != ["up", "up"]:
            threading.Event().wait(0.05)
        for package in PACKAGES:
            assert package(url) == [truth, truth]


def test_a_server_dies_while_many_ask(llama_server):
    """Requests that it had not begun to answer, or whose answer was not streamed, are answered by the other."""
    import ollama

    first, second = llama_server(shape=SLOW), llama_server(shape=SLOW)
    body = {"num_predict": 80, "temperature": 0}
    answered = threading.Semaphore(0)
    with gateway(first.url, second.url) as url, ollama.Client(host=url) as client, ThreadPoolExecutor(6) as pool:

        def ask(number: int) -> str:
            reply = client.chat("tiny", HELLO, options=body)
            answered.release()
            assert reply.eval_count == 80
            return str(reply.message.content)

        replies = [pool.submit(ask, number) for number in range(12)]
        for _ in range(2):
            assert answered.acquire(timeout=60)
        first.kill()
        assert len({reply.result(90) for reply in replies}) == 1
        nodes = get_json(f"{url}/api/stats")["hosts"]
        assert get_json(f"{url}/api/stats")["failed_requests"] == 0
        assert f"127.0.0.1:{second.port}" in nodes


def test_ollamas_other_paths_on_llama_cpp(llama_server):
    import ollama

    server = llama_server()
    with gateway(server.url) as url, ollama.Client(host=url) as client:
        assert [model.model for model in client.list().models] == ["tiny:latest"]  # as Ollama lists it
        assert client.show("tiny").capabilities
        whole = client.generate("tiny", "once upon a time", system="be brief", options=OPTIONS)
        assert whole.response
        assert whole.eval_count == 12
        assert (
            "".join(
                p.response for p in client.generate("tiny", "once upon a time", system="be brief", options=OPTIONS, stream=True)
            )
            == whole.response
        )
        raw = client.generate("tiny", "once upon a time", raw=True, options=OPTIONS)
        assert raw.eval_count == 12
        with pytest.raises(ollama.ResponseError) as unknown:
            client.chat("nope", HELLO)
        assert unknown.value.status_code == 404


def test_embeddings(llama_server, unclosed):
    import ollama
    import openai
    from langchain_ollama import OllamaEmbeddings

    server = llama_server(model="embedder", embeddings=True)
    with gateway(server.url) as url:
        with ollama.Client(host=url) as client:
            native = client.embed("embedder", ["good day", "the house"])
            old = client.embeddings("embedder", "good day")
        assert [len(vector) for vector in native.embeddings] == [SMALL.width] * 2
        assert native.prompt_eval_count > 0
        assert len(old.embedding) == SMALL.width
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            reply = client.embeddings.create(model="embedder", input=["good day", "the house"])
        for ours, theirs in zip(native.embeddings, reply.data, strict=True):
            assert list(ours) == pytest.approx(theirs.embedding, rel=1e-3, abs=1e-5)
        chain = OllamaEmbeddings(model="embedder", base_url=url).embed_documents(["good day", "the house"])
        assert [list(vector) for vector in chain] == [list(vector) for vector in native.embeddings]


async def test_many_async_clients_at_once(llama_server):
    import ollama
    import openai

    servers = [await asyncio.to_thread(llama_server) for _ in range(2)]
    truth = await asyncio.to_thread(direct, servers[0].url)
    with gateway(*(server.url for server in servers)) as url:
        async with ollama.AsyncClient(host=url) as native, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as other:

            async def streamed() -> str:
                parts = await native.chat("tiny", HELLO, options=OPTIONS, stream=True)
                return "".join([part.message.content async for part in parts])

            async def whole() -> str:
                reply = await other.chat.completions.create(model="tiny", messages=HELLO, max_tokens=12, temperature=0)
                return str(reply.choices[0].message.content)

            replies = await asyncio.gather(*(one() for _ in range(8) for one in (streamed, whole)))
        assert set(replies) == {truth}
