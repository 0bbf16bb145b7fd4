"""A real llama.cpp server is killed in the middle of a response that is told in translation: another one goes on with it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.support.gateway import gateway
from tests.support.llama_cpp import SLOW

TOKENS, CUT = 120, 40
ASKED = {"model": "tiny", "input": "Tell me a story", "stream": True, "max_output_tokens": TOKENS, "temperature": 0}
HEADERS = {"Content-Type": "application/json", "X-SOLLOL-Cache": "no"}


def events(url: str, after: Callable[[], object]) -> list[dict[str, Any]]:
    """All events of one response; `after` is called once when some of its text has come."""
    request = urllib.request.Request(f"{url}/v1/responses", json.dumps(ASKED).encode(), HEADERS)
    found: list[dict[str, Any]] = []
    with urllib.request.urlopen(request, timeout=60) as reply:
        for line in reply:
            if line.startswith(b"data:"):
                found.append(json.loads(line[5:]))
                if len(found) == CUT:
                    after()
    return found


def test_a_response_of_a_server_that_is_killed_is_whole(llama_server) -> None:
    first, second = llama_server(shape=SLOW), llama_server(shape=SLOW)
    with gateway({"url": first.url, "priority": 9}, second.url) as url:
        unbroken = events(url, lambda: None)
        seen = events(url, first.kill)
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    texts = [event["delta"] for event in seen if event["type"] == "response.output_text.delta"]
    last = seen[-1]["response"]
    assert (seen[-1]["type"], last["incomplete_details"]) == ("response.incomplete", {"reason": "max_output_tokens"})
    assert last["output"][0]["content"][0]["text"] == "".join(texts)
    assert last["usage"] == unbroken[-1]["response"]["usage"]
    assert last["usage"]["output_tokens"] == TOKENS
    assert last["_sollol_routing"] == {"resumed_from": [first.url.removeprefix("http://")]}
    # What comes after the break may differ: a prompt that is read in one piece is rounded in another way.
    before = [event["delta"] for event in unbroken[:CUT] if event["type"] == "response.output_text.delta"]
    assert texts[: len(before)] == before
