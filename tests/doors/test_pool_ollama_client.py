"""`sollol.ollama` beside the ``ollama`` package: the same calls to the same node give the same answers."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from sollol.emulator.presets import LLAMA_1B, QWEN_THINKING, instant
from sollol.emulator.specs import NodeSpec, embedder
from sollol.emulator.threaded import Machines
from sollol.ollama import AsyncClient, Client, ResponseError

MODEL = LLAMA_1B.name
HELLO = [{"role": "user", "content": "Hello!"}]
SPEC = NodeSpec("a", slots=4, fixed_delay=0.002, models=(LLAMA_1B, QWEN_THINKING, embedder()))
VARIES = {
    "created_at",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "expires_at",
    "_sollol_routing",
}
VARIES |= {
    "content",
    "response",
    "context",
    "nodes",
    "node",
    "embeddings",
    "embedding",
    "prompt_eval_count",
    "eval_count",
    "tensors",
}

pytestmark = pytest.mark.clients


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Machines([SPEC]) as opened:
        yield opened


@pytest.fixture
def theirs(machines: Machines) -> Iterator[Any]:
    client = importlib.import_module("ollama").Client(host=machines.urls[0])
    yield client
    client.close()


@pytest.fixture
def ours(machines: Machines) -> Iterator[Client]:
    with Client(host=machines.urls[0]) as client:
        yield client


def plain(value: Any) -> Any:
    """What a program can see of an answer, without what differs from call to call."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, dict):
        renamed = {("modelinfo" if key == "model_info" else key): plain(one) for key, one in value.items()}
        return {key: one for key, one in renamed.items() if key not in VARIES and one is not None}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


CALLS = [
    lambda client: client.chat(model=MODEL, messages=HELLO),
    lambda client: client.chat(MODEL, HELLO, options={"num_predict": 3}, keep_alive="5m", format="json"),
    lambda client: client.chat(QWEN_THINKING.name, HELLO, think=False),
    lambda client: client.generate(model=MODEL, prompt="Hi", options={"num_predict": 2}),
    lambda client: client.generate(MODEL, "Hi", system="Be brief.", raw=False),
    lambda client: client.embed(model="nomic-embed-text", input=["a", "b"], truncate=True),
    lambda client: client.embed("nomic-embed-text", "a"),
    lambda client: client.embeddings(model="nomic-embed-text", prompt="a"),
    lambda client: list(client.chat(model=MODEL, messages=HELLO, stream=True, options={"num_predict": 4})),
    lambda client: list(client.generate(model=MODEL, prompt="Hi", stream=True, options={"num_predict": 4})),
    lambda client: client.pull("mistral"),
    lambda client: list(client.pull("mistral", stream=True)),
    lambda client: client.copy("mistral", "mine"),
    lambda client: client.create(model="yours", from_="mistral", system="Be brief."),
    lambda client: client.delete("mine") if client.copy("mistral", "mine") else None,
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_gives_what_the_other_package_gives(machines, theirs, ours, call):
    if call in CALLS[-4:]:
        theirs.pull("mistral")
        ours.ready()
    expected, got = plain(call(theirs)), plain(call(ours))
    assert got == expected


def test_lists_read_alike(theirs, ours):
    theirs.chat(model=MODEL, messages=HELLO)
    for name in ("list", "ps"):
        for one, other in zip(getattr(theirs, name)().models, getattr(ours, name)().models, strict=True):
            for field in ("model", "digest", "size", "details", "modified_at", "expires_at", "size_vram"):
                if hasattr(one, field):
                    seen, expected = getattr(other, field), getattr(one, field)
                    if field == "details":
                        assert plain(seen).items() >= plain(expected).items()
                    elif field != "expires_at":
                        assert seen == expected
                    assert isinstance(seen, datetime) == isinstance(expected, datetime)
    shown, other = theirs.show(MODEL), ours.show(MODEL)
    for field in ("modified_at", "template", "capabilities", "parameters", "modelinfo"):
        assert getattr(other, field) == getattr(shown, field) or (not getattr(other, field) and not getattr(shown, field))


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_those_of_the_other_package(theirs, ours, stream):
    package = importlib.import_module("ollama")

    def ask(client: Any) -> Any:
        answer = client.chat(model="not-there", messages=HELLO, stream=stream)
        return list(answer) if stream else answer

    with pytest.raises(package.ResponseError) as expected:
        ask(theirs)
    with pytest.raises(ResponseError) as got:
        ask(ours)
    assert (got.value.status_code, got.value.error) == (expected.value.status_code, expected.value.error)


def test_a_node_that_is_not_there_is_a_connection_error(monkeypatch):
    monkeypatch.setenv("SOLLOL_QUEUE_NO_NODE_SECONDS", "0")
    with Client(host="127.0.0.1:1") as client, pytest.raises(ConnectionError, match="Ollama"):
        client.chat(model=MODEL, messages=HELLO)


def test_a_time_limit_is_a_timeout_error():
    with (
        Machines(instant(30.0)) as machines,
        Client(host=machines.urls[0], timeout=0.2) as client,
        pytest.raises(TimeoutError),
    ):
        client.chat("bench", HELLO)


async def test_the_async_client(machines):
    package = importlib.import_module("ollama")
    theirs = package.AsyncClient(host=machines.urls[0])
    async with AsyncClient(host=machines.urls[0]) as ours:
        for client in (theirs, ours):
            reply = await client.chat(model=MODEL, messages=HELLO)
            assert reply.message.content == reply["message"]["content"]
            parts = [part async for part in await client.generate(model=MODEL, prompt="Hi", stream=True)]
            assert parts[-1].done
            assert len((await client.embed("nomic-embed-text", "a")).embeddings) == 1
            assert (await client.list()).models
        with pytest.raises(ResponseError):
            await ours.chat("not-there", HELLO)
    await asyncio.wait_for(theirs.close(), 5)


def test_several_hosts_and_a_key():
    headers = {"Authorization": "Bearer secret"}
    with (
        Machines([SPEC, replace(SPEC, name="b")]) as machines,
        Client(host=machines.urls, headers=headers, follow_redirects=True) as client,
    ):
        used = {client.chat(MODEL, HELLO, node=url.removeprefix("http://")).routing.host for url in machines.urls}
        assert len(used) == 2
        assert "secret" not in repr(client.nodes)
