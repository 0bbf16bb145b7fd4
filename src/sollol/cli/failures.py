"""What can go wrong between a command and a gateway."""

from __future__ import annotations

from sollol.errors import SollolError


class NothingRuns(SollolError):
    """No gateway answers at the address."""

    def __init__(self, url: str, why: str = "") -> None:
        detail = f" ({why})" if why else ""
        super().__init__(f"No SOLLOL gateway answers at {url}{detail}. Start one with `sollol up`.")


class GatewayRefused(SollolError):
    """The gateway answered with an error; `http_status` and its words."""

    def __init__(self, http_status: int, text: str) -> None:
        self.http_status = http_status
        super().__init__(text)
