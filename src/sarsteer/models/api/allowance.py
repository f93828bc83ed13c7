"""How many requests may be sent to a server, and how fast. Every try counts, also a retry of the client."""

from __future__ import annotations

import math
from typing import Any

from sarsteer.errors import ModelError


class Spent(BaseException):
    """Nothing may be sent any more. Not an ``Exception``: the client would try those again."""


class Allowance:
    """A budget of requests, and a rate.

    Args:
        budget: requests in all; None for no limit.
        per_minute: requests per minute, evenly spaced; None for no limit.

    Raises:
        ModelError: a limit is not above 0.

    """

    def __init__(self, budget: int | None = None, per_minute: float | None = None) -> None:
        if budget is not None and budget < 1:
            raise ModelError(f"the budget must be at least 1 request, not {budget}")
        if per_minute is not None and not (math.isfinite(per_minute) and per_minute > 0):
            raise ModelError(f"the rate must be above 0 requests per minute, not {per_minute:g}")
        self.budget, self.per_minute = budget, per_minute
        self.sent = 0
        self._next = 0.0

    def check(self) -> None:
        """Raise ``Spent`` if nothing may be sent any more."""
        if self.budget is not None and self.sent >= self.budget:
            raise Spent

    def client(self) -> dict[str, Any]:
        """Options of an ``openai.AsyncOpenAI`` that counts and delays its requests; none without limits."""
        if self.budget is None and self.per_minute is None:
            return {}
        import openai

        return {"http_client": openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._admit]})}

    async def _admit(self, _request: Any) -> None:
        import anyio

        self.check()
        self.sent += 1
        if self.per_minute is not None:
            now = anyio.current_time()
            start = max(self._next, now)
            self._next = start + 60 / self.per_minute
            await anyio.sleep(start - now)
