from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.wire.names import canonical, stem, tagless


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("Llama3.2", "llama3.2:latest"),
        ("llama3.2:3B", "llama3.2:3b"),
        (" qwen2.5:0.5b\n", "qwen2.5:0.5b"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("https://registry.ollama.ai/library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/me/model", "me/model:latest"),
        ("library/library/model", "library/library/model:latest"),
        ("registry.ollama.ai/model", "registry.ollama.ai/model:latest"),
        ("hf.co/Bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "hf.co/bartowski/llama-3.2-1b-instruct-gguf:q4_k_m"),
        ("localhost:5000/me/model", "localhost:5000/me/model:latest"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen/qwen2.5-7b-instruct:latest"),
        ("/models/Qwen2.5-Q4_K_M.gguf", "qwen2.5-q4_k_m:latest"),
        ("./models/tiny.gguf", "tiny:latest"),
        ("C:\\models\\Tiny.GGUF", "tiny:latest"),
        ("models/tiny.gguf", "tiny:latest"),
        ("tiny.gguf", "tiny:latest"),
        ("/srv/model-dir/", "model-dir:latest"),
        ("model:", "model:latest"),
        (".gguf", ".gguf:latest"),
        ("", ""),
        ("  ", ""),
        ("library/", ""),
    ],
)
def test_canonical(name, expected):
    assert canonical(name) == expected


def test_stem_keeps_case_and_other_names():
    assert stem("/models/Qwen-Q4.gguf") == "Qwen-Q4"
    assert stem("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"


def test_tagless_drops_only_the_default_tag():
    assert tagless("Llama3.2:latest") == "llama3.2"
    assert tagless("llama3.2:3b") == "llama3.2:3b"


part = st.sampled_from(["library", "registry.ollama.ai", "Model", "m.gguf", "localhost:5000"])
homes = st.lists(part, min_size=1, max_size=4).map("/".join)
ordinary = st.from_regex(r"\A[A-Za-z][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9][A-Za-z0-9._-]{0,20}){0,2}(:[A-Za-z0-9._-]{1,10})?\Z")


@given(ordinary | homes)
def test_canonical_is_stable_and_does_not_see_case(name):
    once = canonical(name)
    if not name.lower().endswith(".gguf"):
        assert canonical(once) == once
    assert canonical(name.upper()) == once
