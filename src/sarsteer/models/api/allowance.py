"""How many requests may be sent to a server, and how fast. Every try counts, also a retry of the client."""

from __future__ import annotations

import math
from typing import Any

from sarsteer.errors import ModelError


class _SpentError(Exception):
    """Stops a retry inside the client."""


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

    def check(self, name: str, spent_by: Exception | None = None) -> None:
        """Raise ``ModelError`` if nothing may be sent any more.

        Args:
            name: the model's, for the message.
            spent_by: raise only if this error comes from the budget, which ended a retry.

        """
        cause = spent_by
        while cause is not None and not isinstance(cause, _SpentError):
            cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
        if self.budget is not None and self.sent >= self.budget and (spent_by is None or cause is not None):
            raise ModelError(
                f"{name}: the budget of {self.budget} requests is spent; run the same command again for as many more"
            )

    def client(self) -> dict[str, Any]:
        """Options of an ``openai.AsyncOpenAI`` that counts and delays its requests; none without limits."""
        if self.budget is None and self.per_minute is None:
            return {}
        import openai

        return {"http_client": openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._admit]})}

    async def _admit(self, _request: Any) -> None:
        import anyio

        if self.budget is not None and self.sent >= self.budget:
            raise _SpentError
        self.sent += 1
        if self.per_minute is not None:
            now = anyio.current_time()
            start = max(self._next, now)
            self._next = start + 60 / self.per_minute
            await anyio.sleep(start - now)
