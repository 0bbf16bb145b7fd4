"""What the wire costs per request and per chunk, in microseconds of one core: `python benchmarks/micro_wire.py [FILE]`.

Processor time is counted, so what else the machine does changes little. With FILE the figures are written there too. Bars:
60 µs to translate a request, 15 µs to translate a piece of a stream.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time

from msgspec.structs import replace

from sollol.core.types import Dialect, Kind, NodeKind, Task
from sollol.wire.replies import document, watcher
from sollol.wire.requests import dialect_of, read, with_model
from sollol.wire.translate import translation

ROUNDS = 20


def microseconds(call: Callable[[], object], times: int = 500) -> float:
    """The best of some rounds: what the machine can do when nothing else runs."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = process_time()
        for _ in range(times):
            call()
        best = min(best, (process_time() - start) / times)
    return best * 1e6


SMALL = b'{"model":"hello","messages":[{"role":"user","content":"hi there"}],"stream":false}'
SMALL_V1 = b'{"model":"hello","messages":[{"role":"user","content":"hi there"}],"stream":true,"max_tokens":64}'
TURNS = [{"role": "user" if i % 2 else "assistant", "content": f'text "number" {i}, with some words. ' * 65} for i in range(48)]
LARGE = json.dumps({"model": "hello", "messages": TURNS}).encode()
MIDDLE = json.dumps({"model": "hello", "messages": TURNS[:8]}).encode()
LONG = (("/api/chat", NodeKind.LLAMACPP), ("/v1/chat/completions", NodeKind.OLLAMA), ("/v1/messages", NodeKind.OLLAMA))
HEADERS = [
    (b"host", b"h"),
    (b"content-type", b"application/json"),
    (b"content-length", b"9"),
    (b"user-agent", b"x"),
    (b"accept", b"*/*"),
]
STAMP = b'"created_at":"2026-11-21T05:12:34.059257958Z"'
LINE = b'{"model":"hello",' + STAMP + b',"message":{"role":"assistant","content":" hello"},"done":false}\n'
LAST = (
    b'{"model":"hello",' + STAMP + b',"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"total_duration":267197137,"load_duration":253421315,"prompt_eval_count":22,"prompt_eval_duration":9595000,"eval_count":9,'
    b'"eval_duration":1956000}\n'
)
CHUNK = (
    b'data: {"id":"chatcmpl-349","object":"chat.completion.chunk","created":1795237959,"model":"m","system_fingerprint":"f",'
    b'"choices":[{"index":0,"delta":{"content":" world"},"finish_reason":null}]}\n\n'
)
ASKED = {
    "/api/chat": SMALL,
    "/v1/chat/completions": SMALL_V1,
    "/v1/responses": b'{"model":"hello","input":"hi there","stream":true}',
    "/v1/messages": b'{"model":"hello","max_tokens":64,"messages":[{"role":"user","content":"hi there"}],"stream":true}',
}
PAIRS = [
    *((path, ASKED[path], NodeKind.LLAMACPP, CHUNK) for path in ("/api/chat", "/v1/responses", "/v1/messages")),
    *((path, ASKED[path], NodeKind.OLLAMA, LINE) for path in ("/v1/chat/completions", "/v1/responses", "/v1/messages")),
]


def rows() -> list[tuple[str, float]]:
    native, openai = watcher(Dialect.OLLAMA, "/api/chat"), watcher(Dialect.OPENAI, "/v1/chat/completions")
    native.feed(LINE)
    openai.feed(CHUNK)
    peek = read("/api/chat", SMALL)
    task = Task(1, peek.kind, peek.dialect, peek.path, peek.model, SMALL, 0.0)
    return [
        ("read, small /api/chat", microseconds(lambda: read("/api/chat", SMALL, HEADERS))),
        ("read, small /v1/chat/completions", microseconds(lambda: read("/v1/chat/completions", SMALL_V1, HEADERS))),
        (
            f"read, /api/chat of {len(LARGE) // 1024} KB in 48 messages",
            microseconds(lambda: read("/api/chat", LARGE, HEADERS), 200),
        ),
        (f"with_model, the same {len(LARGE) // 1024} KB", microseconds(lambda: with_model(LARGE, "other"), 200)),
        ("watch one NDJSON line", microseconds(lambda: native.feed(LINE))),
        ("watch one server-sent event", microseconds(lambda: openai.feed(CHUNK))),
        ("read a last line", microseconds(lambda: document(Dialect.OLLAMA, "/api/chat", LAST))),
        *(
            (f"translate {path} of {size // 1024} KB at {kind}", microseconds(partial(translation, long, "native", kind), 50))
            for path, kind in LONG
            for size, long in (
                (len(body), replace(task, path=path, dialect=dialect_of(path), body=body)) for body in (MIDDLE, LARGE)
            )
        ),
        *translations(),
    ]


def translations() -> Iterator[tuple[str, float]]:
    """Every client's dialect at nodes of each other dialect: a small request, and one piece of a stream."""
    for path, body, kind, chunk in PAIRS:
        task = Task(1, Kind.CHAT, dialect_of(path), path, "m", body, 0.0)
        made = translation(task, "native", kind)
        made.feed(chunk, 1.0)
        name = f"{path} at {kind}"
        yield f"translate a small request, {name}", microseconds(partial(translation, task, "native", kind))
        yield f"translate one piece, {name}", microseconds(partial(made.feed, chunk, 1.0))


if __name__ == "__main__":
    found = rows()
    for name, cost in found:
        print(f"{cost:9.2f} µs  {name}")
    if sys.argv[1:]:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
        told = {"machine": machine, "microseconds": {name: round(cost, 2) for name, cost in found}}
        Path(sys.argv[1]).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
