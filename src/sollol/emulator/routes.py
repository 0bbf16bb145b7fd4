"""Which request goes where, at each kind of node, and what stands before that: foreign hosts, origins, odd paths."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from sollol.core.types import NodeKind
from sollol.emulator import engines_api, messages_api, ollama_api, ollama_store, openai_api
from sollol.emulator.calls import Document, Refusal
from sollol.emulator.connection import PLAIN, Header
from sollol.emulator.node import Exchange, is_inference, status_refusal
from sollol.emulator.ollama_writers import error_document as native_error
from sollol.emulator.openai_writers import error_of

MARK: Header = (b"X-SOLLOL-Emulated", b"1")
"""On the replies by which nodes are recognised, so that an emulated one is never taken for a real one."""

Handle = Callable[[Exchange], None]
Table = Mapping[str, Mapping[str, Handle]]

_TEXT = b"text/plain; charset=utf-8"
_CORS: tuple[Header, ...] = (
    (
        b"Access-Control-Allow-Headers",
        b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
        b"X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
        b"X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
        b"X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ),
    (b"Access-Control-Allow-Methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"Access-Control-Max-Age", b"43200"),
)


def _root(exchange: Exchange) -> None:
    exchange.send(Document(b"Ollama is running", ctype=_TEXT))


def _studio_root(exchange: Exchange) -> None:
    error = "Unexpected endpoint or method. (GET /)"
    exchange.send(Document(b'{"error":"%s"}' % error.encode(), ctype=b"application/json"))


def _fixed(status: int, message: str) -> Handle:
    def handle(exchange: Exchange) -> None:
        raise Refusal(status, message)

    return handle


def _transcriptions(exchange: Exchange) -> None:
    words = "failed to parse multipart form: request Content-Type isn't multipart/form-data"
    raise Refusal(400, words, early=True)


_OPENAI: dict[str, Mapping[str, Handle]] = {
    "/v1/chat/completions": {"POST": openai_api.chat},
    "/v1/completions": {"POST": openai_api.completions},
    "/v1/embeddings": {"POST": openai_api.embeddings},
    "/v1/models": {"GET": openai_api.models},
}

_OLLAMA: Table = _OPENAI | {
    "/": {"HEAD": _root, "GET": _root},
    "/api/version": {"HEAD": ollama_store.version, "GET": ollama_store.version},
    "/api/tags": {"HEAD": ollama_store.tags, "GET": ollama_store.tags},
    "/api/ps": {"GET": ollama_store.ps},
    "/api/status": {"GET": ollama_store.status},
    "/api/show": {"POST": ollama_store.show},
    "/api/generate": {"POST": ollama_api.generate},
    "/api/chat": {"POST": ollama_api.chat},
    "/api/embed": {"POST": ollama_api.embed},
    "/api/embeddings": {"POST": ollama_api.embeddings},
    "/api/pull": {"POST": ollama_store.pull},
    "/api/push": {"POST": ollama_store.push},
    "/api/create": {"POST": ollama_store.create},
    "/api/copy": {"POST": ollama_store.copy},
    "/api/delete": {"DELETE": ollama_store.delete},
    "/api/me": {"POST": _fixed(503, "account unavailable")},
    "/api/signout": {"POST": _fixed(500, "there was an error signing out")},
    "/api/experimental/web_search": {"POST": _fixed(403, "ollama cloud is disabled: web search is unavailable")},
    "/api/experimental/web_fetch": {"POST": _fixed(403, "ollama cloud is disabled: web fetch is unavailable")},
    "/v1/responses": {"POST": messages_api.responses},
    "/v1/messages": {"POST": messages_api.messages},
    "/v1/audio/transcriptions": {"POST": _transcriptions},
}
_OLLAMA_PREFIXES: Table = {
    "/api/blobs/": {"HEAD": ollama_store.blob, "POST": ollama_store.blob},
    "/v1/models/": {"GET": openai_api.model_by_id},
}

_LLAMACPP: Table = _OPENAI | {
    "/health": {"GET": engines_api.health},
    "/v1/health": {"GET": engines_api.health},
    "/props": {"GET": engines_api.props},
    "/slots": {"GET": engines_api.slots},
    "/models": {"GET": openai_api.models},
    "/apply-template": {"POST": engines_api.apply_template},
    "/tokenize": {"POST": engines_api.tokenize},
    "/completion": {"POST": engines_api.completion},
    "/completions": {"POST": engines_api.completion},
    "/embedding": {"POST": engines_api.embedding},
    "/chat/completions": {"POST": openai_api.chat},
}
_VLLM: Table = _OPENAI | {
    "/health": {"GET": engines_api.health},
    "/version": {"GET": engines_api.version},
}
_STUDIO: Table = _OPENAI | {
    "/": {"GET": _studio_root},
    "/api/v0/models": {"GET": engines_api.studio_models},
    "/api/v0/chat/completions": {"POST": openai_api.chat},
    "/api/v0/completions": {"POST": openai_api.completions},
    "/api/v0/embeddings": {"POST": openai_api.embeddings},
}
_STUDIO_PREFIXES: Table = {
    "/api/v0/models/": {"GET": engines_api.studio_model},
    "/v1/models/": {"GET": openai_api.model_by_id},
}

_TABLES: Mapping[NodeKind, tuple[Table, Table]] = {
    NodeKind.OLLAMA: (_OLLAMA, _OLLAMA_PREFIXES),
    NodeKind.LLAMACPP: (_LLAMACPP, {}),
    NodeKind.VLLM: (_VLLM, {}),
    NodeKind.LMSTUDIO: (_STUDIO, _STUDIO_PREFIXES),
    NodeKind.OPENAI: (_OPENAI, {"/v1/models/": {"GET": openai_api.model_by_id}}),
}
_MARKED = frozenset(("/", "/api/version", "/props", "/version", "/api/v0/models"))


def route(exchange: Exchange) -> None:
    """Answer one request as the node's kind does."""
    request, kind = exchange.request, exchange.node.kind
    ours = kind is NodeKind.OLLAMA
    if ours and not _let_in(exchange):
        return
    table, prefixes = _TABLES[kind]
    methods = table.get(request.path) or _prefixed(prefixes, request.path)
    if methods is None:
        _nowhere(exchange, table)
        return
    if request.method == "OPTIONS" and b"origin" in request.headers and ours:
        _preflight(exchange, methods)
        return
    handle = methods.get(request.method)
    if handle is None:
        _wrong_method(exchange, methods)
        return
    if request.path in _MARKED:
        request.extra.append(MARK)
    try:
        if exchange.faults.status is not None:
            raise status_refusal(exchange.faults.status)
        if kind is NodeKind.LLAMACPP and exchange.node.loading and request.path != "/v1/models":
            raise Refusal(503, "Loading model")
        handle(exchange)
    except Refusal as refusal:
        exchange.send(refused(kind, request.path, refusal))


def refused(kind: NodeKind, path: str, refusal: Refusal) -> Document:
    """The error in the dialect of the path."""
    if kind is not NodeKind.OLLAMA:
        return error_of(kind, refusal)
    if path == "/v1/messages":
        return messages_api.messages_error(refusal)
    return error_of(kind, refusal) if path.startswith("/v1/") else native_error(refusal)


def _prefixed(prefixes: Table, path: str) -> Mapping[str, Handle] | None:
    return next((m for p, m in prefixes.items() if path.startswith(p) and len(path) > len(p)), None)


def _nowhere(exchange: Exchange, table: Table) -> None:
    request = exchange.request
    if exchange.node.kind is NodeKind.LLAMACPP:
        exchange.send(Document(b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', 404))
    elif exchange.node.kind is NodeKind.VLLM:
        exchange.send(Document(b'{"detail":"Not Found"}', 404, b"application/json"))
    elif exchange.node.kind is NodeKind.LMSTUDIO:
        words = f"Unexpected endpoint or method. ({request.method} {request.path})"
        exchange.send(Document(b'{"error":"%s"}' % words.encode("utf-8", "replace"), ctype=b"application/json"))
    elif "//" in request.path and re.sub("//+", "/", request.path) in table:
        _redirect(exchange, 307, re.sub("//+", "/", request.path))
    elif request.path.endswith("/") and request.path[:-1] in table:
        _redirect(exchange, 301 if request.method == "GET" else 307, request.path[:-1])
    else:
        exchange.send(Document(b"404 page not found", 404, PLAIN))


def _redirect(exchange: Exchange, status: int, path: str) -> None:
    target = path + (f"?{exchange.request.query}" if exchange.request.query else "")
    headers = ((b"Location", target.encode("latin-1")),)
    if exchange.request.method in ("GET", "HEAD"):
        phrase = "Moved Permanently" if status == 301 else "Temporary Redirect"
        body = f'<a href="{target}">{phrase}</a>.\n\n'.encode("latin-1")
        exchange.send(Document(body, status, b"text/html; charset=utf-8", headers))
    else:
        exchange.send(Document(b"", status, b"", headers))


def _wrong_method(exchange: Exchange, methods: Mapping[str, Handle]) -> None:
    if exchange.node.kind is NodeKind.OLLAMA:
        allowed = ", ".join(methods).encode()
        exchange.send(Document(b"405 method not allowed", 405, PLAIN, ((b"Allow", allowed),)))
    elif exchange.node.kind is NodeKind.VLLM:
        exchange.send(Document(b'{"detail":"Method Not Allowed"}', 405, b"application/json"))
    else:
        _nowhere(exchange, {})


@lru_cache(maxsize=256)
def _host_allowed(value: bytes) -> bool:
    """Whether a Host header is of this machine or of a private network (a guard against DNS rebinding)."""
    host = value.decode("latin-1").lower()
    bare = host.rsplit(":", 1)[0] if not host.endswith("]") and host.count(":") in (1, *range(3, 12)) else host
    bare = bare.strip("[]")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return bare in ("", "localhost") or bare.endswith((".localhost", ".local", ".internal"))
    return address.is_loopback or address.is_private or address.is_unspecified


@lru_cache(maxsize=256)
def _origin_allowed(value: bytes) -> bool:
    parts = urlsplit(value.decode("latin-1"))
    if parts.scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file"):
        return True
    return parts.scheme in ("http", "https") and (parts.hostname or "") in ("localhost", "127.0.0.1", "0.0.0.0", "::1")


def _let_in(exchange: Exchange) -> bool:
    request = exchange.request
    origin = request.headers.get(b"origin")
    if not _host_allowed(request.headers.get(b"host", b"")) or (origin is not None and not _origin_allowed(origin)):
        exchange.send(Document(b"", 403, b""))
        return False
    if origin is not None and request.method != "OPTIONS":
        request.extra += [(b"Access-Control-Allow-Origin", origin), (b"Vary", b"Origin")]
    return True


def _preflight(exchange: Exchange, methods: Mapping[str, Handle]) -> None:
    origin = exchange.request.headers[b"origin"]
    allow = ((b"Access-Control-Allow-Origin", origin), (b"Allow", ", ".join(methods).encode()))
    names = (b"Origin", b"Access-Control-Request-Method", b"Access-Control-Request-Headers")
    headers = (*_CORS, *allow, *((b"Vary", name) for name in names))
    exchange.connection.reply(204, b"", b"", headers)


__all__ = ["MARK", "is_inference", "refused", "route"]
