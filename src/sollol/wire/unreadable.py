"""What reading JSON of others may raise."""

from __future__ import annotations

from typing import Final

import msgspec

# msgspec lets the decoder of text speak for itself where a string is not UTF-8, and Python its limit of nesting.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
