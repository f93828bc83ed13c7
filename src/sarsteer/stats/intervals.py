"""95 % intervals of shares, differences of shares, and means, over clusters or single outcomes.

Each is a closed formula: nothing is drawn at random. ``benchmarks/intervals.py`` measures how often they contain the
true value. Tables are those of ``clusters``: one row of sums per cluster, and leading dimensions for several tables.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from sarsteer.stats.clusters import (
    Array,
    effective_clusters,
    effective_sample_size,
    mean_variance,
    residuals,
    t_quantile,
)

Z95 = 1.959963984540054
Interval = tuple[Array, Array]


def wilson_interval(p: Array | float, n: Array | float, z: float = Z95) -> Interval:
    """The score interval of a share ``p`` of ``n`` outcomes (Wilson 1927)."""
    center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    # both ends are rounded: at 0 hits the lower one may be 1e-17
    return np.maximum(0.0, np.minimum(p, center - half)), np.minimum(1.0, np.maximum(p, center + half))


def clopper_pearson_interval(p: Array | float, n: Array | float) -> Interval:
    """The exact interval of a share ``p`` of ``n`` outcomes (Clopper and Pearson 1934); n need not be whole."""
    from scipy.special import betaincinv

    hits, misses = np.asarray(p * n, float), np.asarray((1 - p) * n, float)
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 1e-300), misses + 1, 0.025), 0.0)
    high = np.where(misses > 0, betaincinv(hits + 1, np.maximum(misses, 1e-300), 0.975), 1.0)
    return np.minimum(p, low), np.maximum(p, high)


def upper_bound(value: float, n: float, confidence: float) -> float:
    """The one-sided upper bound of a rate at ``confidence``: the rate itself at 0.5, more above it (Wilson 1927)."""
    return float(wilson_interval(value, n, max(0.0, NormalDist().inv_cdf(confidence)))[1])


def share_interval(sums: Array) -> Interval:
    """Of the share of hits: Wilson's if every outcome is a cluster, else Korn and Graubard's (1998).

    Theirs is the interval of Clopper and Pearson at the effective sample size.

    Args:
        sums: hits and size of each cluster, ``[..., C, 2]``.

    """
    p = sums[..., 0].sum(-1) / sums[..., 1].sum(-1)
    single = bool((sums[..., 1] <= 1).all())
    return (wilson_interval if single else clopper_pearson_interval)(p, effective_sample_size(sums))


def difference_interval(sums: Array) -> Interval:
    """Of the share of hits of a first arm minus that of a second, which may share clusters or not.

    One hit and one miss are added to each arm, p̃ = (n* p + 1) / (n* + 2) at its effective sample size n*, and the
    interval is p̃₁ − p̃₂ ± 1.96 √(p̃₁(1 − p̃₁) / (n₁* + 2) + p̃₂(1 − p̃₂) / (n₂* + 2) − 2c). For independent arms c = 0
    (Agresti and Caffo 2000). For pairs what is added are two pairs that differ, one each way (Bonett and Price 2012):
    c = (n* φ √(p₁(1 − p₁) p₂(1 − p₂)) − s (n* (p₁(1 − p₂) + p₂(1 − p₁)) + 1) / (n* + 2)) / (n* + 2)², with the
    correlation φ of both arms over clusters, n* = √(n₁* n₂*), and s, from 0 to 1, the part of the clusters that both
    arms share. Arms that never differ get an interval around 0.

    Args:
        sums: hits and size of the first arm and of the second in each cluster, ``[..., C, 4]``; a size may be 0.

    """
    arms = sums[..., :2], sums[..., 2:]
    (p, n), (q, m) = ((arm[..., 0].sum(-1) / arm[..., 1].sum(-1), effective_sample_size(arm)) for arm in arms)
    both = np.sqrt(n * m)
    correlation = _cosine(residuals(arms[0]), residuals(arms[1]))
    shared = _cosine(arms[0][..., 1], arms[1][..., 1])
    covariance = both * correlation * np.sqrt(p * (1 - p) * q * (1 - q))
    covariance -= shared * (both * (p * (1 - q) + q * (1 - p)) + 1) / (both + 2)
    first, second = (p * n + 1) / (n + 2), (q * m + 1) / (m + 2)
    variance = first * (1 - first) / (n + 2) + second * (1 - second) / (m + 2) - 2 * covariance / (both + 2) ** 2
    half = Z95 * np.sqrt(np.maximum(variance, 0))
    low, high = np.maximum(-1.0, first - second - half), np.minimum(1.0, first - second + half)
    return np.minimum(low, p - q), np.maximum(high, p - q)


def mean_interval(sums: Array, least: float, most: float) -> Interval:
    """Of the mean of values from ``least`` to ``most``, which may be infinite.

    With two finite limits the mean is a share p of their distance, and the interval is Wilson's at the n that gives
    the estimated variance, p (1 − p) / n, with Student's quantile in place of the normal one. Its lower end is at most
    that of as many clusters at ``most``, its upper end at least that of as many at ``least``: rare values that were not
    seen can still move the mean. Otherwise it is Student's interval, within the limits.

    Args:
        sums: total and size of each cluster, ``[..., C, 2]``.
        least: no value is lower.
        most: no value is higher.

    """
    mean = sums[..., 0].sum(-1) / sums[..., 1].sum(-1)
    clusters, variance = effective_clusters(sums[..., 1]), mean_variance(sums)
    t = t_quantile(clusters - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if not np.isfinite(most - least):
            half = np.nan_to_num(t * np.sqrt(variance), nan=np.inf)
            return np.maximum(least, mean - half), np.minimum(most, mean + half)
        width = most - least
        p = np.clip((mean - least) / width, 0, 1)
        effective = np.maximum(p * (1 - p) / (variance / width**2) * (Z95 / t) ** 2, 1e-9)
    effective = np.where((p <= 0) | (p >= 1) | np.isnan(variance), clusters, effective)
    low, high = wilson_interval(p, effective)
    unseen = wilson_interval(0.0, clusters)[1]
    return least + width * np.minimum(low, 1 - unseen), least + width * np.maximum(high, unseen)


def _cosine(first: Array, second: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine: Array = np.nan_to_num((first * second).sum(-1) / np.sqrt((first**2).sum(-1) * (second**2).sum(-1)))
    return cosine
