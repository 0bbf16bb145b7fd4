"""What requests of every dialect have in common: finding the model, reading messages, making the answer."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sollol.emulator import text
from sollol.emulator.bodies import Body, short_name
from sollol.emulator.calls import Refusal
from sollol.emulator.node import EmulatedNode
from sollol.emulator.specs import ModelSpec, Work
from sollol.emulator.text import Answer, Rendered

_NO_IMAGES = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal requests.",'
    '"type":"invalid_request_error"}}'
)
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the context "
    "length in settings, or use a model with a longer context length"
)


def find(node: EmulatedNode, name: str, *, missing: str = "model '{}' not found") -> ModelSpec:
    """The model of that name; names differ neither by case nor by `:latest`."""
    models = node.model.models
    model = models.get(name) or models.get(name + ":latest")
    if model is not None:
        return model
    short = short_name(name) if name else ""
    if short is None:
        raise Refusal(400, "invalid model name")
    model = models.get(short) or next((m for n, m in models.items() if n.lower() == short.lower()), None)
    if model is None:
        if short.endswith(("-cloud", ":cloud")):
            raise Refusal(403, "ollama cloud is disabled: remote model is unavailable")
        raise Refusal(404, missing.format(name))
    return model


def full_name(model: ModelSpec) -> str:
    """The name with its registry, as some errors have it."""
    return model.name if model.name.count("/") > 1 else f"registry.ollama.ai/library/{model.name}"


def check_images(model: ModelSpec, images: Any) -> None:
    """A model without eyes refuses pictures."""
    for i, image in enumerate(images or ()):
        if isinstance(image, str) and (wrong := re.search(r"[^A-Za-z0-9+/=]", image)) is not None:
            words = f"illegal base64 data at input byte {wrong.start()}"
            raise Refusal(
                400, f"json: cannot unmarshal string into Alias.images.{i} of type api.ImageData: {words}", early=True
            )
    if images and "vision" not in model.capabilities:
        raise Refusal(400, _NO_IMAGES)


def fit(node: EmulatedNode, model: ModelSpec, tokens: int, body: Body, given: Body) -> int:
    """Tokens of the prompt that are read: an over-long one is cut to half of the context, unless the request forbids it."""
    context = min(int(given.get("num_ctx") or node.spec.context), model.context_length)
    if tokens <= context:
        return tokens
    if body.get("truncate") is False:
        message = f"request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
        inner = {
            "code": 400,
            "message": message,
            "type": "exceed_context_size_error",
            "n_prompt_tokens": tokens,
            "n_ctx": context,
        }
        raise Refusal(400, msgspec.json.encode({"error": inner}).decode())
    if body.get("shift") is False:
        raise Refusal(400, TOO_LONG)
    return context // 2 + 3


def plain_messages(model: ModelSpec, messages: list[Any], struct: str) -> list[tuple[str, str]]:
    """Role and text of each message; calls of tools become text."""
    turns: list[tuple[str, str]] = []
    for message in messages:
        if not isinstance(message, dict):
            raise Refusal(
                400, f"json: cannot unmarshal string into Go struct field {struct}.messages of type api.Message", early=True
            )
        check_images(model, message.get("images"))
        content = message.get("content") or ""
        if not isinstance(content, str):
            field = f"{struct}.messages.content"
            raise Refusal(400, f"json: cannot unmarshal array into Go struct field {field} of type string", early=True)
        if message.get("tool_calls"):
            content += msgspec.json.encode(message["tool_calls"]).decode()
        turns.append((str(message.get("role") or ""), content))
    return turns


def tool_calls(tools: list[Any] | None, messages: list[Any], seed: str) -> list[tuple[str, str, Body]]:
    """The call that a model with tools makes, as (id, name, arguments), unless the last message is a tool's result."""
    if not tools or (messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "tool"):
        return []
    function = tools[0].get("function", tools[0]) if isinstance(tools[0], dict) else {}
    schema = function.get("parameters") or function.get("input_schema")
    identity = text.answer("tool", seed, mean=2).text.replace(" ", "").strip(".,")
    return [(f"call{identity}", str(function.get("name")), text.instance_of(schema, seed))]


def speak(model: ModelSpec, prompt: str, body: Body, limit: Any, stop: Any, *, thinks: bool) -> Answer:
    """The answer to a rendered prompt under the options of a request."""
    wanted = body.get("format")
    if wanted:
        return text.schema_answer(wanted, prompt)
    stops = [s for s in ([stop] if isinstance(stop, str) else stop or []) if isinstance(s, str)]
    most = int(limit) if isinstance(limit, int | float) else None
    return text.answer(model.digest, prompt, mean=model.answer_tokens, limit=most, stop=stops, thinking=thinks)


def work_for(
    model: ModelSpec,
    prompt: Rendered,
    said: Answer,
    tokens: int,
    *,
    ctx: Any = None,
    alive: float | None = None,
    extra: int = 0,
) -> Work:
    """What a chat model has to do for an answer."""
    return Work(
        model.name,
        tokens,
        extra or len(said.tokens),
        int(ctx) if ctx else None,
        prompt.boundaries,
        prompt.after("".join(said.tokens)) if prompt.boundaries else None,
        alive,
        done_reason=said.reason,
    )


def texts_of(value: Any) -> list[str]:
    """The texts of an `input`: one or a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return list(value)
    raise Refusal(400, "invalid input type")


def vectors(model: ModelSpec, texts: list[str], dimensions: int = 0) -> list[list[float]]:
    """One unit vector per text, of the model's dimension or fewer."""
    size = min(dimensions, model.embedding_length) if dimensions > 0 else model.embedding_length
    return [text.embedding(model.digest, t, size) for t in texts]


def embedding_tokens(model: ModelSpec, texts: list[str], *, truncate: bool = True) -> int:
    """Tokens to read for `texts`, each with its begin and end; too long ones are cut, or refused."""
    counts = [text.count_tokens(t) + 2 for t in texts]
    if not truncate and any(c > model.context_length for c in counts):
        raise Refusal(400, "the input length exceeds the context length")
    return sum(min(c, model.context_length) for c in counts)
