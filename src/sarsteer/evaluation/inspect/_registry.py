"""What Inspect finds through the package's entry point. Every ``inspect`` command imports this, so torch is not."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import modelapi

from sarsteer.evaluation.inspect.scorers import judged, rates
from sarsteer.evaluation.inspect.tasks import TASKS

__all__ = ["TASKS", "judged", "provider", "rates"]


@modelapi(name="sarsteer")
def provider() -> Any:
    """``sarsteer/MODEL``."""
    from sarsteer.evaluation.inspect.provider import SarsteerAPI

    return SarsteerAPI
