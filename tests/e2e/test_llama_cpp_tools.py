"""A real llama.cpp server with tools, a schema and a grammar, through the gateway, in the dialects of four kinds of clients.

Its model calls tools and does nothing else. Every client is to get what one of OpenAI's dialect gets from the server itself:
the same question to the same model has the same answer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.gateway import gateway

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

HELLO: Any = [{"role": "user", "content": "how are you today"}]
# One choice each: what is called is then the same whatever stands in the prompt.
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris"]}, "days": {"type": "integer", "enum": [3]}},
    "required": ["city", "days"],
}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": PARAMETERS}}
CALLED = [("get_weather", {"city": "Paris", "days": 3})]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue", "green"]}, "number": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["colour", "number"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= ("yes" | "no" | "may" [a-z]) " " [0-9] [0-9]'

Calls = list[tuple[str, Any]]


def by_ollama(url: str) -> tuple[Calls, Any]:
    import ollama

    options = {"temperature": 0, "num_predict": 300}
    with ollama.Client(host=url) as client:
        whole = client.chat("tiny", HELLO, tools=[WEATHER], options=options)
        parts = list(client.chat("tiny", HELLO, tools=[WEATHER], options=options, stream=True))
        result = {"role": "tool", "tool_name": "get_weather", "content": "sunny"}
        again = client.chat("tiny", [*HELLO, whole.message, result], tools=[WEATHER], options=options)
        structured = client.chat("tiny", HELLO, format=SCHEMA, options=options)
        pieces = list(client.chat("tiny", HELLO, format=SCHEMA, options=options, stream=True))
    assert (whole.done_reason, parts[-1].done_reason, [part.done for part in parts].count(True)) == ("stop", "stop", 1)
    assert again.message.tool_calls
    assert "".join(piece.message.content for piece in pieces) == structured.message.content
    calls = [(call.function.name, dict(call.function.arguments)) for call in whole.message.tool_calls]
    streamed = [call.function for part in parts for call in part.message.tool_calls or []]
    assert [(function.name, dict(function.arguments)) for function in streamed] == calls
    return calls, json.loads(structured.message.content)


def by_openai(url: str) -> tuple[Calls, Any]:
    import openai

    asked: Any = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 300}
    schema: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        ask = client.chat.completions
        whole = ask.create(**asked, tools=[WEATHER], tool_choice="required").choices[0]
        with ask.stream(**asked, tools=[WEATHER], tool_choice="required") as stream:
            streamed = stream.get_final_completion().choices[0]
        call = whole.message.tool_calls[0]
        said = [*HELLO, whole.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        again = ask.create(**(asked | {"messages": said}), tools=[WEATHER]).choices[0]
        structured = ask.create(**asked, response_format=schema).choices[0].message.content
        ruled = ask.create(**asked, extra_body={"grammar": GRAMMAR}).choices[0].message.content
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in whole.message.tool_calls]
    assert (whole.finish_reason, streamed.finish_reason, again.finish_reason) == ("tool_calls",) * 3
    assert [(c.function.name, json.loads(c.function.arguments)) for c in streamed.message.tool_calls] == calls
    assert all(call.id for call in (*whole.message.tool_calls, *streamed.message.tool_calls))
    return calls, (json.loads(structured), ruled)


def by_responses(url: str) -> tuple[Calls, Any]:
    import openai

    tool: Any = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": PARAMETERS, "strict": True}
    form: Any = {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA}}
    asked: Any = {"model": "tiny", "temperature": 0, "max_output_tokens": 300}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(**asked, input=HELLO, tools=[tool], tool_choice="required")
        with client.responses.stream(**asked, input=HELLO, tools=[tool], tool_choice="required") as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_response()
        structured = client.responses.create(**asked, input=HELLO, text=form)
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert "response.function_call_arguments.delta" in kinds
    calls = [(item.name, json.loads(item.arguments)) for item in whole.output if item.type == "function_call"]
    assert [(item.name, json.loads(item.arguments)) for item in streamed.output if item.type == "function_call"] == calls
    return calls, json.loads(structured.output_text)


def by_anthropic(url: str) -> tuple[Calls, Any]:
    import anthropic

    tool: Any = {"name": "get_weather", "description": "Weather", "input_schema": PARAMETERS}
    plain: Any = {"model": "tiny", "max_tokens": 300, "extra_body": {"temperature": 0}}  # no longer an argument of the package
    asked = plain | {"tools": [tool], "tool_choice": {"type": "any"}}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**asked, messages=HELLO)
        with client.messages.stream(**asked, messages=HELLO) as stream:
            kinds = [event.type for event in stream]
            streamed = stream.get_final_message()
        use = next(block for block in whole.content if block.type == "tool_use")
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
        said: Any = [*HELLO, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
        again = client.messages.create(**asked, messages=said)
        form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
        structured = client.messages.create(**plain, messages=HELLO, output_config=form)
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert (whole.stop_reason, streamed.stop_reason, again.stop_reason) == ("tool_use",) * 3
    calls = [(block.name, block.input) for block in whole.content if block.type == "tool_use"]
    assert [(block.name, block.input) for block in streamed.content if block.type == "tool_use"] == calls
    return calls, json.loads(structured.content[0].text)


def count_tokens(url: str) -> int:
    import anthropic

    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        return int(client.messages.count_tokens(model="tiny", messages=HELLO).input_tokens)


def test_tools_a_schema_and_a_grammar_in_every_dialect(llama_server):
    server = llama_server(tools=True)
    with gateway(server.url) as url:
        calls, (structured, ruled) = by_openai(server.url)
        assert calls == CALLED
        assert set(structured) == {"colour", "number"}
        assert len(ruled.split()) == 2
        assert by_openai(url) == (calls, (structured, ruled))
        assert by_ollama(url) == (calls, structured)
        # The server's own events of responses lack what the package puts them together by, and it does not keep to the schema.
        assert by_responses(url) == (calls, structured)
        assert by_anthropic(url) == (calls, structured)
        assert count_tokens(url) == count_tokens(server.url)
