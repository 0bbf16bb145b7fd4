from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Model, NodeKind, Resident
from sollol.wire import survey

TAG = {
    "name": "Tiny:latest",
    "model": "Tiny:latest",
    "modified_at": "2026-11-21T05:04:00.052483272Z",
    "size": 975125,
    "digest": "18c1",
    "details": {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "478K",
        "quantization_level": "F16",
        "context_length": 2048,
        "embedding_length": 128,
    },
    "capabilities": ["completion"],
}
LOADED = {
    "name": "tiny:latest",
    "model": "tiny:latest",
    "size": 28720495,
    "digest": "18c1",
    "details": {"families": None},
    "expires_at": "2026-11-21T05:17:34.050439835Z",
    "size_vram": 1000,
    "context_length": 4096,
}
WALL = 1795238254.0  # 2026-11-21T05:17:34Z


def encode(value):
    return json.dumps(value).encode()


def test_tags():
    (model,) = survey.parse_tags(encode({"models": [TAG]}))
    raw = model.raw
    assert json.loads(raw) == TAG
    assert model == Model(
        name="tiny:latest",
        native="Tiny:latest",
        size=975125,
        digest="18c1",
        capabilities=frozenset({"completion"}),
        context_length=2048,
        parameters=478e3,
        modified_at="2026-11-21T05:04:00.052483272Z",
        raw=raw,
    )


@pytest.mark.parametrize("body", [{"models": None}, {"models": []}, {}])
def test_no_models(body):
    assert survey.parse_tags(encode(body)) == ()
    assert survey.parse_ps(encode(body), 0.0) == ()


def test_a_tag_with_nulls_or_little_in_it():
    sparse = {"model": "x", "details": None, "capabilities": None, "digest": None, "size": None, "modified_at": None}
    (model,) = survey.parse_tags(encode({"models": [sparse]}))
    assert (model.name, model.native, model.size, model.digest, model.parameters) == ("x:latest", "x", 0, "", None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "tags"),
        (b"<html>", "tags"),
        (b"[]", "tags"),
        (b'{"models":[{"name":"x","size":-1}]}', "size"),
        (b'{"models":[{"name":"x","size":1e40}]}', "size"),
        (b'{"models":[{"name":"x","size":"big"}]}', "size"),
        (b'{"models":[{"name":5}]}', "name"),
        (b'{"models":[{}]}', "without a name"),
        (b'{"models":[5]}', "tags"),
        (b'{"models":[{"name":"x","other":"\xff"}]}', "UTF-8"),
        (b'{"models":[' + b"[" * 20_000, "tags"),
        (b'{"models":[{"name":"x"}', "tags"),
        (encode({"models": [{"name": "x" * 5000}]}), "name"),
        (encode({"models": [{"name": "x"}] * 10_001}), "more than 10,000"),
    ],
)
def test_tags_refused(body, words):
    with pytest.raises(ValueError, match=words):
        survey.parse_tags(body)


def test_ten_thousand_models_are_taken():
    assert len(survey.parse_tags(encode({"models": [{"name": f"m{n}"} for n in range(10_000)]}))) == 10_000


def test_ps():
    (resident,) = survey.parse_ps(encode({"models": [LOADED]}), WALL - 300)
    assert resident.expires_in == pytest.approx(300.05, abs=0.01)
    assert json.loads(resident.raw) == LOADED
    assert (resident.name, resident.size, resident.size_vram, resident.context_length) == ("tiny:latest", 28720495, 1000, 4096)


@pytest.mark.parametrize(
    ("expires_at", "left"),
    [
        ("2026-11-21T05:17:34Z", 0.0),
        ("2026-11-21T05:10:34Z", 0.0),
        ("2026-11-21T06:17:44+01:00", 10.0),
        ("2026-11-21T05:17:44", 10.0),
        ("2318-03-04T11:00:00.5Z", None),
        ("", None),
        (None, None),
    ],
)
def test_when_a_model_is_unloaded(expires_at, left):
    (resident,) = survey.parse_ps(encode({"models": [{"name": "x", "expires_at": expires_at}]}), WALL)
    assert resident.expires_in == left


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        ({"name": "x", "expires_at": "soon"}, "no time"),
        ({"size": 5}, "without a name"),
        ({"name": "x", "size_vram": -5}, "size_vram"),
    ],
)
def test_ps_refused(loaded, words):
    with pytest.raises(ValueError, match=words):
        survey.parse_ps(encode({"models": [loaded]}), WALL)


def test_version():
    assert survey.parse_version(b'{"version":"0.33.0-rc2"}') == "0.33.0-rc2"


@pytest.mark.parametrize(
    "body", [b"{}", b'{"version":""}', b'{"version":5}', b'{"error":"Unexpected endpoint or method. (GET /api/version)"}', b"x"]
)
def test_version_refused(body):
    with pytest.raises(ValueError, match="version"):
        survey.parse_version(body)


def test_show_adds_what_tags_leave_out():
    body = {
        "capabilities": ["completion", "tools", "thinking"],
        "model_info": {"general.parameter_count": 477824, "llama.context_length": 2048, "tokenizer.ggml.tokens": None},
    }
    shown = survey.parse_show(encode(body), Model("x:latest", "x", capabilities=frozenset({"completion"})))
    assert shown.capabilities == {"completion", "tools", "thinking"}
    assert (shown.context_length, shown.parameters) == (2048, 477824)


@pytest.mark.parametrize(
    "info", [None, {}, {"a.context_length": "long", "general.parameter_count": -5}, {"a.context_length": True}]
)
def test_show_that_says_nothing_changes_nothing(info):
    model = Model("x:latest", "x", capabilities=frozenset({"vision"}), context_length=5, parameters=7.0)
    assert survey.parse_show(encode({"model_info": info}), model) == model


def test_show_refused():
    with pytest.raises(ValueError, match="show"):
        survey.parse_show(b'{"capabilities":"all"}', Model("x:latest", "x"))


PROPS = {
    "default_generation_settings": {"id": 0, "n_ctx": 4096, "params": {"n_predict": -1}},
    "total_slots": 4,
    "model_path": "/models/Tiny-Q4.gguf",
    "chat_template": "{{ x }}",
    "build_info": "b6000-abc",
}


def test_props():
    assert survey.parse_props(encode(PROPS)) == survey.Props("b6000-abc", "/models/Tiny-Q4.gguf", 4, 4096)


def test_props_of_an_older_build():
    assert survey.parse_props(b'{"total_slots":0,"model_path":"x"}') == survey.Props("", "x", None, None)


@pytest.mark.parametrize("body", [b"{}", b'{"total_slots":4}', b"[]", b'{"build_info":"b1","total_slots":-1}', b"nothing"])
def test_props_refused(body):
    with pytest.raises(ValueError, match="props"):
        survey.parse_props(body)


def test_models_of_llamacpp():
    entry = {
        "id": "/models/Tiny-Q4.gguf",
        "object": "model",
        "created": 1,
        "owned_by": "llamacpp",
        "meta": {"vocab_type": 2, "n_ctx_train": 131072, "n_params": 8030261312, "size": 4912898304},
    }
    listing = survey.parse_models(encode({"object": "list", "data": [entry]}))
    assert listing.kind is NodeKind.LLAMACPP
    assert listing.models == (
        Model("tiny-q4:latest", "/models/Tiny-Q4.gguf", size=4912898304, context_length=131072, parameters=8030261312.0),
    )
    assert listing.resident == (Resident("tiny-q4:latest", size=4912898304, context_length=131072),)


def test_models_of_vllm():
    entry = {"id": "Qwen/Qwen2.5-7B", "owned_by": "vllm", "max_model_len": 32768, "parent": None, "permission": []}
    listing = survey.parse_models(encode({"data": [entry]}))
    assert listing.kind is NodeKind.VLLM
    assert listing.models == (Model("qwen/qwen2.5-7b:latest", "Qwen/Qwen2.5-7B", context_length=32768),)


def test_models_of_others_and_what_is_not_loaded():
    entries = [{"id": "a", "status": {"value": "loaded"}}, {"id": "b", "status": {"value": "unloaded"}}, {"id": ""}]
    listing = survey.parse_models(encode({"data": entries}))
    assert listing.kind is NodeKind.OPENAI
    assert [model.name for model in listing.models] == ["a:latest", "b:latest"]
    assert [resident.name for resident in listing.resident] == ["a:latest"]
    assert survey.parse_models(encode({"data": entries}), NodeKind.LLAMACPP).kind is NodeKind.LLAMACPP


@pytest.mark.parametrize("body", [b"{}", b'{"data":5}', b'{"data":[5]}', encode({"data": [{"id": "x"}] * 10_001})])
def test_models_refused(body):
    with pytest.raises(ValueError, match="models"):
        survey.parse_models(body)
    with pytest.raises(ValueError, match="models"):
        survey.parse_lmstudio(body)


def test_lmstudio():
    entries = [
        {"id": "qwen2.5-7b", "type": "llm", "state": "loaded", "max_context_length": 32768, "loaded_context_length": 4096},
        {"id": "nomic", "type": "embeddings", "state": "not-loaded", "max_context_length": 2048},
        {"id": "llava", "type": "vlm", "state": "loaded"},
        {"id": "new", "type": "other", "state": "not-loaded"},
    ]
    listing = survey.parse_lmstudio(encode({"data": entries}))
    assert listing.kind is NodeKind.LMSTUDIO
    assert [sorted(model.capabilities) for model in listing.models] == [
        ["completion", "tools"],
        ["embedding"],
        ["completion", "tools", "vision"],
        [],
    ]
    assert listing.resident == (Resident("qwen2.5-7b:latest", context_length=4096), Resident("llava:latest"))


def test_an_openai_list_is_not_lmstudio():
    with pytest.raises(ValueError, match="not LM Studio"):
        survey.parse_lmstudio(encode({"data": [{"id": "x", "object": "model"}]}))
    assert survey.parse_lmstudio(b'{"data":[]}').models == ()


@pytest.mark.parametrize(
    ("status", "body", "loading"),
    [
        (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, True),
        (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, False),
        (200, {"error": {"message": "Loading model"}}, False),
        (503, {"error": None}, False),
        (503, [], False),
    ],
)
def test_loading(status, body, loading):
    assert survey.is_loading(status, encode(body)) is loading


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7B", 7e9),
        ("253.15M", 253.15e6),
        ("478K", 478e3),
        ("1.1T", 1.1e12),
        ("0", None),
        ("", None),
        ("8x7B", None),
        ("many", None),
    ],
)
def test_parameters(text, count):
    assert survey.parse_parameters(text) == (pytest.approx(count) if count else None)


PARSERS = [
    survey.parse_version,
    survey.parse_tags,
    lambda body: survey.parse_ps(body, 0.0),
    lambda body: survey.parse_show(body, Model("x:latest", "x")),
    survey.parse_props,
    survey.parse_models,
    survey.parse_lmstudio,
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["models", "data", "name", "size", "details", "expires_at", "meta", "id"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)


@given(st.sampled_from(PARSERS), values.map(encode) | st.binary(max_size=30))
def test_whatever_a_node_says_is_read_or_refused(parse, body):
    try:
        parse(body)
    except ValueError as error:
        assert str(error)
