"""Which rows of a step's flat batch are steered: those whose position in their request is >= prompt length − 1.

That is "the last position of each forward" said without forwards: it holds under chunked prefill, preemption, prefix
caching and mixed batches. Positions are counted from the tokens already computed, never taken from the model's own
``positions``, which M-RoPE families number in another way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def steered_rows(computed: Any, scheduled: Any, prompt_lengths: Any) -> NDArray[np.bool_]:
    """``[sum(scheduled)]``: whether each row is steered.

    Args:
        computed: tokens of each request that were computed before this step.
        scheduled: tokens of each request in this step.
        prompt_lengths: of each request.

    """
    scheduled = np.asarray(scheduled, dtype=np.int64)
    ends = np.cumsum(scheduled)
    first = np.repeat(ends - scheduled, scheduled)
    position = np.arange(int(ends[-1]) if len(ends) else 0) - first + np.repeat(np.asarray(computed), scheduled)
    steered: NDArray[np.bool_] = position >= np.repeat(np.asarray(prompt_lengths), scheduled) - 1
    return steered


def row_strengths(
    alphas: Any, sets: Any, computed: Any, scheduled: Any, prompt_lengths: Any
) -> tuple[NDArray[np.float32], Ints]:
    """Strength and vector set of each row: ``[sum(scheduled)]`` each. A row that is not steered has strength 0."""
    counts = np.asarray(scheduled, dtype=np.int64)
    steered = steered_rows(computed, counts, prompt_lengths)
    strengths = np.where(steered, np.repeat(np.asarray(alphas, dtype=np.float32), counts), np.float32(0))
    return strengths, np.repeat(np.asarray(sets, dtype=np.int64), counts)
