from sollol.core.types import Priority as Priority
from sollol.discovery import discover_ollama_nodes as discover_ollama_nodes
from sollol.discovery import is_docker_ip as is_docker_ip
from sollol.discovery import resolve_docker_ip as resolve_docker_ip
from sollol.pool.async_pool import AsyncPool as AsyncPool
from sollol.pool.hybrid import HybridRouter as HybridRouter
from sollol.pool.hybrid import RPCBackend as RPCBackend
from sollol.pool.ollama_pool import OllamaPool as OllamaPool
from sollol.pool.sync_pool import SyncPool as SyncPool
from sollol.server import SOLLOL as SOLLOL
from sollol.server import SOLLOLConfig as SOLLOLConfig

__version__: str
