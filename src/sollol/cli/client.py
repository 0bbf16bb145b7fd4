"""How the commands talk to a running gateway: small blocking requests with the standard library."""

from __future__ import annotations

import http.client
import json
from typing import Any, Final
from urllib.parse import quote, urlencode

from sollol.cli.failures import GatewayRefused, NothingRuns
from sollol.config_sources import Client
from sollol.wire.address import parse_endpoint

SECONDS: Final = 30.0


class GatewayClient:
    """The admin API of one gateway. Every call opens a connection of its own and raises `NothingRuns` or `GatewayRefused`."""

    def __init__(self, where: Client) -> None:
        self.url = where.url
        self._key = where.key

    def get(self, path: str, **query: object) -> dict[str, Any]:
        asked = {name: value for name, value in query.items() if value is not None}
        return self.call("GET", f"{path}?{urlencode(asked)}" if asked else path)

    def health(self, seconds: float = SECONDS) -> dict[str, Any]:
        """What /api/health says, once it is clear that a SOLLOL answers."""
        try:
            found = self.call("GET", "/api/health", seconds=seconds)
        except GatewayRefused as refused:
            if refused.http_status in {401, 403}:
                raise
            found = {}
        if found.get("service") != "SOLLOL":
            raise NothingRuns(self.url, "something else answers there")
        return found

    def call(self, method: str, path: str, body: object = None, *, seconds: float = SECONDS) -> dict[str, Any]:
        """Send one request and return the JSON object that came back ({} for an empty reply)."""
        status, content = self._exchange(method, path, body, seconds)
        try:
            reply = json.loads(content) if content else {}
        except ValueError:
            reply = None
        if status >= 400:
            raise GatewayRefused(status, _words(status, reply))
        if not isinstance(reply, dict):
            raise NothingRuns(self.url, "something else answers there")
        return reply

    def _exchange(self, method: str, path: str, body: object, seconds: float) -> tuple[int, bytes]:
        endpoint = parse_endpoint(self.url)
        kind = http.client.HTTPSConnection if endpoint.tls else http.client.HTTPConnection
        connection = kind(endpoint.host, endpoint.port, timeout=seconds)
        headers = {"Accept": "application/json", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        try:
            connection.request(method, endpoint.base + path, content, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NothingRuns(self.url, _why(error)) from None
        finally:
            connection.close()


def node_path(node: str) -> str:
    """The admin path of one node, by id or name."""
    return f"/api/nodes/{quote(node, safe='')}"


def _words(status: int, reply: object) -> str:
    if isinstance(reply, dict) and reply.get("error"):
        error = reply["error"]
        return str(error.get("message", error) if isinstance(error, dict) else error)
    if status in {401, 403}:
        return "The gateway wants a key: set SOLLOL_ADMIN_KEY."
    return f"The gateway answered with status {status}."


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return ""  # the usual case needs no more words
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
