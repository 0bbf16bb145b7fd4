"""What becomes of every field of an Ollama request when the node speaks only OpenAI's dialect.

The rule: carried where the engines have the same thing; refused where leaving it out would change the answer; dropped where it
would not (what an engine decides by itself, hints about memory and loading). Fields that are not listed are unknown to Ollama,
which ignores them; so do we. The tests go through these tables field by field.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct


class Fate(Enum):
    """The three things that can become of a field."""

    CARRIED = "carried"
    DROPPED = "dropped"
    REFUSED = "refused"


class Field(Struct, frozen=True):
    """``note`` says as what it is carried, or why it is dropped or refused."""

    fate: Fate
    note: str


def _carried(note: str) -> Field:
    return Field(Fate.CARRIED, note)


def _dropped(note: str) -> Field:
    return Field(Fate.DROPPED, note)


def _refused(note: str) -> Field:
    return Field(Fate.REFUSED, note)


_COMMON: Final = {
    "model": _carried("model, by the name that the node uses"),
    "options": _carried("see OPTIONS"),
    "keep_alive": _dropped("the model of such a node stays loaded"),
    "truncate": _dropped("the engine decides what is too long"),
    "priority": _dropped("the gateway's own"),
}
_TEXT: Final = {
    **_COMMON,
    "stream": _carried("stream, with stream_options.include_usage"),
    "format": _carried("response_format: json_object or json_schema"),
    "think": _carried("chat_template_kwargs: enable_thinking, reasoning_effort"),
    "logprobs": _carried("logprobs"),
    "top_logprobs": _carried("top_logprobs"),
    "shift": _dropped("the engine decides what happens at the end of the context"),
    "_debug_render_only": _refused("rendering a prompt is not translated"),
}
CHAT: Final[dict[str, Field]] = {
    **_TEXT,
    "messages": _carried("messages; images as data URLs"),
    "tools": _refused("tools are not translated for this kind of node"),
}
GENERATE: Final[dict[str, Field]] = {
    **_TEXT,
    "prompt": _carried("the user's message; with raw: prompt of /v1/completions"),
    "system": _carried("the system message"),
    "images": _carried("data URLs in the user's message"),
    "raw": _carried("true: /v1/completions instead of /v1/chat/completions"),
    "suffix": _refused("insertion is not translated for this kind of node"),
    "template": _refused("the engine uses the template of its model"),
    "context": _refused("token numbers of one engine mean nothing to another"),
}
# With raw there is no chat around the prompt, and Ollama itself refuses template, system and context.
RAW_REFUSES: Final[dict[str, str]] = {
    "system": "raw mode does not support template, system, or context",
    "images": "images in raw mode are not translated",
    "format": "a format in raw mode is not translated",
    "logprobs": "logprobs in raw mode are not translated",
}
EMBED: Final[dict[str, Field]] = {
    **_COMMON,
    "input": _carried("input"),
    "dimensions": _carried("dimensions"),
}
EMBEDDINGS: Final[dict[str, Field]] = {**_COMMON, "prompt": _carried("input")}

TABLES: Final[dict[str, dict[str, Field]]] = {
    "/api/chat": CHAT,
    "/api/generate": GENERATE,
    "/api/embed": EMBED,
    "/api/embeddings": EMBEDDINGS,
}


class Option(Struct, frozen=True):
    """One entry of "options": Go's type for the error text, and its name on llama.cpp and on vLLM ("" where there is none)."""

    kind: str
    name: str = ""
    vllm: str = ""


OPTIONS: Final[dict[str, Option]] = {
    "num_predict": Option("integer", "max_tokens", "max_tokens"),
    "temperature": Option("float32", "temperature", "temperature"),
    "top_p": Option("float32", "top_p", "top_p"),
    "top_k": Option("integer", "top_k", "top_k"),
    "min_p": Option("float32", "min_p", "min_p"),
    "typical_p": Option("float32", "typical_p"),
    "seed": Option("integer", "seed", "seed"),
    "stop": Option("array", "stop", "stop"),
    "repeat_penalty": Option("float32", "repeat_penalty", "repetition_penalty"),
    "repeat_last_n": Option("integer", "repeat_last_n"),
    "presence_penalty": Option("float32", "presence_penalty", "presence_penalty"),
    "frequency_penalty": Option("float32", "frequency_penalty", "frequency_penalty"),
    "mirostat": Option("integer", "mirostat"),
    "mirostat_tau": Option("float32", "mirostat_tau"),
    "mirostat_eta": Option("float32", "mirostat_eta"),
    "num_ctx": Option("integer"),  # fixed when the engine is started; a prompt too long for it is another's to refuse
    "num_keep": Option("integer"),
    "num_batch": Option("integer"),
    "num_gpu": Option("integer"),
    "main_gpu": Option("integer"),
    "num_thread": Option("integer"),
    "use_mmap": Option("bool"),
    "use_mlock": Option("bool"),
    "low_vram": Option("bool"),
    "numa": Option("bool"),
    "penalize_newline": Option("bool"),
}
