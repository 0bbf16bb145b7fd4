"""Routing with a context: ``from sollol.intelligence import IntelligentRouter, TaskContext``."""

from sollol.pool.intelligent import IntelligentRouter, TaskContext

__all__ = ["IntelligentRouter", "TaskContext"]
