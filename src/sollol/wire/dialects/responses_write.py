"""Replies of OpenAI's responses (/v1/responses), written from neutral pieces: numbered events, and documents."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from ..fields import present
from ..neutral import Asked, CallPiece, End, Piece
from .calls import Calls, Name, resumption
from .responses_request import echo

_NO_LOGPROBS: Final = Raw(b"[]")
_CUT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class _TextDelta(Struct, tag="response.output_text.delta"):
    item_id: str
    output_index: int
    delta: str
    logprobs: Raw
    sequence_number: int
    content_index: int = 0


class _ThoughtDelta(Struct, tag="response.reasoning_summary_text.delta"):
    item_id: str
    output_index: int
    delta: str
    sequence_number: int
    summary_index: int = 0


class _ArgumentsDelta(Struct, tag="response.function_call_arguments.delta"):
    item_id: str
    output_index: int
    delta: str
    sequence_number: int


def _usage(end: End) -> dict[str, Any]:
    prompt, output = end.prompt or 0, end.output or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": end.cached or 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": end.reasoning or 0},
        "total_tokens": prompt + output,
    }


def _text_part(text: str, logprobs: Raw = _NO_LOGPROBS) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _message(item_id: str, text: str | None, logprobs: Raw = _NO_LOGPROBS, status: str = "completed") -> dict[str, Any]:
    """The item of what was said; ``text`` None: nothing yet."""
    content = [] if text is None else [_text_part(text, logprobs)]
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def _thoughts(item_id: str, text: str | None) -> dict[str, Any]:
    summary = [] if text is None else [{"type": "summary_text", "text": text}]
    return {"id": item_id, "type": "reasoning", "summary": summary}


def _call(item_id: str, call: CallPiece, status: str) -> dict[str, Any]:
    head = {"id": item_id, "type": "function_call", "status": status}
    return {**head, "call_id": call.id, "name": call.name, "arguments": call.arguments}


class ResponsesWriter:
    """Writes the reply to /v1/responses. Calls of tools may overlap: each is an item of its own, and ends with the answer."""

    def __init__(self, name: Name, asked: Asked) -> None:
        self._name, self._echo = name, echo(asked)
        self._calls = Calls(name)
        self._number = -1
        self._output: list[dict[str, Any]] = []  # by output index; whole once an item is over
        self._open = ""  # the item that stands open: "text" or "thinking"
        self._texts: list[str] = []
        self._logprobs: list[Raw] = []
        self._places: dict[int, int] = {}  # output index of each call

    def piece(self, piece: Piece, now: float) -> bytes:
        """The events for one piece."""
        out = b"" if self._number >= 0 else self._begin(now)
        if piece.thinking:
            out += self._switch("thinking")
            self._texts.append(piece.thinking)
            at, item_id = self._here()
            out += self._encode(_ThoughtDelta(item_id, at, piece.thinking, self._next()))
        if piece.text:
            out += self._switch("text") + self._said(piece)
        for call in piece.calls:
            out += self._called(call)
        return out

    def close(self, end: End, now: float) -> bytes:
        """The events that end the stream."""
        out = (b"" if self._number >= 0 else self._begin(now)) + self._stop_item()
        for call in self._calls.whole():
            out += self._end_call(call)
        status = "incomplete" if end.finish in _CUT else "completed"
        return out + self._event(f"response.{status}", response=self._response(status, now, end))

    def document(self, piece: Piece, end: End, now: float) -> bytes:
        """The whole reply."""
        if piece.thinking:
            self._output.append(_thoughts(self._item_id("rs"), piece.thinking))
        if piece.text or not (piece.thinking or piece.calls):
            logprobs = piece.logprobs if present(piece.logprobs) else _NO_LOGPROBS
            self._output.append(_message(self._item_id("msg"), piece.text, logprobs))
        for call in piece.calls:
            self._calls.add(call)
        for call in self._calls.whole():
            self._output.append(_call(self._item_id("fc"), call, "completed"))
        return msgspec.json.encode(self._response("incomplete" if end.finish in _CUT else "completed", now, end))

    def failure(self, text: str, status: int) -> bytes:
        """The event that ends a stream which broke."""
        response = self._response("failed", self._name.start, None)
        response["error"] = {"code": "rate_limit_exceeded" if status == 429 else "server_error", "message": text}
        return self._event("response.failed", response=response)

    # --- items

    def _begin(self, now: float) -> bytes:
        response = self._response("in_progress", now, None)
        return self._event("response.created", response=response) + self._event("response.in_progress", response=response)

    def _said(self, piece: Piece) -> bytes:
        self._texts.append(piece.text)
        logprobs = _NO_LOGPROBS
        if present(piece.logprobs):
            logprobs = piece.logprobs
            self._logprobs.append(logprobs)
        at, item_id = self._here()
        return self._encode(_TextDelta(item_id, at, piece.text, logprobs, self._next()))

    def _switch(self, kind: str) -> bytes:
        """Make an item of `kind` the open one."""
        if self._open == kind:
            return b""
        out = self._stop_item()
        self._open = kind
        text = kind == "text"
        item_id = self._item_id("msg" if text else "rs")
        out += self._add(_message(item_id, None, status="in_progress") if text else _thoughts(item_id, None))
        at, item_id = self._here()
        if text:
            part = _text_part("")
            return out + self._event(
                "response.content_part.added", item_id=item_id, output_index=at, content_index=0, part=part
            )
        part = {"type": "summary_text", "text": ""}
        return out + self._event(
            "response.reasoning_summary_part.added", item_id=item_id, output_index=at, summary_index=0, part=part
        )

    def _stop_item(self) -> bytes:
        """End the open item of text or thoughts."""
        kind, self._open = self._open, ""
        if not kind:
            return b""
        text, self._texts = "".join(self._texts), []
        at = max(index for index, item in enumerate(self._output) if item["type"] != "function_call")
        item_id = self._output[at]["id"]
        place = {"item_id": item_id, "output_index": at}
        if kind == "text":
            logprobs, self._logprobs = _listed(self._logprobs), []
            out = self._event("response.output_text.done", **place, content_index=0, text=text, logprobs=logprobs)
            out += self._event("response.content_part.done", **place, content_index=0, part=_text_part(text, logprobs))
            self._output[at] = _message(item_id, text, logprobs)
        else:
            part = {"type": "summary_text", "text": text}
            out = self._event("response.reasoning_summary_text.done", **place, summary_index=0, text=text)
            out += self._event("response.reasoning_summary_part.done", **place, summary_index=0, part=part)
            self._output[at] = _thoughts(item_id, text)
        return out + self._event("response.output_item.done", output_index=at, item=self._output[at])

    def _called(self, piece: CallPiece) -> bytes:
        out = b""
        if self._calls.add(piece):
            out = self._stop_item()
            named = self._calls.named(piece.index)
            self._places[piece.index] = len(self._output)
            out += self._add(_call(self._item_id("fc"), named, "in_progress"))
        if not piece.arguments:
            return out
        at = self._places[piece.index]
        return out + self._encode(_ArgumentsDelta(self._output[at]["id"], at, piece.arguments, self._next()))

    def _end_call(self, call: CallPiece) -> bytes:
        at = self._places[call.index]
        item_id = self._output[at]["id"]
        item = self._output[at] = _call(item_id, call, "completed")
        out = self._event(
            "response.function_call_arguments.done", item_id=item_id, output_index=at, name=call.name, arguments=call.arguments
        )
        return out + self._event("response.output_item.done", output_index=at, item=item)

    def _add(self, item: dict[str, Any]) -> bytes:
        self._output.append(item)
        return self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _here(self) -> tuple[int, str]:
        """Output index and id of the item that was begun last."""
        at = len(self._output) - 1
        return at, self._output[at]["id"]

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._name.id}_{len(self._output)}"

    # --- events

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, **fields, "sequence_number": self._next()}
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"

    def _encode(self, delta: _TextDelta | _ThoughtDelta | _ArgumentsDelta) -> bytes:
        kind = delta.__struct_config__.tag
        assert isinstance(kind, str)
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(delta) + b"\n\n"

    def _response(self, status: str, now: float, end: End | None) -> dict[str, Any]:
        wall = int(self._name.wall(now))
        reason = _CUT.get(end.finish) if end is not None else None
        return {
            "id": f"resp_{self._name.id}",
            "object": "response",
            "created_at": int(self._name.wall(self._name.start)),
            "completed_at": wall if status == "completed" else None,
            "status": status,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._name.model,
            "previous_response_id": None,
            "output": list(self._output),
            "error": None,
            **self._echo,
            "usage": None if end is None else _usage(end),
            **({} if end is None else resumption(end)),
        }


def _listed(lists: list[Raw]) -> Raw:
    """One JSON list of several."""
    inner = [bytes(raw).strip()[1:-1] for raw in lists]
    return Raw(b"[" + b",".join([items for items in inner if items]) + b"]")
