"""One request to several nodes at once, answered as one: progress merged line by line, one status at the end.

With a single node its bytes pass untouched. With several, each line of progress says which node it is from (``"node"``), a
node's own "success" and errors are held back, and the last line is Ollama's: ``{"status":"success"}`` only when all succeeded.

Such requests change a node, so they are never sent twice: they go as uploads, which no transport repeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sollol.core.ports import Exchange, Header, Headers, Outgoing, Sink, Transport
from sollol.core.types import Node
from sollol.errors import NodeError
from sollol.gateway.answers import JSON, NDJSON, send, send_json
from sollol.wire.unreadable import UNREADABLE

# A line of progress is a few hundred bytes, a whole reply of this kind (show, with tensors) a few megabytes.
_LINE_LIMIT: Final = 1 << 20
_BODY_LIMIT: Final = 64 << 20

Sent = Outgoing | Callable[[Node], Outgoing]
"""What is sent to nodes: the same to each of them, or to each what it understands."""


@dataclass(slots=True)
class Reply:
    """What one node answered. ``status`` 0: nothing, and ``error`` says why. ``body`` is empty for what was passed on."""

    node: Node
    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    error: NodeError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The error in words; empty when there is none."""
        if self.error is not None:
            return self.error.text
        return "" if self.ok else error_text(self.body) or f"status {self.status}"


class Group:
    """Several exchanges as one, for the client's side: paused, resumed and closed together."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []

    def add(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)

    def pause(self) -> None:
        for exchange in self._exchanges:
            exchange.pause()

    def resume(self) -> None:
        for exchange in self._exchanges:
            exchange.resume()

    def write(self, data: bytes) -> None:
        for exchange in self._exchanges:
            exchange.write(data)

    def finish(self) -> None:
        for exchange in self._exchanges:
            exchange.finish()

    def close(self) -> None:
        for exchange in self._exchanges:
            exchange.close()


class Collect:
    """A receiver that keeps the whole reply. ``done`` is set once, with the reply, whatever became of it."""

    def __init__(self, node: Node, writable: Callable[[bool], None] | None = None) -> None:
        self.reply = Reply(node)
        self.done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._parts: list[bytes] = []
        self._size = 0
        self._writable = writable

    def on_head(self, status: int, headers: Headers) -> None:
        self.reply.status = status
        self.reply.headers = [(key.lower(), value) for key, value in headers]

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= _BODY_LIMIT:
            self._parts.append(data)

    def on_end(self) -> None:
        self.reply.body = b"".join(self._parts)
        if self._size > _BODY_LIMIT:
            self.reply.error = NodeError(self.reply.node.id, f"a reply of over {_BODY_LIMIT >> 20} MB")
        self._finish()

    def on_error(self, error: Exception) -> None:
        self.reply.error = error if isinstance(error, NodeError) else NodeError(self.reply.node.id, str(error))
        self._finish()

    def on_writable(self, writable: bool) -> None:
        if self._writable is not None:
            self._writable(writable)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(self.reply)
        self.on_writable(True)  # whoever still waits for room here waits in vain


class Pass(Collect):
    """A receiver that passes a reply on to the client: NDJSON as it comes, anything else whole and with its length."""

    def __init__(self, node: Node, sink: Sink, extra: Headers = (), writable: Callable[[bool], None] | None = None) -> None:
        super().__init__(node, writable)
        self._sink = sink
        self._extra = extra
        self._streams = False

    def on_head(self, status: int, headers: Headers) -> None:
        super().on_head(status, headers)
        self._streams = _is_ndjson(self.reply.headers)
        if self._streams:
            self._sink.head(status, [*own_headers(self.reply.headers), *self._extra])

    def on_data(self, data: bytes) -> None:
        if self._streams:
            self._sink.data(data)
        else:
            super().on_data(data)

    def on_end(self) -> None:
        if self._streams:
            self._sink.end()
            self._finish()
            return
        super().on_end()
        if self.reply.error is None:
            self._send()

    def on_error(self, error: Exception) -> None:
        if self._streams:
            self._sink.data(msgspec.json.encode({"error": str(error)}) + b"\n")
            self._sink.end()
        super().on_error(error)

    def _send(self) -> None:
        send(self._sink, self.reply.status, self.reply.body, [*own_headers(self.reply.headers), *self._extra])


class PassChange(Pass):
    """As `Pass`, but a stream's "success", and every other reply, is kept back until `answer`."""

    def __init__(self, node: Node, sink: Sink, extra: Headers = ()) -> None:
        super().__init__(node, sink, extra)
        self._held = b""

    def on_data(self, data: bytes) -> None:
        if self._streams and (self._held or b'"success"' in data):
            self._held += data
        else:
            super().on_data(data)

    def on_end(self) -> None:
        if self._streams:
            self._finish()
        else:
            Collect.on_end(self)

    def on_error(self, error: Exception) -> None:
        if self._held:
            self._sink.data(self._held)
        super().on_error(error)

    def answer(self) -> None:
        """Give the client what it has not got yet. Nothing after an error: that was told, or is the caller's to tell."""
        if self.reply.error is not None:
            return
        if not self._streams:
            self._send()
            return
        if self._held:
            self._sink.data(self._held)
        self._sink.end()


class Lines(Collect):
    """A receiver of NDJSON: hands on each complete line as a dict. A reply that is no 200 is kept whole instead."""

    def __init__(self, node: Node, show: Callable[[Node, dict[str, Any]], None]) -> None:
        super().__init__(node)
        self._show = show
        self._rest = b""
        self._last: dict[str, Any] = {}

    def on_data(self, data: bytes) -> None:
        if self.reply.status != 200:
            super().on_data(data)
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= _LINE_LIMIT else b""
        for line in lines:
            self._take(line)

    def on_end(self) -> None:
        if self.reply.status == 200:
            self._take(self._rest)
            if "error" in self._last:
                self.reply.error = NodeError(self.reply.node.id, str(self._last["error"]))
            elif self._last.get("status") != "success":
                self.reply.error = NodeError(self.reply.node.id, "the answer ended without success")
        if self.reply.error is None:
            super().on_end()
        else:
            self._finish()

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            value = msgspec.json.decode(line)
        except UNREADABLE:
            return
        if isinstance(value, dict):
            self._last = value
            self._show(self.reply.node, value)


async def ask(transport: Transport, node: Node, request: Outgoing, sink: Sink) -> Reply:
    """Send one request and keep the whole reply; never raises a `NodeError` (it is in the reply).

    Cancelled, or when the client of ``sink`` leaves, the connection to the node is closed at once.
    """
    receiver = Collect(node)
    return await _finished(receiver, transport.send(node, request, receiver), sink)


async def change(transport: Transport, request: Sent, receiver: Collect, sink: Sink) -> Reply:
    """Send a request that changes the receiver's node, once and never again, and let `receiver` have the reply."""
    return await _finished(receiver, send_once(transport, request, receiver), sink)


async def change_all(transport: Transport, nodes: Sequence[Node], request: Sent, sink: Sink) -> list[Reply]:
    """Send a request that changes nodes to each of them and collect the replies, in the order of `nodes`."""
    return await _together(transport, request, [Collect(node) for node in nodes], sink)


async def stream_all(
    transport: Transport,
    nodes: Sequence[Node],
    request: Sent,
    sink: Sink,
    *,
    settle: Callable[[Sequence[Reply]], Awaitable[None]],
    extra: Headers = (),
) -> None:
    """As `change_all`, with the progress of all nodes merged into one NDJSON answer.

    `settle` is awaited with what the nodes answered before the client is told how it ended.
    """
    merge = _Merge(sink, extra)
    replies = await _together(transport, request, [Lines(node, merge.show) for node in nodes], sink)
    await settle(replies)
    merge.finish(replies)


def answer_all(sink: Sink, replies: Sequence[Reply], done: bytes, extra: Headers = (), already: int = 0) -> None:
    """One answer for several: ``done`` when all succeeded, else what failed where, with the true status.

    ``already`` is a status that means that a node was in the wanted state before (404 when deleting); it counts as success
    where another node succeeded.
    """
    good = any(reply.ok for reply in replies)
    bad = [reply for reply in replies if not reply.ok and not (good and already and reply.status == already)]
    if not bad:
        send(sink, 200, done, (*((JSON,) if done else ()), *extra))
    elif len(replies) == 1 and bad[0].error is None:
        send(sink, bad[0].status, bad[0].body, [*own_headers(bad[0].headers), *extra])
    else:
        send_json(sink, {"error": failures(bad)}, status_of(bad), extra)


def status_of(bad: Sequence[Reply]) -> int:
    """The status for several failures: the nodes' own if they agree, else 502."""
    found = {reply.status if reply.error is None else reply.error.status for reply in bad}
    return found.pop() if len(found) == 1 else 502


def failures(bad: Iterable[Reply]) -> str:
    """What failed where, in one line."""
    return "; ".join(f"{reply.node.label}: {reply.text}" for reply in bad)


def error_text(body: bytes) -> str:
    """The text of an Ollama error body, or the body itself where it is short text; else empty."""
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE:
        return body[:200].decode("utf-8", "replace").strip()
    return str(value["error"]) if isinstance(value, dict) and "error" in value else ""


def own_headers(headers: Headers) -> list[Header]:
    """The headers of a node's reply that go on to the client: without those that every reply of ours has anyhow."""
    return [
        (key, value)
        for key, value in headers
        if key not in (b"date", b"x-powered-by", b"vary", b"server") and not key.startswith(b"access-control-")
    ]


def send_once(transport: Transport, request: Sent, receiver: Collect) -> Exchange:
    """Start a request that must not be repeated: an upload, which no transport sends twice."""
    if not isinstance(request, Outgoing):
        request = request(receiver.reply.node)
    once = msgspec.structs.replace(request, body=b"", upload=True, length=len(request.body))
    exchange = transport.send(receiver.reply.node, once, receiver)
    if request.body:
        exchange.write(request.body)
    exchange.finish()
    return exchange


async def _together(transport: Transport, request: Sent, receivers: Sequence[Collect], sink: Sink) -> list[Reply]:
    group = Group()
    sink.attach(group)
    try:
        for receiver in receivers:
            group.add(send_once(transport, request, receiver))
        return [await receiver.done for receiver in receivers]
    finally:
        group.close()
        sink.attach(None)


async def _finished(receiver: Collect, exchange: Exchange, sink: Sink) -> Reply:
    sink.attach(exchange)
    try:
        return await receiver.done
    finally:
        exchange.close()
        sink.attach(None)


class _Merge:
    """Writes the lines of several nodes to one client."""

    def __init__(self, sink: Sink, extra: Headers) -> None:
        self._sink = sink
        self._extra = extra

    def show(self, node: Node, value: dict[str, Any]) -> None:
        """One line of one node. A client stops at "success" and at errors, so they say something else until the end."""
        if "error" in value:
            value = {"status": f"failed: {value['error']}"}
        elif value.get("status") == "success":
            value = {"status": "finished"}
        self._line({**value, "node": node.label})

    def finish(self, replies: Sequence[Reply]) -> None:
        """The last line; or, when no node sent a line, one document with the true status."""
        bad = [reply for reply in replies if not reply.ok]
        if not self._sink.started and bad:
            answer_all(self._sink, replies, b"", self._extra)
            return
        self._line({"error": failures(bad)} if bad else {"status": "success"})
        self._sink.end()

    def _line(self, value: dict[str, Any]) -> None:
        if not self._sink.started:
            self._sink.head(200, (NDJSON, *self._extra))
        self._sink.data(msgspec.json.encode(value) + b"\n")


def _is_ndjson(headers: Headers) -> bool:
    return any(key == b"content-type" and value.startswith(b"application/x-ndjson") for key, value in headers)
