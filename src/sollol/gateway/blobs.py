"""Where blobs were put: `create` needs them on the very node it runs on, and says only their digests."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

DIGESTS: Final = 10_000
CLIENTS: Final = 1_000
HOME_SECONDS: Final = 3600.0
_DIGEST: Final = re.compile(r"sha256[-:][0-9a-fA-F]{64}")


class BlobPlaces:
    """Remembers the nodes of the last 10,000 digests, and for an hour the nodes that a client's blobs go to.

    All blobs of one client go to the same nodes, because they may be parts of one model. Times are on the engine's clock.
    """

    def __init__(self) -> None:
        self._digests: OrderedDict[str, frozenset[str]] = OrderedDict()
        self._homes: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()

    def put(self, digest: str, nodes: Iterable[str], client: str, now: float) -> None:
        """`nodes` have the blob now, and further blobs of `client` go there too."""
        nodes = tuple(nodes)
        key = _key(digest)
        self._digests[key] = self._digests.pop(key, frozenset()) | frozenset(nodes)
        if len(self._digests) > DIGESTS:
            self._digests.popitem(last=False)
        self._homes.pop(client, None)
        self._homes[client] = (now, nodes)
        if len(self._homes) > CLIENTS:
            self._homes.popitem(last=False)

    def missing(self, digest: str, node: str) -> None:
        """The node says that it does not have the blob."""
        key = _key(digest)
        self._digests[key] = self._digests.get(key, frozenset()) - {node}
        if not self._digests[key]:
            del self._digests[key]

    def home(self, client: str, now: float) -> tuple[str, ...]:
        """Where the blobs of `client` go; empty if nowhere yet."""
        at, nodes = self._homes.get(client, (now, ()))
        return nodes if now - at <= HOME_SECONDS else ()

    def with_all(self, digests: Sequence[str]) -> frozenset[str]:
        """The nodes that are known to have every one of `digests`."""
        places = [self._digests.get(_key(digest), frozenset()) for digest in digests]
        return frozenset.intersection(*places) if places else frozenset()


def is_digest(text: str) -> bool:
    """Whether `text` is the digest of a blob as Ollama takes it: "sha256:" and 64 hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _key(digest: str) -> str:
    return digest.lower().replace("-", ":")
