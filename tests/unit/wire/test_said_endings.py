"""How an answer that is kept line by line ends: as one document, with what it lacks, or in an error that nobody is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sollol.wire.said import SaidLines, error_in
from sollol.wire.said_events import SaidEvents


def generate_line(said: str, **more: Any) -> bytes:
    return json.dumps({"model": "m", "response": said, "done": False, **more}, separators=(",", ":")).encode() + b"\n"


def chunk(choices: list[Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({"id": "theirs", "model": "native", "choices": choices, **more}).encode() + b"\n\n"


def text_chunk(text: str, finish: str | None = None) -> bytes:
    return chunk([{"index": 0, "text": text, "finish_reason": finish}], object="text_completion")


def events(out: bytes) -> list[Any]:
    """The data of the events; the last of all as it is."""
    assert out == b"" or out.endswith(b"\n\n")
    data = [one.removeprefix("data: ") for one in out.decode().split("\n\n") if one]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


USAGE = chunk([], usage={"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14})
DONE = b"data: [DONE]\n\n"


def chat_line(content: str, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    return (
        json.dumps({"model": "m", "created_at": "t", "message": message, "done": False}, separators=(",", ":")).encode() + b"\n"
    )


CALLS = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "g", "arguments": {}}}]


@pytest.mark.parametrize("named", ["message", "response"])
@pytest.mark.parametrize("thoughts", [[], ["h", 'm"']])
@pytest.mark.parametrize("calls", [[], CALLS])
@pytest.mark.parametrize("texts", [[], ["a", 'é"\n']])
def test_a_document_of_lines_says_all_that_they_said(named, thoughts, calls, texts) -> None:
    def line(done: bool = False, **said: Any) -> bytes:
        message = {"role": "assistant", "content": said.pop("content", ""), **said}
        told = {"message": message} if named == "message" else {"response": message.pop("content"), **said}
        return json.dumps({"model": "m", **told, "done": done, **({"eval_count": 9} if done else {})}).encode() + b"\n"

    said = SaidLines(whole=True)
    for thought in thoughts:
        said.add(line(thinking=thought))
    for text in texts:
        said.add(line(content=text))
    for call in calls:
        said.add(line(tool_calls=[call]))
    said.add(line(done=True))
    expected = {
        "content": "".join(texts),
        **({"thinking": "".join(thoughts)} if thoughts else {}),
        **({"tool_calls": calls} if calls else {}),
    }
    told = (
        {"message": {"role": "assistant", **expected}} if named == "message" else {**expected, "response": expected["content"]}
    )
    if named == "response":
        del told["content"]
    assert json.loads(said.document()) == {"model": "m", **told, "done": True, "eval_count": 9}
    ending = said.ending()
    assert ending.complete
    assert ending.counters is not None
    assert ending.counters.output_tokens == 9


def test_lines_without_their_last_one_have_no_end() -> None:
    said = SaidLines()
    said.add(chat_line("a"))
    assert not said.ending().complete
    assert said.rest() == b""


@pytest.mark.parametrize(("line", "empty"), [(chat_line("a"), {"message": {"role": "assistant", "content": ""}}),
                                             (generate_line("a"), {"response": ""})])  # fmt: skip
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 5, "completion_tokens": 1}])
def test_a_last_line_for_what_was_said_already(line: bytes, empty: dict[str, Any], usage: dict[str, int] | None) -> None:
    said = SaidLines()
    said.add(line)
    told = json.loads(said.closing("length", {"eval_count": 1}, usage))
    counted = {"eval_count": 1} if usage is None else {"eval_count": 1, "prompt_eval_count": 5}
    assert {name: told[name] for name in told.keys() - {"model", "created_at"}} == {
        **empty,
        "done": True,
        "done_reason": "length",
        **counted,
    }
    assert told["model"] == "m"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"error":"it broke"}\nmore', "it broke"),
        (b'{"error":{"message":"it broke"}}\n', "it broke"),
        (b'{"error":"it br', "the stream ended in an error that cannot be read"),
        (b'{"response":"a"}\n{"error":"it broke"}\n', None),
        (b"", None),
    ],
)
def test_the_error_in_which_a_stream_ended(data: bytes, text: str | None) -> None:
    assert error_in(data) == text


ERROR = b'{"error":"it broke"}\n'


@pytest.mark.parametrize(
    ("data", "shown", "left"),
    [
        (chat_line("a") + ERROR, chat_line("a"), ERROR),
        (ERROR, b"", ERROR),
        (chat_line("a") + b'{"mess', chat_line("a"), b'{"mess'),
        (chat_line('{"error"'), chat_line('{"error"'), b""),
        (b"", b"", b""),
    ],
)
def test_an_error_line_is_never_shown(data: bytes, shown: bytes, left: bytes) -> None:
    assert SaidLines().cut(data) == (shown, left)


def test_what_is_empty_or_cannot_be_read_says_nothing() -> None:
    said = SaidLines()
    said.read()
    said.add(b" \n")
    said.read()
    assert (said.text, said.tokens, said.plain) == ("", 0, True)
    called = SaidLines()
    called.add(chat_line("", tool_calls=CALLS))
    called.read()
    assert not called.plain, "and the calls themselves are not kept where nobody asks for a document"


# --- the same for events


@pytest.mark.parametrize(
    "error", [b'data: {"error":{}}\n\n', b'data:{"error":"x"}\n\n', b'error: {"x":1}\n\n', b"error:{}\n\n"]
)
def test_an_event_that_tells_an_error_is_never_shown(error: bytes) -> None:
    before = text_chunk("a")
    assert SaidEvents().cut(before + error) == (before, error)
    assert SaidEvents().cut(error) == (b"", error)


def chat_chunk(finish: str | None = None, **delta: Any) -> bytes:
    return chunk([{"index": 0, "delta": delta, "finish_reason": finish}], object="chat.completion.chunk")


@pytest.mark.parametrize(
    ("event", "plain"),
    [
        (chat_chunk(content="a"), True),
        (chat_chunk(content="a", reasoning_content="", reasoning=None), True),
        (chat_chunk(reasoning_content="hm"), False),
        (chat_chunk(reasoning="hm"), False),
        (chat_chunk(tool_calls=[{"index": 0}]), False),
        (b"data: rubbish\n\n", False),
        (b": a comment\n\n", True),
    ],
)
def test_thoughts_calls_and_rubbish_are_not_plain(event: bytes, plain: bool) -> None:
    said = SaidEvents()
    said.add(event)
    said.read()
    assert said.plain is plain


@pytest.mark.parametrize("chat", [True, False])
def test_what_a_stream_of_events_lacks_at_its_end(chat: bool) -> None:
    words, end = (chat_chunk(content="a"), chat_chunk("stop")) if chat else (text_chunk("a"), text_chunk("", "stop"))
    counts = {"prompt_tokens": 5, "completion_tokens": 1}
    said = SaidEvents()
    said.add(words)
    assert not said.ending().complete
    head = {"id": "theirs", "model": "native", "object": "chat.completion.chunk" if chat else "text_completion"}
    empty = {"index": 0, "delta": {}} if chat else {"text": "", "index": 0}
    closed, done = events(said.closing("length", {}))
    assert (closed, done) == ({**head, "choices": [{**empty, "finish_reason": "length"}]}, "[DONE]")
    told = {**head, "choices": [], "usage": {**counts, "total_tokens": 6}}
    assert events(said.closing("length", {}, counts))[1:] == [told, "[DONE]"]
    said.add(end)
    assert said.ending().complete
    assert (events(said.rest()), events(said.rest(counts))) == (["[DONE]"], [told, "[DONE]"])
    said.add(USAGE)
    assert events(said.rest(counts)) == ["[DONE]"], "the node has told its counts"
    said.add(DONE)
    assert said.rest(counts) == b""
