"""Whatever a client sends, the door goes on serving the others."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.door_app import TestApp, doors

GET = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"
PARTS = [
    b"GET / HTTP/1.1\r\n",
    b"POST /x HTTP/1.1\r\n",
    b"HEAD / HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 2000\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"hello",
    b"\n",
    b"\0",
    b" ",
]
pieces = st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=30)), min_size=1, max_size=25)


@settings(max_examples=40)
@given(st.lists(st.tuples(pieces, st.lists(st.integers(0, 300), max_size=5), st.booleans()), min_size=3, max_size=12))
def test_nothing_that_a_client_sends_harms_another(sessions: list[tuple[list[bytes], list[int], bool]]) -> None:
    async def check() -> None:
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with doors(TestApp()) as door:
            honest = await door.client()
            for parts, cuts, reset in sessions:
                data = b"".join(parts)
                marks = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
                client = await door.client()
                for start, end in itertools.pairwise(marks):
                    client.writer.write(data[start:end])
                    await asyncio.sleep(0)
                client.leave(reset=reset)
            assert (await honest.ask(GET)).body == b"GET /ok? "
            assert (await door.ask(GET)).body == b"GET /ok? "
        assert problems == []

    asyncio.run(check())


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=30), max_size=4), st.lists(st.integers(0, 600), max_size=12), st.booleans())
def test_legal_requests_are_served_however_they_are_cut(bodies: list[bytes], cuts: list[int], chunked: bool) -> None:
    def request(body: bytes) -> bytes:
        if not chunked:
            return b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        chunks = b"".join(b"%x\r\n%b\r\n" % (1, body[at : at + 1]) for at in range(len(body)))
        return b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks

    async def check() -> None:
        async with doors(TestApp()) as door:
            client = await door.client()
            data = b"".join(map(request, bodies))
            marks = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
            for start, end in itertools.pairwise(marks):
                await client.send(data[start:end])
            for body in bodies:
                assert (await client.answer()).body == b"POST /x? " + body

    asyncio.run(check())
