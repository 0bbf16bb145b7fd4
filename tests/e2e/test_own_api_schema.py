"""The own API does what its OpenAPI document says: generated requests, right and wrong ones, against a running gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from schemathesis.schemas import BaseSchema

from sollol.config import Config, Discovery, Gateway, NodeSettings
from sollol.gateway.openapi import OPERATIONS, Operation
from sollol.server import SOLLOL

# Adding nodes is left to the tests of the door: generated addresses would be looked up and asked.
SAFE = [operation for operation in OPERATIONS if (operation.method, operation.path) != ("post", "/api/nodes")]
CASES = [
    pytest.param(operation, mode, id=f"{mode.value} {operation.method} {operation.path}")
    for operation in SAFE
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    # A request without body and query has nothing that could be wrong.
    if mode is GenerationMode.POSITIVE or operation.body is not None or operation.query is not None
]

# The generator of the test tool itself draws from `random`.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")


@pytest.fixture(scope="module")
def own_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    config = Config(
        gateway=Gateway(port=0, shutdown_seconds=0.0),
        nodes=(NodeSettings("127.0.0.1:1", name="nowhere"),),
        discovery=Discovery(enabled=False),
        data_dir=tmp_path_factory.mktemp("data"),
    )
    gateway = SOLLOL(config)
    gateway.start(blocking=False)
    try:
        yield schemathesis.openapi.from_url(f"{gateway.address}/api/openapi.json")
    finally:
        gateway.stop()


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_answers_match_the_document(own_api: BaseSchema, operation: Operation, mode: GenerationMode) -> None:
    @given(own_api[operation.path][operation.method].as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None)
    def answered(case: schemathesis.Case) -> None:
        case.call_and_validate()

    answered()
