"""Names: what they stand for, what they may not be, and surveys told under the names that models have here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.config_sources import leaves, load
from sollol.core.types import Model, NodeKind, Resident, Survey
from sollol.errors import ConfigError
from sollol.wire import forms
from sollol.wire.catalogue import Catalogue, Known, renamed
from sollol.wire.names import canonical


def test_names_are_compared_without_case_tag_and_file_ending():
    made = Catalogue({"GPT-4o": "Qwen3"}, {"names": {"Qwen3-Q4.GGUF": "Qwen3"}}, {"qwen3": ["Tiny:1b", "tiny:1B"]})
    assert made.model("gpt-4O:latest") == made.model("qwen3") == "qwen3:latest"
    assert made.names["names"] == {"qwen3-q4:latest": "qwen3:latest"}
    both = ("tiny:1b",)
    assert made.special == {
        "gpt-4o:latest": Known("qwen3:latest", True, both),
        "qwen3:latest": Known("qwen3:latest", True, both),
    }
    assert made.written == {"gpt-4o:latest": "GPT-4o"}
    assert (made.is_alias("gpt-4o"), made.is_alias("qwen3")) == (True, False)


@given(st.text(max_size=20))
def test_without_settings_a_name_is_its_canonical_form(name):
    made = Catalogue({})
    assert made.model(name) == canonical(name)
    assert made.special == {}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (({"a": "A:latest"},), "aliases: 'a' is an alias of itself"),
        (({"a": "b", "B": "c"},), "aliases: 'a' stands for 'B', which is an alias of 'c:latest': name the model itself"),
        (({"a": "b", "b": "a"},), "aliases: 'a' stands for 'b', which is an alias of 'a:latest': name the model itself"),
        (({"a": "x", "A": "y"},), "aliases: 'A' stands there twice, as 'x:latest' and as 'y:latest'"),
        (({" ": "x"},), "aliases: a name is empty"),
        (({"a": "x"}, {"names": {"f.gguf": "a"}}), "names: 'a', which is an alias of 'x:latest': name the model itself"),
        (({"a": "x"}, {}, {"a": ["y"]}), "fallbacks: 'a', which is an alias of 'x:latest': name the model itself"),
        (({"a": "x"}, {}, {"y": ["a"]}), "fallbacks: 'a', which is an alias of 'x:latest': name the model itself"),
        (({}, {}, {"y": ["z", "Y"]}), "fallbacks: 'y' is named in place of itself"),
        (({}, {}, {"y": [" "]}), "fallbacks: a name is empty"),
    ],
)
def test_what_a_name_may_not_be(tables, words):
    with pytest.raises(ConfigError) as caught:
        Catalogue(*tables)
    assert str(caught.value) == words


def survey(*natives: str) -> Survey:
    raw = json.dumps({"name": natives[0], "model": natives[0], "size": 5}).encode()
    models = tuple(Model(canonical(native), native, digest=native, raw=raw) for native in natives)
    return Survey(NodeKind.OLLAMA, "1", 0.0, models, (Resident(canonical(natives[0]), raw=raw),))


def test_a_survey_is_told_under_the_names_that_models_have_here():
    found = renamed(survey("My-Qwen:q4", "other"), {"my-qwen:q4": "qwen3:32b", "nobody:latest": "x:latest"})
    first, second = found.models
    assert (first.name, first.native, first.renamed) == ("qwen3:32b", "My-Qwen:q4", True)
    assert json.loads(first.raw) == {"name": "qwen3:32b", "model": "qwen3:32b", "size": 5}
    assert (second.name, second.native, second.renamed) == ("other:latest", "other", False)
    (resident,) = found.resident
    assert (resident.name, json.loads(resident.raw)["name"]) == ("qwen3:32b", "qwen3:32b")


def test_a_name_that_the_node_has_already_is_not_given_again():
    found = survey("qwen3:32b", "a", "b")
    assert renamed(found, {"a:latest": "qwen3:32b"}) is found
    twice = renamed(found, {"a:latest": "x:latest", "b:latest": "x:latest"})
    assert [model.name for model in twice.models] == ["qwen3:32b", "x:latest", "b:latest"]


TOML = """
[aliases]
"gpt-4o" = "qwen3:32b"
[names]
"Qwen3-32B-Q4_K_M.gguf" = "qwen3:32b"
[fallbacks]
"qwen3:32b" = ["qwen3:8b", "tiny"]
"tiny" = "tiny:1b"
[[nodes]]
url = "gpu1"
names = {"q" = "qwen3:8b"}
"""


def read(folder: Path, text: str = "", **environ: str):
    file = folder / "sollol.toml"
    file.write_text(text)
    return load(file=file, environ={"HOME": str(folder), **environ})


def test_tables_of_names_in_a_file_and_in_the_environment(tmp_path):
    config = read(tmp_path, TOML).config
    assert config.aliases == {"gpt-4o": "qwen3:32b"}
    assert config.fallbacks == {"qwen3:32b": ("qwen3:8b", "tiny"), "tiny": ("tiny:1b",)}
    assert config.nodes[0].names == {"q": "qwen3:8b"}
    assert "aliases" in dict(leaves(config))
    over = read(tmp_path, TOML, SOLLOL_ALIASES="a=x, b=y:1", SOLLOL_FALLBACKS="x=y|z")
    assert over.config.aliases == {"a": "x", "b": "y:1"}
    assert over.config.fallbacks == {"x": ("y", "z")}
    assert over.sources["aliases"] == "SOLLOL_ALIASES"
    assert over.config.names == config.names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aliases = 3", "aliases: expected a table, each text that is not empty, got 3"),
        ('[aliases]\n"a" = ""', 'aliases."a": expected text that is not empty, got ""'),
        ('[aliases]\n"a" = ["b"]', 'aliases."a": expected text that is not empty, got ["b"]'),
        (
            '[aliases]\n"a" = "b"\n"b" = "c"',
            "aliases: 'a' stands for 'b', which is an alias of 'c:latest': name the model itself",
        ),
        ('[fallbacks]\n"a" = ["b", 3]', 'fallbacks."a"[1]: expected text that is not empty, got 3'),
        (
            '[[nodes]]\nurl = "x"\nnames = {"a" = "b"}\n[aliases]\n"b" = "c"',
            "nodes[0].names: 'b', which is an alias of 'c:latest'",
        ),
        ('[models]\ndigests = "both"', 'models.digests: expected "one" or "newest" or "refuse", got "both"'),
    ],
)
def test_what_is_wrong_with_names_is_one_line_with_its_path(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/sollol.toml: {words}")


def test_a_broken_table_in_the_environment_says_what_was_expected(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, SOLLOL_ALIASES="gpt-4o")
    assert str(caught.value) == 'SOLLOL_ALIASES: aliases: expected pairs, "name=name,name=name", got "gpt-4o"'


def test_a_request_names_another_model_in_json_and_as_a_form():
    assert json.loads(forms.naming(b'{"model":"a","x":[1.50]}', "b")) == {"model": "b", "x": [1.5]}
    form = '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--\r\n'
    assert forms.naming(form.encode(), "parakeet") == form.replace("whisper-1", "parakeet").encode()
