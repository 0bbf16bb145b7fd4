"""What a request is about, told in words, and a router that takes such words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from sollol.core.analyze import CHARS_PER_TOKEN, LEVELS, analyze
from sollol.core.types import Dialect, Kind, Mode, Prompt, Task
from sollol.errors import BadValue
from sollol.pool import bodies
from sollol.pool.ollama_pool import OllamaPool
from sollol.pool.replies import ChatReply
from sollol.pool.settings import checked_priority

if TYPE_CHECKING:
    from sollol.pool.gpu import SOLLOLGPUController

_TOP: Final = {"low": 3, "medium": 6, "high": 10}
_TYPES: Final = {
    "code": "code",
    "synthesis": "code",
    "refactor": "code",
    "debug": "code",
    "embed": "embedding",
    "summar": "summarization",
    "classif": "classification",
    "extract": "extraction",
    "analy": "analysis",
    "review": "analysis",
    "generat": "generation",
    "writ": "generation",
    "chat": "chat",
}


class TaskContext(Struct, kw_only=True):
    """What a request is about.

    ``operation`` is what is done in the application's own words ("code_generation"); ``task_type`` one of chat, generation,
    summarization, code, embedding, classification, extraction, analysis, read from the operation where it is not given.
    ``complexity`` is 1 to 10 or "low", "medium", "high"; ``priority`` 1 to 10. ``requires_gpu`` asks for the quickest node.
    ``expected_seconds`` is what the routing expects, from answers it has seen; None where nothing was asked. Raises `BadValue`.
    """

    operation: str = ""
    task_type: str = ""
    complexity: int | str = 5
    priority: int | str = 5
    requires_gpu: bool = False
    expected_seconds: float | None = None

    def __post_init__(self) -> None:
        self.level  # noqa: B018 - a wrong complexity shows here
        checked_priority(self.priority)
        if not self.task_type:
            words = self.operation.lower()
            self.task_type = next((kind for sign, kind in _TYPES.items() if sign in words), "chat")

    @property
    def level(self) -> str:
        """The complexity as "low", "medium" or "high"."""
        given = self.complexity
        if isinstance(given, str) and given.lower() in LEVELS:
            return given.lower()
        if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= 10:
            return next(level for level, top in _TOP.items() if given <= top)
        raise BadValue(f"complexity must be a whole number from 1 to 10 or one of {', '.join(LEVELS)}, not {given!r}")


class IntelligentRouter:
    """Routes chats with a `TaskContext`. Uses ``pool``, or that of its GPU controller, or one that looks for nodes."""

    def __init__(self, pool: OllamaPool | None = None) -> None:
        self._pool = pool
        self.gpu_controller: SOLLOLGPUController | None = None

    @property
    def pool(self) -> OllamaPool:
        """The pool that answers; made with the first request where none was given."""
        if self._pool is None:
            self._pool = self.gpu_controller.pool if self.gpu_controller is not None else OllamaPool()
        return self._pool

    def detect_task_type(self, messages: Sequence[Any] | None = None, *, prompt: str | None = None) -> str:
        """What a request asks for, read from its words."""
        return analyze(_task(messages, prompt)).task_type

    def analyze_request(
        self, model: str, messages: Sequence[Any] | None = None, *, prompt: str | None = None, priority: int | str = 5
    ) -> TaskContext:
        """What a request is about and how long it is expected to take, from its words and from answers seen before."""
        task = _task(messages, prompt)
        found = analyze(task)
        tokens = round(task.prompt.chars / CHARS_PER_TOKEN)
        nodes = self.pool.explain(model, prompt_tokens=tokens, priority=priority)["nodes"]
        seconds = nodes[0]["eta"] if nodes and not nodes[0]["blocked"] else None
        return TaskContext(
            operation=found.task_type,
            task_type=found.task_type,
            complexity=found.complexity,
            priority=priority,
            requires_gpu=found.needs_gpu,
            expected_seconds=seconds,
        )

    def route_request(
        self, model: str, messages: Sequence[Any] | None = None, task_context: TaskContext | None = None, **options: Any
    ) -> ChatReply:
        """Chat with what ``task_context`` says: its priority, and the quickest node where it requires a GPU.

        A model that the GPU controller keeps resident is loaded first where it is not.
        """
        if self.gpu_controller is not None:
            self.gpu_controller.wants(model)
        if task_context is not None:
            options.setdefault("priority", task_context.priority)
            if task_context.requires_gpu:
                options.setdefault("routing_mode", Mode.FAST)
        reply: ChatReply = self.pool.chat(model, messages, **options)
        return reply


def _task(messages: Sequence[Any] | None, prompt: str | None) -> Task:
    """A request that is only looked at."""
    body = bodies.encoded({"messages": bodies.messages(messages), "prompt": prompt})
    kind = Kind.CHAT if messages is not None else Kind.GENERATE
    return Task(0, kind, Dialect.OLLAMA, "", "", body, 0.0, prompt=Prompt(len(body)))
