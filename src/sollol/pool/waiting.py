"""The classes of `sollol.sync_wrapper`."""

from __future__ import annotations

from sollol.pool import hybrid, ollama_pool


class OllamaPool(ollama_pool.OllamaPool):
    """`sollol.OllamaPool` whose calls always wait for their answers."""

    _always_blocks = True


class HybridRouter(hybrid.HybridRouter):
    """`sollol.HybridRouter` whose calls always wait for their answers; its pool has to be one of this module's too."""

    _pool_kind = OllamaPool
