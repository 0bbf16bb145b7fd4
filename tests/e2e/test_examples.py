"""Every program in examples/ is run as it stands, on emulated nodes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.need import require

from sollol.emulator.presets import LLAMA_1B, LLAMA_8B
from sollol.emulator.specs import NodeSpec, embedder
from sollol.emulator.threaded import Machines

FOLDER = Path(__file__).resolve().parents[2] / "examples"
NEEDS = {
    "fastapi_app.py": ("fastapi",),
    "langchain_chat.py": ("langchain_ollama",),
    "notebook.ipynb": ("nbclient", "ipykernel"),
    "rag.py": ("numpy", "usearch"),
}
MODELS = (LLAMA_1B, LLAMA_8B, embedder())


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    spec = {"slots": 2, "prefill": 1e5, "decode": 2_000.0, "load_gbps": 1e4, "models": MODELS}
    with Machines([NodeSpec(name, **spec) for name in ("quick", "second")]) as opened:
        yield opened


@pytest.fixture
def environment(machines: Machines) -> dict[str, str]:
    """Nodes are named, and nothing else is looked for."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("SOLLOL_")}
    return {**given, "SOLLOL_NODES": ",".join(machines.urls), "SOLLOL_DISCOVERY_ENABLED": "false"}


def run(name: str, environment: dict[str, str], *arguments: str) -> str:
    """What the program prints."""
    for package in NEEDS.get(name, ()):
        require(importlib.util.find_spec(package), f"{package}: run `make test`")
    command = [sys.executable, str(FOLDER / name), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_example_has_its_test():
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.name for path in FOLDER.iterdir() if path.suffix in {".py", ".ipynb"}} == tested | {"notebook.ipynb"}


def test_agents_work_together(environment):
    assert run("multi_agent.py", environment, "Why is the sky blue?").strip()


def test_questions_about_texts(environment):
    printed = run("rag.py", environment, "How hot does the oven have to be?")
    assert printed.startswith("From:")
    assert len(printed.split("Answer:")[0].splitlines()) == 3
    assert printed.split("Answer:")[1].strip()


def test_a_folder_of_files(environment, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(f"Paragraph {part} of {number}" for part in range(20)))
    written = tmp_path / "vectors.json"
    assert run("batch_folder.py", environment, str(tmp_path), str(written)).strip() == "60 paragraphs of 3 files, 0 failed"
    entries = json.loads(written.read_text())
    texts = [(f"{number}.txt", f"Paragraph {part} of {number}") for number in range(3) for part in range(20)]
    assert [(entry["file"], entry["text"]) for entry in entries] == texts
    assert {len(entry["vector"]) for entry in entries} == {768}
    assert "0 failed" in run("batch_folder.py", environment)


def test_an_answer_word_by_word(environment):
    assert len(run("stream.py", environment).split()) > 5


def test_urgent_questions_do_not_wait_for_others(environment):
    printed = run("priorities.py", environment)
    assert "urgent: " in printed
    assert "everything: " in printed


def test_other_models_where_one_is_missing(environment):
    assert run("fallback_models.py", environment, "large:70b", "llama3.2:1b").startswith("llama3.2:1b: ")
    assert run("fallback_models.py", environment).startswith("llama3.1:8b: ")


@pytest.mark.clients
def test_an_endpoint(environment):
    whole, streamed = run("fastapi_app.py", environment).splitlines()[:2]
    assert "'node': '127.0.0.1:" in whole
    assert streamed.strip()


@pytest.mark.slow
@pytest.mark.clients
def test_langchain(environment):
    *answers, vectors = run("langchain_chat.py", environment).strip().splitlines()
    assert sum("What is a" in answer for answer in answers) == 3
    assert vectors == "2 vectors of 768 numbers"


def test_every_model_is_asked(environment):
    printed = run("fan_out.py", environment)
    assert "asking 2 models" in printed
    assert {"llama3.2:1b on", "llama3.1:8b on"} <= {line.split(" 127")[0] for line in printed.splitlines()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # of the notebook's own machinery
def test_the_notebook(environment, monkeypatch):
    for package in NEEDS["notebook.ipynb"]:
        require(importlib.util.find_spec(package), f"{package}: run `make test`")
    import nbclient
    import nbformat

    for name in [name for name in os.environ if name.startswith("SOLLOL_")]:
        monkeypatch.delenv(name)
    for name in ("SOLLOL_NODES", "SOLLOL_DISCOVERY_ENABLED"):
        monkeypatch.setenv(name, environment[name])
    notebook = nbformat.read(FOLDER / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "answers," in printed
