"""The real clock."""

from __future__ import annotations

import random
import time


class SystemClock:
    """Monotonic seconds, the wall clock, and chance."""

    def __init__(self) -> None:
        self.now = time.monotonic
        self.wall = time.time
        self.jitter = random.random
