"""What a test needs of the machine: without it, it is skipped on a person's machine and fails in CI."""

from __future__ import annotations

import os

import pytest


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def require(condition: object, reason: str) -> None:
    """Go on if `condition` holds; else skip this test, or fail it in CI. ``reason`` says what is missing and how to get it."""
    if condition:
        return
    if in_ci():
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)
