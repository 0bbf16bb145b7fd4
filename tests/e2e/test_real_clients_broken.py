"""A stream that breaks in its middle is no answer: every package says so to its caller, in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.gateway import gateway

from sollol.core.types import NodeKind
from sollol.emulator.presets import LLAMA_1B
from sollol.emulator.specs import NodeSpec
from sollol.emulator.threaded import Machines

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("broken streams")]

MODEL, FILE = LLAMA_1B.name, "llama3.2-1b"  # the latter at llama.cpp: without .gguf, as it is listed
HELLO: Any = [{"role": "user", "content": "Tell me a story"}]
KINDS = (NodeKind.OLLAMA, NodeKind.OPENAI, NodeKind.LLAMACPP)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    specs = [NodeSpec(kind, kind=kind, prefill=1e5, decode=2_000, load_gbps=1e6, models=(LLAMA_1B,)) for kind in KINDS]
    with Machines(specs) as opened:
        yield opened


def by_ollama(url: str, model: str, got: list[str]) -> None:
    import ollama

    with ollama.Client(host=url) as client:
        try:
            for part in client.chat(model, HELLO, stream=True):
                got.append(part.message.content)
                assert not part.done, "it was told to be complete"
        except ollama.ResponseError as error:
            raise Told(str(error)) from error


def by_openai(url: str, model: str, got: list[str]) -> None:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        try:
            for chunk in client.chat.completions.create(model=model, messages=HELLO, stream=True):
                got.append(chunk.choices[0].delta.content or "")
                assert chunk.choices[0].finish_reason is None, "it was told to be complete"
        except openai.APIError as error:
            raise Told(str(error)) from error


def by_responses(url: str, model: str, got: list[str]) -> None:
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        try:
            for event in client.responses.create(model=model, input=HELLO, stream=True):
                assert event.type != "response.completed", "it was told to be complete"
                if event.type == "response.output_text.delta":
                    got.append(event.delta)
                if event.type == "response.failed" and event.response.error is not None:
                    raise Told(event.response.error.message)
        except openai.APIError as error:
            raise Told(str(error)) from error


def by_anthropic(url: str, model: str, got: list[str]) -> None:
    import anthropic

    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        try:
            with client.messages.stream(model=model, messages=HELLO, max_tokens=500) as stream:
                for text in stream.text_stream:
                    got.append(text)
        except anthropic.APIError as error:
            raise Told(str(error)) from error


class Told(Exception):
    """The package raised an error of its own."""


@pytest.mark.parametrize("fault", ["die_after", "end_after", "error_after"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", [by_ollama, by_openai, by_responses, by_anthropic])
def test_a_broken_stream_is_told(machines, use: Callable[[str, str, list[str]], None], kind: NodeKind, fault: str):
    machines.see(lambda cluster: cluster[kind].faults.clear())
    with gateway(machines.urls[KINDS.index(kind)]) as url:
        machines.see(lambda cluster: cluster[kind].faults.set(**{fault: 5}))
        got: list[str] = []
        with pytest.raises(Told):
            use(url, FILE if kind is NodeKind.LLAMACPP else MODEL, got)
        assert "".join(got).count(" ") >= 4, "what came before it broke"
