"""What follows the requests and steps of a vLLM model runner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class RunnerObserver(Protocol):
    """Called by ``runner_v1`` or ``runner_v2``."""

    def add(self, request_id: str, sampling_params: Any) -> None:
        """A request is new, or replaces one with the same id."""

    def remove(self, request_ids: Iterable[str]) -> None:
        """Requests are finished."""

    def step(self, request_ids: Sequence[str], computed: Any, scheduled: Any, prompt_lengths: Any) -> None:
        """A step's batch is final and its forward is next; the arguments are those of ``rows.past_prompt``."""
