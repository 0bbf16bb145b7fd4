"""An ASGI application behind the door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from tests.support.door_app import TestApp, doors
from tests.support.wait import stalled, until

from sollol.gateway.asgi import AsgiApp, bridge
from sollol.gateway.http import Route as DoorRoute


def behind(app: Any, *, streams: bool = False) -> TestApp:
    """A door of which everything goes to `app`."""
    handler = bridge(app)

    class Everything(TestApp):
        def route(self, request: Any) -> DoorRoute:
            return DoorRoute(handler, 10_000_000, streams)

    return Everything()


async def show(request: Request) -> Response:
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "query": dict(request.query_params),
            "body": body.decode(),
            "odd": request.headers.get("x-odd"),
            "client": request.client.host if request.client else None,
        }
    )


@pytest.mark.parametrize("streams", [False, True])
async def test_a_request_and_its_reply(streams: bool) -> None:
    app = Starlette(routes=[Mount("/sub", routes=[Route("/{name}", show, methods=["POST"])])])
    async with doors(behind(app, streams=streams)) as door:
        client = await door.client()
        for body in (b"hello", b""):
            answer = await client.ask(
                b"POST /sub/a%%20b?c=d%%26e HTTP/1.1\r\nHost: a\r\nX-Odd: y\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert answer.status == 200
            assert answer.headers[b"content-type"] == b"application/json"
            assert answer.body == (
                b'{"method":"POST","path":"/sub/a b","query":{"c":"d&e"},"body":"%b","odd":"y","client":"127.0.0.1"}' % body
            )
        assert (await client.ask(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")).status == 404


async def test_a_stream_comes_as_it_is_made() -> None:
    gate = asyncio.Event()

    async def lines() -> AsyncIterator[bytes]:
        yield b"data: one\n\n"
        await gate.wait()
        yield b"data: two\n\n"

    async def feed(request: Request) -> Response:
        return StreamingResponse(lines(), media_type="text/event-stream")

    async with doors(behind(Starlette(routes=[Route("/feed", feed)]))) as door:
        client = await door.client()
        await client.send(b"GET /feed HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"text/event-stream" in await client.reader.readuntil(b"data: one\n\n")
        gate.set()
        assert (await client.reader.readuntil(b"0\r\n\r\n")).count(b"data: two") == 1


async def test_an_application_that_raises_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async with doors(behind(broken)) as door:
        assert (await door.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 500
        assert len(caplog.records) == 1


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_client_that_leaves_is_a_disconnect(stubborn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sollol.gateway.asgi._PATIENCE", 0.05)
    heard: list[str] = []
    over = asyncio.Event()

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        heard.append("started")
        heard.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"nobody reads this"})
        try:
            if stubborn:
                await asyncio.Event().wait()
        finally:
            over.set()

    async with doors(behind(waiting)) as door:
        client = await door.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: heard)
        client.leave()
        await asyncio.wait_for(over.wait(), 5)
        assert heard == ["started", "http.disconnect"]


async def test_a_slow_client_makes_the_application_wait() -> None:
    sent = 0

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
            sent += 1
            await asyncio.sleep(0)

    app: AsgiApp = endless
    async with doors(behind(app)) as door:
        client = await door.client()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's streams have no word for it
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: sent)
        await stalled(lambda: sent)
        assert sent < 1_000
        client.leave(reset=True)


async def test_plain_text_with_a_head_request() -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async with doors(behind(Starlette(routes=[Route("/", hello)]))) as door:
        client = await door.client()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await client.answer(head_only=True)
        assert (answer.status, answer.headers[b"content-length"]) == (200, b"5")
