"""Requests for names of which the settings say something: aliases, models that nodes call otherwise, models with fallbacks.

Inside there is only the model that a name stands for, so answers are shared, kept and learned from under that one name. What
the client sees is put right on its side of the pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from sollol.core.ports import Exchange, Header, Headers, Sink
from sollol.errors import AllAttemptsFailed, NoNodeForModel, NoNodes, SollolError
from sollol.gateway.context import Gateway
from sollol.gateway.targets import usable
from sollol.wire import forms
from sollol.wire.bodies import changed
from sollol.wire.catalogue import Known
from sollol.wire.names import canonical, tagless
from sollol.wire.requests import Peek
from sollol.wire.routing import ascii_value

MODEL: Final = b"x-sollol-model"
FALLBACK: Final = b"x-sollol-fallback"
_ROUTING: Final = "_sollol_routing"
_LINES: Final = (b"application/x-ndjson", b"text/event-stream")
# Where replies of other dialects say the model: Anthropic's first event, and those of OpenAI's responses.
_INSIDE: Final = ("message", "response")
# What another model may help against; everything else is the request's own.
_NOT_HERE: Final = (NoNodeForModel, NoNodes, AllAttemptsFailed)
# The model where only plain values stand before it, as nearly all engines write it: nothing nested can be taken for it.
_PLAIN: Final = re.compile(rb'[^{]{0,8}\{(?:"\w+":(?:"[^"\\]*"|[\w.+-]+),)*?"model":("[^"\\]*")')
_fields: Final = msgspec.json.Decoder(dict[str, Raw])

Go = Callable[[Peek, Sink], Awaitable[None]]


async def answer(gateway: Gateway, known: Known, peek: Peek, sink: Sink, go: Go) -> None:
    """Have `go` answer a request whose name is ``known``: with the model that it stands for, else with one of its fallbacks.

    A fallback answers at once while every node that has the model is down. Raises what `go` raises for the model itself.
    """
    own = Retold(sink, peek.model if known.told else "", {"model": tagless(known.model)})
    missing = ""
    if known.fallbacks:
        await gateway.monitor.all_looked_at()  # right after the start nobody is known to have anything
        missing = _missing(gateway, known.model)
    failure: SollolError | None = None
    if not missing:
        try:
            await go(asking(peek, known.model), own)
            return
        except _NOT_HERE as error:
            if own.started or not known.fallbacks:
                raise
            missing, failure = str(error), error
    for other in known.fallbacks:
        if _missing(gateway, other):
            continue
        said = {"model": tagless(other), "fallback": f"{missing}; answered by {tagless(other)}"}
        instead = Retold(sink, "", said)
        try:
            await go(asking(peek, other), instead)
            return
        except _NOT_HERE:
            if instead.started:
                raise
    if failure is not None:
        raise failure
    await go(asking(peek, known.model), own)


def _missing(gateway: Gateway, model: str) -> str:
    """Why nobody can answer with that model now; empty when somebody may."""
    holders = gateway.engine.state.holders(model)
    if any(usable(node) for node in holders):
        return ""
    return f"no node that has '{tagless(model)}' is up" if holders else f"model '{tagless(model)}' not found"


def asking(peek: Peek, model: str) -> Peek:
    """The request for another model; untouched where that is what it names already."""
    if canonical(peek.model) == model:
        return peek
    return msgspec.structs.replace(peek, model=model, body=forms.naming(peek.body, model))


class Retold:
    """A client's side that gets an answer under another name: in the reply ``name`` ("": as it is), in headers ``said``.

    ``said`` goes into ``_sollol_routing`` too, where a reply has that. Documents are kept until they are complete.
    """

    __slots__ = ("_extra", "_head", "_name", "_pieces", "_rest", "_said", "_sink", "_streams", "_written", "started")

    def __init__(self, sink: Sink, name: str, said: Mapping[str, str]) -> None:
        self.started = False
        self._sink = sink
        self._name = name
        self._written = msgspec.json.encode(name)
        self._said = said
        kept = {MODEL: said.get("model", ""), FALLBACK: said.get("fallback", "")}
        self._extra: list[Header] = [(key, ascii_value(value)) for key, value in kept.items() if value]
        self._streams = False
        self._head: tuple[int, Headers] | None = None
        self._pieces: list[bytes] = []
        self._rest = b""

    def head(self, status: int, headers: Headers, length: int | None = None) -> None:
        """From whoever answers."""
        self.started = True
        headers = [*headers, *self._extra]
        kind = next((value for key, value in headers if key.lower() == b"content-type"), b"")
        self._streams = status < 300 and length is None and kind.startswith(_LINES)
        if status < 300 and not self._streams:
            self._head = (status, headers)
        else:
            self._sink.head(status, headers, length)

    def data(self, data: bytes) -> None:
        """From whoever answers."""
        if self._head is not None:
            self._pieces.append(data)
        elif self._streams:
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                self._sink.data(b"".join(self._told(line) + b"\n" for line in lines))
        else:
            self._sink.data(data)

    def end(self) -> None:
        """From whoever answers."""
        if self._head is not None:
            (status, headers), self._head = self._head, None
            body = self._told(b"".join(self._pieces))
            self._sink.head(status, headers, len(body))
            if body:
                self._sink.data(body)
        elif self._rest:
            self._sink.data(self._told(self._rest))
        self._sink.end()

    def abort(self) -> None:
        """From whoever answers."""
        self._sink.abort()

    def attach(self, exchange: Exchange | None) -> None:
        """From whoever answers."""
        self._sink.attach(exchange)

    def _told(self, data: bytes) -> bytes:
        """A document, a line or the data of an event, told anew. What is no JSON object stays as it is."""
        routed = b'"_sollol_routing"' in data
        if not routed and (not self._name or b'"model"' not in data):
            return data
        plain = None if routed else _PLAIN.match(data)
        if plain is not None:
            return data[: plain.start(1)] + self._written + data[plain.end(1) :]
        start, end = data.find(b"{"), data.rfind(b"}") + 1
        try:
            fields = _fields.decode(data[start:end])
            put = self._put(fields)
        except (msgspec.DecodeError, RecursionError):
            return data
        return data[:start] + msgspec.json.encode({**fields, **put}) + data[end:] if put else data

    def _put(self, fields: Mapping[str, Raw]) -> dict[str, object]:
        put: dict[str, object] = {}
        if self._name and "model" in fields:
            put["model"] = self._name
        elif self._name:
            for outer in _INSIDE:
                if b'"model"' in bytes(fields.get(outer, b"")):
                    put[outer] = Raw(changed(bytes(fields[outer]), {"model": self._name}))
        if _ROUTING in fields:
            put[_ROUTING] = Raw(changed(bytes(fields[_ROUTING]), dict(self._said)))
        return put
