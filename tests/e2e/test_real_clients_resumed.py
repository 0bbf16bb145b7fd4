"""A node that dies in the middle of an answer: Anthropic's and OpenAI's newer packages read the answer of one that did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.support.gateway import gateway

from sollol.core.types import NodeKind
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("resumed streams")]

FILE = "llama3.2-1b"
TELL: Any = [{"role": "user", "content": "Tell me a story"}]
NAMES = ("first", "second")
Answer = tuple[str, int, str]
"""Text, tokens of it, and why it ended."""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    models = (replace(LLAMA_1B, answer_tokens=24),)
    kind = NodeKind.LLAMACPP
    specs = [NodeSpec(name, kind=kind, prefill=1e5, decode=2_000, load_gbps=1e6, models=models) for name in NAMES]
    with Machines(specs) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(machines: Machines) -> Iterator[str]:
    """A gateway that asks the first node while it can."""
    first, second = machines.urls
    with gateway({"url": first, "priority": 9}, second) as url:
        yield url


def streamed_message(url: str) -> Answer:
    import anthropic

    with (
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
        client.messages.stream(model=FILE, messages=TELL, max_tokens=500) as stream,
    ):
        text = "".join(stream.text_stream)
        whole = stream.get_final_message()
    assert [block.text for block in whole.content if block.type == "text"] == [text]
    return text, whole.usage.output_tokens, str(whole.stop_reason)


def whole_message(url: str) -> Answer:
    import anthropic

    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(model=FILE, messages=TELL, max_tokens=500)
    (block,) = whole.content
    assert block.type == "text"
    return block.text, whole.usage.output_tokens, str(whole.stop_reason)


def streamed_response(url: str) -> Answer:
    import openai

    texts: list[str] = []
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        client.responses.stream(model=FILE, input=TELL) as stream,
    ):
        for number, event in enumerate(stream):
            assert event.sequence_number == number
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
        whole = stream.get_final_response()
    assert whole.output_text == "".join(texts)
    assert whole.usage is not None
    return whole.output_text, whole.usage.output_tokens, str(whole.status)


def whole_response(url: str) -> Answer:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        whole = client.responses.create(model=FILE, input=TELL)
    assert whole.usage is not None
    return whole.output_text, whole.usage.output_tokens, str(whole.status)


@pytest.mark.parametrize("fault", ["die_after", "end_after", "error_after"])
@pytest.mark.parametrize("use", [streamed_message, whole_message, streamed_response, whole_response])
def test_an_answer_that_broke_is_whole(machines: Machines, url: str, use: Callable[[str], Answer], fault: str) -> None:
    machines.see(lambda cluster: cluster["first"].faults.clear())
    truth = use(url)
    assert truth[1] > 12
    before = machines.see(lambda cluster: cluster["second"].stats.inference)
    machines.see(lambda cluster: cluster["first"].faults.set(**{fault: 9}))
    assert use(url) == truth
    assert machines.see(lambda cluster: cluster["second"].stats.inference) == before + 1
