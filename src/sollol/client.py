"""Clients with the calls of the ``ollama`` package: ``from sollol.client import AsyncClient, Client``."""

from sollol.pool.client import AsyncClient, Client, RequestError, ResponseError

__all__ = ["AsyncClient", "Client", "RequestError", "ResponseError"]
