"""The reference pages say what the code says, and links between pages lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.need import require

from sollol.drivers.metrics import Metrics
from sollol.errors import CannotServe, NodeError, RequestError, SollolError
from sollol.gateway.openapi import OPERATIONS
from sollol.wire import neutral  # has an error class of its own
from sollol.wire.fates import TABLES, Fate

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "scripts" / "write_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["configuration.md", "commands.md", "translation.md"])
def test_written_pages_are_up_to_date(writer, name):
    assert page(f"reference/{name}") == writer.PAGES[name](), "run: python scripts/write_reference.py"


def test_every_setting_is_described_and_no_other(writer):
    assert set(writer.WORDS) == writer.described()


def test_every_operation_of_the_own_api_is_on_its_page():
    text = page("reference/http-api.md")
    for operation in OPERATIONS:
        path = operation.path.replace("{node}", "{id or name}")
        assert re.search(rf"^## .*{operation.method.upper()}.* {re.escape(path)}$", text, re.MULTILINE), operation


def test_every_metric_is_on_its_page():
    text = page("reference/metrics.md")
    families = re.findall(r"^# TYPE (\w+) (\w+)", Metrics().page().decode(), re.MULTILINE)
    for name, kind in families:
        assert f"| `{name}` | {kind} |" in text, name


def test_every_status_of_an_error_is_on_its_page():
    text = page("reference/errors.md")
    kinds = [*RequestError.__subclasses__(), *CannotServe.__subclasses__(), *NodeError.__subclasses__()]
    kinds = [kind for kind in kinds if kind.__module__.startswith("sollol.")]  # other tests make some of their own
    assert all(issubclass(kind, SollolError) for kind in kinds)
    assert any(kind.__module__ == neutral.__name__ for kind in kinds)
    for kind in kinds:
        assert f"| {kind.status} |" in text, kind


def test_fields_that_are_refused_for_translation_are_named():
    text = page("reference/one-ollama.md")
    refused = {
        name
        for path, table in TABLES.items()
        for name, field in table.items()
        if path.startswith("/api/") and field.openai is Fate.REFUSED and name[0] != "_"
    }
    assert refused
    for name in refused:
        assert f"`{name}`" in text, name


def anchors(path: Path) -> set[str]:
    """The anchors of headings, made as the site and code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_pages_that_code_refers_to_exist():
    for source in (ROOT / "src").rglob("*.py"):
        for name in re.findall(r"docs/[\w/-]+\.md", source.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{source}: {name}"


def test_every_page_is_in_the_navigation_and_the_site_builds_strictly(tmp_path):
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    program = Path(sys.executable).with_name("zensical")
    require(program.exists(), "zensical: run `make test`, which installs it")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    built = subprocess.run(
        [program, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "index.html").exists()
