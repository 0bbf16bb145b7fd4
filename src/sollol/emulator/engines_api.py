"""What only llama.cpp's server, vLLM and LM Studio answer."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol.core.types import Counters, NodeKind
from sollol.emulator import text
from sollol.emulator.asking import embedding_tokens, fit, speak, texts_of, vectors, work_for
from sollol.emulator.bodies import Body, read
from sollol.emulator.calls import Document, Refusal, Writer
from sollol.emulator.connection import SSE, dumps
from sollol.emulator.node import EmulatedNode, Exchange
from sollol.emulator.ollama_store import by_age
from sollol.emulator.openai_api import model_path, pick, prepare, turns_of
from sollol.emulator.openai_writers import engine_error, event, timings
from sollol.emulator.specs import ModelSpec, Work
from sollol.emulator.text import Answer, Rendered

_BUILD = "b10488-emulated"


def _only(node: EmulatedNode) -> ModelSpec:
    return next(iter(node.model.models.values()))


def health(exchange: Exchange) -> None:
    """GET /health: vLLM's is empty."""
    if exchange.node.kind is NodeKind.VLLM:
        exchange.send(Document(b"", ctype=b""))
    else:
        exchange.send(Document(b'{"status":"ok"}'))


def props(exchange: Exchange) -> None:
    """GET /props"""
    node = exchange.node
    model = _only(node)
    settings = {"n_ctx": min(node.spec.context, model.context_length), "params": {"n_predict": -1, "temperature": 0.8}}
    body: Body = {
        "default_generation_settings": settings,
        "total_slots": node.spec.slots,
        "model_alias": model_path(model),
        "model_path": model_path(model),
        "modalities": {"vision": "vision" in model.capabilities, "audio": False},
        "chat_template": model.template,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "build_info": _BUILD,
    }
    exchange.send(Document(dumps(body)))


def slots(exchange: Exchange) -> None:
    """GET /slots"""
    node = exchange.node
    busy = node.model.running
    context = min(node.spec.context, _only(node).context_length)
    entries = [{"id": i, "n_ctx": context, "speculative": False, "is_processing": i < busy} for i in range(node.spec.slots)]
    exchange.send(Document(dumps(entries)))


def apply_template(exchange: Exchange) -> None:
    """POST /apply-template"""
    body = read(exchange.request.body, "Request", {"messages": "list", "tools": "list"})
    model = _only(exchange.node)
    prompt, _ = prepare(model, turns_of(body.get("messages") or [], model), body.get("tools"), mute=False)
    exchange.send(Document(dumps({"prompt": prompt.text})))


def tokenize(exchange: Exchange) -> None:
    """POST /tokenize"""
    body = read(exchange.request.body, "Request", {"content": "string"})
    exchange.send(Document(dumps({"tokens": text.context_of(body.get("content") or "", ())})))


class EngineWriter(Writer):
    """llama.cpp's own completion."""

    stream_type = SSE

    def __init__(self, model: ModelSpec, said: Answer, prompt: Rendered, body: Body) -> None:
        self.stream = body.get("stream") is True
        self.pieces = len(said.tokens)
        self._said = said
        self._prompt = prompt.text
        self._name = model_path(model)

    def piece(self, k: int) -> bytes:
        content = self._said.tokens[k]
        return event({"index": 0, "content": content, "tokens": [], "stop": False, "id_slot": 0, "tokens_predicted": k + 1})

    def _closing(self, content: str, counters: Counters) -> Body:
        return {
            "index": 0,
            "content": content,
            "tokens": [],
            "id_slot": 0,
            "stop": True,
            "model": self._name,
            "tokens_predicted": counters.output_tokens,
            "tokens_evaluated": counters.prompt_tokens,
            "prompt": self._prompt,
            "has_new_line": False,
            "truncated": False,
            "stop_type": "limit" if counters.done_reason == "length" else "eos",
            "stopping_word": "",
            "tokens_cached": (counters.prompt_tokens or 0) + (counters.output_tokens or 0),
            "timings": timings(counters),
        }

    def final(self, counters: Counters) -> list[bytes]:
        return [event(self._closing("", counters))]

    def document(self, counters: Counters) -> Document:
        return Document(dumps(self._closing("".join(self._said.tokens), counters)))

    def broken(self) -> list[bytes]:
        return [event({"error": {"code": 500, "message": "the engine failed", "type": "server_error"}})]

    def error(self, refusal: Refusal) -> Document:
        return engine_error(refusal)


def completion(exchange: Exchange) -> None:
    """POST /completion"""
    body = read(exchange.request.body, "Request", {"prompt": "any", "stream": "bool", "n_predict": "int"})
    plain = body.get("prompt")
    if not isinstance(plain, str):
        raise Refusal(400, '"prompt" must be a string')
    model = _only(exchange.node)
    prompt = Rendered(plain, ((text.count_tokens(plain), hash(plain)),))
    said = speak(model, plain, {"format": body.get("json_schema")}, body.get("n_predict"), body.get("stop"), thinks=False)
    work = work_for(model, prompt, said, fit(exchange.node, model, prompt.tokens, {}, {}))
    exchange.run(work, EngineWriter(model, said, prompt, body))


class _EngineVectors(Writer):
    def __init__(self, found: list[list[float]]) -> None:
        self._found = found

    def document(self, counters: Counters) -> Document:
        return Document(dumps([{"index": i, "embedding": [v]} for i, v in enumerate(self._found)]))

    def error(self, refusal: Refusal) -> Document:
        return engine_error(refusal)


def embedding(exchange: Exchange) -> None:
    """POST /embedding"""
    body = read(exchange.request.body, "Request", {"content": "any", "input": "any"})
    texts = texts_of(body.get("content") or body.get("input"))
    model = _only(exchange.node)
    exchange.run(Work(model.name, embedding_tokens(model, texts)), _EngineVectors(vectors(model, texts)))


def version(exchange: Exchange) -> None:
    """GET /version"""
    exchange.send(Document(msgspec.json.encode({"version": exchange.node.spec.version}), ctype=b"application/json"))


def _studio_entry(node: EmulatedNode, model: ModelSpec, resident: set[str]) -> Body:
    publisher, _, _ = model.name.rpartition("/")
    return {
        "id": model.name,
        "object": "model",
        "type": "embeddings" if model.embeds else "vlm" if "vision" in model.capabilities else "llm",
        "publisher": publisher or "emulated",
        "arch": model.family,
        "compatibility_type": "gguf",
        "quantization": model.quantization,
        "state": "loaded" if model.digest in resident else "not-loaded",
        "max_context_length": model.context_length,
    }


def studio_models(exchange: Exchange) -> None:
    """GET /api/v0/models"""
    node = exchange.node
    resident = {r.model.digest for r in node.model.resident(node.now())}
    data: list[Any] = [_studio_entry(node, m, resident) for m in by_age(node)]
    exchange.send(Document(dumps({"object": "list", "data": data}), ctype=b"application/json"))


def studio_model(exchange: Exchange) -> None:
    """GET /api/v0/models/:id"""
    node = exchange.node
    model = pick(node, exchange.request.path.removeprefix("/api/v0/models/"))
    resident = {r.model.digest for r in node.model.resident(node.now())}
    exchange.send(Document(dumps(_studio_entry(node, model, resident)), ctype=b"application/json"))
