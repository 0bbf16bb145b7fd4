"""The calls of the ``ollama`` package over a pool: whoever uses that package changes one import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec

from sollol.errors import AllAttemptsFailed, NodeUnreachable, NoNodes, SollolError
from sollol.pool.async_pool import AsyncPool
from sollol.pool.settings import NodeForm, PoolSettings, node_settings, pool_settings
from sollol.pool.sync_pool import SyncPool

CONNECTION: Final = "no node could be reached; see that Ollama runs there"
_OF_HTTPX: Final = frozenset(
    {"follow_redirects", "verify", "cert", "http1", "http2", "limits", "trust_env", "transport", "proxy"}
)


class ResponseError(SollolError):
    """A request that was refused or failed. ``error`` is what was said, ``status_code`` the HTTP status."""

    def __init__(self, error: str, status_code: int = -1) -> None:
        self.error = error
        self.status_code = status_code
        super().__init__(f"{error} (status code: {status_code})" if status_code >= 0 else error)


class RequestError(SollolError):
    """A call that could not be made, since something is missing in it; ``error`` says what."""

    def __init__(self, error: str) -> None:
        self.error = error
        super().__init__(error)


def as_ollama_says(error: SollolError) -> Exception:
    """Our error as the ``ollama`` package raises it; a time limit stays a `TimeoutError`."""
    if isinstance(error, TimeoutError):
        return error
    if isinstance(error, AllAttemptsFailed):
        unreachable = all(isinstance(attempt, NodeUnreachable) for _, attempt in error.attempts)
    else:
        unreachable = isinstance(error, NoNodes)
    return ConnectionError(f"{CONNECTION}: {error}") if unreachable else ResponseError(str(error), error.status)


def client_settings(
    host: NodeForm | Iterable[NodeForm] | None,
    headers: Mapping[str, str] | None,
    timeout: Any,
    given: Mapping[str, Any],
) -> PoolSettings:
    """What a client was given. A key in ``headers`` goes to every node; of other HTTP settings there is nothing to do."""
    known = {key: value for key, value in given.items() if key not in _OF_HTTPX}
    seconds = timeout if timeout is None or isinstance(timeout, int | float) else getattr(timeout, "read", None)
    settings = pool_settings(host, timeout=seconds, **known)
    scheme, _, key = next((v for k, v in (headers or {}).items() if k.lower() == "authorization"), "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        return settings
    nodes = tuple(msgspec.structs.replace(node_settings(node), api_key=key) for node in settings.config.nodes)
    return replace(settings, config=msgspec.structs.replace(settings.config, nodes=nodes))


class AsyncClient(AsyncPool):
    """``ollama.AsyncClient`` over one node, several, or a gateway; without ``host`` over those of the configuration.

    The calls and what they give are the same; a call may say more (``priority=``, ``timeout=``), and replies carry
    ``_sollol_routing``. Raises `ResponseError` and `ConnectionError` as that package does.
    """

    def __init__(
        self,
        host: NodeForm | Iterable[NodeForm] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: Any = None,
        settings: PoolSettings | None = None,
        **given: Any,
    ) -> None:
        super().__init__(settings=settings or client_settings(host, headers, timeout, given))

    def _told(self, error: SollolError) -> Exception:
        return as_ollama_says(error)


class Client(SyncPool):
    """``ollama.Client`` over one node, several, or a gateway; without ``host`` over those of the configuration.

    As `AsyncClient`, for programs that wait for their answers.
    """

    _kind = AsyncClient

    def __init__(
        self,
        host: NodeForm | Iterable[NodeForm] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: Any = None,
        settings: PoolSettings | None = None,
        **given: Any,
    ) -> None:
        super().__init__(settings=settings or client_settings(host, headers, timeout, given))
