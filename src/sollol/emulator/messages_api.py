"""Anthropic's messages and OpenAI's responses, which Ollama speaks too."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from sollol.core.types import Counters
from sollol.emulator.asking import find, fit, speak, tool_calls, work_for
from sollol.emulator.bodies import Body, read
from sollol.emulator.calls import Document, Refusal, Writer
from sollol.emulator.connection import SSE, dumps
from sollol.emulator.node import Exchange
from sollol.emulator.openai_api import flat, prepare, turns_of
from sollol.emulator.openai_writers import NO_CACHE, error_document
from sollol.emulator.text import Answer

_MESSAGES = {
    "model": "string",
    "messages": "list:[]anthropic.MessageParam",
    "max_tokens": "int",
    "stream": "bool",
    "tools": "list",
}
_RESPONSES = {"model": "string", "input": "any", "stream": "bool", "tools": "list", "max_output_tokens": "int"}
_TYPES = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}
_Call = tuple[str, str, Body]


def _number(digits: int) -> str:
    return f"{time.time_ns() // 1000:x}"[-digits:].rjust(digits, "0")


def _event(name: str, body: Body) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), dumps(body))


def messages_error(refusal: Refusal) -> Document:
    """Anthropic's error."""
    error = {"type": _TYPES.get(refusal.status, "api_error"), "message": refusal.message}
    body = {"type": "error", "error": error, "request_id": f"req_{_number(12) * 2}"}
    raw = dumps(body)
    if refusal.early:
        return Document(raw, refusal.status)
    return Document(raw + b"\n", refusal.status, b"application/json")


class MessageWriter(Writer):
    """Anthropic's messages: blocks of thoughts, text and calls."""

    stream_type = SSE
    stream_headers = NO_CACHE

    def __init__(self, name: str, said: Answer, body: Body, calls: list[_Call], prompt_tokens: int) -> None:
        self.stream = body.get("stream") is True
        self.pieces = 0 if calls else len(said.tokens)
        self._said = said
        self._calls = calls
        self._prompt = prompt_tokens if calls else 1
        self._head: Body = {"id": f"msg_{_number(12) * 2}", "type": "message", "role": "assistant", "model": name}

    def _start(self) -> bytes:
        message = self._head | {"content": [], "usage": {"input_tokens": self._prompt, "output_tokens": 0}}
        return _event("message_start", {"type": "message_start", "message": message})

    @staticmethod
    def _block(index: int, block: Body) -> bytes:
        return _event("content_block_start", {"type": "content_block_start", "index": index, "content_block": block})

    @staticmethod
    def _delta(index: int, delta: Body) -> bytes:
        return _event("content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta})

    @staticmethod
    def _stop(index: int) -> bytes:
        return _event("content_block_stop", {"type": "content_block_stop", "index": index})

    def piece(self, k: int) -> bytes:
        said = self._said
        token = said.tokens[k]
        before = self._start() if k == 0 else b""
        if k < said.thinking:
            start = self._block(0, {"type": "thinking", "thinking": ""}) if k == 0 else b""
            return before + start + self._delta(0, {"type": "thinking_delta", "thinking": token})
        index = 1 if said.thinking else 0
        if k == said.thinking:
            before += (self._stop(0) if said.thinking else b"") + self._block(index, {"type": "text", "text": ""})
        return before + self._delta(index, {"type": "text_delta", "text": token})

    def _closing(self, counters: Counters) -> tuple[str, Body]:
        reason = "tool_use" if self._calls else "max_tokens" if counters.done_reason == "length" else "end_turn"
        return reason, {"input_tokens": counters.prompt_tokens or 0, "output_tokens": counters.output_tokens or 0}

    def final(self, counters: Counters) -> list[bytes]:
        reason, usage = self._closing(counters)
        parts = [self._start()] if self._calls else []
        for index, (identity, name, arguments) in enumerate(self._calls):
            parts += [
                self._block(index, {"type": "tool_use", "id": identity, "name": name, "input": {}}),
                self._delta(index, {"type": "input_json_delta", "partial_json": msgspec.json.encode(arguments).decode()}),
                self._stop(index),
            ]
        if not self._calls:
            parts.append(self._stop(1 if self._said.thinking else 0))
        parts.append(_event("message_delta", {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}))
        parts.append(_event("message_stop", {"type": "message_stop"}))
        return parts

    def document(self, counters: Counters) -> Document:
        reason, usage = self._closing(counters)
        content: list[Body] = [{"type": "tool_use", "id": i, "name": n, "input": a} for i, n, a in self._calls]
        if not content:
            content = [{"type": "thinking", "thinking": self._said.thoughts}] if self._said.thinking else []
            content.append({"type": "text", "text": self._said.text})
        body = self._head | {"content": content, "stop_reason": reason, "usage": usage}
        return Document(dumps(body) + b"\n", ctype=b"application/json")

    def error(self, refusal: Refusal) -> Document:
        document = messages_error(refusal)
        return Document(document.body, document.status, document.ctype, NO_CACHE if self.stream else ())


def messages(exchange: Exchange) -> None:
    """POST /v1/messages"""
    body = read(exchange.request.body, "MessagesRequest", _MESSAGES, empty="EOF")
    if (body.get("max_tokens") or 0) <= 0:
        raise Refusal(400, "max_tokens is required and must be positive", early=True)
    if not body.get("messages"):
        raise Refusal(400, "messages is required", early=True)
    model = find(exchange.node, body.get("model") or "")
    if model.embeds:
        raise Refusal(400, f'"{model.name}" does not support chat')
    turns = turns_of(body["messages"], model)
    if body.get("system"):
        turns.insert(0, ("system", flat(body["system"], model)))
    tools = body.get("tools")
    prompt, able = prepare(model, turns, tools, mute=False)
    thinks = able and (body.get("thinking") or {}).get("type") == "enabled"
    said = speak(model, prompt.text, {}, body["max_tokens"], body.get("stop_sequences"), thinks=thinks)
    calls = tool_calls(tools, body["messages"], prompt.text)
    writer = MessageWriter(body["model"], said, body, calls, prompt.tokens)
    tokens = fit(exchange.node, model, prompt.tokens, {}, {})
    exchange.run(work_for(model, prompt, said, tokens, extra=6 if calls else 0), writer)


class ResponseWriter(Writer):
    """OpenAI's responses, without tools."""

    stream_type = SSE
    stream_headers = NO_CACHE

    def __init__(self, name: str, said: Answer, body: Body) -> None:
        self.stream = body.get("stream") is True
        self.pieces = len(said.tokens)
        self._name = name
        self._said = said
        self._body = body
        self._sequence = 0
        self._id = int(time.time_ns() // 1000 % 1_000_000)
        self._item = f"msg_{self._id}"
        self._created = int(time.time())

    def _response(self, status: str, output: list[Body], usage: Body | None) -> Body:
        done = self._created if status == "completed" else None
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "completed_at": done,
            "status": status,
            "incomplete_details": None,
            "model": self._name,
            "previous_response_id": None,
            "instructions": self._body.get("instructions"),
            "output": output,
            "error": None,
            "tools": [],
            "tool_choice": "auto",
            "truncation": "disabled",
            "parallel_tool_calls": True,
            "text": {"format": {"type": "text"}},
            "top_p": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": 1,
            "reasoning": None,
            "usage": usage,
            "max_output_tokens": self._body.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }

    def _event(self, name: str, **fields: Any) -> bytes:
        body = dict(sorted((fields | {"sequence_number": self._sequence, "type": f"response.{name}"}).items()))
        self._sequence += 1
        return _event(f"response.{name}", body)

    def _place(self) -> Body:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _part(self, content: str) -> Body:
        return {"type": "output_text", "text": content, "annotations": [], "logprobs": []}

    def _message(self, status: str, content: list[Body]) -> Body:
        return {"id": self._item, "type": "message", "status": status, "role": "assistant", "content": content}

    def piece(self, k: int) -> bytes:
        before = b""
        if k == 0:
            opened = dict(sorted(self._response("in_progress", [], None).items()))
            before = self._event("created", response=opened) + self._event("in_progress", response=opened)
            before += self._event("output_item.added", output_index=0, item=self._message("in_progress", []))
            before += self._event("content_part.added", **self._place(), part=self._part(""))
        return before + self._event("output_text.delta", **self._place(), delta=self._said.tokens[k], logprobs=[])

    def _usage(self, counters: Counters) -> Body:
        read_, written = counters.prompt_tokens or 0, counters.output_tokens or 0
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return {"input_tokens": read_, "output_tokens": written, "total_tokens": read_ + written, **details}

    def final(self, counters: Counters) -> list[bytes]:
        content = "".join(self._said.tokens)
        message = self._message("completed", [self._part(content)])
        closed = dict(sorted(self._response("completed", [message], self._usage(counters)).items()))
        return [
            self._event("output_text.done", **self._place(), text=content, logprobs=[]),
            self._event("content_part.done", **self._place(), part=self._part(content)),
            self._event("output_item.done", output_index=0, item=message),
            self._event("completed", response=closed),
        ]

    def document(self, counters: Counters) -> Document:
        message = self._message("completed", [self._part("".join(self._said.tokens))])
        body = self._response("completed", [message], self._usage(counters))
        return Document(dumps(body) + b"\n", ctype=b"application/json")

    def error(self, refusal: Refusal) -> Document:
        return error_document(refusal)


def responses(exchange: Exchange) -> None:
    """POST /v1/responses"""
    body = read(exchange.request.body, "ResponsesRequest", _RESPONSES, empty="EOF")
    model = find(exchange.node, body.get("model") or "")
    given = body.get("input") or ""
    turns = [("user", given)] if isinstance(given, str) else turns_of(given if isinstance(given, list) else [], model)
    if body.get("instructions"):
        turns.insert(0, ("system", str(body["instructions"])))
    prompt, _ = prepare(model, turns, None, mute=False)
    said = speak(model, prompt.text, {}, body.get("max_output_tokens"), None, thinks=False)
    work = work_for(model, prompt, said, fit(exchange.node, model, prompt.tokens, {}, {}))
    exchange.run(work, ResponseWriter(body["model"], said, body))
