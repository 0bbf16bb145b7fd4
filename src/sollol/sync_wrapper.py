"""`OllamaPool` and `HybridRouter` that always wait, also where an event loop runs."""

from sollol.pool.waiting import HybridRouter, OllamaPool

__all__ = ["HybridRouter", "OllamaPool"]
