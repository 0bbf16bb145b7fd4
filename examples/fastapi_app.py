"""An endpoint of your own: one pool for all requests of the application, opened and closed with it.

pip install "fastapi[standard]"
fastapi run examples/fastapi_app.py     # then POST {"text": "..."} to /ask or /stream
python examples/fastapi_app.py          # asks both once, without a server
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel

from sollol import AsyncPool
from sollol.errors import SollolError

MODEL = os.environ.get("SOLLOL_MODEL", "llama3.2:1b")


class Question(BaseModel):
    text: str
    priority: int = 5


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncPool(app_name="questions") as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: Question, request: Request) -> dict[str, str | None]:
    pool: AsyncPool = request.app.state.pool
    messages = [{"role": "user", "content": question.text}]
    try:
        reply = await pool.chat(MODEL, messages, priority=question.priority, timeout=120)
    except SollolError as error:
        raise HTTPException(error.status, str(error)) from error
    return {"answer": reply.message.content, "node": reply.routing.host if reply.routing else None}


@app.post("/stream")
async def stream(question: Question, request: Request) -> StreamingResponse:
    pool: AsyncPool = request.app.state.pool
    pieces = pool.chat(MODEL, [{"role": "user", "content": question.text}], stream=True)

    async def text() -> AsyncIterator[str]:
        async with pieces:  # a client that leaves ends the answer at the node too
            async for piece in pieces:
                yield piece.message.content or ""

    return StreamingResponse(text(), media_type="text/plain")


if __name__ == "__main__":
    with TestClient(app) as client:
        print(client.post("/ask", json={"text": "Hello!", "priority": 8}).json())
        print(client.post("/stream", json={"text": "Hello again!"}).text)
