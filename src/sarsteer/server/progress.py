"""Follows a batch while transformers generates it: reports tokens, and tells which rows are finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from sarsteer.errors import SteeringError
from sarsteer.server.job import Row, Started
from sarsteer.steering.handle import SteeringHandle


class Progress(StoppingCriteria):  # type: ignore[misc]
    """Called after each token with the tokens so far.

    Args:
        handle: the steering, which knows what the gate decided.
        rows: the rows of the batch.
        prompt_tokens: the length of each row's prompt.
        ends: tokens that end an answer.
        flush: called when a step's events have been reported.

    """

    def __init__(
        self,
        handle: SteeringHandle,
        rows: Sequence[Row],
        prompt_tokens: Sequence[int],
        ends: Collection[int],
        flush: Callable[[], None],
    ) -> None:
        self._handle, self._rows, self._prompt_tokens = handle, rows, prompt_tokens
        self._ends, self._flush = ends, flush
        self._started = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Take the newest token of each row; returns which rows are done, ``[B]``."""
        tokens = input_ids[:, -1].tolist()
        if len(tokens) != len(self._rows):
            raise SteeringError(f"{len(tokens)} rows in a batch of {len(self._rows)}; nothing was answered")
        if not self._started:
            self._started = True
            begin(self._rows, self._handle, self._prompt_tokens)
        for row, token in zip(self._rows, tokens, strict=True):
            if not row.done:
                row.take(token, ends=token in self._ends)
        self._flush()
        return torch.tensor([row.done for row in self._rows], device=input_ids.device)


def begin(rows: Sequence[Row], handle: SteeringHandle, prompt_tokens: Sequence[int]) -> None:
    """The prefill of these rows is over, and the gate has decided: report it.

    Raises:
        SteeringError: the gate did not decide on each row.

    """
    if handle.gate is not None:
        decisions = handle.decisions
        if len(decisions) != len(rows):
            raise SteeringError(f"the gate decided on {len(decisions)} of {len(rows)} rows")
        for row, decision in zip(rows, decisions, strict=True):
            row.decision = decision
    for row, length in zip(rows, prompt_tokens, strict=True):
        if row.done:
            continue
        if not row.job.started:
            row.job.started = True
            row.job.notify(Started(row.decision, length))
        text = row.job.tenant.refusal_text
        if text is not None and row.decision is not None and row.decision.harmful and not row.job.tenant.shadow:
            row.refuse(text)
