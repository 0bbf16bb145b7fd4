"""Ollama's requests for tokens and vectors: generate, chat, embed, embeddings."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol.core.types import Counters
from sollol.emulator import text
from sollol.emulator.asking import (
    NO_EMBEDDINGS,
    check_images,
    embedding_tokens,
    find,
    fit,
    full_name,
    plain_messages,
    speak,
    texts_of,
    tool_calls,
    vectors,
    work_for,
)
from sollol.emulator.bodies import Body, keep_alive, options, read
from sollol.emulator.calls import Document, Refusal, Writer
from sollol.emulator.connection import dumps
from sollol.emulator.node import Exchange
from sollol.emulator.ollama_writers import EmbedWriter, LoadWriter, NativeWriter, RenderWriter
from sollol.emulator.specs import ModelSpec, Work
from sollol.emulator.text import Rendered

_SHARED = {
    "model": "string",
    "stream": "bool",
    "options": "map",
    "logprobs": "bool",
    "top_logprobs": "int",
    "truncate": "bool",
    "shift": "bool",
    "_debug_render_only": "bool",
    "format": "any",
    "think": "any",
}
GENERATE = _SHARED | {
    "prompt": "string",
    "suffix": "string",
    "system": "string",
    "template": "string",
    "context": "list:[]int",
    "raw": "bool",
    "images": "list:[]api.ImageData",
}
CHAT = _SHARED | {"messages": "list:[]api.Message", "tools": "list:api.Tools"}
EMBED = {"model": "string", "truncate": "bool", "dimensions": "int", "options": "map", "input": "any"}
EMBEDDINGS = {"model": "string", "prompt": "string", "options": "map"}


def _check_format(wanted: Any) -> None:
    if wanted in (None, "", "json") or isinstance(wanted, dict):
        return
    shown = msgspec.json.encode(wanted).decode()
    raise Refusal(500, f'invalid format: {msgspec.json.encode(shown).decode()}; expected "json" or a valid JSON Schema object')


def _check(model: ModelSpec, name: str, body: Body, verb: str) -> None:
    top = body.get("top_logprobs") or 0
    if not 0 <= top <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    if model.embeds:
        raise Refusal(400, f'"{name}" does not support {verb}')
    if body.get("think") and "thinking" not in model.capabilities:
        raise Refusal(400, f'"{name}" does not support thinking')
    if body.get("tools") and "tools" not in model.capabilities:
        raise Refusal(400, f"{full_name(model)} does not support tools")
    _check_format(body.get("format"))


def _opening(model: ModelSpec, body: Body) -> tuple[bool, str]:
    thinks = "thinking" in model.capabilities and body.get("think") is not False
    muted = "thinking" in model.capabilities and body.get("think") is False
    return thinks, text.OPENING + (text.NO_THINKING if muted else "")


def _render_generate(model: ModelSpec, body: Body, opening: str) -> Rendered:
    prompt, system = body.get("prompt") or "", body.get("system") or model.system
    if body.get("raw"):
        return Rendered(prompt, ((text.count_tokens(prompt), hash(prompt)),))
    if body.get("template"):
        return text.render_template(body["template"], system=system, prompt=prompt)
    turns = [("system", system)] if system else []
    rendered = text.render_chat([*turns, ("user", prompt)], opening=opening)
    if body.get("context"):
        before = "".join(f"<{number}>" for number in body["context"])
        return Rendered(before + rendered.text)
    return rendered


def generate(exchange: Exchange) -> None:
    """POST /api/generate"""
    body = read(exchange.request.body, "GenerateRequest", GENERATE)
    alive = keep_alive(body)
    name = body.get("model") or ""
    model = find(exchange.node, name)
    _check(model, name, body, "generate")
    if body.get("raw") and (body.get("system") or body.get("template") or body.get("context")):
        raise Refusal(400, "raw mode does not support template, system, or context")
    if body.get("suffix") and "insert" not in model.capabilities:
        raise Refusal(400, f"{full_name(model)} does not support insert")
    check_images(model, body.get("images"))
    given = options(body)
    if not body.get("prompt") and not body.get("_debug_render_only"):
        _load(exchange, model, body, chat=False)
        return
    thinks, opening = _opening(model, body)
    prompt = _render_generate(model, body, opening)
    if body.get("_debug_render_only"):
        _only_load(exchange, model, body, RenderWriter(name, prompt.text, chat=False))
        return
    tokens = fit(exchange.node, model, prompt.tokens, body, given)
    said = speak(
        model,
        prompt.text,
        body,
        given.get("num_predict"),
        given.get("stop"),
        thinks=thinks and bool(body.get("think")) and not body.get("raw"),
    )
    context = None if body.get("raw") else text.context_of(prompt.text[-4 * tokens :], said.tokens)
    writer = NativeWriter(name, said, body, chat=False, context=context, tools=[])
    exchange.run(work_for(model, prompt, said, tokens, ctx=given.get("num_ctx"), alive=alive), writer)


def chat(exchange: Exchange) -> None:
    """POST /api/chat"""
    body = read(exchange.request.body, "ChatRequest", CHAT)
    alive = keep_alive(body)
    name = body.get("model") or ""
    if not name:
        raise Refusal(400, "model is required")
    model = find(exchange.node, name)
    _check(model, name, body, "chat")
    given = options(body)
    messages = body.get("messages") or []
    if not messages:
        _load(exchange, model, body, chat=True)
        return
    turns = plain_messages(model, messages, "ChatRequest")
    tools = body.get("tools")
    if tools:
        turns.insert(0, ("system", msgspec.json.encode(tools).decode()))
    thinks, opening = _opening(model, body)
    prompt = text.render_chat(turns, system=model.system, opening=opening)
    if body.get("_debug_render_only"):
        _only_load(exchange, model, body, RenderWriter(name, prompt.text, chat=True))
        return
    tokens = fit(exchange.node, model, prompt.tokens, body, given)
    calls = tool_calls(tools, messages, prompt.text)
    said = speak(model, prompt.text, body, given.get("num_predict"), given.get("stop"), thinks=thinks)
    native = [{"id": i, "function": {"index": 0, "name": n, "arguments": a}} for i, n, a in calls]
    writer = NativeWriter(name, said, body, chat=True, context=None, tools=native)
    work = work_for(model, prompt, said, tokens, ctx=given.get("num_ctx"), alive=alive, extra=6 if calls else 0)
    exchange.run(work, writer)


def _load(exchange: Exchange, model: ModelSpec, body: Body, *, chat: bool) -> None:
    """An empty prompt loads the model, and unloads it with a keep_alive of 0."""
    if keep_alive(body) == 0:
        exchange.node.unload(model.name)
        exchange.send(LoadWriter(body["model"], "unload", chat=chat).document(Counters()))
        return
    _only_load(exchange, model, body, LoadWriter(body["model"], "load", chat=chat))


def _only_load(exchange: Exchange, model: ModelSpec, body: Body, writer: Writer) -> None:
    ctx = options(body).get("num_ctx")
    work = Work(model.name, num_ctx=int(ctx) if ctx else None, keep_alive=keep_alive(body), load_only=True)
    exchange.run(work, writer)


def embed(exchange: Exchange) -> None:
    """POST /api/embed"""
    body = read(exchange.request.body, "EmbedRequest", EMBED)
    alive = keep_alive(body)
    texts = texts_of(body.get("input"))
    name = body.get("model") or ""
    model = find(exchange.node, name, missing='model "{}" not found, try pulling it first' if name else "model '{}' not found")
    if not model.embeds:
        raise Refusal(501, NO_EMBEDDINGS)
    if not texts:
        exchange.send(Document(dumps({"model": name, "embeddings": []})))
        return
    tokens = embedding_tokens(model, texts, truncate=body.get("truncate") is not False)
    writer = EmbedWriter(name, vectors(model, texts, body.get("dimensions") or 0))
    exchange.run(Work(model.name, tokens, keep_alive=alive), writer)


def embeddings(exchange: Exchange) -> None:
    """POST /api/embeddings"""
    body = read(exchange.request.body, "EmbeddingRequest", EMBEDDINGS)
    alive = keep_alive(body)
    name = body.get("model") or ""
    model = find(exchange.node, name, missing='model "{}" not found, try pulling it first' if name else "model '{}' not found")
    if not model.embeds:
        raise Refusal(500, NO_EMBEDDINGS)
    prompt = body.get("prompt") or ""
    if not prompt:
        exchange.send(EmbedWriter(name, [], legacy=True).document(Counters()))
        return
    work = Work(model.name, embedding_tokens(model, [prompt]), keep_alive=alive)
    exchange.run(work, EmbedWriter(name, vectors(model, [prompt]), legacy=True))
