"""What clients seldom send, as a node of the other dialect is given it: nothing is dropped, nothing is made up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol.core.types import Dialect, NodeKind, Task
from sollol.errors import BadRequest, RequestError, Untranslatable
from sollol.wire.neutral import Call, Message, joined, mime_of, paired
from sollol.wire.requests import dialect_of, read
from sollol.wire.translate import translation

CHAT = [{"role": "user", "content": "hi"}]
PNG = "iVBORw0KGgo="
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
OLLAMA, LLAMACPP, VLLM = NodeKind.OLLAMA, NodeKind.LLAMACPP, NodeKind.VLLM
COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def sent(path: str, kind: NodeKind, **fields: Any) -> dict[str, Any]:
    body = json.dumps({"model": "m", **fields}).encode()
    task = Task(1, read(path, body).kind, dialect_of(path), path, "m:latest", body, 0.0, stream=False)
    found: dict[str, Any] = json.loads(translation(task, "native", kind).body)
    return found


def told(path: str, kind: NodeKind, said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as the node gets them."""
    name = "input" if path == RESPONSES else "messages"
    found: list[dict[str, Any]] = sent(path, kind, **{name: said})["messages"]
    return found


# --- messages


@pytest.mark.parametrize(
    ("path", "said", "messages"),
    [
        (MESSAGES, [{"role": "user"}, {"role": "user", "content": None}], [("user", "")] * 2),
        (MESSAGES, [{"role": "user", "content": ""}], [("user", "")]),
        (
            MESSAGES,
            [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "so"}]}],
            [("assistant", "so")],
        ),
        (
            MESSAGES,
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "document", "title": "T", "source": {"type": "text", "data": "words"}},
                        {"type": "document", "source": {"type": "text", "data": "more"}},
                        {"type": "text"},
                        {"type": "text", "text": "what?"},
                    ],
                }
            ],
            [("user", "T\nwords\nmore\n\nwhat?")],
        ),
        (
            COMPLETIONS,
            [{"role": "user"}, {"role": "user", "content": None}, {"role": "user", "content": []}],
            [("user", "")] * 3,
        ),
        (COMPLETIONS, [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}], [("assistant", "no")]),
        (
            COMPLETIONS,
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            [("user", "a\nb")],
        ),
        (
            RESPONSES,
            [{"role": "developer", "content": "be"}, {"role": "system", "content": "brief"}],
            [("system", "be\nbrief")],
        ),
        (
            RESPONSES,
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            [("user", "a"), ("system", "b")],
        ),
        (
            RESPONSES,
            [{"type": "reasoning", "summary": []}, {"type": "message", "role": "user", "content": "a"}],
            [("user", "a")],
        ),
        (RESPONSES, [{"type": "message", "role": "assistant", "content": "a"}] * 2, [("assistant", "a")] * 2),
    ],
)
def test_text_that_is_sent_in_pieces_or_not_at_all(path, said, messages):
    for kind in (OLLAMA,) if path == COMPLETIONS else (OLLAMA, VLLM):
        assert [(message["role"], message["content"]) for message in told(path, kind, said)] == messages


@pytest.mark.parametrize("kind", [OLLAMA, LLAMACPP])
def test_what_the_model_thought_and_called_in_one_turn_is_one_message(kind):
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}
    answer = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "42"}]}
    turns = [
        {"role": "assistant", "content": [thought, {"type": "text", "text": "so"}, call]},
        {"role": "user", "content": [answer]},
    ]
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    for path, said in ((MESSAGES, turns), (RESPONSES, items)):
        spoken, tool = told(path, kind, said)
        (called,) = spoken["tool_calls"]
        arguments = called["function"]["arguments"]
        assert (spoken["content"], called["function"]["name"]) == ("so", "f")
        assert (arguments if kind is OLLAMA else json.loads(arguments)) == {"a": 1}
        assert spoken["thinking" if kind is OLLAMA else "reasoning_content"] == "hm"
        assert (tool["role"], tool["content"], tool["tool_call_id"]) == ("tool", "42", "c")


def test_an_ollama_client_names_the_tool_that_answers():
    call = {"function": {"name": "f", "arguments": {}}}
    said = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_name": "f", "content": "42"}]
    spoken, tool = told("/api/chat", LLAMACPP, said)
    assert tool["tool_call_id"] == spoken["tool_calls"][0]["id"] != ""


@pytest.mark.parametrize(
    ("answers", "paired_with"),
    [
        ([("", ""), ("", "")], [("one", "f"), ("two", "g")]),  # by their order
        ([("", "g"), ("", "f")], [("two", "g"), ("one", "f")]),  # by their name
        ([("two", ""), ("one", "")], [("two", "g"), ("one", "f")]),  # by their id
        ([("other", "h"), ("", "")], [("other", "h"), ("one", "f")]),  # of no call that is here
        ([("", "h")], [("call_0", "h")]),
        ([("", ""), ("", ""), ("", "")], [("one", "f"), ("two", "g"), ("call_0", "")]),
    ],
)
def test_answers_of_tools_find_their_calls(answers, paired_with):
    asked = Message("assistant", calls=[Call("one", "f"), Call("two", "g")])
    made = paired([Message("user", ["x"]), asked, *(Message("tool", call_id=call, tool=tool) for call, tool in answers)])
    assert [(message.call_id, message.tool) for message in made[2:]] == paired_with


def test_calls_without_an_id_get_one_each():
    made = paired([Message("assistant", calls=[Call("", "f"), Call("x", "g")]), Message("assistant", calls=[Call("", "f")])])
    assert [call.id for message in made for call in message.calls] == ["call_1", "x", "call_2"]


def test_a_picture_keeps_its_place_among_the_texts_and_empty_texts_have_none():
    assert joined(["a", "b", "", "c"]) == ["a\nb\n\nc"]
    assert joined(["", "a"]) == ["a"]
    parts = [{"type": "text", "text": ""}, PICTURE, {"type": "text", "text": "a"}]
    (message,) = told(COMPLETIONS, OLLAMA, [{"role": "user", "content": parts}])
    assert (message["content"], message["images"]) == ("a", [PNG])


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("data:image/webp;base64,AAAA", "AAAA"),
        ("data:;base64,R0lGODlh", "R0lGODlh"),
        ("https://example.org/a.png", Untranslatable),
        ("data:image/png,AAAA", BadRequest),
        ("data:image/png;base64", BadRequest),
    ],
)
def test_a_picture_is_its_bytes_and_never_an_address(url, found):
    said = [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]
    if isinstance(found, str):
        assert told(COMPLETIONS, OLLAMA, said)[0]["images"] == [found]
    else:
        with pytest.raises(found):
            told(COMPLETIONS, OLLAMA, said)


@pytest.mark.parametrize(("data", "mime"), [("/9j/4AAQ", "image/jpeg"), ("UklGRg", "image/webp"), ("????", "image/png")])
def test_the_bytes_of_a_picture_tell_what_it_is(data, mime):
    assert mime_of(data) == mime


# --- tools


DESCRIBED = {"name": "f", "description": "does f", "parameters": {"type": "object"}, "strict": True}


def test_a_tool_is_told_with_all_that_is_known_of_it():
    tool = {"name": "f", "description": "does f", "input_schema": {"type": "object"}, "strict": True}
    assert sent(MESSAGES, VLLM, messages=CHAT, tools=[tool])["tools"] == [{"type": "function", "function": DESCRIBED}]
    function = {name: value for name, value in DESCRIBED.items() if name != "strict"}  # Ollama has no such word
    for path, tools in ((MESSAGES, [tool]), (COMPLETIONS, [{"type": "function", "function": DESCRIBED}])):
        assert sent(path, OLLAMA, messages=CHAT, tools=tools)["tools"] == [{"type": "function", "function": function}]
    bare = sent(MESSAGES, OLLAMA, messages=CHAT, tools=[{"name": "g"}])["tools"]
    assert bare == [{"type": "function", "function": {"name": "g"}}]


TOOLS = [{"type": "function", "function": {"name": name}} for name in "fg"]
FLAT = [{"type": "function", "name": name} for name in "fg"]


@pytest.mark.parametrize("choice", [{"type": "function", "name": "g"}, {"type": "function", "function": {"name": "g"}}])
def test_a_function_that_is_named_must_be_called(choice):
    body = sent(RESPONSES, VLLM, input="x", tools=FLAT, tool_choice=choice)
    assert body["tool_choice"] == {"type": "function", "function": {"name": "g"}}
    with pytest.raises(Untranslatable, match="cannot make a model call a tool"):
        sent(COMPLETIONS, OLLAMA, messages=CHAT, tools=TOOLS, tool_choice=choice)


def test_a_choice_that_is_not_there_is_told():
    with pytest.raises(BadRequest, match="names no tool of this request: h"):
        sent(RESPONSES, VLLM, input="x", tools=FLAT, tool_choice={"type": "function", "name": "h"})


@pytest.mark.parametrize(
    ("path", "kind", "fields", "error"),
    [
        ("/api/chat", LLAMACPP, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "names no function"),
        ("/api/chat", LLAMACPP, {"messages": CHAT, "tools": [{"type": "web"}]}, "is no function"),
        (COMPLETIONS, OLLAMA, {"messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]}, "only functions can"),
        (COMPLETIONS, OLLAMA, {"messages": CHAT, "tools": [{"type": "custom"}]}, "is no function"),
        (COMPLETIONS, OLLAMA, {"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "only text and pictures"),
        (MESSAGES, OLLAMA, {"messages": CHAT, "tools": [{"type": "bash_20250124", "name": "bash"}]}, "run by the service"),
        (MESSAGES, OLLAMA, {"messages": CHAT, "output_config": {"format": {"type": "xml"}}}, 'no format "xml"'),
        (RESPONSES, OLLAMA, {"input": "x", "tools": [{"type": "web_search"}]}, "run by the service"),
        (RESPONSES, OLLAMA, {"input": "x", "text": {"format": {"type": "xml"}}}, 'no format "xml"'),
        (RESPONSES, OLLAMA, {"input": "x", "include": ["file_search_call.results"]}, "there is no"),
    ],
)
def test_what_no_node_can_do_is_refused_by_its_name(path, kind, fields, error):
    with pytest.raises(RequestError, match=error):
        sent(path, kind, **fields)


def test_arguments_that_were_never_given_are_none():
    call = {"id": "c", "type": "function", "function": {"name": "f"}}
    empty = {"id": "d", "type": "function", "function": {"name": "f", "arguments": ""}}
    (message,) = told(COMPLETIONS, OLLAMA, [{"role": "assistant", "tool_calls": [call, empty]}])
    assert [made["function"]["arguments"] for made in message["tool_calls"]] == [{}, {}]


# --- fields


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("path", "fields", "wanted"),
    [
        (COMPLETIONS, {"response_format": {"type": "text"}}, None),
        (COMPLETIONS, {"response_format": {"type": "json_object"}}, "json"),
        (COMPLETIONS, {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}, SCHEMA),
        (COMPLETIONS, {"response_format": {"type": "json_schema"}}, "json"),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}, SCHEMA),
        (RESPONSES, {"text": {"format": {"type": "text"}}}, None),
        (RESPONSES, {"text": {"format": {"type": "json_object"}}}, "json"),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}}, SCHEMA),
    ],
)
def test_the_form_of_an_answer(path, fields, wanted):
    asked = {"input": "x"} if path == RESPONSES else {"messages": CHAT}
    assert sent(path, OLLAMA, **asked, **fields).get("format") == wanted


@pytest.mark.parametrize(("stop", "given"), [("END", ["END"]), (["a", "b"], ["a", "b"]), (None, None)])
def test_one_stop_word_needs_no_list(stop, given):
    assert sent(COMPLETIONS, OLLAMA, messages=CHAT, stop=stop).get("options", {}).get("stop") == given


def test_control_headers_that_are_read_already_are_not_read_again():
    body = b'{"model":"m","messages":[]}'
    asked = read("/api/chat", body, ((b"x-sollol-priority", b"9"),))
    assert asked.priority == 9
    again = read("/api/chat", body, ((b"x-sollol-priority", b"1"),), asked.control)
    assert (again.priority, again.dialect) == (9, Dialect.OLLAMA)
