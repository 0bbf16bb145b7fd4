"""Finding Ollama nodes from a program: ``from sollol.discovery import discover_ollama_nodes``."""

from sollol.drivers.discover_now import (
    FoundNode,
    count_unique_physical_hosts,
    discover_ollama_nodes,
    is_docker_ip,
    resolve_docker_ip,
)

__all__ = ["FoundNode", "count_unique_physical_hosts", "discover_ollama_nodes", "is_docker_ip", "resolve_docker_ip"]
