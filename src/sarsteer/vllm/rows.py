"""Which rows of a step's flat batch are steered: those whose position in their request is >= prompt length − 1.

That is "the last position of each forward" said without forwards: it holds under chunked prefill, preemption, prefix
caching and mixed batches. Positions are counted from the tokens already computed, never taken from the model's own
``positions``, which M-RoPE families number in another way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

OPEN, NOWHERE = 0, 1
"""Slots of a gate's decisions that belong to no request: one that is always open, and one that nobody reads."""


@dataclass(frozen=True)
class Rows:
    """What the hooks are told of a step's rows: ``[sum(scheduled)]`` each.

    Attributes:
        strengths: alpha, or 0 where a row is not steered; float32.
        sets: which vector set.
        slots: where a gate's decision of the row's request lies.
        decided: the slot into which this row's decision goes: a request's own at its last prompt token.

    """

    strengths: NDArray[np.float32]
    sets: Ints
    slots: Ints
    decided: Ints

    def __len__(self) -> int:
        return len(self.strengths)

    def equals(self, other: Rows | None) -> bool:
        """Whether all is the same."""
        return other is not None and all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)
        )


def past_prompt(computed: Any, scheduled: Any, prompt_lengths: Any) -> Ints:
    """``[sum(scheduled)]``: each row's distance from the last prompt token, which is 0; what is steered is >= 0.

    Args:
        computed: tokens of each request that were computed before this step.
        scheduled: tokens of each request in this step.
        prompt_lengths: of each request.

    """
    scheduled = np.asarray(scheduled, dtype=np.int64)
    ends = np.cumsum(scheduled)
    offsets = np.asarray(computed) - (ends - scheduled) - (np.asarray(prompt_lengths) - 1)
    found: Ints = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(offsets, scheduled)
    return found


def rows_of(
    alphas: Any,
    sets: Any,
    computed: Any,
    scheduled: Any,
    prompt_lengths: Any,
    slots: Any = OPEN,
    decided: Any = NOWHERE,
) -> Rows:
    """The rows of a step; ``alphas``, ``sets``, ``slots`` and ``decided`` are given one for each request."""
    counts = np.asarray(scheduled, dtype=np.int64)
    offsets = past_prompt(computed, counts, prompt_lengths)

    def each(values: Any, kind: Any) -> Any:
        return np.repeat(np.broadcast_to(np.asarray(values, dtype=kind), counts.shape), counts)

    return Rows(
        np.where(offsets >= 0, each(alphas, np.float32), np.float32(0)),
        each(sets, np.int64),
        each(slots, np.int64),
        np.where(offsets == 0, each(decided, np.int64), NOWHERE),
    )
