"""The calls that stand in the pages about clients are made, through a gateway before each of three kinds of nodes."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.kinds import Kinds, every_kind

from sollol.core.types import NodeKind

pytestmark = pytest.mark.xdist_group("pages of clients")

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto"
CALLS = re.compile(r"^## What it calls\n\n```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [path for path in sorted(HOWTO.glob("*.md")) if CALLS.search(path.read_text())]
KINDS = (NodeKind.OLLAMA, NodeKind.OPENAI, NodeKind.LMSTUDIO)
ENDS = {"/v1/messages": "message_stop", "/v1/responses": "response.completed"}


@pytest.fixture(scope="module")
def kinds() -> Iterator[Kinds]:
    with every_kind(KINDS) as opened:
        yield opened


def calls_of(page: Path) -> list[dict[str, Any]]:
    found = CALLS.search(page.read_text())
    assert found is not None
    calls: list[dict[str, Any]] = json.loads(found[1])
    return calls


def test_every_client_has_its_page():
    assert {path.stem for path in PAGES} == {
        "open-webui", "claude-code", "continue", "cline", "vscode", "zed", "home-assistant", "n8n", "langchain", "llamaindex"
    }  # fmt: skip
    for page in PAGES:
        assert (
            "were not" in page.read_text() or "was not tried" in page.read_text() or "are run in the tests" in page.read_text()
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_calls_of_a_page(kinds, page, kind):
    for number, one in enumerate(calls_of(page)):
        assert set(one) <= {"call", "headers", "body", "gives", "nodes"}
        if kind in one.get("nodes", KINDS):
            where = f"call {number}, {one['call']}, before {kind}"
            pieces = made(kinds.gateways[kind], one, where)
            for path in one["gives"]:
                assert any(has(piece, path.split("/")) for piece in pieces), f"{where}: no {path} in {pieces[:3]}"


def made(url: str, one: dict[str, Any], where: str) -> list[Any]:
    """The documents of the reply, one if it is not a stream; complete, and of the type that is due."""
    method, _, path = one["call"].partition(" ")
    body = one.get("body")
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none", **one.get("headers", {})}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers, method=method), timeout=30) as reply:
        assert reply.status == 200, where
        kind, read = reply.headers.get_content_type(), reply.read()
    if path == "/":
        assert read == b"Ollama is running"
        return [{}]
    if not streams(path, body):
        assert kind == "application/json", where
        return [json.loads(read)]
    return lines_of(kind, read, where) if path.startswith("/api/") else events_of(kind, read, path.partition("?")[0], where)


def streams(path: str, body: dict[str, Any] | None) -> bool:
    """Ollama's own paths stream unless they are told not to, the others only if they are told to."""
    if path in ("/api/chat", "/api/generate", "/api/pull"):
        return bool((body or {}).get("stream", True))
    return bool((body or {}).get("stream"))


def lines_of(kind: str, read: bytes, where: str) -> list[Any]:
    assert kind == "application/x-ndjson", where
    lines = [json.loads(line) for line in read.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True], where
    return lines


def events_of(kind: str, read: bytes, path: str, where: str) -> list[Any]:
    assert kind == "text/event-stream", where
    found = re.findall(r"^data: (.*)$", read.decode(), re.MULTILINE)
    if path not in ENDS:
        assert found.pop() == "[DONE]", where
    events = [json.loads(data) for data in found]
    assert path not in ENDS or events[-1]["type"] == ENDS[path], where
    return events


def has(piece: Any, path: list[str]) -> bool:
    """Whether something stands there that is not null."""
    for part in path:
        if isinstance(piece, list):
            if not part.isdigit() or int(part) >= len(piece):
                return False
            piece = piece[int(part)]
        elif isinstance(piece, dict):
            piece = piece.get(part)
        else:
            return False
    return piece is not None
