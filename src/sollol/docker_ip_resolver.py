"""Addresses of containers: ``from sollol.docker_ip_resolver import is_docker_ip, resolve_docker_ip``."""

from sollol.drivers.discover_now import is_docker_ip, resolve_docker_ip

__all__ = ["is_docker_ip", "resolve_docker_ip"]
