"""What `/api/show` says about a model on a node that is no Ollama: what is known of it, in Ollama's shape, nothing made up."""

from __future__ import annotations

from typing import Any

from sollol.core.node import NodeState
from sollol.core.types import Model, NodeKind

_FORMATS = {NodeKind.LLAMACPP: "gguf", NodeKind.VLLM: "safetensors"}


def described(node: NodeState, model: Model) -> dict[str, Any]:
    """The document. Keys that clients need are there even where their value is not known: then they are empty."""
    architecture = "unknown"
    info: dict[str, Any] = {"general.architecture": architecture, "general.basename": model.name.partition(":")[0]}
    if model.parameters is not None:
        info["general.parameter_count"] = int(model.parameters)
    if model.context_length is not None:
        info[f"{architecture}.context_length"] = model.context_length
    return {
        "modelfile": f"# on {node.label}, a {node.kind.value} server, which has no Modelfile\nFROM {model.native}\n",
        "parameters": "",
        "template": "",
        "details": {
            "parent_model": "",
            "format": _FORMATS.get(node.kind, ""),
            "family": "",
            "families": [],
            "parameter_size": "" if model.parameters is None else parameter_size(model.parameters),
            "quantization_level": "",
        },
        "model_info": info,
        "capabilities": sorted(model.capabilities) or ["completion"],
        "modified_at": model.modified_at or "1970-01-01T00:00:00Z",
    }


def parameter_size(count: float) -> str:
    """A number of parameters as Ollama writes it: "478K", "4.92M", "7.6B"."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            value = f"{count / size:.2f}" if unit == "M" else f"{count / size:.1f}" if unit in "TB" else f"{count / size:.0f}"
            return value + unit
    return str(int(count))
