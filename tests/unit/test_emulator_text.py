"""What emulated models say: determined by the prompt, and continued wherever it was cut."""

from __future__ import annotations

import json
from math import isclose

from hypothesis import given, settings
from hypothesis import strategies as st

from sollol.emulator import text
from sollol.emulator.text import Answer, answer, count_tokens, embedding, render_chat, render_template, turn

roles = st.sampled_from(["user", "assistant", "system", "tool"])
contents = st.one_of(st.text(max_size=40), st.sampled_from(["amber", "tell me of the amber", " amber anchor", "x amber "]))
chats = st.lists(st.tuples(roles, contents), max_size=5)


@given(chats, st.integers(1, 40), st.floats(0, 1))
def test_a_chat_that_broke_anywhere_is_continued(messages, mean, cut):
    prompt = render_chat(messages).text
    whole = answer("m", prompt, mean=mean)
    k = int(cut * len(whole.text))
    rest = answer("m", prompt + whole.text[:k], mean=mean)
    assert whole.text[:k] + rest.text == whole.text
    assert len(rest.tokens) <= len(whole.tokens)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=60), contents), st.integers(1, 30), st.floats(0, 1))
def test_a_raw_prompt_that_broke_anywhere_is_continued(prompt, mean, cut):
    whole = answer("m", prompt, mean=mean)
    k = int(cut * len(whole.text))
    assert answer("m", prompt + whole.text[:k], mean=mean).text == whole.text[k:]


@given(st.text(max_size=30), st.integers(1, 20), st.integers(0, 60))
def test_continuing_twice_is_continuing_once(prompt, mean, at):
    whole = answer("m", prompt, mean=mean).text
    once = answer("m", prompt + whole[:at], mean=mean).text
    again = answer("m", prompt + whole[:at] + once[: at // 2], mean=mean).text
    assert once[: at // 2] + again == once == whole[at:]


def test_answers_differ_by_prompt_and_by_model():
    prompt = render_chat([("user", "hi")]).text
    texts = {answer(m, p).text for m in ("a", "b") for p in (prompt, prompt.replace("hi", "ho"))}
    assert len(texts) == 4


@given(st.text(max_size=20), st.integers(1, 80), st.integers(-2, 80))
def test_length_and_limit(prompt, mean, limit):
    said = answer("m", prompt, mean=mean, limit=limit)
    assert mean // 2 <= len(answer("m", prompt, mean=mean).tokens) <= mean // 2 + mean
    if limit > 0:
        assert len(said.tokens) <= limit
    assert said.reason == ("length" if 0 < limit < len(answer("m", prompt, mean=mean).tokens) else "stop")


def test_a_stop_text_cuts_the_answer_before_it():
    whole = answer("m", "p", mean=40)
    word = whole.tokens[5]
    cut = answer("m", "p", mean=40, stop=["", word])
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.reason == "stop"
    assert answer("m", "p", mean=40, stop=["not there"]) == whole
    inside = whole.text[7:9]
    assert answer("m", "p", mean=40, stop=[inside]).text == whole.text[: whole.text.index(inside)]


def test_thoughts_come_first_and_are_not_part_of_the_text():
    said = answer("m", "p", mean=40, thinking=True)
    assert said.thinking == text.THINKING_TOKENS
    assert said.thoughts + said.text == answer("m", "p", mean=40).text


def test_a_prompt_of_a_longer_chat_contains_the_boundaries_of_the_shorter():
    first = render_chat([("system", "s"), ("user", "one")])
    said = answer("m", first.text).text
    second = render_chat([("system", "s"), ("user", "one"), ("assistant", said), ("user", "two")])
    assert second.boundaries[:2] == first.boundaries
    assert second.boundaries[2][1] == first.after(said)[1]
    assert second.boundaries[-1][0] <= second.tokens
    assert first.text == turn("system", "s") + turn("user", "one") + text.OPENING


def test_a_default_system_message_gives_way_to_one_of_the_request():
    assert "be brief" in render_chat([("user", "x")], system="be brief").text
    assert "be brief" not in render_chat([("system", "y"), ("user", "x")], system="be brief").text


def test_a_last_message_of_the_assistant_is_left_open():
    whole = answer("m", render_chat([("user", "x")]).text).text
    assert answer("m", render_chat([("user", "x"), ("assistant", whole[:20])]).text).text == whole[20:]


def test_templates_of_plain_variables():
    assert render_template("{{ .System }}|{{- .Prompt }}|{{ .Response }}", system="s", prompt=r"p\1").text == r"s|p\1|"


@given(st.text(max_size=50))
def test_tokens_are_counted_by_characters(some):
    assert count_tokens(some) == -(-len(some) // 4)


def test_embeddings_are_unit_vectors_that_depend_on_text_and_model():
    a, b, c = embedding("m", "x", 768), embedding("m", "y", 768), embedding("n", "x", 768)
    assert len(a) == 768
    assert a == embedding("m", "x", 768)
    assert a != b != c
    assert isclose(sum(v * v for v in a), 1, rel_tol=1e-6)


def test_a_schema_is_answered_by_a_document_that_fits():
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "s": {"type": "string"},
            "e": {"enum": ["x", "y"]},
            "l": {"type": "array", "items": {"type": "boolean"}},
            "f": {"type": "number"},
            "z": {"type": "null"},
            "u": {"type": "array"},
            "o": {"properties": 5},
            "any": True,
        },
    }
    said = text.schema_answer(schema, "p")
    value = json.loads("".join(said.tokens))
    assert isinstance(value.pop("s"), str)
    assert value == {"n": 4, "e": "x", "l": [True], "f": 4.5, "z": None, "u": [], "o": {}, "any": {}}
    assert json.loads(text.schema_answer("json", "p").text) == {"answer": "amber"}


def test_context_has_a_number_per_token():
    said = Answer((" amber", " oak."))
    assert len(text.context_of("12345", said.tokens)) == 4
