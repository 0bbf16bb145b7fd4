"""Clients whose base address has too much or too little in it, and pages in browsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.front import front

from sollol.config import Auth, Gateway, NodeSettings
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.server import EmulatedCluster
from sollol.emulator.specs import NodeSpec
from sollol.gateway.passthrough import meant

MODEL = LLAMA_1B.name
SPEC = NodeSpec("one", prefill=1e6, decode=5_000, slots=8, load_gbps=1e6, models=(LLAMA_1B,))
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": False, "max_tokens": 4}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/v1/chat/completions",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/ollama/v1/chat/completions",
        "/openai/v1/chat/completions",
        "/api/v1/chat/completions",
        "/chat/completions",
        "/openai/chat/completions",
        "/api/chat/",
        "/api/api/chat",
        "/api//chat",
        "/v1/api/chat",
        "/ollama/api/chat",
        "/Ollama//api//api/chat//",
        "/anthropic/v1/messages",
        "/v1/v1/messages",
    ],
)
async def test_a_sloppy_path_is_answered_as_the_one_that_is_meant(path: str) -> None:
    async with EmulatedCluster([SPEC]) as cluster, front(*cluster.urls) as door:
        reply = await door.ask("POST", path, ASK)
        assert reply.status == 200, reply.body
        kind = "choices" if "completions" in path else "content" if "messages" in path else "message"
        assert kind in reply.json
        missing = await door.ask("POST", path, {**ASK, "model": "nobody"})
        assert missing.status == 404
        assert isinstance(missing.json["error"], str) is path.lower().rstrip("/").endswith("chat")


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/api/tags/", "models"),
        ("//api//tags?x=1", "models"),
        ("/ollama/api/tags", "models"),
        ("/v1/models/", "data"),
        ("/models", "data"),
        ("/openai/v1/models", "data"),
        (f"/v1/models/{MODEL}/", "id"),
        (f"/v1/v1/models/{MODEL}", "id"),
        ("/api/api/version", "version"),
        ("/api/nodes/", "nodes"),
        ("/api/nodes/one/", "id"),
    ],
)
async def test_sloppy_paths_that_are_read(path: str, key: str) -> None:
    async with EmulatedCluster([SPEC]) as cluster, front(NodeSettings(cluster.urls[0], name="one")) as door:
        reply = await door.ask("GET", path)
        assert (reply.status, key in reply.json) == (200, True)


@pytest.mark.parametrize("path", ["//", "/ollama", "/ollama/"])
async def test_the_home_page(path: str) -> None:
    async with front() as door:
        assert (await door.ask("GET", path)).body == b"Ollama is running"


async def test_a_sloppy_path_needs_the_key_of_the_one_that_is_meant() -> None:
    keys = Auth(keys=("use",), admin_keys=("admin",))
    async with EmulatedCluster([SPEC]) as cluster, front(NodeSettings(cluster.urls[0], name="one"), auth=keys) as door:
        for path in ("/v1/api/delete", "/v1/api/nodes/one", "//api/delete", "/api/nodes//one/"):
            refused = await door.ask("DELETE", path, {"model": MODEL}, {"Authorization": "Bearer use"})
            assert refused.status == 403, path
        assert (await door.ask("POST", "/v1/v1/chat/completions", ASK, {"Authorization": "Bearer use"})).status == 200
        assert (await door.ask("POST", "/v1/v1/chat/completions", ASK)).status == 401


KNOWN = {"/", "/api/chat", "/api/tags", "/v1/models", "/v1/chat/completions"}
WORDS = st.lists(
    st.sampled_from(["", "api", "v1", "ollama", "openai", "chat", "tags", "models", "completions", "x"]), max_size=7
)


@given(WORDS)
def test_what_is_meant_is_known_or_the_path_itself(words):
    path = "/" + "/".join(words)
    found = meant(path, KNOWN.__contains__)
    assert found in KNOWN or found == path
    assert meant(found, KNOWN.__contains__) == found
    left = [word for word in words if word]
    kept = found.removeprefix("/v1").strip("/").split("/")
    if found not in (path, "/"):
        assert left[-len(kept) :] == kept, "only the beginning is changed"


# --- pages in browsers

OLLAMAS_OWN = [
    "http://localhost",
    "https://localhost",
    "http://localhost:3000",
    "https://127.0.0.1:8443",
    "http://0.0.0.0:1234",
    "app://obsidian.md",
    "file://",
    "tauri://localhost",
    "vscode-webview://abc",
    "vscode-file://vscode-app",
]
PATHS = ["/", "/api/chat", "/api/tags", "/api/nodes", "/v1/models", "/v1/messages", "/v1/v1/models/", "/nothing/here"]


@pytest.mark.parametrize("origin", OLLAMAS_OWN)
async def test_origins_that_ollama_allows_are_allowed_everywhere(origin: str) -> None:
    async with front() as door:
        for path in PATHS:
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
            reply = await door.ask("OPTIONS", path, b"", asked)
            assert (reply.status, reply.header("access-control-allow-origin")) == (204, origin), path
            assert "POST" in reply.header("access-control-allow-methods")
            allowed = reply.header("access-control-allow-headers").lower().split(",")
            assert {"authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-os"} <= set(allowed)
        tags = await door.ask("GET", "/api/tags", b"", {"Origin": origin})
        assert (tags.status, tags.header("access-control-allow-origin")) == (200, origin)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "http://localhost@evil.example", "null"]
)
async def test_other_origins_are_refused_until_they_are_configured(origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with front() as door:
        for method, path in (("OPTIONS", "/api/chat"), ("GET", "/api/tags"), ("OPTIONS", "/nothing")):
            reply = await door.ask(method, path, b"", asked)
            assert (reply.status, reply.body, reply.header("access-control-allow-origin")) == (403, b"", "")
    settings = Gateway(port=0, shutdown_seconds=0.0, allowed_origins=("https://*.example", "null", "http://localhost*"))
    async with front(gateway=settings) as door:
        reply = await door.ask("OPTIONS", "/api/chat", b"", asked)
        assert (reply.status, reply.header("access-control-allow-origin")) == (204, origin)


async def test_options_need_no_key_and_no_origin() -> None:
    async with front(auth=Auth(keys=("k",))) as door:
        preflight = await door.ask("OPTIONS", "/api/chat", b"", {"Origin": "http://localhost:3000"})
        assert preflight.status == 204
        plain = await door.ask("OPTIONS", "/api/delete")
        assert (plain.status, plain.header("allow")) == (204, "DELETE")
        assert (await door.ask("OPTIONS", "/nothing/here")).status == 204
