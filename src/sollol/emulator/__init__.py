"""Emulated nodes: a pure model of what a node does and when (`model`), and a socket server around it (`server`)."""

from sollol.emulator.model import NodeModel
from sollol.emulator.specs import (
    Finished,
    FirstToken,
    Happening,
    Loaded,
    ModelSpec,
    NodeSpec,
    Refused,
    Residency,
    Unloaded,
    Work,
    embedder,
)

__all__ = [
    "Finished",
    "FirstToken",
    "Happening",
    "Loaded",
    "ModelSpec",
    "NodeModel",
    "NodeSpec",
    "Refused",
    "Residency",
    "Unloaded",
    "Work",
    "embedder",
]
