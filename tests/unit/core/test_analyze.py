import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.analyze import SAMPLE, Analysis, analyze, classify, complexity, sample
from sollol.core.types import Dialect, Kind, Prompt, Task


def task(body: object, kind: Kind = Kind.CHAT, **fields: object) -> Task:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Task(1, kind, Dialect.OLLAMA, "/api/chat", "m:latest", raw, 0.0, **fields)  # type: ignore[arg-type] # a test's table


@pytest.mark.parametrize(
    ("text", "kind", "found"),
    [
        ("Hello, how are you today?", Kind.CHAT, "chat"),
        ("Once upon a time", Kind.GENERATE, "generation"),
        ("Write a poem about the sea", Kind.CHAT, "generation"),
        ("Please summarize this article: ...", Kind.CHAT, "summarization"),
        ("TL;DR of the following", Kind.GENERATE, "summarization"),
        ("Write a Python function that sorts a list", Kind.CHAT, "code"),
        ("What is wrong here?\n```\ndef f(x):\n  return y\n```", Kind.CHAT, "code"),
        ("Classify the sentiment of this review", Kind.CHAT, "classification"),
        ("Extract all e-mail addresses from the text", Kind.CHAT, "extraction"),
        ("Compare the two designs and evaluate the trade-offs", Kind.CHAT, "analysis"),
        ("Summarize this", Kind.EMBED, "embedding"),
    ],
)
def test_task_type(text: str, kind: Kind, found: str) -> None:
    assert classify(kind, text) == found


@pytest.mark.parametrize(
    ("task_type", "tokens", "limit", "inputs", "level"),
    [
        ("chat", 10, None, 1, "low"),
        ("chat", 301, None, 1, "medium"),
        ("chat", 2_001, None, 1, "high"),
        ("chat", 10, 4_096, 1, "medium"),
        ("code", 10, None, 1, "medium"),
        ("analysis", 5_000, 4_096, 1, "high"),
        ("embedding", 10, None, 1, "low"),
        ("embedding", 10, None, 33, "medium"),
        ("embedding", 10, None, 513, "high"),
    ],
)
def test_complexity(task_type: str, tokens: float, limit: int | None, inputs: int, level: str) -> None:
    assert complexity(task_type, tokens, limit, inputs) == level


def test_a_short_chat_needs_no_gpu_and_a_picture_does() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert analyze(task(body)) == Analysis("chat", "low", needs_gpu=False)
    assert analyze(task(body, needs=frozenset({"vision"}))).needs_gpu
    assert analyze(task(body, prompt=Prompt(chars=20_000))) == Analysis("chat", "high", needs_gpu=True)


def test_the_model_name_and_other_messages_say_nothing() -> None:
    body = {
        "model": "summarize-extract-coder",
        "messages": [
            {"role": "user", "content": "summarize this"},
            {"role": "assistant", "content": "done"},
            {"role": "user", "content": [{"type": "text", "text": "thank you"}]},
        ],
    }
    assert analyze(task(body)).task_type == "chat"


def test_the_system_message_counts_and_the_middle_of_a_long_text_does_not() -> None:
    system = {"messages": [{"role": "system", "content": "You classify mails."}, {"role": "user", "content": "Dear Sir"}]}
    assert analyze(task(system)).task_type == "classification"
    assert analyze(task({"system": "Extract names.", "prompt": "Bob met Eve"}, Kind.GENERATE)).task_type == "extraction"
    long = "x " * SAMPLE
    assert analyze(task({"messages": [{"role": "user", "content": long + "summarize" + long}]})).task_type == "chat"
    assert analyze(task({"messages": [{"role": "user", "content": long + "summarize"}]})).task_type == "summarization"


def test_the_sample_is_bounded_also_for_huge_bodies() -> None:
    assert len(sample(msgspec.json.encode({"prompt": "y" * 3_000_000}))) <= SAMPLE
    assert len(sample(msgspec.json.encode({"prompt": "y" * 100_000, "system": "z" * 100_000}))) <= SAMPLE


@given(st.binary(max_size=200) | st.just(b'{"prompt":' + b"[" * 50_000) | st.just(b'{"prompt":"\xff"}'))
def test_rubbish_is_a_chat(body: bytes) -> None:
    assert analyze(task(body)).task_type == "chat"
