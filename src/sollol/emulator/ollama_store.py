"""Ollama's requests about models: tags, ps, show, pull, push, create, blobs, copy, delete."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from math import inf
from typing import Any

from sollol.emulator import presets
from sollol.emulator.asking import find
from sollol.emulator.bodies import Body, read, short_name
from sollol.emulator.calls import Document, Refusal
from sollol.emulator.connection import NDJSON, dumps
from sollol.emulator.node import EmulatedNode, Exchange
from sollol.emulator.specs import ModelSpec, Residency

_NAMED = {"model": "string", "name": "string", "stream": "bool", "insecure": "bool", "verbose": "bool"}
_CREATE = _NAMED | {
    "from": "string",
    "files": "map:map[string]string",
    "template": "string",
    "system": "string",
    "quantize": "string",
}
_COPY = {"source": "string", "destination": "string"}
_STORE = "/usr/share/ollama/.ollama/models"
_STEP = 0.06  # a real node reports a transfer about so often
_FOR_EVER = 292 * 365.25 * 86400
_TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
_STOPS = ("<|im_start|>", "<|im_end|>")


def rfc3339(when: float) -> str:
    """Wall-clock seconds as Ollama writes times."""
    whole, part = divmod(when, 1)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(part * 1e9):09d}".rstrip("0").rstrip(".") + "Z"


def _details(model: ModelSpec) -> Body:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def by_age(node: EmulatedNode) -> list[ModelSpec]:
    """The models of a node, newest first."""
    return sorted(node.model.models.values(), key=lambda m: -m.modified_at)


def tags(exchange: Exchange) -> None:
    """GET and HEAD /api/tags"""
    models = [
        {
            "name": m.name,
            "model": m.name,
            "modified_at": rfc3339(m.modified_at),
            "size": m.size,
            "digest": m.digest,
            "details": _details(m) | {"context_length": m.context_length, "embedding_length": m.embedding_length},
            "capabilities": list(m.capabilities),
        }
        for m in by_age(exchange.node)
    ]
    exchange.send(Document(dumps({"models": models})))


def _resident(entry: Residency, offset: float, keep_alive: float) -> Body:
    model = entry.model
    expires = entry.expires_at
    if entry.running or entry.waiting:
        expires = time.time() - offset + keep_alive  # moves on when the request ends
    at = expires + offset if expires < inf else time.time() + _FOR_EVER
    return {
        "name": model.name,
        "model": model.name,
        "size": entry.size,
        "digest": model.digest,
        "details": _details(model),
        "expires_at": rfc3339(at),
        "size_vram": entry.size_vram,
        "context_length": entry.num_ctx,
    }


def ps(exchange: Exchange) -> None:
    """GET /api/ps"""
    node = exchange.node
    now = node.now()
    offset = time.time() - now
    models = [_resident(r, offset, node.spec.keep_alive) for r in node.model.resident(now)]
    exchange.send(Document(dumps({"models": models})))


def version(exchange: Exchange) -> None:
    """GET and HEAD /api/version"""
    exchange.send(Document(dumps({"version": exchange.node.spec.version})))


def status(exchange: Exchange) -> None:
    """GET /api/status"""
    exchange.send(Document(b'{"cloud":{"disabled":true,"source":"env"}}'))


def _blob_path(model: ModelSpec) -> str:
    return f"{_STORE}/blobs/sha256-{sha256(model.digest.encode()).hexdigest()}"


def _model_info(model: ModelSpec) -> Body:
    family = model.family
    count = float(re.sub(r"[^0-9.]", "", model.parameter_size) or 0) * (1e6 if model.parameter_size.endswith("M") else 1e9)
    info: Body = {
        "general.architecture": family,
        "general.file_type": 2,
        "general.parameter_count": int(count),
        "general.quantization_version": 2,
        f"{family}.attention.head_count": 32,
        f"{family}.block_count": 32,
        f"{family}.context_length": model.context_length,
        f"{family}.embedding_length": model.embedding_length,
        f"{family}.feed_forward_length": 4 * model.embedding_length,
        f"{family}.vocab_size": 128_256,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.token_type": None,
        "tokenizer.ggml.tokens": None,
    }
    if model.embeds:
        info |= {f"{family}.attention.causal": False, f"{family}.pooling_type": 1}
    return dict(sorted(info.items()))


def show(exchange: Exchange) -> None:
    """POST /api/show"""
    body = read(exchange.request.body, "ShowRequest", _NAMED)
    name = body.get("model") or body.get("name") or ""
    if not name:
        raise Refusal(400, "model is required")
    if name.endswith("-cloud"):
        raise Refusal(403, "ollama cloud is disabled: remote model details are unavailable")
    model = find(exchange.node, name, missing=f"model '{short_name(name)}' not found")
    template = "{{ .Prompt }}" if model.embeds else model.template
    if template == "{{ .Prompt }}" and not model.embeds:
        template = _TEMPLATE
    stops = () if model.embeds else _STOPS
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name}\n",
        f"FROM {_blob_path(model)}",
        f'TEMPLATE "{template}"' if "\n" in template else f"TEMPLATE {template}",
        *([f"SYSTEM {model.system}"] if model.system else []),
        *(f"PARAMETER stop {s}" for s in stops),
        *([f"LICENSE {model.license}"] if model.license else []),
    ]
    parameters = [*model.parameters.splitlines(), *(f'stop                           "{s}"' for s in stops)]
    shown: Body = {"license": model.license} if model.license else {}
    shown["modelfile"] = "\n".join(lines) + "\n"
    if parameters:
        shown["parameters"] = "\n".join(parameters)
    shown["template"] = template
    if model.system:
        shown["system"] = model.system
    width = model.embedding_length
    shown |= {
        "details": _details(model),
        "model_info": _model_info(model),
        "tensors": [{"name": "token_embd.weight", "type": "Q4_K", "shape": [width, 128_256]}]
        + [{"name": f"blk.{i}.attn_norm.weight", "type": "F32", "shape": [width]} for i in range(32)],
        "capabilities": list(model.capabilities),
        "modified_at": rfc3339(model.modified_at),
    }
    exchange.send(Document(dumps(shown)))


# Streams of progress

_Line = tuple[float, Body]


class _Progress:
    """A stream of status lines, each so many seconds after the one before; the last may be an error."""

    def __init__(self, exchange: Exchange, lines: Iterator[_Line], *, stream: bool) -> None:
        self._exchange = exchange
        self._lines = lines
        self._stream = stream
        self._started = False
        self._last: Body = {}
        self._timer: asyncio.TimerHandle | None = None
        exchange.connection.gone = self._gone
        self._step()

    def _gone(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _step(self) -> None:
        line = next(self._lines, None)
        if line is None:
            self._finish()
        else:
            self._timer = self._exchange.node.loop.call_later(line[0], self._say, line[1])

    def _say(self, body: Body) -> None:
        self._last = body
        if self._stream:
            raw = dumps(body) + b"\n"
            if self._started:
                self._exchange.connection.send([raw])
            else:
                self._started = True
                self._exchange.connection.start(NDJSON, raw)
        self._step()

    def _finish(self) -> None:
        if self._stream:
            self._exchange.connection.finish()
        else:
            self._exchange.send(Document(dumps(self._last), 500 if "error" in self._last else 200, b"application/json"))


def _layers(model: ModelSpec) -> list[tuple[str, int]]:
    return [(sha256(f"{model.digest}{i}".encode()).hexdigest(), size) for i, size in enumerate((model.size, 102, 59, 149))]


def _transfer(node: EmulatedNode, model: ModelSpec, verb: str, *, quick: bool) -> Iterator[_Line]:
    seconds = 0.0 if quick else model.size / (node.spec.pull_gbps * 1e9)
    steps = max(1, int(seconds / _STEP))
    for i, (digest, size) in enumerate(_layers(model)):
        for step in range(1, (steps if i == 0 else 1) + 1):
            done = {"digest": f"sha256:{digest}", "total": size, "completed": size * step // (steps if i == 0 else 1)}
            yield (seconds / steps if i == 0 else 0.0), {"status": f"{verb} {digest[:12]}", **done}


def _pulling(node: EmulatedNode, short: str) -> Iterator[_Line]:
    yield 0.0, {"status": "pulling manifest"}
    if short.rsplit("/", 1)[-1].startswith(("nope", "missing")):
        yield 0.0, {"error": "pull model manifest: file does not exist"}
        return
    have = node.model.models.get(short)
    model = have or replace(presets.model(short), name=short, modified_at=time.time())
    yield from _transfer(node, model, "pulling", quick=have is not None)
    yield 0.0, {"status": "verifying sha256 digest"}
    yield 0.0, {"status": "writing manifest"}
    node.model.models[short] = model
    yield 0.0, {"status": "success"}


def _valid(name: Any) -> str:
    short = short_name(name) if name else None
    if short is None:
        raise Refusal(400, "invalid model name")
    return short


def pull(exchange: Exchange) -> None:
    """POST /api/pull: every model exists in the emulated registry, except those whose name starts with "nope" or "missing"."""
    body = read(exchange.request.body, "PullRequest", _NAMED)
    short = _valid(body.get("model") or body.get("name"))
    _Progress(exchange, _pulling(exchange.node, short), stream=body.get("stream") is not False)


def _pushing(node: EmulatedNode, name: str) -> Iterator[_Line]:
    yield 0.0, {"status": "retrieving manifest"}
    model = node.model.models.get(name)
    if model is None:
        yield 0.0, {"status": "couldn't retrieve manifest"}
        path = f"{_STORE}/manifests/registry.ollama.ai/{name.replace(':', '/')}"
        yield 0.0, {"error": f"open {path}: no such file or directory"}
        return
    yield from _transfer(node, model, "pushing", quick=False)
    yield 0.0, {"status": "pushing manifest"}
    yield 0.0, {"status": "success"}


def push(exchange: Exchange) -> None:
    """POST /api/push"""
    body = read(exchange.request.body, "PushRequest", _NAMED)
    name = body.get("model") or body.get("name") or ""
    if not name:
        raise Refusal(400, "model is required")
    _Progress(exchange, _pushing(exchange.node, _valid(name)), stream=body.get("stream") is not False)


def _creating(node: EmulatedNode, short: str, body: Body) -> Iterator[_Line]:
    source = body.get("from")
    if source:
        base = node.model.models.get(short_name(source) or "")
        if base is None:
            yield 0.0, {"status": "pulling manifest"}
            yield 0.0, {"error": "pull model manifest: file does not exist"}
            return
    else:
        yield 0.0, {"status": "parsing GGUF"}
        digest = next(iter(body["files"].values())).removeprefix("sha256:")
        if digest not in node.blobs:
            yield 0.0, {"error": f"open {_STORE}/blobs/sha256-{digest}: no such file or directory"}
            return
        size, head = node.blobs[digest]
        if not head.startswith(b"GGUF"):
            yield 0.0, {"error": "supplied file was not in GGUF format"}
            return
        yield 0.0, {"status": "verifying conversion"}
        base = ModelSpec(short, size, digest=digest)
    yield 0.0, {"status": f"using existing layer sha256:{sha256(base.digest.encode()).hexdigest()}"}
    if not source:
        yield 0.0, {"status": "using autodetected template chatml"}
    system = body.get("system") or base.system
    digest = sha256(f"{base.digest}{system}{body.get('template')}{body.get('parameters')}".encode()).hexdigest()
    yield 0.0, {"status": f"creating new layer sha256:{digest}"}
    yield 0.0, {"status": "writing manifest"}
    node.model.models[short] = replace(base, name=short, digest=digest, system=system, modified_at=time.time())
    yield 0.0, {"status": "success"}


def create(exchange: Exchange) -> None:
    """POST /api/create"""
    body = read(exchange.request.body, "CreateRequest", _CREATE)
    short = _valid(body.get("model") or body.get("name"))
    template = body.get("template") or ""
    if not body.get("from") and not body.get("files"):
        exchange.send(Document(b"{\"error\":\"neither 'from' or 'files' was specified\"}", 400, b"application/json"))
    elif template.count("{{") != template.count("}}"):
        exchange.send(Document(b'{"error":"template error: template: :1: unclosed action"}', 400, b"application/json"))
    else:
        _Progress(exchange, _creating(exchange.node, short, body), stream=body.get("stream") is not False)


def copy(exchange: Exchange) -> None:
    """POST /api/copy"""
    body = read(exchange.request.body, "CopyRequest", _COPY)
    source, destination = body.get("source") or "", body.get("destination") or ""
    short = short_name(destination) if destination else None
    if short_name(source) is None:
        raise Refusal(400, f'source "{source}" is invalid')
    if short is None:
        raise Refusal(400, f'destination "{destination}" is invalid')
    model = find(exchange.node, source, missing='model "{}" not found')
    exchange.node.model.models[short] = replace(model, name=short, modified_at=time.time())
    exchange.send(Document(b"", ctype=b""))


def delete(exchange: Exchange) -> None:
    """DELETE /api/delete: what runs in the model ends as it began."""
    body = read(exchange.request.body, "DeleteRequest", _NAMED)
    name = body.get("model") or body.get("name") or ""
    if not name:
        raise Refusal(400, "model is required")
    model = find(exchange.node, name)
    del exchange.node.model.models[model.name]
    exchange.send(Document(b"", ctype=b""))


def blob(exchange: Exchange) -> None:
    """HEAD and POST /api/blobs/:digest"""
    request, node = exchange.request, exchange.node
    wanted = request.path.rsplit("/", 1)[-1]
    match = re.fullmatch(r"sha256[:-]([0-9a-f]{64})", wanted)
    if match is None:
        raise Refusal(400, "invalid digest format")
    have = match[1] in node.blobs
    if request.method == "HEAD":
        if not have:
            raise Refusal(404, f'blob "{wanted}" not found')
        exchange.connection.reply(200, ctype=b"", bare=True)
    elif have:
        exchange.send(Document(b"", ctype=b""))
    elif request.digest != match[1]:
        raise Refusal(400, f'digest mismatch, expected "sha256:{match[1]}", got "sha256:{request.digest}"')
    else:
        node.blobs[match[1]] = (request.size, request.body)
        exchange.send(Document(b"", 201, b""))
