"""Who may ask what: keys, foreign hosts and origins, loops, and which headers of a client go on to a node.

One `Guard` per gateway, made from its configuration. Nothing here reads a body, so a request is refused before one is read.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final
from urllib.parse import urlsplit

from sollol.core.ports import Header, Headers, Sink
from sollol.errors import Forbidden, LoopDetected, Unauthorized
from sollol.gateway.http import Handler, Request

MAX_HOPS: Final = 4
HOPS: Final = b"x-sollol-hops"
VIA: Final = b"x-sollol-via"
POWERED_BY: Final[Header] = (b"x-powered-by", b"SOLLOL")

# What a page in a browser may send with a request: Ollama's own list, then ours.
_ALLOW_HEADERS: Final = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    b"X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,"
    b"X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout,"
    b"X-Api-Key,Anthropic-Version,Anthropic-Beta,Anthropic-Dangerous-Direct-Browser-Access,"
    b"X-Sollol-Priority,X-Sollol-Mode,X-Sollol-Timeout,X-Sollol-App,X-Sollol-Node,X-Sollol-Details,"
    b"X-Sollol-Cache,X-Sollol-Hedge,Cache-Control"
)
_ALLOW_METHODS: Final = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_PREFLIGHT_SECONDS: Final = b"43200"

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
_LOCAL_SCHEMES: Final = ("app://", "file://", "tauri://", "vscode-webview://", "vscode-file://")
_LOCAL_ENDS: Final = (".localhost", ".local", ".internal")

# Without a key these answer even where keys are on: they say that we run, which the open port says already.
_OPEN_PATHS: Final = frozenset({"/", "/api/health"})
# What uses the cluster and changes nothing in it; every other path that is not merely read is for admins.
_USE_PATHS: Final = frozenset(
    {
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/api/show",
        "/api/experimental/web_search",
        "/api/experimental/web_fetch",
    },
)
_USE_PREFIXES: Final = ("/v1/", "/api/batch/")
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

# Headers that are between two neighbours, ours, or about the client and not for a node. Origin would wake the node's own guard,
# Accept-Encoding could bring bytes that cannot be read on the way.
_KEEP_BACK: Final = frozenset(
    {
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"origin",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"referer",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-api-key",
    },
)


@dataclass(slots=True)
class _Facts:
    """What the headers of a request say to ``guard``; kept in the request's notes."""

    guard: Guard
    foreign: bool
    hops: int
    looped: bool
    reply: Headers


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of one gateway.

    ``keys`` may use the cluster, ``admin_keys`` may change it too. ``origins`` are allowed besides the local ones: exact, with
    ``*`` for any run of characters, or ``*`` alone for all. ``hosts`` are more names under which this machine may be asked.
    ``loopback`` is true when the door is bound to a loopback address only. ``id`` names this gateway in the hop header.
    """

    keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    loopback: bool = True
    id: str = "gateway"
    _patterns: tuple[re.Pattern[str], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # fullmatch on escaped text: a dot in a configured origin stays a dot.
        patterns = tuple(re.compile(".*".join(map(re.escape, origin.lower().split("*")))) for origin in self.origins)
        object.__setattr__(self, "_patterns", patterns)

    def intercept(self, request: Request, methods: Iterable[str] = ()) -> Handler | None:
        """Look at a request whose headers are complete. None: it may go on to its route.

        A handler is returned for what is answered here: a preflight, or a foreign host or origin. ``methods`` are those the
        path has. Raises `Unauthorized`, `Forbidden` or `LoopDetected`.
        """
        facts = self._facts(request)
        if facts.foreign:
            return _refuse_foreign
        if request.method == "OPTIONS":
            return partial(_preflight, methods=tuple(methods))
        if self.keys or self.admin_keys:
            self._check_key(request)
        if facts.hops >= MAX_HOPS:
            raise LoopDetected(f"this request went through {facts.hops} gateways already")
        if facts.looped:
            raise LoopDetected("this request came back to a gateway that it went through already")
        return None

    def reply_headers(self, request: Request | None) -> Headers:
        """What every reply to this request carries."""
        return (POWERED_BY,) if request is None else self._facts(request).reply

    def _facts(self, request: Request) -> _Facts:
        facts: _Facts | None = request.notes.get("guard")
        if facts is None or facts.guard is not self:
            count, via = hops(request.headers)
            looped = self.id.encode() in via
            facts = request.notes["guard"] = _Facts(
                self, self._is_foreign(request), count, looped, self._reply_headers(request)
            )
        return facts

    def _reply_headers(self, request: Request) -> Headers:
        origin = request.header(b"origin")
        if not origin or _is_own_page(request, origin) or not self.allows_origin(origin):
            return (POWERED_BY,)
        if "*" in self.origins:
            return (POWERED_BY, (b"access-control-allow-origin", b"*"))
        return (POWERED_BY, (b"access-control-allow-origin", origin), (b"vary", b"Origin"))

    def allows_origin(self, origin: bytes) -> bool:
        """Whether pages of that origin may ask."""
        text = origin.decode("latin-1").lower()
        return text.startswith(_LOCAL_SCHEMES) or _is_local_page(text) or any(p.fullmatch(text) for p in self._patterns)

    def allows_host(self, host: bytes) -> bool:
        """Whether a Host header names this machine: an address of ours, a private one, or a local name."""
        return _is_near(host) or _host_name(host.decode("latin-1").lower()) in self.hosts

    def onward(self, headers: Headers) -> tuple[Header, ...]:
        """Headers of a client's request that go on to a node, with one more hop.

        A client's Authorization goes on only where we have no keys: ours must never leave the house. Where the node has a key
        of its own the transport puts that in its place.
        """
        named = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")}
        keyed = bool(self.keys or self.admin_keys)
        kept = [
            (key, value)
            for key, value in headers
            if key not in _KEEP_BACK
            and not key.startswith(b"x-sollol-")
            and key not in named
            and not (keyed and key == b"authorization")
        ]
        count, via = hops(headers)
        kept.append((HOPS, b"%d" % (count + 1)))
        kept.append((VIA, b", ".join([*via, self.id.encode()])))
        return tuple(kept)

    def _is_foreign(self, request: Request) -> bool:
        """Ollama's own rule against pages of other sites. With keys on it is not needed: such a page has none."""
        if self.keys:
            return False
        origin = request.header(b"origin")
        if origin and not _is_own_page(request, origin) and not self.allows_origin(origin):
            return True
        return self.loopback and not self.allows_host(request.header(b"host"))

    def _check_key(self, request: Request) -> None:
        if request.path in _OPEN_PATHS and request.method in _READS:
            return
        changes = changes_cluster(request.method, request.path)
        if not self.keys and not changes:
            return
        given = _key_of(request)
        if given and _is_one_of(given, self.admin_keys):
            return
        if not given or not _is_one_of(given, self.keys):
            raise Unauthorized("a valid key is needed: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")
        if changes:
            raise Forbidden("this changes the cluster and needs an admin key")


def changes_cluster(method: str, path: str) -> bool:
    """Whether a request can change nodes or models, so that it needs an admin key where keys are on."""
    return method not in _READS and path not in _USE_PATHS and not path.startswith(_USE_PREFIXES)


def hops(headers: Headers) -> tuple[int, list[bytes]]:
    """How many gateways a request went through, and the ids of the last of them, oldest first."""
    count = 0
    via: list[bytes] = []
    for key, value in headers:
        if key == HOPS and value.isdigit():
            count = max(count, int(value[:4]))
        elif key == VIA:
            via.extend(name.strip() for name in value.split(b",") if name.strip())
    return max(count, len(via)), via[-MAX_HOPS:]


def _key_of(request: Request) -> bytes:
    scheme, _, key = request.header(b"authorization").partition(b" ")
    if scheme.lower() == b"bearer" and key.strip():
        return key.strip()
    return request.header(b"x-api-key").strip()


def _is_one_of(given: bytes, keys: Iterable[str]) -> bool:
    """Compares with every key in constant time, so that the time taken says neither which nor how much fits."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(given, key.encode())
    return found


def _is_own_page(request: Request, origin: bytes) -> bool:
    """A page that we served ourselves: its origin is the very host that was asked."""
    host = request.header(b"host")
    return bool(host) and origin in (b"http://" + host, b"https://" + host)


def _is_local_page(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https"):
        return False
    # Compared as a whole: nothing may stand beside scheme, host and port ("http://localhost@evil.example").
    return parts.netloc in _LOCAL_NAMES or any(parts.netloc == f"{name}:{port}" for name in _LOCAL_NAMES)


@lru_cache(maxsize=256)  # every request of a client brings the same Host
def _is_near(host: bytes) -> bool:
    name = _host_name(host.decode("latin-1").lower())
    if name in ("", "localhost") or name.endswith(_LOCAL_ENDS):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


async def _refuse_foreign(request: Request, sink: Sink) -> None:
    sink.head(403, (), length=0)
    sink.end()


async def _preflight(request: Request, sink: Sink, methods: tuple[str, ...]) -> None:
    if not request.header(b"origin"):
        sink.head(204, [(b"allow", ", ".join(methods).encode())] if methods else ())
        sink.end()
        return
    headers: list[Header] = [
        (b"access-control-allow-headers", _ALLOW_HEADERS),
        (b"access-control-allow-methods", _ALLOW_METHODS),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
        (b"vary", b"Access-Control-Request-Method"),
        (b"vary", b"Access-Control-Request-Headers"),
    ]
    if methods:
        headers.append((b"allow", ", ".join(methods).encode()))
    sink.head(204, headers)
    sink.end()
