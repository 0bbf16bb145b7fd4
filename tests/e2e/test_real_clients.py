"""The packages that people use, as they are, through a gateway before emulated nodes."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.gateway import gateway

from sollol.emulator.presets import LLAMA_1B, LLAMA_8B, embedder
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines

pytestmark = pytest.mark.clients

MODEL, EMBEDDER = LLAMA_1B.name, "nomic-embed-text"
HELLO = [{"role": "user", "content": "Why is the sky blue?"}]
QUICK = {"prefill": 100_000, "decode": 5_000, "slots": 4, "load_gbps": 1e6, "pull_gbps": 1e3}
SHORT = {"num_predict": 20, "temperature": 0}


@pytest.fixture
def machines() -> Iterator[Machines]:
    everything = (LLAMA_8B, LLAMA_1B, embedder())
    specs = [NodeSpec("both", **QUICK, models=everything), NodeSpec("one", **QUICK, models=(LLAMA_1B, embedder()))]
    with Machines(specs) as opened:
        yield opened


@pytest.fixture
def url(machines: Machines) -> Iterator[str]:
    with gateway(*machines.urls) as address:
        yield address


@pytest.fixture
def ollama_client(url: str) -> Iterator[Any]:
    import ollama

    with ollama.Client(host=url) as client:
        yield client


@pytest.fixture
def openai_client(url: str) -> Iterator[Any]:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


# the ollama package


def test_ollama_lists_and_shows_models(ollama_client):
    listed = ollama_client.list()
    assert {model.model for model in listed.models} == {LLAMA_8B.name, MODEL, f"{EMBEDDER}:latest"}
    for model in listed.models:
        assert model.modified_at.tzinfo is not None
        assert model.size > 1_000_000
        assert model.details.family in {"llama", "nomic-bert"}
    shown = ollama_client.show(LLAMA_8B.name)
    assert shown.modelinfo["general.architecture"] == "llama"
    assert "completion" in shown.capabilities


def test_ollama_ps_shows_what_is_loaded(ollama_client):
    assert ollama_client.ps().models == []
    loaded = ollama_client.generate(LLAMA_8B.name)
    assert (loaded.done, loaded.done_reason) == (True, "load")
    (running,) = ollama_client.ps().models
    assert running.model == LLAMA_8B.name
    assert running.context_length in {None, 4_096}  # unknown until the node was looked at again
    assert running.expires_at.tzinfo is not None
    unloaded = ollama_client.generate(LLAMA_8B.name, keep_alive=0)
    assert unloaded.done_reason == "unload"
    assert ollama_client.ps().models == []


def test_ollama_chat(ollama_client):
    whole = ollama_client.chat(MODEL, HELLO, options=SHORT)
    assert whole.message.role == "assistant"
    assert whole.done
    assert whole.eval_count == 20
    assert whole.prompt_eval_count > 3
    assert whole.total_duration >= whole.eval_duration > 0
    parts = list(ollama_client.chat(MODEL, HELLO, options=SHORT, stream=True))
    assert len(parts) > 10
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts].count(True) == 1
    assert (parts[-1].done, parts[-1].eval_count) == (True, 20)


def test_ollama_generate(ollama_client):
    whole = ollama_client.generate(MODEL, "Once upon a time", options=SHORT)
    assert whole.response
    assert whole.eval_count == 20
    parts = list(ollama_client.generate(MODEL, "Once upon a time", options=SHORT, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    assert parts[-1].done
    assert list(parts[-1].context) == list(whole.context)


def test_ollama_embeds(ollama_client):
    both = ollama_client.embed(EMBEDDER, ["good day", "good night"])
    assert [len(vector) for vector in both.embeddings] == [768, 768]
    assert both.embeddings[0] != both.embeddings[1]
    one = ollama_client.embed(EMBEDDER, "good day")
    assert list(one.embeddings[0]) == list(both.embeddings[0])
    old = ollama_client.embeddings(EMBEDDER, "good day")
    assert len(old.embedding) == 768


def test_ollama_pulls_copies_creates_and_deletes(ollama_client):
    import ollama

    progress = list(ollama_client.pull("qwen3:0.6b", stream=True))
    assert (progress[0].status, progress[-1].status) == ("pulling manifest", "success")
    moving = [step for step in progress if step.total]
    assert moving
    assert moving[-1].completed == moving[-1].total
    assert ollama_client.pull("qwen3:0.6b").status == "success"

    assert ollama_client.copy(MODEL, "mine").status == "success"
    assert ollama_client.show("mine").details.family == "llama"
    made = list(ollama_client.create("pirate", from_=MODEL, system="You are a pirate.", stream=True))
    assert made[-1].status == "success"
    assert "pirate" in ollama_client.show("pirate").modelfile
    assert ollama_client.chat("pirate", HELLO, options=SHORT).message.content

    for name in ("mine", "pirate"):
        assert ollama_client.delete(name).status == "success"
        with pytest.raises(ollama.ResponseError) as gone:
            ollama_client.show(name)
        assert gone.value.status_code == 404
    assert {model.model for model in ollama_client.list().models} == {
        LLAMA_8B.name, MODEL, f"{EMBEDDER}:latest", "qwen3:0.6b"
    }  # fmt: skip


def test_ollama_makes_a_model_of_a_file(ollama_client, tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + bytes(4_000))
    digest = ollama_client.create_blob(file)
    assert ollama_client.create("tiny", files={"tiny.gguf": digest}).status == "success"
    assert "tiny:latest" in {model.model for model in ollama_client.list().models}


def test_ollama_raises_its_own_errors(ollama_client):
    import ollama

    with pytest.raises(ollama.ResponseError) as unknown:
        ollama_client.chat("nope", HELLO)
    assert (unknown.value.status_code, unknown.value.error) == (404, "model 'nope' not found")
    with pytest.raises(ollama.ResponseError) as streaming:
        list(ollama_client.generate("nope", "x", stream=True))
    assert streaming.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as embedding:
        ollama_client.embed("nope", "x")
    assert embedding.value.error == 'model "nope" not found, try pulling it first'


async def test_ollama_async_client(url):
    import ollama

    client = ollama.AsyncClient(host=url)
    async with client:
        whole = await client.chat(MODEL, HELLO, options=SHORT)
        parts = [part async for part in await client.chat(MODEL, HELLO, options=SHORT, stream=True)]
        assert "".join(part.message.content for part in parts) == whole.message.content
        assert len((await client.embed(EMBEDDER, "good day")).embeddings[0]) == 768
        assert MODEL in {model.model for model in (await client.list()).models}
        with pytest.raises(ollama.ResponseError):
            await client.show("nope")


# the openai package


def test_openai_chat(openai_client):
    whole = openai_client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, temperature=0)
    text = whole.choices[0].message.content
    assert text
    assert whole.object == "chat.completion"
    assert whole.usage.completion_tokens == 20
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 20
    with openai_client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage.completion_tokens == 20
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] in {"stop", "length"}


def test_openai_completions(openai_client):
    whole = openai_client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=20, temperature=0)
    assert whole.choices[0].text
    with openai_client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=20, temperature=0, stream=True
    ) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_openai_embeddings(openai_client, encoding):
    reply = openai_client.embeddings.create(model=EMBEDDER, input=["good day", "good night"], encoding_format=encoding)
    assert [item.index for item in reply.data] == [0, 1]
    assert all(len(item.embedding) == 768 * (1 if encoding == "float" else 16 / 3) for item in reply.data)
    assert reply.usage.prompt_tokens > 0
    unasked = openai_client.embeddings.create(model=EMBEDDER, input="good day")
    assert all(isinstance(number, float) for number in unasked.data[0].embedding)


def test_openai_models(openai_client):
    assert {model.id for model in openai_client.models.list()} == {LLAMA_8B.name, MODEL, f"{EMBEDDER}:latest"}
    one = openai_client.models.retrieve(MODEL)
    assert (one.id, one.object) == (MODEL, "model")


def test_openai_raises_its_own_errors(openai_client):
    import openai

    with pytest.raises(openai.NotFoundError) as unknown:
        openai_client.chat.completions.create(model="nope", messages=HELLO)
    assert unknown.value.body["message"] == "model 'nope' not found"
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("nope")
    with pytest.raises(openai.NotFoundError):
        openai_client.embeddings.create(model="nope", input="x")
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(model="nope", messages=HELLO, stream=True)
    with pytest.raises(openai.BadRequestError):
        openai_client.chat.completions.create(model=MODEL, messages="not a list")


def test_openai_is_told_that_no_node_answers():
    import openai

    with gateway() as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as none:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        assert none.value.status_code == 503
        assert "no node" in none.value.body["message"]


async def test_openai_async_client(url):
    import openai

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, temperature=0)
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, temperature=0, stream=True)
        async with stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == whole.choices[0].message.content


# the anthropic package


def test_anthropic_raises_its_own_errors(url):
    import anthropic

    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        with pytest.raises(anthropic.NotFoundError) as unknown:
            client.messages.create(model="nope", max_tokens=9, messages=HELLO)
        shape = {"type": "error", "error": {"type": "not_found_error", "message": "model 'nope' not found"}}
        assert unknown.value.body == shape
        with (
            pytest.raises(anthropic.NotFoundError),
            client.messages.stream(model="nope", max_tokens=9, messages=HELLO) as stream,
        ):
            list(stream)
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(model=MODEL, max_tokens=9, messages=[])
        counted = client.messages.with_raw_response.count_tokens(model=MODEL, messages=HELLO)
        assert counted.parse().input_tokens > 3
        assert counted.headers["x-sollol-estimated"] == "input_tokens"  # no Ollama tells how it would read a text
        listed = {model.id: model for model in client.models.list()}
        assert listed.keys() == {LLAMA_8B.name, MODEL, f"{EMBEDDER}:latest"}
        assert (listed[MODEL].type, listed[MODEL].display_name) == ("model", MODEL)
        assert listed[MODEL].created_at.year == 2025
        assert client.models.retrieve(MODEL) == listed[MODEL]


def test_anthropic_is_told_that_no_node_answers():
    import anthropic

    with gateway() as address, anthropic.Anthropic(base_url=address, api_key="none", max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError) as none:
            client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        assert none.value.status_code == 503
        assert "no node" in none.value.body["error"]["message"]


# the langchain-ollama package


@pytest.fixture
def unclosed() -> Iterator[None]:
    """These classes have no way to close their connections: that they are closed by being forgotten is no error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def test_langchain_chat(url, unclosed):
    from langchain_ollama import ChatOllama

    chat = ChatOllama(model=MODEL, base_url=url, num_predict=20, temperature=0, validate_model_on_init=True)
    whole = chat.invoke("Why is the sky blue?")
    assert whole.content
    assert whole.usage_metadata["output_tokens"] == 20
    parts = list(chat.stream("Why is the sky blue?"))
    assert "".join(part.content for part in parts) == whole.content
    assert len(chat.batch(["one", "two"])) == 2


def test_langchain_sees_that_a_model_is_not_there(url, unclosed):
    from langchain_ollama import ChatOllama

    with pytest.raises(ValueError, match="nope"):
        ChatOllama(model="nope", base_url=url, validate_model_on_init=True)


def test_langchain_completes_and_embeds(url, unclosed):
    from langchain_ollama import OllamaEmbeddings, OllamaLLM

    llm = OllamaLLM(model=MODEL, base_url=url, num_predict=20, temperature=0)
    text = llm.invoke("Once upon a time")
    assert text
    assert "".join(llm.stream("Once upon a time")) == text
    embeddings = OllamaEmbeddings(model=EMBEDDER, base_url=url)
    both = embeddings.embed_documents(["good day", "good night"])
    assert [len(vector) for vector in both] == [768, 768]
    assert embeddings.embed_query("good day") == both[0]


async def test_langchain_async(url, unclosed):
    from langchain_ollama import ChatOllama

    chat = ChatOllama(model=MODEL, base_url=url, num_predict=20, temperature=0)
    try:
        whole = await chat.ainvoke("Why is the sky blue?")
        assert "".join([part.content async for part in chat.astream("Why is the sky blue?")]) == whole.content
    finally:
        await chat._async_client.close()  # it has no way of its own to close it, and open sockets are an error here
