"""Replies, replies that are on their way, and bodies: values, without a node."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.errors import BadValue
from sollol.pool import bodies
from sollol.pool.pending import Later, pending
from sollol.pool.replies import ChatReply, EmbedReply, ListReply, Reply, moment, wrap

CHAT: dict[str, Any] = {
    "model": "m",
    "message": {"role": "assistant", "content": "Hi", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    "done": True,
    "_sollol_routing": {"host": "h:1", "task_type": "chat"},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_document_stays_the_same_document(document):
    reply = wrap(Reply, document)
    assert reply == document
    assert json.loads(json.dumps(reply)) == document
    assert msgspec.json.decode(msgspec.json.encode(reply)) == document
    assert pickle.loads(pickle.dumps(reply)) == document
    assert copy.deepcopy(reply) == document


def test_keys_are_attributes_all_the_way_down():
    reply = wrap(ChatReply, CHAT)
    assert reply.message.content == "Hi"
    assert reply.message.tool_calls[0].function.arguments == {"a": 1}
    assert reply.routing.host == reply["_sollol_routing"]["host"] == "h:1"
    assert reply.eval_count is None
    assert "eval_count" not in reply
    reply.done_reason = "stop"
    assert reply["done_reason"] == "stop"
    del reply.done_reason
    assert reply.done_reason is None
    with pytest.raises(AttributeError, match="it has: model, message"):
        _ = reply.content
    assert wrap(ChatReply, {"message": {}}).routing is None


def test_vectors_of_several_texts_and_of_one():
    document = {"model": "e", "embeddings": [[1.0, 2.0], [3.0, 4.0]]}
    several = EmbedReply.of(document, single=False)
    assert (len(several), list(several), several[1], several[:1]) == (2, document["embeddings"], [3.0, 4.0], [[1.0, 2.0]])
    single = EmbedReply.of({"embeddings": [[1.0, 2.0]]}, single=True)
    assert (len(single), list(single), single[0], single["embeddings"]) == (2, [1.0, 2.0], 1.0, [[1.0, 2.0]])
    for reply in (several, single):
        assert json.loads(json.dumps(reply)) == dict(reply.items())
        again = pickle.loads(pickle.dumps(reply))
        assert (again, list(again)) == (reply, list(reply))
        assert reply.model_dump() == dict(reply.items())
    assert len(EmbedReply.of({"embeddings": []}, single=True)) == 0


def test_times_are_read():
    entry = wrap(ListReply, {"models": [{"modified_at": "2026-11-21T05:04:00.052483272Z"}, {"modified_at": "soon"}, {}]})
    times = [model.modified_at for model in entry.models]
    assert (times[0].year, times[0].microsecond, times[1:]) == (2026, 52483, [None, None])
    assert moment(5) is None


# --- replies on their way


def on_its_way(reply: Any) -> tuple[Future[Any], list[str], Any]:
    future: Future[Any] = Future()
    blocked: list[str] = []
    waiting = pending(type(reply), future, lambda: blocked.append("waits"))
    return future, blocked, waiting


USES: list[Callable[[Any], Any]] = [
    lambda reply: reply["message"]["content"],
    lambda reply: reply.message.content,
    json.dumps,
    repr,
    str,
    len,
    list,
    dict,
    bool,
    pickle.dumps,
    copy.copy,
    copy.deepcopy,
    lambda reply: {**reply},
    lambda reply: "message" in reply,
    lambda reply: reply == CHAT,
    lambda reply: reply.get("model"),
    lambda reply: sorted(reply.keys()),
    lambda reply: reply.routing.host,
    lambda reply: reply.model_dump(),
    lambda reply: f"{reply}",
    lambda reply: reply | {"x": 1},
    lambda reply: reply.update(x=1),
    lambda reply: reply.pop("model"),
]


@pytest.mark.parametrize("use", USES)
def test_any_use_waits_and_finds_the_reply(use):
    future, blocked, waiting = on_its_way(wrap(ChatReply, CHAT))
    assert isinstance(waiting, ChatReply)
    future.set_result(wrap(ChatReply, CHAT))
    assert use(waiting) == use(wrap(ChatReply, CHAT))
    assert type(waiting) is ChatReply
    assert blocked == []


def test_vectors_on_their_way():
    reply = EmbedReply.of({"embeddings": [[1.0, 2.0]]}, single=True)
    future, _, waiting = on_its_way(reply)
    future.set_result(reply)
    assert list(waiting) == [1.0, 2.0]
    assert waiting["embeddings"] == [[1.0, 2.0]]
    future, _, waiting = on_its_way(reply)
    future.set_result(reply)
    assert waiting[0] == 1.0


async def test_awaiting_does_not_block_and_gather_works():
    future, blocked, waiting = on_its_way(wrap(ChatReply, CHAT))
    asyncio.get_running_loop().call_later(0.01, future.set_result, wrap(ChatReply, CHAT))
    assert await asyncio.gather(waiting, waiting) == [CHAT, CHAT]
    assert blocked == []


def test_what_must_wait_says_so_first_and_errors_come_through():
    import threading

    future, blocked, waiting = on_its_way(wrap(ChatReply, CHAT))
    timer = threading.Timer(0.05, future.set_exception, [KeyError("gone")])
    timer.start()
    with pytest.raises(KeyError, match="gone"):
        waiting.get("message")
    timer.join()
    assert blocked == ["waits"]


async def test_results_that_are_no_documents():
    future: Future[Any] = Future()
    future.set_result([1, 2])
    later: Later[Any] = Later(future, lambda: None)
    assert (bool(later), len(later), list(later), later[1], later == [1, 2], repr(later)) == (
        True,
        2,
        [1, 2],
        2,
        True,
        "[1, 2]",
    )
    assert later.index(2) == 1
    assert await later == [1, 2]
    assert len({later}) == 1


# --- bodies


def weather(
    city: str, unit: Literal["C", "F"] = "C", days: int | None = None, tags: tuple[str, ...] = (), *, deep: Annotated[bool, 1]
) -> str:
    """Tell the weather.

    It never lies.

    Args:
        city (str): Where, as people
            call it
        unit: how warm is written
    Returns:
        str: words
    """
    return city


def test_a_function_is_described():
    (tool,) = bodies.tools([weather])
    function = tool["function"]
    assert (tool["type"], function["name"], function["description"]) == (
        "function",
        "weather",
        "Tell the weather.  It never lies.",
    )
    assert function["parameters"]["required"] == ["city", "deep"]
    properties = function["parameters"]["properties"]
    assert properties["city"] == {"type": "string", "description": "Where, as people call it"}
    assert {name: value["type"] for name, value in properties.items()} == {
        "city": "string",
        "unit": "string",
        "days": "integer",
        "tags": "array",
        "deep": "boolean",
    }
    assert bodies.tools([tool]) == [tool]
    assert bodies.tools(None) is None


def test_images_in_every_form(tmp_path: Path):
    file = tmp_path / "picture.png"
    file.write_bytes(b"abc")

    @dataclass
    class Image:
        value: bytes

    assert bodies.images([b"abc", file, str(file), "YWJj", Image(b"abc")]) == ["YWJj"] * 5
    assert bodies.images(b"abc") == ["YWJj"]
    for wrong in ("not base64!", tmp_path / "not there", 5):
        with pytest.raises(BadValue):
            bodies.images([wrong])
    (message,) = bodies.messages([{"role": "user", "content": "?", "images": [b"abc"]}])
    assert message["images"] == ["YWJj"]


def test_values_of_other_packages_become_json():
    class Model:
        def model_dump(self, exclude_none: bool) -> dict[str, int]:
            return {"num_ctx": 5}

    class Array:
        def tolist(self) -> list[int]:
            return [1]

    assert bodies.encoded({"options": Model(), "a": Array(), "b": None, "c": iter([1]), "d": {1}}) == (
        b'{"options":{"num_ctx":5},"a":[1],"c":[1],"d":[1]}'
    )
    with pytest.raises(BadValue):
        bodies.encoded({"a": object()})
