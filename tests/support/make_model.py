"""Writes a tiny language model with random weights as a GGUF file that llama.cpp loads, in plain Python.

It answers with nonsense, but with real tokens, at real speed, and always the same at temperature 0: enough to test everything
around a model. `python -m tests.support.make_model OUT` writes one.
"""

from __future__ import annotations

import random
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_ALIGNMENT = 32
_WORDS = """
    a all and are as at be but by can day do for from get go good had has have he her him his house how i if in into is it its
    know like light long make man many may me more most much must my new no not now of on one or other our out over people see
    she small so some such than that the their them then there these they this time to two up us use very was water way we well
    were what when where which who will with word work world would year you your
"""
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} says {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant says{% endif %}"
)
_CALL = "<tool_call>"
_TOOLS_TEMPLATE = """
{%- for tool in tools or [] %}tool {{ tool | tojson }}
{% endfor %}{% for message in messages %}{{ message['role'] }} says {% if message['tool_calls'] %}
{%- for call in message['tool_calls'] %}<tool_call>{"name": "{{ call['function']['name'] }}", "arguments": {#- #}
{{- ' ' }}{{ call['function']['arguments'] | tojson }}}</tool_call>{% endfor %}
{%- else %}{{ message['content'] }}{% endif %}{{ '\n' }}
{%- endfor %}{% if add_generation_prompt %}assistant says{% endif %}"""
# How much the output of a model that calls tools speaks for a call always, and for an end after the call.
_FOR_A_CALL, _FOR_AN_END = 30.0, 90.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; `width` is a multiple of `heads`."""

    layers: int = 2
    width: int = 64
    inner: int = 128
    heads: int = 4
    context: int = 4_096


SMALL = Shape()


@dataclass(frozen=True)
class Token:
    text: str
    kind: int
    score: float


def write_model(path: Path, *, name: str = "tiny", seed: int = 1, shape: Shape = SMALL, tools: bool = False) -> Path:
    """Write a model whose weights follow from `seed`; two seeds give two models that answer differently.

    With ``tools`` it does nothing but call them: always one, with arguments that are chance as far as their schema leaves a
    choice, and then it ends. Its template knows tools.
    """
    tokens = list(_vocabulary())
    if tools:
        tokens.append(Token(_CALL, _NORMAL, -10_000.0))
    tensors = list(_tensors(shape, tokens, random.Random(seed)))
    if tools:
        tensors = [_calling(tensor, tokens, shape.width) for tensor in tensors]
    settings = list(_settings(name, shape, tokens, _TOOLS_TEMPLATE if tools else _TEMPLATE))
    if tools:
        # A grammar is made for the text of a prompt, which a space before it would be no part of.
        settings.append(("tokenizer.ggml.add_space_prefix", _BOOL, b"\x00"))
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings)))
    for key, kind, value in settings:
        head += _string(key) + struct.pack("<I", kind) + value
    offset = 0
    for tensor, sizes, data in tensors:
        head += _string(tensor) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, 0, offset)
        offset += len(_padded(data))
    with path.open("wb") as file:
        file.write(_padded(bytes(head)))
        for _, _, data in tensors:
            file.write(_padded(data))
    return path


def _vocabulary() -> Iterator[Token]:
    """Control tokens, all bytes, then pieces: every piece can be reached by joining two shorter ones."""
    yield from (Token("<unk>", _UNKNOWN, 0.0), Token("<s>", _CONTROL, 0.0), Token("</s>", _CONTROL, 0.0))
    yield from (Token(f"<0x{byte:02X}>", _BYTE, 0.0) for byte in range(256))
    pieces: dict[str, None] = {"\u2581": None}
    pieces.update((chr(code), None) for code in range(0x21, 0x7F))
    for word in _WORDS.split():
        pieces.update((f"\u2581{word[:end]}", None) for end in range(1, len(word) + 1))
    yield from (Token(piece, _NORMAL, -float(rank)) for rank, piece in enumerate(pieces))


def _settings(name: str, shape: Shape, tokens: list[Token], template: str) -> Iterator[tuple[str, int, bytes]]:
    def number(value: int) -> bytes:
        return struct.pack("<I", value)

    yield "general.architecture", _STRING, _string("llama")
    yield "general.name", _STRING, _string(name)
    yield "llama.vocab_size", _U32, number(len(tokens))
    yield "llama.context_length", _U32, number(shape.context)
    yield "llama.embedding_length", _U32, number(shape.width)
    yield "llama.block_count", _U32, number(shape.layers)
    yield "llama.feed_forward_length", _U32, number(shape.inner)
    yield "llama.attention.head_count", _U32, number(shape.heads)
    yield "llama.attention.head_count_kv", _U32, number(shape.heads)
    yield "llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-5)
    yield "llama.rope.dimension_count", _U32, number(shape.width // shape.heads)
    yield "tokenizer.ggml.model", _STRING, _string("llama")
    yield "tokenizer.ggml.tokens", _ARRAY, _array(_STRING, [_string(token.text) for token in tokens])
    yield "tokenizer.ggml.scores", _ARRAY, _array(_F32, [struct.pack("<f", token.score) for token in tokens])
    yield "tokenizer.ggml.token_type", _ARRAY, _array(_I32, [struct.pack("<i", token.kind) for token in tokens])
    yield "tokenizer.ggml.unknown_token_id", _U32, number(0)
    yield "tokenizer.ggml.bos_token_id", _U32, number(1)
    yield "tokenizer.ggml.eos_token_id", _U32, number(2)
    yield "tokenizer.ggml.add_bos_token", _BOOL, b"\x01"
    yield "tokenizer.chat_template", _STRING, _string(template)


def _tensors(shape: Shape, tokens: list[Token], chance: random.Random) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Name, sizes (fastest first) and 32-bit floats of every tensor."""
    width, inner, spread = shape.width, shape.inner, shape.width**-0.5

    def normal(count: int, deviation: float) -> bytes:
        return array("f", (chance.gauss(0.0, deviation) for _ in range(count))).tobytes()

    def ones() -> bytes:
        return array("f", [1.0] * width).tobytes()

    yield "token_embd.weight", (width, len(tokens)), normal(width * len(tokens), 1.0)
    yield "output_norm.weight", (width,), ones()
    # Only pieces of text get a say in what comes next: never half a character, never an early end.
    rows = (normal(width, 4 * spread) if token.kind == _NORMAL else bytes(4 * width) for token in tokens)
    yield "output.weight", (width, len(tokens)), b"".join(rows)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield f"{block}attn_norm.weight", (width,), ones()
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{block}{part}.weight", (width, width), normal(width * width, spread)
        yield f"{block}ffn_norm.weight", (width,), ones()
        yield f"{block}ffn_gate.weight", (width, inner), normal(width * inner, spread)
        yield f"{block}ffn_up.weight", (width, inner), normal(width * inner, spread)
        yield f"{block}ffn_down.weight", (inner, width), normal(width * inner, inner**-0.5)


def _calling(tensor: tuple[str, tuple[int, ...], bytes], tokens: list[Token], width: int) -> tuple[str, tuple[int, ...], bytes]:
    """The tensor, changed so that a call comes first and the end after it.

    Number 0 of a token's vector is the same for every token, number 1 is there for ">" alone, the last sign of a call. What
    comes next is read from them: a call by the former, an end by the latter.
    """
    name, sizes, data = tensor
    if name not in ("token_embd.weight", "output.weight"):
        return tensor
    numbers = array("f", data)
    for place, token in enumerate(tokens):
        if name == "token_embd.weight":
            numbers[place * width], numbers[place * width + 1] = 8.0, 8.0 if token.text == ">" else 0.0
        else:
            numbers[place * width] = _FOR_A_CALL if token.text == _CALL else 0.0
            numbers[place * width + 1] = _FOR_AN_END if token.text == "</s>" else 0.0
    return name, sizes, numbers.tobytes()


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _array(kind: int, items: Iterable[bytes]) -> bytes:
    items = list(items)
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
