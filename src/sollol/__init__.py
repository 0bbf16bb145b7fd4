"""SOLLOL: one front door for several machines that run local language models.

Importing this package loads nothing but this file; names are fetched when first used (their types are in `__init__.pyi`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "AsyncPool": "sollol.pool.async_pool",
    "HybridRouter": "sollol.pool.hybrid",
    "OllamaPool": "sollol.pool.ollama_pool",
    "Priority": "sollol.core.types",
    "RPCBackend": "sollol.pool.hybrid",
    "SOLLOL": "sollol.server",
    "SOLLOLConfig": "sollol.server",
    "SyncPool": "sollol.pool.sync_pool",
    "discover_ollama_nodes": "sollol.discovery",
    "is_docker_ip": "sollol.discovery",
    "resolve_docker_ip": "sollol.discovery",
}

__all__ = [
    "SOLLOL",
    "AsyncPool",
    "HybridRouter",
    "OllamaPool",
    "Priority",
    "RPCBackend",
    "SOLLOLConfig",
    "SyncPool",
    "__version__",
    "discover_ollama_nodes",
    "is_docker_ip",
    "resolve_docker_ip",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sollol' has no attribute {name!r}")
