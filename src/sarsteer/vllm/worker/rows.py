"""Which rows of a step's flat batch are steered: those whose position in their request is >= prompt length − 1.

That is "the last position of each forward", expressed without forwards: it holds under chunked prefill, preemption,
prefix caching and mixed batches. Positions are counted from the tokens already computed, never read from the model's
``positions``, which M-RoPE families number differently.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

OPEN, NOWHERE = 0, 1
"""Slots for gate decisions that belong to no request: one that is always open, and one that is never read."""


@dataclass(frozen=True)
class Rows:
    """What the hooks read for a step's rows: ``[sum(scheduled)]`` each.

    Attributes:
        strengths: alpha, or 0 for a row that is not steered; float32.
        sets: index of the vector set.
        slots: slot with the gate's decision for the row's request.
        decided: slot that this row's decision is written to: its request's slot at the last prompt token.

    """

    strengths: NDArray[np.float32]
    sets: Ints
    slots: Ints
    decided: Ints

    def __len__(self) -> int:
        return len(self.strengths)

    def equals(self, other: Rows | None) -> bool:
        """Whether all values are equal."""
        return other is not None and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        )


def past_prompt(computed: Any, scheduled: Any, prompt_lengths: Any) -> Ints:
    """``[sum(scheduled)]``: each row's distance from the last prompt token, which is 0. Rows with >= 0 are steered.

    Args:
        computed: tokens of each request that were computed before this step.
        scheduled: tokens of each request in this step.
        prompt_lengths: tokens of each request's prompt.

    """
    scheduled = np.asarray(scheduled, dtype=np.int64)
    ends = np.cumsum(scheduled)
    offsets = np.asarray(computed) - (ends - scheduled) - (np.asarray(prompt_lengths) - 1)
    distances: Ints = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(offsets, scheduled)
    return distances


def rows_of(
    alphas: Any,
    sets: Any,
    computed: Any,
    scheduled: Any,
    prompt_lengths: Any,
    slots: Any = OPEN,
    decided: Any = NOWHERE,
) -> Rows:
    """The rows of a step. ``alphas``, ``sets``, ``slots`` and ``decided`` have one value for each request."""
    counts = np.asarray(scheduled, dtype=np.int64)
    distances = past_prompt(computed, counts, prompt_lengths)

    def per_row(values: Any, dtype: Any) -> Any:
        return np.repeat(np.broadcast_to(np.asarray(values, dtype=dtype), counts.shape), counts)

    return Rows(
        np.where(distances >= 0, per_row(alphas, np.float32), np.float32(0)),
        per_row(sets, np.int64),
        per_row(slots, np.int64),
        np.where(distances == 0, per_row(decided, np.int64), NOWHERE),
    )
