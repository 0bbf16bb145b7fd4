"""`HybridRouter`: one call for models that fit on a node and, once that is there, for those that do not."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from msgspec import Struct

from sollol.errors import ConfigError
from sollol.pool.ollama_pool import OllamaPool
from sollol.wire.address import parse_address

if TYPE_CHECKING:
    from sollol.pool.awaitable import ChatAnswer, EmbedAnswer, GenerateAnswer

log = logging.getLogger("sollol.pool")
RPC_PORT: Final = 50_052
NOT_YET: Final = (
    "models are not split over RPC backends in this version: every request goes to one node that has the whole model"
)


class RPCBackend(Struct, frozen=True):
    """One llama.cpp RPC server: ``host`` and ``port``."""

    host: str
    port: int = RPC_PORT

    @property
    def address(self) -> str:
        """ "host:port", as llama.cpp wants it."""
        return f"{self.host}:{self.port}"


class HybridRouter:
    """Sends each request to a node of ``ollama_pool``; without one, to a pool that looks for nodes.

    ``rpc_backends`` (dicts, "host:port" or `RPCBackend`), ``auto_setup_rpc`` and ``num_rpc_backends`` are kept for splitting
    models, which this version does not do: with ``enable_distributed`` it says so in the log, and a model that no node has
    is refused with `NoNodeForModel`. Calls work as those of `OllamaPool`: they wait, or can be awaited.
    """

    _pool_kind: ClassVar[type[OllamaPool]] = OllamaPool

    def __init__(
        self,
        ollama_pool: OllamaPool | None = None,
        rpc_backends: Iterable[RPCBackend | str | Mapping[str, Any]] | None = None,
        *,
        enable_distributed: bool = False,
        auto_setup_rpc: bool = False,
        num_rpc_backends: int | None = None,
    ) -> None:
        self.rpc_backends = [backend(one) for one in rpc_backends or ()]
        self.enable_distributed = enable_distributed
        self.auto_setup_rpc = auto_setup_rpc
        self.num_rpc_backends = num_rpc_backends
        self._given = ollama_pool is not None
        self.pool = ollama_pool if ollama_pool is not None else self._pool_kind()
        if enable_distributed:
            log.warning(NOT_YET)

    def route_request(self, model: str, messages: Sequence[Any] | None = None, **options: Any) -> ChatAnswer:
        """Continue a chat on the node where it is answered soonest."""
        reply: ChatAnswer = self.pool.chat(model, messages, **options)
        return reply

    chat = route_request

    def generate(
        self, model: str, prompt: str | None = None, messages: Sequence[Any] | None = None, **options: Any
    ) -> ChatAnswer | GenerateAnswer:
        """Continue a prompt, or a chat where ``messages`` are given."""
        reply: ChatAnswer | GenerateAnswer
        if messages is not None:
            reply = self.pool.chat(model, messages, **options)
        else:
            reply = self.pool.generate(model, prompt, **options)
        return reply

    def embed(self, model: str, input: str | Sequence[str], **options: Any) -> EmbedAnswer:
        """Vectors of one text or of several."""
        return self.pool.embed(model, input, **options)

    def get_stats(self) -> dict[str, Any]:
        """The figures of the pool, and which RPC backends are known."""
        return {**self.pool.get_stats(), "rpc_backends": [one.address for one in self.rpc_backends], "splitting": False}

    def close(self) -> None:
        """Close the pool, if it is the router's own."""
        if not self._given:
            self.pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def backend(given: RPCBackend | str | Mapping[str, Any]) -> RPCBackend:
    """An RPC backend in any form; "grpc://host:port" too. Raises `ConfigError`."""
    if isinstance(given, RPCBackend):
        return given
    if isinstance(given, Mapping):
        host, port = given.get("host"), given.get("port", RPC_PORT)
        if not host:
            raise ConfigError('an RPC backend needs a "host"')
        endpoint = parse_address({"host": host, "port": port}).endpoint
    elif isinstance(given, str):
        text = given.removeprefix("grpc://").removeprefix("rpc://")
        has_port = text.rpartition("]")[2].count(":") == 1
        endpoint = parse_address(text if has_port else {"host": text, "port": RPC_PORT}).endpoint
    else:
        raise ConfigError(f"an RPC backend has to be text, a mapping or an RPCBackend, not {type(given).__name__}")
    return RPCBackend(endpoint.host, endpoint.port)
