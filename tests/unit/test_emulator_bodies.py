"""Bodies, names and durations read as Ollama reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.emulator.bodies import decode, keep_alive, options, read, short_name
from sollol.emulator.calls import Refusal


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "unexpected EOF"),
        (b'{"a": ', "unexpected EOF"),
        (b'{"a": "x', "unexpected EOF"),
        (b"{bad", "invalid character 'b' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a": 1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"tru", "unexpected EOF"),
        (b"nope", "invalid character 'o' in literal null (expecting 'u')"),
        (b"'x'", "invalid character '\\'' looking for beginning of value"),
        (b'{"a": "\x01"}', "invalid character '\\x01' in string literal"),
        (b'{"a": "\\x"}', "invalid character 'x' in string escape code"),
        (b"[" * 20_000, "exceeded max depth"),
    ],
)
def test_broken_json_is_refused_in_gos_words(raw, words):
    with pytest.raises(Refusal) as refused:
        decode(raw)
    assert refused.value.status == 400
    assert str(refused.value) == words


def test_only_the_first_value_is_read_and_wrong_utf8_replaced():
    assert decode(b'{"a": 1} and more') == {"a": 1}
    assert decode(b'{"a": "\xff"}') == {"a": "�"}


FIELD = "Go struct field GenerateRequest."


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "missing request body"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (b'"x"', "json: cannot unmarshal string into Go value of type api.GenerateRequest"),
        (b'{"model": 1}', f"json: cannot unmarshal number into {FIELD}model of type string"),
        (b'{"stream": "x"}', f"json: cannot unmarshal string into {FIELD}stream of type bool"),
        (b'{"n": true}', f"json: cannot unmarshal bool into {FIELD}n of type int"),
        (b'{"options": []}', f"json: cannot unmarshal array into {FIELD}options of type map[string]interface {{}}"),
        (b'{"images": {}}', f"json: cannot unmarshal object into {FIELD}images of type []api.ImageData"),
    ],
)
def test_wrong_types(raw, words):
    fields = {"model": "string", "stream": "bool", "n": "int", "options": "map", "images": "list:[]api.ImageData"}
    with pytest.raises(Refusal) as refused:
        read(raw, "GenerateRequest", fields)
    assert str(refused.value) == words


def test_null_and_unknown_fields_are_as_good_as_absent():
    assert read(b'{"model": null, "x": [1]}', "R", {"model": "string"}) == {"model": None, "x": [1]}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), (5, 5), (-1, -1), (0, 0), (1.5, 1.5),
        ("10m", 600), ("1h30m", 5400), ("-1s", -1), ("0", 0), ("1.5s", 1.5), ("250ms", 0.25),
    ],
)  # fmt: skip
def test_keep_alive(value, seconds):
    assert keep_alive({"keep_alive": value}) == seconds


@pytest.mark.parametrize(
    ("value", "words"),
    [("xx", 'time: invalid duration "xx"'), ("5", 'time: missing unit in duration "5"'), (True, "Unsupported type: 'bool'")],
)
def test_wrong_keep_alive(value, words):
    with pytest.raises(Refusal) as refused:
        keep_alive({"keep_alive": value})
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("num_ctx", "x", "integer"), ("temperature", "hot", "float32"), ("stop", "x", "array"), ("use_mmap", 1, "boolean")],
)
def test_wrong_options_are_500(name, value, kind):
    with pytest.raises(Refusal) as refused:
        options({"options": {name: value}})
    assert (refused.value.status, str(refused.value)) == (500, f'option "{name}" must be of type {kind}')


def test_options_pass():
    assert options({"options": {"seed": 1, "unknown": object}}) == {"seed": 1, "unknown": object}
    assert options({}) == {}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("llama3", "llama3:latest"),
        ("llama3:8b", "llama3:8b"),
        ("library/llama3", "llama3:latest"),
        ("registry.ollama.ai/library/llama3:x", "llama3:x"),
        ("registry.ollama.ai/me/llama3", "me/llama3:latest"),
        ("me/llama3", "me/llama3:latest"),
        ("http://127.0.0.1:5000/library/x", "127.0.0.1:5000/library/x:latest"),
        ("a/b/c/d", None),
        ("a b", None),
        ("", None),
        ("x:", None),
        ("x" * 100, None),
        ("..bad..//", None),
        ("!/x/y", None),
    ],
)
def test_names(name, short):
    assert short_name(name) == short


@given(st.text(max_size=40))
def test_short_names_stay_as_they_are(name):
    short = short_name(name)
    if short is not None:
        assert short_name(short) == short


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw):
    try:
        read(raw, "R", {"model": "string"})
    except Refusal as refused:
        assert refused.status == 400
