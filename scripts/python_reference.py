"""The page about the Python library, written from signatures and docstrings. Used by `write_reference.py`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final, ForwardRef, is_typeddict

HEAD: Final = """# Python library

Written from the docstrings. How to use it: [use it from Python](../howto/python.md). Every name is typed; type checkers know
what a call gives with and without `stream=True`.

"""
SECTIONS: Final[dict[str, tuple[str, list[str]]]] = {
    "Pools": ("sollol", ["AsyncPool", "SyncPool", "OllamaPool"]),
    "What a pool takes": ("sollol.pool.settings", ["pool_settings"]),
    "What calls take": (
        "sollol.pool.options",
        [
            *("CallWishes", "CallOptions", "ChatOptions", "GenerateOptions", "EmbedOptions", "SpreadOptions", "BatchOptions"),
            *("EmbedEachOptions", "EmbedBatchOptions", "ChatEachOptions", "ChatBatchOptions"),
            *("GenerateEachOptions", "GenerateBatchOptions"),
        ],
    ),
    "What calls give": (
        "sollol.pool.replies",
        [
            "Reply",
            "Routing",
            "ChatReply",
            "GenerateReply",
            "EmbedReply",
            "EmbeddingReply",
            "ListReply",
            "ProcessReply",
            "ShowReply",
        ],
    ),
    "Pools that always wait": ("sollol.sync_wrapper", ["OllamaPool", "HybridRouter"]),
    "The calls of the ollama package": ("sollol.ollama", ["Client", "AsyncClient", "ResponseError"]),
    "Routing by hand": ("sollol.intelligence", ["IntelligentRouter", "TaskContext"]),
    "Priorities": ("sollol.priority_helpers", ["Priority", "get_priority_for_role"]),
    "Modes": ("sollol.routing_modes", ["RoutingMode"]),
    "Races": ("sollol.hedging", ["AdaptiveHedging"]),
    "Models that stay loaded": ("sollol.gpu_controller", ["SOLLOLGPUController", "integrate_with_router"]),
    "Two ways": ("sollol", ["HybridRouter", "RPCBackend"]),
    "A gateway in the program": ("sollol", ["SOLLOL", "SOLLOLConfig"]),
    "Finding nodes": ("sollol.discovery", ["discover_ollama_nodes", "count_unique_physical_hosts"]),
    "Addresses of Docker": ("sollol.docker_ip_resolver", ["is_docker_ip", "resolve_docker_ip"]),
}


def page(before: str) -> str:
    """The whole page; ``before`` comes after its first words."""
    parts = [HEAD, before]
    for title, (path, names) in SECTIONS.items():
        parts.append(f"\n## {title}\n\nFrom `{path}`.\n")
        for name in names:
            parts.extend(_described(name, getattr(import_module(path), name)))
    return "".join(parts)


def _described(name: str, one: Any) -> Iterator[str]:
    yield f"\n### {name}\n\n"
    if not inspect.isclass(one):
        yield f"```text\n{_called(name, one)}\n```\n\n{inspect.getdoc(one)}\n"
        return
    if one.__init__ is not object.__init__ and not issubclass(one, dict):
        yield f"```text\n{_called(name, one)}\n```\n\n"
    yield f"{inspect.getdoc(one)}\n"
    fields = {key: kind for key, kind in _own(one, "__annotations__").items() if not key.startswith("_")}
    if is_typeddict(one):
        bases = _told_elsewhere(one)
        told = {key for base in bases for key in base.__annotations__}
        fields = {key: kind for key, kind in fields.items() if key not in told}
        if bases:
            yield f"\nAll of {' and '.join(f'`{base.__name__}`' for base in bases)}{', and:' if fields else '.'}\n"
    if fields and issubclass(one, dict):
        yield "\n" + "".join(
            f"- `{key}`: `{_text(kind)}`\n" for key, kind in fields.items() if not _text(kind).startswith("ClassVar")
        )
    for method, made in _methods(one):
        said = inspect.getdoc(made)
        if said and isinstance(made, property):
            yield f"\n**`{method}`** {said}\n"
        elif said:
            yield f"\n```text\n{_called(method, made)}\n```\n\n{said}\n"


def _told_elsewhere(one: type) -> list[type]:
    """The typed dictionaries of the same module whose fields this one has too, the largest. (Python forgets its bases.)"""
    keys = set(one.__annotations__)
    others = [other for other in vars(import_module(one.__module__)).values() if is_typeddict(other)]
    smaller = [other for other in others if set(other.__annotations__) < keys]
    return [
        other for other in smaller if not any(set(other.__annotations__) < set(larger.__annotations__) for larger in smaller)
    ]


def _own(one: type, name: str) -> dict[str, Any]:
    found: dict[str, Any] = one.__dict__.get(name, {})
    return found


def _methods(one: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class has itself, or from bases that users do not see by name."""
    hidden = [base for base in one.__mro__[1:] if base.__name__ in HIDDEN]
    for kind in (one, *hidden):
        for name, made in vars(kind).items():
            if not name.startswith("_"):
                yield name, made.__func__ if isinstance(made, classmethod | staticmethod) else made


HIDDEN: Final = frozenset({"AsyncModels", "AsyncBatches", "SyncBatches"})


def _called(name: str, one: Any) -> str:
    """How it is called, with its types, one argument a line where it would be long."""
    try:
        signature = inspect.signature(one)
    except (TypeError, ValueError):
        return name
    kept = [value for key, value in signature.parameters.items() if key not in ("self", "cls")]
    words = [_argument(argument) for argument in kept]
    for place, argument in enumerate(kept):
        if argument.kind is inspect.Parameter.KEYWORD_ONLY:
            words.insert(place, "*")
            break
    gives = "" if inspect.isclass(one) or signature.return_annotation is inspect.Signature.empty else _kind(signature)
    begin = "await " if inspect.iscoroutinefunction(one) else ""
    line = f"{begin}{name}({', '.join(words)}){gives}"
    if len(line) <= 110:
        return line
    return f"{begin}{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){gives}"


def _kind(signature: inspect.Signature) -> str:
    return f" -> {_text(signature.return_annotation)}"


def _text(annotation: Any) -> str:
    if isinstance(annotation, str | ForwardRef):
        return annotation if isinstance(annotation, str) else annotation.__forward_arg__
    return getattr(annotation, "__name__", None) or str(annotation)


def _argument(argument: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(argument.kind, "")
    text = stars + argument.name
    if argument.annotation is not inspect.Parameter.empty:
        text += f": {_text(argument.annotation)}"
    if argument.default is not inspect.Parameter.empty:
        shown = "..." if argument.default.__class__.__repr__ is object.__repr__ else repr(argument.default)
        text += f" = {shown}"
    return text
