"""What is kept of an answer so that another node can go on: all of its text, little memory, and nothing that is no text."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.wire.said import PIECES, TEXT, SaidLines
from sollol.wire.said_events import SaidEvents

TEXTS = st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12), max_size=30)
MODEL = "llama3.2:3b"


def chat_line(said: str) -> bytes:
    message = {"role": "assistant", "content": said}
    return json.dumps({"model": MODEL, "message": message, "done": False}, ensure_ascii=False).encode() + b"\n"


def generate_line(said: str) -> bytes:
    return json.dumps({"model": MODEL, "response": said, "done": False}).encode() + b"\n"


HEAD = '{"model":"m","created_at":"2026-11-21T05:12:34.059257958Z",'


def ollama_chat_line(said: str) -> bytes:
    """To the byte as Ollama writes it."""
    text = json.dumps(said, ensure_ascii=False)
    return (HEAD + '"message":{"role":"assistant","content":' + text + '},"done":false}\n').encode()


def ollama_generate_line(said: str) -> bytes:
    return (HEAD + '"response":' + json.dumps(said) + ',"done":false}\n').encode()


def chunk(said: str) -> bytes:
    choices = [{"index": 0, "delta": {"content": said}, "finish_reason": None}]
    return b"data: " + json.dumps({"id": "chatcmpl-1", "model": MODEL, "choices": choices}).encode() + b"\n\n"


def completion_chunk(said: str) -> bytes:
    choices = [{"index": 0, "text": said, "finish_reason": None}]
    return b"data: " + json.dumps({"id": "cmpl-1", "object": "text_completion", "choices": choices}).encode() + b"\n\n"


KINDS = [
    *((SaidLines, line) for line in (chat_line, generate_line, ollama_chat_line, ollama_generate_line)),
    *((SaidEvents, event) for event in (chunk, completion_chunk)),
]


@pytest.mark.parametrize(("record", "spoken"), KINDS)
@given(texts=TEXTS, at=st.lists(st.integers(0, 4_000), max_size=6))
def test_the_text_is_what_was_said_however_the_pieces_are_cut(
    record: Callable[[], SaidLines | SaidEvents], spoken: Callable[[str], bytes], texts: list[str], at: list[int]
) -> None:
    said = record()
    whole = b"".join(spoken(text) for text in texts)
    bounds = [0, *sorted(min(one, len(whole)) for one in at), len(whole)]
    rest = shown = b""
    for start, end in pairwise(bounds):
        piece, rest = said.cut(rest + whole[start:end])
        shown += piece
        if piece:
            said.add(piece)
    assert (shown, rest) == (whole, b"")
    assert said.text == "".join(texts)
    assert said.tokens == sum(bool(text) for text in texts)
    assert said.plain


@pytest.mark.parametrize(("record", "spoken"), KINDS)
def test_a_long_answer_takes_little_more_memory_than_its_text(
    record: Callable[[], SaidLines | SaidEvents], spoken: Callable[[str], bytes]
) -> None:
    word, count = " word", 20_000
    line = spoken(word)
    said = record()
    tracemalloc.start()
    try:
        for _ in range(count):
            said.add(bytes(bytearray(line)))  # an object of its own, as from a socket
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said.plain
    assert said.text == word * count
    assert kept < 1.5 * count * len(word) + 4 * PIECES


@pytest.mark.parametrize(("record", "spoken"), KINDS)
def test_an_answer_without_end_is_not_kept_and_not_continued(
    record: Callable[[], SaidLines | SaidEvents], spoken: Callable[[str], bytes]
) -> None:
    said = record()
    for _ in range(3 * TEXT // 1_000):
        said.add(spoken("x" * 1_000))
    assert not said.plain
    assert len(said.text) <= TEXT + PIECES


def test_lines_of_both_sorts_are_read_in_their_order() -> None:
    said = SaidLines()
    said.add(ollama_chat_line("a") + chat_line("b") + ollama_chat_line('"') + generate_line("c") + ollama_generate_line("d"))
    assert (said.text, said.tokens) == ('ab"cd', 5)


def test_a_document_is_kept_whole_however_long() -> None:
    said = SaidLines(whole=True)
    for _ in range(3 * TEXT // 1_000):
        said.add(chat_line("x" * 1_000))
    said.add(b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"eval_count":9}\n')
    assert said.plain
    assert len(json.loads(said.document())["message"]["content"]) == 3 * TEXT // 1_000 * 1_000


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        (b'{"message":{"role":"assistant","content":"a","thinking":null,"tool_calls":null},"done":false}\n', True),
        (b'{"message":{"role":"assistant","content":"a","thinking":"","tool_calls":[]},"done":false}\n', True),
        (b'{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n', False),
        (b'{"message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f"}}]},"done":false}\n', False),
        (b'{"response":"a","thinking":"hm","done":false}\n', False),
        (b'{"message":{"role":"assistant","content":"a"}\n', False),
    ],
)
def test_thoughts_and_calls_and_what_cannot_be_read_are_not_plain(line: bytes, plain: bool) -> None:
    said = SaidLines()
    said.add(line)
    said.read()
    assert said.plain is plain


NAMELESS = b'data: {"id":"chatcmpl-1","model":"","choices":[{"index":0,"delta":{"content":""}}]}\n\n'


@pytest.mark.parametrize(
    ("before", "piece", "shown"),
    [
        (chunk("a"), chunk("b") + NAMELESS, chunk("b")),
        (chunk("a"), NAMELESS, b""),
        (chunk("a"), NAMELESS + b"data: [DONE]\n\n", b""),
        (chunk("a"), chunk('"model":""'), chunk('"model":""')),
        (NAMELESS, NAMELESS, NAMELESS),  # a server that never names its model
    ],
)
def test_an_event_without_a_model_is_the_last_of_an_engine_that_died(before: bytes, piece: bytes, shown: bytes) -> None:
    said = SaidEvents()
    said.add(said.cut(before)[0] or before)
    assert said.cut(piece) == (shown, piece.removeprefix(shown))
