"""The real llama.cpp server that other tests rely on: it starts, answers, streams, embeds, and answers the same twice."""

from __future__ import annotations

import http.client
import json
import struct
import urllib.request
from pathlib import Path

import pytest
from tests.support.llama_cpp import SLOW, LlamaServer
from tests.support.make_model import SMALL, write_model


def post(server: LlamaServer, path: str, body: dict[str, object]) -> bytes:
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        content: bytes = reply.read()
    return content


def chat(server: LlamaServer, **more: object) -> bytes:
    messages = [{"role": "user", "content": "how are you today"}]
    return post(
        server,
        "/v1/chat/completions",
        {"model": server.model, "messages": messages, "max_tokens": 12, "temperature": 0, **more},
    )


def test_it_answers_the_same_at_temperature_zero(llama_server):
    server = llama_server()
    first, second = (json.loads(chat(server)) for _ in range(2))
    text = first["choices"][0]["message"]["content"]
    assert text == second["choices"][0]["message"]["content"]
    assert first["usage"]["completion_tokens"] == 12
    assert text.isascii() and text.strip()
    other = llama_server(model="other", seed=2)
    assert json.loads(chat(other))["choices"][0]["message"]["content"] != text


def test_it_streams_what_it_would_answer(llama_server):
    server = llama_server()
    whole = json.loads(chat(server))["choices"][0]["message"]["content"]
    lines = [line for line in chat(server, stream=True).decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    parts = [json.loads(line[6:])["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    assert "".join(parts) == whole
    assert len(parts) > 5


def test_it_embeds(llama_server):
    server = llama_server(model="embedder", embeddings=True)
    reply = json.loads(post(server, "/v1/embeddings", {"model": "embedder", "input": ["good day", "the house"]}))
    first, second = (item["embedding"] for item in reply["data"])
    assert len(first) == len(second) == SMALL.width
    assert first != second


def test_a_slow_one_can_be_killed_in_the_middle_of_an_answer(llama_server):
    server = llama_server(shape=SLOW)
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "go"}], "max_tokens": 3_000, "stream": True})
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        assert reply.readline().startswith(b"data: ")
        server.kill()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            reply.read()
    again = llama_server(port=server.port)
    assert again.url == server.url
    assert json.loads(chat(again))["usage"]["completion_tokens"] == 12


def test_one_that_cannot_start_says_why(llama_server):
    with pytest.raises(RuntimeError, match="llama-server did not start"):
        llama_server(options=("--no-such-option",))


def test_the_model_file_is_small_and_always_the_same(tmp_path: Path):
    first, second = (write_model(tmp_path / name).read_bytes() for name in ("a.gguf", "b.gguf"))
    assert first == second
    assert first[:4] == b"GGUF"
    assert struct.unpack_from("<I", first, 4) == (3,)
    assert len(first) < 1_000_000
