"""The ``ollama`` package's names over many nodes: ``from sollol.ollama import Client``; nothing of that package is needed."""

from sollol.pool.client import AsyncClient, Client, RequestError, ResponseError
from sollol.pool.replies import ChatReply as ChatResponse
from sollol.pool.replies import EmbeddingReply as EmbeddingsResponse
from sollol.pool.replies import EmbedReply as EmbedResponse
from sollol.pool.replies import GenerateReply as GenerateResponse
from sollol.pool.replies import ListReply as ListResponse
from sollol.pool.replies import Message
from sollol.pool.replies import ProcessReply as ProcessResponse
from sollol.pool.replies import ProgressReply as ProgressResponse
from sollol.pool.replies import ShowReply as ShowResponse
from sollol.pool.replies import StatusReply as StatusResponse

__all__ = [
    "AsyncClient",
    "ChatResponse",
    "Client",
    "EmbedResponse",
    "EmbeddingsResponse",
    "GenerateResponse",
    "ListResponse",
    "Message",
    "ProcessResponse",
    "ProgressResponse",
    "RequestError",
    "ResponseError",
    "ShowResponse",
    "StatusResponse",
]
