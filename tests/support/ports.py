"""Ports that listen, and ports where surely nobody does."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def listening(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server((host, port)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def refusing(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that nobody listens on, and that nobody else gets meanwhile."""
    with socket.socket() as unused:
        unused.bind((host, 0))
        yield unused.getsockname()[1]
