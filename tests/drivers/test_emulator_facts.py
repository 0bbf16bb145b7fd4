"""The emulated node against facts of a real Ollama: status, headers and their order, framing, shape, words of errors."""

from __future__ import annotations

import json

import pytest
from tests.support.emulated import ask
from tests.support.emulator_shapes import headers_of, shape
from tests.support.recorded import FACTS, body_of, prepare, spec_for

from sollol.emulator.server import EmulatedCluster


@pytest.mark.parametrize("fact", FACTS, ids=lambda f: f["name"])
async def test_answers_like_a_real_node(fact):
    async with EmulatedCluster([spec_for(fact)]) as cluster:
        node = cluster.nodes[0]
        prepare(node, fact)
        got = await ask(node, fact["method"], fact["path"], body_of(fact), fact["headers"])
    content_type = got.header("Content-Type") or ""
    assert got.status == fact["status"]
    assert json.dumps(shape(got.body.decode(), content_type), indent=1) == json.dumps(fact["shape"], indent=1)  # keys in order
    if fact["framing"] != "chunked" or got.framing != "length" or "stream" in content_type or "ndjson" in content_type:
        assert got.framing == fact["framing"]
        assert headers_of(got.headers) == fact["reply_headers"]
    assert got.complete
