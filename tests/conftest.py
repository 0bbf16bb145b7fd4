"""What all tests share. No test looks for nodes outside this machine, and none leaves a thread or a task behind."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tests.support.left_tasks import watch
from tests.support.llama_cpp import HOW, LlamaServer, find_llama_server
from tests.support.need import in_ci, require

# Time per example means nothing on a busy machine; in CI the same examples come every time.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if in_ci() else "person")

left_tasks = watch()
CLIENT_PACKAGES = ("ollama", "openai", "anthropic", "langchain_ollama", "langchain_openai", "llama_index", "litellm")


def pytest_configure(config: pytest.Config) -> None:
    """A person's own settings do not reach the tests, nor the programs that tests start."""
    # Without this, pytest-asyncio makes a loop of its own between a plain test and an async one, and never closes it.
    asyncio.set_event_loop(None)
    for name in [name for name in os.environ if name.startswith("SOLLOL_") or name == "OLLAMA_HOST"]:
        del os.environ[name]
    os.environ["SOLLOL_DISCOVERY_NETWORKS"] = "127.0.0.0/8"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a llama.cpp server run one after another: two of them at once would only slow both."""
    for item in items:
        if "llama_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.llamacpp)
            item.add_marker(pytest.mark.xdist_group("llamacpp"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("netns"):
        ready = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip")
        require(ready, "network namespaces: run as root with iproute2 (`apt-get install iproute2`)")
    if item.get_closest_marker("clients"):
        missing = [name for name in CLIENT_PACKAGES if importlib.util.find_spec(name) is None]
        require(not missing, f"client packages {', '.join(missing)}: run `make test`, which installs them")


@pytest.fixture(autouse=True)
def no_task_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test after which a task of ours ran on until its loop was closed, in this thread or another."""
    left_tasks.taken()
    yield
    names = left_tasks.taken()
    assert not names or request.node.get_closest_marker("leaves_tasks"), f"tasks left running: {names}"


@pytest.fixture(autouse=True)
def no_log_is_left() -> Iterator[None]:
    """What a command within the process logs to is gone after the test: standard error is another file then."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fails a test after which a thread runs that did not run before."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(2)
    names = [thread.name for thread in left if thread.is_alive()]
    assert not names, f"threads left running: {names}"


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that SOLLOL_DATA_DIR names."""
    folder = tmp_path / "data"
    monkeypatch.setenv("SOLLOL_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def llama_server(tmp_path: Path) -> Iterator[Any]:
    """Starts real llama.cpp servers: `server = llama_server(model="tiny", seed=1)`; all are stopped after the test."""
    program = find_llama_server()
    require(program, HOW)
    started: list[LlamaServer] = []

    def start(**options: Any) -> LlamaServer:
        assert program is not None
        started.append(LlamaServer(program, tmp_path, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()
        server.show_log()
