"""OpenAI's requests, which every kind of node speaks."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol.core.types import NodeKind
from sollol.emulator import text
from sollol.emulator.asking import (
    NO_EMBEDDINGS,
    check_images,
    embedding_tokens,
    find,
    fit,
    full_name,
    speak,
    texts_of,
    tool_calls,
    vectors,
    work_for,
)
from sollol.emulator.bodies import Body, read, short_name
from sollol.emulator.calls import Document, Refusal
from sollol.emulator.connection import JSON, dumps
from sollol.emulator.node import EmulatedNode, Exchange
from sollol.emulator.ollama_store import by_age
from sollol.emulator.openai_writers import ChatWriter, CompletionWriter, VectorWriter
from sollol.emulator.specs import ModelSpec, Work

_CHAT = {"model": "string", "messages": "list:[]openai.Message", "stream": "bool", "stream_options": "map", "tools": "list"}
_COMPLETION = {"model": "string", "prompt": "string", "stream": "bool", "stream_options": "map"}
_EMBEDDING = {"model": "string", "input": "any", "dimensions": "int", "encoding_format": "string"}


def pick(node: EmulatedNode, name: str, missing: str = "model '{}' not found") -> ModelSpec:
    """The model asked for; a server of one model takes any name."""
    if node.kind is NodeKind.LLAMACPP:
        return next(iter(node.model.models.values()))
    if not name:
        raise Refusal(400, "model is required")
    if node.kind is NodeKind.VLLM:
        return find(node, name, missing="The model `{}` does not exist.")
    return find(node, name, missing=missing)


def flat(content: Any, model: ModelSpec) -> str:
    """The text of a message: plain, or in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    check_images(model, [p for p in parts if isinstance(p, dict) and p.get("type") in ("image_url", "input_image", "image")])
    return "".join(str(p.get("text") or "") for p in parts if isinstance(p, dict))


def turns_of(messages: list[Any], model: ModelSpec) -> list[tuple[str, str]]:
    """Role and text of each message; calls of tools become text."""
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            raise Refusal(400, "json: cannot unmarshal string into Go value of type openai.Message", early=True)
        content = flat(message.get("content"), model)
        if message.get("tool_calls"):
            content += msgspec.json.encode(message["tool_calls"]).decode()
        turns.append((str(message.get("role") or ""), content))
    return turns


def _wants(body: Body) -> Any:
    """The schema of `response_format`, as native requests have it."""
    wanted = body.get("response_format") or {}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return "json"
    return (wanted.get("json_schema") or {}).get("schema") if kind == "json_schema" else None


def prepare(model: ModelSpec, turns: list[tuple[str, str]], tools: Any, *, mute: bool) -> tuple[text.Rendered, bool]:
    """The rendered prompt of a chat, and whether the model thinks before it speaks."""
    if tools:
        if "tools" not in model.capabilities:
            raise Refusal(400, f"{full_name(model)} does not support tools")
        turns = [("system", msgspec.json.encode(tools).decode()), *turns]
    thinker = "thinking" in model.capabilities
    opening = text.OPENING + (text.NO_THINKING if thinker and mute else "")
    return text.render_chat(turns, system=model.system, opening=opening), thinker and not mute


def chat(exchange: Exchange) -> None:
    """POST /v1/chat/completions"""
    node = exchange.node
    body = read(exchange.request.body, "ChatCompletionRequest", _CHAT, empty="EOF")
    messages = body.get("messages") or []
    if not messages:
        raise Refusal(400, "[] is too short - 'messages'", early=True)
    model = pick(node, body.get("model") or "")
    if model.embeds:
        raise Refusal(400, f'"{model.name}" does not support chat')
    tools = body.get("tools")
    prompt, thinks = prepare(model, turns_of(messages, model), tools, mute=body.get("reasoning_effort") == "none")
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    said = speak(model, prompt.text, {"format": _wants(body)}, limit, body.get("stop"), thinks=thinks)
    calls = [(i, n, msgspec.json.encode(a).decode()) for i, n, a in tool_calls(tools, messages, prompt.text)]
    writer = ChatWriter(node.kind, shown_name(node, model, body), said, body, calls=calls)
    work = work_for(model, prompt, said, fit(node, model, prompt.tokens, {}, {}), extra=6 if calls else 0)
    exchange.run(work, writer)


def shown_name(node: EmulatedNode, model: ModelSpec, body: Body) -> str:
    """The name in a reply: the one asked for, at llama.cpp its own."""
    return model_path(model) if node.kind is NodeKind.LLAMACPP else str(body.get("model"))


def model_path(model: ModelSpec) -> str:
    """The file that a llama.cpp server would have loaded."""
    return f"/models/{model.name.replace(':', '-').replace('/', '_')}.gguf"


def completions(exchange: Exchange) -> None:
    """POST /v1/completions: a plain prompt through the template at Ollama, as it is elsewhere."""
    node = exchange.node
    body = read(exchange.request.body, "CompletionRequest", _COMPLETION, empty="EOF")
    model = pick(node, body.get("model") or "")
    if model.embeds:
        raise Refusal(400, f'"{model.name}" does not support generate')
    plain = body.get("prompt") or ""
    if node.kind is NodeKind.OLLAMA:
        prompt = text.render_chat([("user", plain)], system=model.system)
    else:
        prompt = text.Rendered(plain, ((text.count_tokens(plain), hash(plain)),))
    said = speak(model, prompt.text, {"format": _wants(body)}, body.get("max_tokens"), body.get("stop"), thinks=False)
    writer = CompletionWriter(node.kind, shown_name(node, model, body), said, body)
    exchange.run(work_for(model, prompt, said, fit(node, model, prompt.tokens, {}, {})), writer)


def embeddings(exchange: Exchange) -> None:
    """POST /v1/embeddings"""
    body = read(exchange.request.body, "EmbedRequest", _EMBEDDING, empty="EOF")
    if body.get("input") in (None, "", []):
        raise Refusal(400, "invalid input", early=True)
    texts = texts_of(body["input"])
    model = pick(exchange.node, body.get("model") or "", missing='model "{}" not found, try pulling it first')
    if not model.embeds and exchange.node.kind is not NodeKind.LLAMACPP:
        raise Refusal(501, NO_EMBEDDINGS)
    found = vectors(model, texts, body.get("dimensions") or 0)
    name = shown_name(exchange.node, model, body)
    writer = VectorWriter(exchange.node.kind, name, found, packed=body.get("encoding_format") == "base64")
    exchange.run(Work(model.name, embedding_tokens(model, texts)), writer)


def _entry(node: EmulatedNode, model: ModelSpec, name: str) -> Body:
    created = int(model.modified_at)
    if node.kind is NodeKind.LLAMACPP:
        meta = {"vocab_type": 2, "n_vocab": 128_256, "n_ctx_train": model.context_length, "n_embd": model.embedding_length}
        entry: Body = {"id": model_path(model), "object": "model", "created": created, "owned_by": "llamacpp"}
        return entry | {"meta": meta | {"n_params": int(model.size / 0.59), "size": model.size}}
    if node.kind is NodeKind.VLLM:
        entry = {"id": name, "object": "model", "created": created, "owned_by": "vllm", "root": name, "parent": None}
        return entry | {"max_model_len": model.context_length}
    owner = "organization_owner" if node.kind is NodeKind.LMSTUDIO else "library"
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def _listed(node: EmulatedNode, body: Body) -> Document:
    if node.kind is NodeKind.LLAMACPP:
        return Document(dumps(body), ctype=JSON)
    return Document(dumps(body) + (b"\n" if node.kind is NodeKind.OLLAMA else b""), ctype=b"application/json")


def models(exchange: Exchange) -> None:
    """GET /v1/models"""
    node = exchange.node
    exchange.send(_listed(node, {"object": "list", "data": [_entry(node, m, m.name) for m in by_age(node)]}))


def model_by_id(exchange: Exchange) -> None:
    """GET /v1/models/:id"""
    node = exchange.node
    name = exchange.request.path.removeprefix("/v1/models/").replace("%2F", "/").replace("%3A", ":")
    model = find(node, name, missing=f"model '{short_name(name)}' not found")
    exchange.send(_listed(node, _entry(node, model, name)))
