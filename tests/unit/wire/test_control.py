from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Mode
from sollol.errors import BadRequest
from sollol.wire.control import Control, control


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"X-SOLLOL-Priority", b"7", {"priority": 7}),
        (b"x-sollol-priority", b" Batch ", {"priority": 1}),
        (b"x-sollol-mode", b"fast", {"mode": Mode.FAST}),
        (b"x-sollol-timeout", b"2.5", {"timeout": 2.5}),
        (b"x-sollol-app", b"editor", {"app": "editor"}),
        (b"x-sollol-node", b"gpu-1:11434", {"node": "gpu-1:11434"}),
        (b"x-sollol-node", b"", {"node": None}),
        (b"x-sollol-details", b"body", {"details": True}),
        (b"x-sollol-details", b"header", {"details": False}),
        (b"x-sollol-hops", b"2", {"hops": 2}),
        (b"x-sollol-unknown", b"?", {}),
        (b"x-other", b"?", {}),
        (b"content-type", b"x-sollol-priority", {}),
    ],
)
def test_headers(name: bytes, value: bytes, expected: dict[str, Any]) -> None:
    assert control([(b"host", b"x"), (name, value)]) == Control(**expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-sollol-priority", b"0"),
        (b"x-sollol-priority", b"11"),
        (b"x-sollol-priority", b"\xff"),
        (b"x-sollol-priority", "²".encode()),
        (b"x-sollol-mode", b"turbo"),
        (b"x-sollol-timeout", b"0"),
        (b"x-sollol-timeout", b"-1"),
        (b"x-sollol-timeout", b"nan"),
        (b"x-sollol-timeout", b"inf"),
        (b"x-sollol-timeout", b"soon"),
        (b"x-sollol-app", b"a" * 257),
        (b"x-sollol-node", b"a\x01b"),
        (b"x-sollol-details", b"everything"),
        (b"x-sollol-hops", b"-1"),
        (b"x-sollol-hops", b"99999"),
    ],
)
def test_values_out_of_range_name_their_header(name: bytes, value: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        control([(name, value)])
    assert str(caught.value).lower().startswith(name.decode())


@given(st.sampled_from([b"priority", b"mode", b"timeout", b"app", b"node", b"details", b"hops"]), st.binary(max_size=30))
def test_any_value_is_read_or_refused(name: bytes, value: bytes) -> None:
    try:
        found = control([(b"x-sollol-" + name, value)])
    except BadRequest:
        return
    assert found.priority is None or 1 <= found.priority <= 10
    assert found.timeout is None or 0 < found.timeout <= 86_400
