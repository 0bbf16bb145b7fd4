"""The library: everything that a gateway does, inside an application and without a port."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sollol.pool.async_pool import AsyncPool as AsyncPool
    from sollol.pool.ollama_pool import OllamaPool as OllamaPool
    from sollol.pool.sync_pool import SyncPool as SyncPool

_HOMES = {
    "AsyncPool": "sollol.pool.async_pool",
    "OllamaPool": "sollol.pool.ollama_pool",
    "SyncPool": "sollol.pool.sync_pool",
}

__all__ = ["AsyncPool", "OllamaPool", "SyncPool"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sollol.pool' has no attribute {name!r}")
