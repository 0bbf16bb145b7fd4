"""What becomes of every field of a request that is said in another dialect: a table for each path, a column for each direction.

The rule: carried where the engines have the same thing; refused where leaving it out would change the answer; dropped where it
would not (what an engine decides by itself, hints about memory and loading). Fields that are not listed are unknown to the
dialect; they are ignored, as engines ignore them. The tests and the page docs/reference/translation.md go through these tables.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct

from sollol.core.types import Dialect


class Fate(Enum):
    """What can become of a field."""

    CARRIED = "carried"
    PARTLY = "carried or refused"
    DROPPED = "dropped"
    REFUSED = "refused"


class Field(Struct, frozen=True):
    """``openai`` and ``ollama`` are the fates at a node of that dialect; None: nodes of that dialect get the request untouched.

    ``note`` says as what it is carried, or why it is dropped or refused.
    """

    openai: Fate | None
    ollama: Fate | None
    note: str

    def at(self, node: Dialect) -> Fate | None:
        """The fate at a node that speaks `node`."""
        return self.ollama if node is Dialect.OLLAMA else self.openai


Table = dict[str, Field]


def _rows(table: dict[str, tuple[Fate, str]], *, openai: bool = True, ollama: bool = True) -> Table:
    return {name: Field(fate if openai else None, fate if ollama else None, note) for name, (fate, note) in table.items()}


def _carried(note: str) -> tuple[Fate, str]:
    return Fate.CARRIED, note


def _partly(note: str) -> tuple[Fate, str]:
    return Fate.PARTLY, note


def _dropped(note: str) -> tuple[Fate, str]:
    return Fate.DROPPED, note


def _refused(note: str) -> tuple[Fate, str]:
    return Fate.REFUSED, note


_COMMON: Final = {
    "model": _carried("model, by the name that the node uses"),
    "options": _carried("each option by the engine's name, see below"),
    "keep_alive": _dropped("the model of such a node stays loaded"),
    "truncate": _dropped("the engine decides what is too long"),
    "priority": _dropped("the gateway's own"),
}
_TEXT: Final = {
    **_COMMON,
    "stream": _carried("stream, with stream_options.include_usage"),
    "format": _carried("response_format: json_object or json_schema"),
    "think": _carried("chat_template_kwargs (llama.cpp, vLLM) or reasoning_effort"),
    "logprobs": _carried("logprobs"),
    "top_logprobs": _carried("top_logprobs"),
    "shift": _dropped("the engine decides what happens at the end of the context"),
    "_debug_render_only": _refused("rendering a prompt is not translated"),
}
_OLLAMA_CHAT: Final = {
    **_TEXT,
    "messages": _carried("messages; pictures as data URLs, calls with ids, answers of tools by the ids of their calls"),
    "tools": _partly("tools; those that are no functions are refused"),
}
_OLLAMA_GENERATE: Final = {
    **_TEXT,
    "prompt": _carried("the user's message; with raw: prompt of /v1/completions"),
    "system": _carried("the system message"),
    "images": _carried("data URLs in the user's message"),
    "raw": _carried("true: /v1/completions instead of /v1/chat/completions"),
    "suffix": _carried("at llama.cpp /infill, without system, images and format; other engines cannot: refused"),
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
_OLLAMA_EMBED: Final = {
    **_COMMON,
    "input": _carried("input"),
    "dimensions": _carried("dimensions"),
}

_IDENTITY: Final = {
    "metadata": _dropped("notes of the client for itself"),
    "service_tier": _dropped("there are no tiers; see X-SOLLOL-Priority"),
    "priority": _dropped("the gateway's own"),
}
_HOSTED: Final = {
    **_IDENTITY,
    "user": _dropped("nobody is billed"),
    "safety_identifier": _dropped("nobody is watched"),
    "prompt_cache_key": _dropped("engines find what they have cached by themselves"),
    "prompt_cache_options": _dropped("engines find what they have cached by themselves"),
    "prompt_cache_retention": _dropped("engines keep what they have room for"),
    "store": _dropped("nothing is stored"),
    "moderation": _refused("there is no moderation"),
}
# Names of samplers in OpenAI's dialect and its extensions by llama.cpp and vLLM, and Ollama's names of the same.
SAMPLERS: Final[dict[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repeat_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_n",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
_GENERATION: Final = {
    "model": _carried("model, by the name that the node uses"),
    **{name: _carried(f"options.{theirs}") for name, theirs in SAMPLERS.items()},
    "stream": _carried("stream"),
    "stream_options": _carried("include_usage: the stream ends with its counts"),
    "max_tokens": _carried("options.num_predict"),
    "n": _partly("1; Ollama gives one answer"),
    "logit_bias": _refused("Ollama has no such sampler"),
    "grammar": _refused("Ollama has no grammars; use response_format"),
    "structured_outputs": _refused("vLLM's own; use response_format"),
    "guided_json": _refused("vLLM's own; use response_format"),
    "guided_regex": _refused("vLLM's own; use response_format"),
    "guided_choice": _refused("vLLM's own; use response_format"),
    "guided_grammar": _refused("vLLM's own; use response_format"),
    "min_tokens": _refused("Ollama has no least length"),
    "ignore_eos": _refused("Ollama stops where its model stops"),
    **_HOSTED,
}
_OPENAI_CHAT: Final = {
    **_GENERATION,
    "messages": _partly("messages; pictures by address, sound and files are refused"),
    "max_completion_tokens": _carried("options.num_predict; it goes before max_tokens"),
    "tools": _partly("tools; those that are no functions are refused"),
    "tool_choice": _partly("auto, none, and a choice of allowed tools; Ollama cannot make a model call one"),
    "parallel_tool_calls": _carried("false: only the first call is passed on"),
    "response_format": _carried("format: json or the schema"),
    "reasoning_effort": _carried("think: false, low, medium or high"),
    "reasoning": _carried("think, by its effort"),
    "chat_template_kwargs": _partly("enable_thinking and reasoning_effort as think; others are refused"),
    "logprobs": _carried("logprobs"),
    "top_logprobs": _carried("top_logprobs"),
    "functions": _refused("the old form of tools; use tools"),
    "function_call": _refused("the old form of tool_choice; use tool_choice"),
    "modalities": _partly("text; there is no sound"),
    "audio": _refused("there is no sound"),
    "web_search_options": _refused("nothing is searched"),
    "prediction": _dropped("a hint that makes engines faster which know it"),
    "verbosity": _dropped("models at home do not know it"),
}
_OPENAI_TEXT: Final = {
    **_GENERATION,
    "prompt": _partly("prompt, with raw; one text, not a list and not token numbers"),
    "suffix": _carried("suffix; its template then stands in for raw"),
    "logprobs": _carried("top_logprobs; the reply has the four lists of this path"),
    "echo": _refused("Ollama does not repeat the prompt"),
    "best_of": _partly("1; Ollama gives one answer"),
}
_OPENAI_EMBED: Final = {
    "model": _carried("model, by the name that the node uses"),
    "input": _partly("input; token numbers are refused"),
    "dimensions": _carried("dimensions"),
    "encoding_format": _carried("base64 is made by the gateway"),
    "user": _HOSTED["user"],
    "priority": _HOSTED["priority"],
}

_RESPONSES: Final = {
    "model": _carried("model, by the name that the node uses"),
    "input": _partly(
        "messages, calls of functions and their answers; pictures by address, files and items of other tools are refused"
    ),
    "instructions": _carried("the first system message"),
    "stream": _carried("stream, with the events of this path"),
    "max_output_tokens": _carried("max_tokens, options.num_predict"),
    "temperature": _carried("temperature"),
    "top_p": _carried("top_p"),
    "top_logprobs": _carried("top_logprobs"),
    "include": _partly("message.output_text.logprobs as logprobs; encrypted reasoning is left out; others are refused"),
    "text": _partly("format as response_format or format; verbosity is left out"),
    "reasoning": _carried("effort: as reasoning_effort in /v1/chat/completions"),
    "tools": _partly("functions; tools that the service would run are refused"),
    "parallel_tool_calls": _carried("parallel_tool_calls; on Ollama false passes on the first call only"),
    "max_tool_calls": _dropped("it counts only tools that the service runs"),
    "truncation": _dropped("the engine decides what is too long"),
    "stream_options": _dropped("padding against listeners on the way"),
    "context_management": _dropped("long conversations are not compacted"),
    "access_programs": _dropped("there is nothing to be admitted to"),
    "image": _dropped("the engine decides how it reads pictures"),
    "previous_response_id": _refused("nothing is stored: send the whole conversation as input"),
    "conversation": _refused("nothing is stored: send the whole conversation as input"),
    "prompt": _refused("there are no stored prompts"),
    "background": _refused("an answer is given on the connection that asked for it"),
    **_HOSTED,
}
_MESSAGES: Final = {
    "model": _carried("model, by the name that the node uses"),
    "messages": _partly("messages; PDFs, files, pictures by address and blocks of other tools are refused"),
    "system": _carried("the first system message; several blocks become one text"),
    "max_tokens": _carried("max_tokens, options.num_predict"),
    "stream": _carried("stream, with the events of this path"),
    "temperature": _carried("temperature"),
    "top_p": _carried("top_p"),
    "top_k": _carried("top_k"),
    "stop_sequences": _carried("stop"),
    "tools": _partly("tools; those that the service would run, or that have no schema, are refused"),
    "thinking": _carried("thinking on or off, as think does; the budget is left to the engine"),
    "output_config": _carried("effort as a level of thinking, format as response_format or format"),
    "cache_control": _dropped("engines find what they have cached by themselves"),
    "context_management": _dropped("nothing is cleared from long conversations"),
    "inference_geo": _dropped("answers are made where the nodes are"),
    "speed": _dropped("the gateway chooses the node that is done soonest"),
    "diagnostics": _dropped("the service's own"),
    "user_profile_id": _dropped("nobody is billed"),
    "workspace_id": _dropped("nobody is billed"),
    "container": _refused("nothing is run for the model"),
    "mcp_servers": _refused("no servers of tools are called"),
    **_IDENTITY,
}
_FORCED: Final = "on Ollama only auto and none, since it cannot make a model call one"


def _both(table: dict[str, tuple[Fate, str]], choice: str) -> Table:
    """A table for nodes of both dialects; ``tool_choice`` is the field in which they differ."""
    return {**_rows(table), "tool_choice": Field(Fate.CARRIED, Fate.PARTLY, f"{choice}; {_FORCED}")}


TABLES: Final[dict[str, Table]] = {
    "/api/chat": _rows(_OLLAMA_CHAT, ollama=False),
    "/api/generate": _rows(_OLLAMA_GENERATE, ollama=False),
    "/api/embed": _rows(_OLLAMA_EMBED, ollama=False),
    "/api/embeddings": _rows({**_COMMON, "prompt": _carried("input")}, ollama=False),
    "/v1/chat/completions": _rows(_OPENAI_CHAT, openai=False),
    "/v1/completions": _rows(_OPENAI_TEXT, openai=False),
    "/v1/embeddings": _rows(_OPENAI_EMBED, openai=False),
    "/v1/responses": _both(_RESPONSES, "auto, none, required, one function, or allowed ones"),
    "/v1/messages": _both(_MESSAGES, "auto, any, none or one tool; disable_parallel_tool_use as parallel_tool_calls"),
}


class Option(Struct, frozen=True):
    """One entry of Ollama's "options": Go's type for the error text, and its name on llama.cpp and on vLLM ("": none)."""

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
