"""One name for one model, whatever a client or a node calls it."""

from __future__ import annotations

from typing import Final

_FILE_END: Final = ".gguf"
_HOME_REGISTRY: Final = "registry.ollama.ai"
_HOME_FOLDER: Final = "library"


def stem(native: str) -> str:
    """The name of a model that a server names by its file: "/models/Qwen-Q4.gguf" gives "Qwen-Q4"; others stay as they are."""
    name = native.strip()
    is_path = name.lower().endswith(_FILE_END) or name.startswith(("/", "./", "../", "~/")) or name[1:3] in (":\\", ":/")
    if is_path:
        name = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    if name.lower().endswith(_FILE_END) and len(name) > len(_FILE_END):
        name = name[: -len(_FILE_END)]
    return name


def canonical(name: str) -> str:
    """The form under which models are compared: lower case, always with a tag (":latest" if none), a file path as its stem.

    Ollama's own registry and its "library" folder are left out, as Ollama does. The empty name stays empty.
    """
    short = stem(name).lower().partition("://")
    plain = short[2] if short[1] else short[0]
    parts = plain.split("/")
    if len(parts) == 3 and parts[0] == _HOME_REGISTRY:
        del parts[0]
    if len(parts) == 2 and parts[0] == _HOME_FOLDER:
        del parts[0]
    plain = "/".join(parts)
    if not plain:
        return ""
    head, slash, last = plain.rpartition("/")
    base, colon, tag = last.partition(":")
    if not (colon and tag):
        tag = "latest"
    return f"{head}{slash}{base}:{tag}"


def tagged(name: str) -> str:
    """The name as it is written, with ":latest" where it has no tag."""
    written = name.strip()
    return written if ":" in written.rpartition("/")[2] else f"{written}:latest"


def tagless(name: str) -> str:
    """The canonical name as a person would type it: without ":latest", other tags kept."""
    return canonical(name).removesuffix(":latest")
