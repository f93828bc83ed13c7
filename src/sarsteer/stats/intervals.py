"""Wilson's score interval, and the effective sample size of clustered outcomes."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054


def wilson_interval(p: float, n: float, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share ``p`` of ``n`` outcomes (Wilson 1927)."""
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


def upper_bound(value: float, n: float, confidence: float) -> float:
    """The one-sided upper bound of a rate at ``confidence``: the rate itself at 0.5, more above it (Wilson 1927)."""
    return wilson_interval(value, n, max(0.0, NormalDist().inv_cdf(confidence)))[1]


def effective_sample_size(sums: NDArray[np.float64], p: float, n: int) -> float:
    """The number of independent outcomes that would give the same variance (Kish; Korn and Graubard 1998).

    Args:
        sums: hits and outcomes of each cluster, ``[C, 2]``.
        p: the share of hits.
        n: the number of outcomes.

    """
    count = len(sums)
    if count == 1 or p in (0.0, 1.0):
        return float(count)
    # the variance of a ratio of cluster totals, by linearization (Cochran 1977, section 9A)
    variance = count / (count - 1) * float(((sums[:, 0] - p * sums[:, 1]) ** 2).sum()) / n**2
    return float(n) if variance <= 0 else min(float(n), max(1.0, p * (1 - p) / variance))
