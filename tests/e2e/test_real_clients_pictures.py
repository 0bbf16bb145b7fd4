"""Pictures, as each dialect's package sends them, before nodes of four kinds; and what is told where a picture cannot go."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.kinds import KINDS, MODEL, SEER, Kinds, every_kind

from sollol.core.types import NodeKind

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("pictures before every kind")]

QUESTION = "What is in the picture?"
PICTURE = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
TEXT = base64.b64encode(PICTURE).decode()
DATA = f"data:image/png;base64,{TEXT}"
ELSEWHERE = "https://example.com/cat.png"


@pytest.fixture(scope="module")
def kinds() -> Iterator[Kinds]:
    with every_kind(loaded=False) as opened:
        yield opened


def by_ollama(url: str, model: str) -> str:
    import ollama

    with ollama.Client(host=url) as client:
        chat = client.chat(model, [{"role": "user", "content": QUESTION, "images": [PICTURE]}]).message.content
        assert client.generate(model, QUESTION, images=[PICTURE]).response
    return str(chat)


def by_openai(url: str, model: str, picture: str = DATA) -> str:
    import openai

    parts: Any = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": picture, "detail": "low"}}]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])
    return str(reply.choices[0].message.content)


def by_responses(url: str, model: str, picture: str = DATA) -> str:
    import openai

    parts: Any = [
        {"type": "input_text", "text": QUESTION},
        {"type": "input_image", "image_url": picture, "detail": "auto"},
    ]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        return str(client.responses.create(model=model, input=[{"role": "user", "content": parts}]).output_text)


def by_anthropic(url: str, model: str, picture: str = DATA) -> str:
    import anthropic

    source = {"type": "base64", "media_type": "image/png", "data": TEXT} if picture == DATA else {"type": "url", "url": picture}
    parts: Any = [{"type": "text", "text": QUESTION}, {"type": "image", "source": source}]
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        reply = client.messages.create(model=model, max_tokens=500, messages=[{"role": "user", "content": parts}])
    return str(reply.content[0].text)


@pytest.mark.parametrize("use", [by_ollama, by_openai, by_responses, by_anthropic])
def test_a_picture_arrives(kinds, use: Callable[[str, str], str]):
    expected = use(kinds.nodes[NodeKind.OLLAMA], SEER)
    assert expected
    for kind in KINDS:
        assert use(kinds.gateways[kind], SEER) == expected, f"before a node of kind {kind}"


@pytest.mark.parametrize("use", [by_ollama, by_openai, by_responses, by_anthropic])
def test_a_model_that_does_not_see_is_not_asked(kinds, use: Callable[[str, str], str]):
    """Each package raises its own error for a 400, with words that say why. Of vLLM and others nobody knows what they can."""
    for kind in (NodeKind.OLLAMA, NodeKind.LMSTUDIO):
        with pytest.raises(Exception, match=r"vision|multimodal|image") as refused:
            use(kinds.gateways[kind], MODEL)
        assert refused.value.status_code == 400, f"before a node of kind {kind}"


@pytest.mark.parametrize("use", [by_responses, by_anthropic])
def test_a_picture_is_not_fetched_from_elsewhere(kinds, use: Callable[..., str]):
    """Where a request is translated. Elsewhere the node gets it as it is, and decides."""
    with pytest.raises(Exception, match=r"not fetched|image|picture") as refused:
        use(kinds.gateways[NodeKind.OPENAI], SEER, ELSEWHERE)
    assert refused.value.status_code == 400
