"""Packages of Python and npm as people use them, before nodes of four kinds: each gets the same from all, and from an engine.

Each `by_...` is the ordinary use of one package at an address and returns what came of it, without times and ids.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.kinds import EMBEDDER, KINDS, MODEL, THINKER, Kinds, every_kind
from tests.support.npm import run_client

from sollol.core.types import NodeKind

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("clients before every kind")]

Got = dict[str, Any]
OPENAI_KINDS = tuple(kind for kind in KINDS if kind is not NodeKind.OLLAMA)

QUESTION = "Why is the sky blue?"
HELLO = [{"role": "user", "content": QUESTION}]
PARIS = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris"]}}, "required": ["city"]}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": PARAMETERS},
}
ANSWER = {"type": "object", "properties": {"colour": {"type": "string"}, "number": {"type": "integer"}}, "required": ["colour"]}
SHORT = {"num_predict": 20, "temperature": 0}


@pytest.fixture(scope="module")
def kinds() -> Iterator[Kinds]:
    with every_kind() as opened:
        yield opened


@pytest.fixture(autouse=True)
def unclosed() -> Iterator[None]:
    """Some of these packages have no way to close their connections: forgetting them is no error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"sunny in {city}"


def by_ollama(url: str) -> Got:
    import ollama
    from pydantic import BaseModel

    class Answer(BaseModel):
        colour: str
        number: int

    with ollama.Client(host=url) as client:
        whole = client.chat(MODEL, HELLO, options=SHORT)
        parts = list(client.chat(MODEL, HELLO, options=SHORT, stream=True))
        called = client.chat(MODEL, HELLO, tools=[get_weather]).message
        streamed = [p.message for p in client.chat(MODEL, HELLO, tools=[get_weather], stream=True)]
        result = {"role": "tool", "tool_name": "get_weather", "content": "sunny"}
        answered = client.chat(MODEL, [*HELLO, called, result], tools=[get_weather], options=SHORT)
        thought = client.chat(THINKER, HELLO, think=True)
        pieces = [p.message for p in client.chat(THINKER, HELLO, think=True, stream=True)]
        structured = client.chat(MODEL, HELLO, format=Answer.model_json_schema()).message.content
        generated = client.generate(MODEL, "Once upon a time", options=SHORT)
        embedded = client.embed(EMBEDDER, ["good day", "good night"])
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert (parts[-1].done_reason, parts[-1].eval_count) == (whole.done_reason, whole.eval_count) == ("length", 20)
    assert [c.function for m in streamed for c in m.tool_calls or []] == [c.function for c in called.tool_calls]
    assert "".join(piece.thinking or "" for piece in pieces) == thought.message.thinking
    assert "".join(piece.content for piece in pieces) == thought.message.content
    return {
        "text": whole.message.content,
        "calls": [(call.function.name, dict(call.function.arguments)) for call in called.tool_calls],
        "answered": bool(answered.message.content),
        "thought": (thought.message.thinking, thought.message.content),
        "structured": Answer.model_validate_json(structured).model_dump(),
        "generated": generated.response,
        "embedded": [list(vector) for vector in embedded.embeddings],
    }


def by_openai(url: str) -> Got:
    import openai

    schema: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": ANSWER}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        ask = client.chat.completions
        whole = ask.create(model=MODEL, messages=HELLO, max_tokens=20, temperature=0)
        called = ask.create(model=MODEL, messages=HELLO, tools=[WEATHER]).choices[0]
        # The package puts a stream together by the index of each piece, and raises if one does not fit.
        with ask.stream(model=MODEL, messages=HELLO, tools=[WEATHER], stream_options={"include_usage": True}) as stream:
            streamed = stream.get_final_completion()
        result = {"role": "tool", "tool_call_id": called.message.tool_calls[0].id, "content": "sunny"}
        answered = ask.create(model=MODEL, messages=[*HELLO, called.message, result], tools=[WEATHER], max_tokens=20)
        structured = ask.create(model=MODEL, messages=HELLO, response_format=schema)
        completed = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=20, temperature=0)
        embedded = client.embeddings.create(model=EMBEDDER, input=["good day", "good night"])
    choice = streamed.choices[0]
    assert (choice.finish_reason, called.finish_reason) == ("tool_calls", "tool_calls")
    assert [c.function.arguments for c in choice.message.tool_calls] == [
        c.function.arguments for c in called.message.tool_calls
    ]
    assert all(call.id and call.type == "function" for call in (*choice.message.tool_calls, *called.message.tool_calls))
    assert streamed.usage.completion_tokens > 0
    return {
        "text": (
            whole.choices[0].message.content,
            whole.choices[0].finish_reason,
            whole.usage.model_dump()["completion_tokens"],
        ),
        "calls": [(call.function.name, json.loads(call.function.arguments)) for call in called.message.tool_calls],
        "answered": bool(answered.choices[0].message.content),
        "structured": json.loads(structured.choices[0].message.content),
        "completed": bool(completed.choices[0].text),  # Ollama puts the template of the model around it, other engines do not
        "embedded": [[round(number, 6) for number in item.embedding] for item in embedded.data],
    }


def by_langchain_ollama(url: str) -> Got:
    from langchain_core.tools import tool
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    chat = ChatOllama(model=MODEL, base_url=url, num_predict=20, temperature=0, validate_model_on_init=True)
    return _by_langchain(chat, tool(get_weather)) | {
        "embedded": OllamaEmbeddings(model=EMBEDDER, base_url=url).embed_documents(["good day", "good night"]),
    }


def by_langchain_openai(url: str) -> Got:
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    to: Any = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(model=MODEL, max_tokens=20, temperature=0, stream_usage=True, **to)
    embeddings = OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False, **to)
    embedded = embeddings.embed_documents(["good day", "good night"])
    return _by_langchain(chat, tool(get_weather)) | {"embedded": [[round(number, 6) for number in v] for v in embedded]}


def _by_langchain(chat: Any, weather: Any) -> Got:
    from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage

    whole = chat.invoke(QUESTION)
    parts = list(chat.stream(QUESTION))
    assert "".join(part.content for part in parts) == whole.content
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) == 20
    bound = chat.bind_tools([weather])
    called = bound.invoke(QUESTION)
    gathered = AIMessageChunk("")
    for part in bound.stream(QUESTION):
        gathered += part
    assert [(c["name"], c["args"]) for c in gathered.tool_calls] == [(c["name"], c["args"]) for c in called.tool_calls]
    call = called.tool_calls[0]
    said = [HumanMessage(QUESTION), called, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])]
    structured = chat.with_structured_output(ANSWER | {"title": "answer"}, method="json_schema").invoke(QUESTION)
    return {
        "text": (whole.content, whole.usage_metadata["output_tokens"]),
        "calls": [(call["name"], call["args"]) for call in called.tool_calls],
        "answered": bool(bound.invoke(said).content),
        "structured": structured,
    }


def by_llama_index(url: str) -> Got:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.ollama import Ollama
    from pydantic import BaseModel

    class Answer(BaseModel):
        colour: str
        number: int

    llm = Ollama(model=MODEL, base_url=url, temperature=0, context_window=4_096, additional_kwargs={"num_predict": 20})
    whole = llm.chat([ChatMessage(role="user", content=QUESTION)])
    parts = list(llm.stream_chat([ChatMessage(role="user", content=QUESTION)]))
    assert parts[-1].message.content == whole.message.content
    assert len(parts) > 10
    weather = FunctionTool.from_defaults(get_weather)
    called = llm.chat_with_tools([weather], user_msg=QUESTION)
    calls = llm.get_tool_calls_from_response(called)
    return {
        "text": whole.message.content,
        "completed": llm.complete("Once upon a time").text,
        "calls": [(call.tool_name, call.tool_kwargs) for call in calls],
        "structured": llm.as_structured_llm(Answer).complete(QUESTION).raw.model_dump(),
    }


def by_responses(url: str) -> Got:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(model=MODEL, input=[{"role": "user", "content": QUESTION}], instructions="Be brief.")
        # The package puts a stream together by the places in its events, and raises if one does not fit.
        with client.responses.stream(model=MODEL, input=QUESTION, instructions="Be brief.", temperature=0) as stream:
            pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
            streamed = stream.get_final_response()
        short = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=20, temperature=0)
    assert "".join(pieces) == streamed.output_text == whole.output_text
    assert len(pieces) > 10
    assert (whole.status, streamed.status) == ("completed", "completed")
    assert whole.usage.output_tokens == streamed.usage.output_tokens > 20 == short.usage.output_tokens
    return {"text": whole.output_text, "short": short.output_text}


def by_responses_with_tools(url: str) -> Got:
    import openai

    tool: Any = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": PARIS, "strict": True}
    form: Any = {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": ANSWER}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        called = client.responses.create(model=MODEL, input=QUESTION, tools=[tool])
        with client.responses.stream(model=MODEL, input=QUESTION, tools=[tool]) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_response()
        call = called.output[0]
        said: Any = [*HELLO, call, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
        answered = client.responses.create(model=MODEL, input=said, tools=[tool])
        structured = client.responses.create(model=MODEL, input=QUESTION, text=form)
        thought = client.responses.create(model=THINKER, input=QUESTION, reasoning={"effort": "low"})
    assert kinds[-1] == "response.completed"
    assert [(item.name, item.arguments) for item in streamed.output] == [(item.name, item.arguments) for item in called.output]
    assert [item.type for item in thought.output] == ["reasoning", "message"]
    return {
        "calls": [(item.name, json.loads(item.arguments)) for item in called.output],
        "answered": bool(answered.output_text),
        "structured": json.loads(structured.output_text),
        "thought": thought.output_text,
    }


def by_anthropic(url: str) -> Got:
    import anthropic

    tool: Any = {"name": "get_weather", "description": "The weather of a city", "input_schema": PARIS}
    asked: Any = {"model": MODEL, "messages": HELLO}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**asked, max_tokens=20, system="Be brief.")
        with client.messages.stream(**asked, max_tokens=20, system=[{"type": "text", "text": "Be brief."}]) as stream:
            text = "".join(stream.text_stream)
            streamed = stream.get_final_message()
        called = client.messages.create(**asked, max_tokens=500, tools=[tool])
        with client.messages.stream(**asked, max_tokens=500, tools=[tool]) as stream:
            kinds = [event.type for event in stream]
            calling = stream.get_final_message()
        use = called.content[-1]
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "sunny"}]}
        said: Any = [*HELLO, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        answered = client.messages.create(**(asked | {"messages": said}), max_tokens=500, tools=[tool])
        thinking: Any = {
            "model": THINKER,
            "messages": HELLO,
            "max_tokens": 2_000,
            "thinking": {"type": "enabled", "budget_tokens": 1_024},
        }
        thought = client.messages.create(**thinking)
        with client.messages.stream(**thinking) as stream:
            thought_streamed = stream.get_final_message()
    assert text == whole.content[0].text == streamed.content[0].text
    assert (whole.stop_reason, streamed.stop_reason) == ("max_tokens", "max_tokens")
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 20
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert (called.stop_reason, calling.stop_reason, use.type) == ("tool_use", "tool_use", "tool_use")
    assert [(block.name, block.input) for block in calling.content] == [(block.name, block.input) for block in called.content]
    assert (
        [block.type for block in thought.content] == [block.type for block in thought_streamed.content] == ["thinking", "text"]
    )
    assert thought.content[0].thinking == thought_streamed.content[0].thinking
    return {
        "text": text,
        "calls": [(block.name, block.input) for block in called.content],
        "answered": bool(answered.content),
        "thought": (thought.content[0].thinking, thought.content[1].text),
    }


USES: list[tuple[Callable[[str], Got], tuple[NodeKind, ...]]] = [
    (by_ollama, (NodeKind.OLLAMA,)),
    (by_openai, KINDS),
    (by_langchain_ollama, (NodeKind.OLLAMA,)),
    (by_langchain_openai, KINDS),
    (by_llama_index, (NodeKind.OLLAMA,)),
    (by_responses, (NodeKind.OLLAMA,)),
    (by_anthropic, (NodeKind.OLLAMA,)),
]


@pytest.mark.parametrize(("use", "speak_it"), USES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_package_gets_the_same_through_the_gateway(kinds, use, speak_it):
    """The nodes say the same to the same prompt, whatever their kind; so a difference is one that the gateway made."""
    expected = use(kinds.nodes[speak_it[0]])
    for kind in KINDS:
        if kind in speak_it[1:]:
            assert use(kinds.nodes[kind]) == expected, f"the nodes differ: {kind}"
        assert use(kinds.gateways[kind]) == expected, f"before a node of kind {kind}"


def test_responses_with_tools_and_a_schema(kinds):
    """Emulated nodes have no tools there; what is asked is the same as on the path for chats, and so is the answer."""
    expected = by_openai(kinds.nodes[NodeKind.OPENAI])
    results = [by_responses_with_tools(kinds.gateways[kind]) for kind in OPENAI_KINDS]
    assert results[0]["structured"] == expected["structured"]
    assert results[0]["calls"] == [("get_weather", {"city": "Paris"})]
    assert results == [results[0]] * len(results)


def test_litellm_gets_the_same_through_the_gateway(kinds):
    """In both ways that people use: as `ollama_chat/MODEL`, and as `openai/MODEL` with the address of `/v1`."""
    hosts = [("ollama_chat", kinds.nodes[NodeKind.OLLAMA]), ("openai", kinds.nodes[NodeKind.OPENAI])]
    hosts += [(provider, url) for url in kinds.gateways.values() for provider in ("ollama_chat", "openai")]
    asked = json.dumps({"hosts": hosts, "model": MODEL, "embedder": EMBEDDER})
    program = Path(__file__).parents[1] / "clients" / "use_litellm.py"
    ended = subprocess.run([sys.executable, program, asked], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 0, ended.stderr
    got = json.loads(ended.stdout)
    direct = {provider: got[f"{provider} {host}"] for provider, host in hosts[:2]}
    for provider, result in direct.items():
        assert (result["streamed"], result["streamed calls"]) == (result["text"], result["calls"]), provider
        assert result["calls"][0][0] == "get_weather"
        assert result["written"] == 20
    for provider, host in hosts[2:]:
        assert got[f"{provider} {host}"] == direct[provider], f"{provider} at {host}"


def from_npm(package: str, hosts: list[str]) -> list[Any]:
    """What the package got at each host; one process asks all of them, since starting it takes longer than asking."""
    got = run_client(package, {"hosts": hosts, "model": MODEL, "embedder": EMBEDDER})
    return [got[host] for host in hosts]


def test_ollama_from_npm(kinds):
    direct, *through = from_npm("ollama", [kinds.nodes[NodeKind.OLLAMA], *kinds.gateways.values()])
    assert direct["stream"] == {
        "text": direct["chat"]["text"], "several": True, "endings": 1, "reason": "length", "written": 20, "timed": True
    }  # fmt: skip
    assert direct["tools"][0]["name"] == "get_weather"
    assert direct["answered"]
    assert set(direct["structured"]) == {"colour", "number"}
    assert (direct["error"]["name"], direct["error"]["status"]) == ("ResponseError", 404)
    for kind, got in zip(kinds.gateways, through, strict=True):
        assert got == direct, f"before a node of kind {kind}"


def test_openai_from_npm(kinds):
    count = len(KINDS)
    results = from_npm("openai", [*kinds.nodes.values(), *kinds.gateways.values()])
    direct, through = dict(zip(KINDS, results[:count], strict=True)), dict(zip(KINDS, results[count:], strict=True))
    expected = direct[NodeKind.OPENAI]
    assert expected["stream"]["text"] == expected["chat"]["text"]
    assert expected["tools"] == expected["streamedTools"]
    assert (expected["reason"], expected["streamedReason"]) == ("tool_calls", "tool_calls")
    assert expected["error"] == {"kind": "NotFoundError", "status": 404, "type": "not_found_error"}
    direct[NodeKind.VLLM]["error"] = expected["error"]  # vLLM has a type of its own for what is not there, the gateway has not
    for kind in KINDS:
        assert through[kind] == direct[kind], f"before a node of kind {kind}"
        assert through[kind] == expected, f"a node of kind {kind} and one of another"
