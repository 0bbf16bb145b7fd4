"""Who may ask what. Hosts, origins and headers are as one Ollama answered them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.errors import Forbidden, LoopDetected, Unauthorized
from sollol.gateway.guards import Guard, changes_cluster, hops
from sollol.gateway.http import Request


def request(method: str = "GET", path: str = "/api/version", **headers: str) -> Request:
    pairs = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return Request(method, path, "", pairs, "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("", True),
        ("localhost:11434", True),
        ("LOCALHOST", True),
        ("node1.internal:11434", True),
        ("box.local", True),
        ("a.localhost:1", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("::1", True),
        ("0.0.0.0:8000", True),
        ("192.168.1.7:8000", True),
        ("10.1.2.3", True),
        ("8.8.8.8:8000", False),
        ("evil.example", False),
        ("evil.example:80", False),
        ("localhost.evil.example", False),
        ("evil.local.example", False),
        ("notlocalhost", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_host(host: str, allowed: bool) -> None:
    assert Guard().allows_host(host.encode()) is allowed


def test_host_of_the_configuration() -> None:
    assert Guard(hosts=("ai.home",)).allows_host(b"AI.home:8000")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("https://localhost", True),
        ("http://127.0.0.1:5173", True),
        ("http://0.0.0.0:1", True),
        ("http://[::1]:8080", True),
        ("app://obsidian.md", True),
        ("file://", True),
        ("tauri://localhost", True),
        ("vscode-webview://abc", True),
        ("vscode-file://vscode-app", True),
        ("http://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("http://localhost:3000@evil.example", False),
        ("http://localhost:99999", False),
        ("http://localhost:x", False),
        ("ftp://localhost", False),
        ("null", False),
    ],
)
def test_origin(origin: str, allowed: bool) -> None:
    assert Guard().allows_origin(origin.encode()) is allowed


@pytest.mark.parametrize(
    ("configured", "origin", "allowed"),
    [
        ("https://chat.home", "https://chat.home", True),
        ("https://chat.home", "https://chat.homes", False),
        ("https://chat.home", "https://chatxhome", False),
        ("https://*.home", "https://a.home", True),
        ("https://*.home", "https://a.home.evil.example", False),
        ("moz-extension://*", "moz-extension://1-2-3", True),
        ("*", "https://anything.example", True),
    ],
)
def test_configured_origin(configured: str, origin: str, allowed: bool) -> None:
    assert Guard(origins=(configured,)).allows_origin(origin.encode()) is allowed


@pytest.mark.parametrize(
    ("guard", "headers", "stopped"),
    [
        (Guard(), {"origin": "http://evil.example"}, True),
        (Guard(), {"origin": "http://localhost:3000"}, False),
        (Guard(), {"host": "evil.example"}, True),
        (Guard(loopback=False), {"host": "gateway.example"}, False),
        (Guard(loopback=False), {"host": "gateway.example", "origin": "http://evil.example"}, True),
        (Guard(loopback=False), {"host": "gateway.example", "origin": "http://gateway.example"}, False),
        (Guard(keys=("k",)), {"host": "evil.example", "authorization": "Bearer k"}, False),
        (Guard(keys=("k",)), {"origin": "http://evil.example", "authorization": "Bearer k"}, False),
        (Guard(admin_keys=("a",)), {"origin": "http://evil.example"}, True),
    ],
)
def test_foreign_pages_are_stopped_where_no_key_does_it(guard: Guard, headers: dict[str, str], stopped: bool) -> None:
    assert (guard.intercept(request(**headers)) is not None) is stopped


@pytest.mark.parametrize(
    ("guard", "asked", "key", "error"),
    [
        (Guard(keys=("use",)), "POST /api/chat", "use", None),
        (Guard(keys=("use",)), "POST /api/chat", "", Unauthorized),
        (Guard(keys=("use",)), "POST /api/chat", "us", Unauthorized),
        (Guard(keys=("use",)), "POST /api/chat", "usee", Unauthorized),
        (Guard(keys=("other", "use")), "GET /api/tags", "use", None),
        (Guard(keys=("use",)), "GET /", "", None),
        (Guard(keys=("use",)), "GET /api/health", "", None),
        (Guard(keys=("use",)), "GET /metrics", "", Unauthorized),
        (Guard(keys=("use",)), "POST /api/pull", "use", Forbidden),
        (Guard(keys=("use",), admin_keys=("boss",)), "POST /api/pull", "boss", None),
        (Guard(keys=("use",), admin_keys=("boss",)), "POST /api/chat", "boss", None),
        (Guard(keys=("use",), admin_keys=("boss",)), "POST /api/pull", "use", Forbidden),
        (Guard(keys=("use",), admin_keys=("boss",)), "POST /api/pull", "", Unauthorized),
        (Guard(admin_keys=("boss",)), "POST /api/chat", "", None),
        (Guard(admin_keys=("boss",)), "DELETE /api/nodes/a", "", Unauthorized),
        (Guard(admin_keys=("boss",)), "DELETE /api/nodes/a", "boss", None),
        (Guard(keys=("schlüssel",)), "POST /api/chat", "schlüssel", None),
    ],
)
@pytest.mark.parametrize("form", ["authorization", "x_api_key"])
def test_keys(guard: Guard, asked: str, key: str, error: type[Exception] | None, form: str) -> None:
    headers = {form: f"Bearer {key}" if form == "authorization" else key} if key else {}
    method, path = asked.split()
    sent = request(method, path, host="127.0.0.1", **headers)
    if error is None:
        assert guard.intercept(sent) is None
    else:
        with pytest.raises(error):
            guard.intercept(sent)


@given(st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_only_the_very_key_opens(sent: str, key: str) -> None:
    asked = request("POST", "/api/chat", x_api_key=sent)
    if sent.encode().strip() == key.encode():
        assert Guard(keys=(key,)).intercept(asked) is None
    else:
        with pytest.raises(Unauthorized):
            Guard(keys=(key,)).intercept(asked)


@pytest.mark.parametrize(
    ("method", "path", "changes"),
    [
        ("POST", "/api/chat", False),
        ("POST", "/v1/chat/completions", False),
        ("POST", "/api/show", False),
        ("POST", "/api/batch/embed", False),
        ("GET", "/api/nodes", False),
        ("HEAD", "/api/blobs/sha256:1", False),
        ("POST", "/api/blobs/sha256:1", True),
        ("POST", "/api/nodes", True),
        ("PATCH", "/api/nodes/a", True),
        ("DELETE", "/api/delete", True),
        ("POST", "/api/copy", True),
        ("POST", "/api/never-heard-of", True),
        ("POST", "/api/%70ull", True),
        ("POST", "//api/chat", True),
    ],
)
def test_what_changes_the_cluster(method: str, path: str, changes: bool) -> None:
    assert changes_cluster(method, path) is changes


@pytest.mark.parametrize(
    ("headers", "loop"),
    [
        ({}, False),
        ({"x_sollol_hops": "3"}, False),
        ({"x_sollol_hops": "4"}, True),
        ({"x_sollol_hops": "9" * 5000}, True),
        ({"x_sollol_hops": "many"}, False),
        ({"x_sollol_via": "a, b"}, False),
        ({"x_sollol_via": "a, me, b"}, True),
        ({"x_sollol_via": "a,b,c,d"}, True),
    ],
)
def test_loops_are_ended(headers: dict[str, str], loop: bool) -> None:
    guard = Guard(id="me")
    if loop:
        with pytest.raises(LoopDetected) as caught:
            guard.intercept(request(**headers))
        assert caught.value.status == 508
    else:
        assert guard.intercept(request(**headers)) is None


def test_every_gateway_on_the_way_adds_itself() -> None:
    first = Guard(id="a").onward([(b"user-agent", b"t")])
    second = Guard(id="b").onward(list(first))
    assert hops(second) == (2, [b"a", b"b"])
    with pytest.raises(LoopDetected):
        Guard(id="a").intercept(Request("GET", "/", "", list(second), "127.0.0.1"))


def test_what_goes_on_to_a_node() -> None:
    sent = [
        (b"host", b"gateway"),
        (b"connection", b"close, X-Secret-Hop"),
        (b"x-secret-hop", b"1"),
        (b"cookie", b"c"),
        (b"origin", b"http://localhost:3000"),
        (b"accept-encoding", b"gzip"),
        (b"content-length", b"3"),
        (b"x-sollol-priority", b"9"),
        (b"x-api-key", b"k"),
        (b"authorization", b"Bearer theirs"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"ollama/1"),
    ]
    open_house = dict(Guard(id="g").onward(sent))
    assert open_house == {
        b"authorization": b"Bearer theirs",
        b"content-type": b"application/json",
        b"user-agent": b"ollama/1",
        b"x-sollol-hops": b"1",
        b"x-sollol-via": b"g",
    }
    for keyed in (Guard(keys=("k",)), Guard(admin_keys=("k",))):
        assert b"authorization" not in dict(keyed.onward(sent))


def test_reply_headers() -> None:
    guard = Guard(origins=("https://chat.home",))
    powered = (b"x-powered-by", b"SOLLOL")
    assert guard.reply_headers(None) == (powered,)
    assert guard.reply_headers(request()) == (powered,)
    assert guard.reply_headers(request(origin="http://evil.example")) == (powered,)
    assert guard.reply_headers(request(host="a:1", origin="http://a:1")) == (powered,)
    allowed = guard.reply_headers(request(origin="https://chat.home"))
    assert allowed == (powered, (b"access-control-allow-origin", b"https://chat.home"), (b"vary", b"Origin"))
    everybody = Guard(origins=("*",)).reply_headers(request(origin="https://a.example"))
    assert everybody == (powered, (b"access-control-allow-origin", b"*"))
