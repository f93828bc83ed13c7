"""Dependent outcomes: sums per cluster, and the number of independent outcomes that they are worth.

All voices, perturbations and paraphrases of one item depend on each other. Counted as independent observations, they
would make an interval too narrow. Tables ``[..., C, K]`` have one row of sums per cluster; leading dimensions are
tables of the same clusters, which are computed together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cluster_sums(columns: Array, clusters: Sequence[Hashable] | None) -> Array:
    """Sum the rows ``[n, K]`` of each cluster: ``[C, K]``, in the order of the clusters' first rows.

    With ``clusters=None`` every row is a cluster.
    """
    if clusters is None:
        return columns
    if len(clusters) != len(columns):
        raise ValueError(f"{len(clusters)} clusters for {len(columns)} items; give one for each item")
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(cluster, len(number)) for cluster in clusters], dtype=np.intp)
    sums = np.zeros((len(number), columns.shape[1]))
    np.add.at(sums, index, columns)
    return sums


def effective_clusters(sizes: Array) -> Array:
    """The number of equally large clusters that are worth the same: (Σm)² / Σm² (Kish 1965); sizes ``[..., C]``."""
    count: Array = sizes.sum(-1) ** 2 / (sizes**2).sum(-1)
    return count


def residuals(sums: Array) -> Array:
    """Each cluster's total minus what its size predicts, ``[..., C]``, for sums ``[..., C, 2]`` of values and sizes."""
    share = sums[..., 0].sum(-1) / sums[..., 1].sum(-1)
    rest: Array = sums[..., 0] - share[..., None] * sums[..., 1]
    return rest


def mean_variance(sums: Array) -> Array:
    """The variance of a mean over clusters, by linearization (Cochran 1977, section 9A); NaN for a single cluster.

    Args:
        sums: total and size of each cluster, ``[..., C, 2]``; clusters of size 0 do not count.

    """
    count, n = (sums[..., 1] > 0).sum(-1), sums[..., 1].sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance: Array = count / (count - 1) * (residuals(sums) ** 2).sum(-1) / n**2
    return variance


def t_quantile(degrees: Array) -> Array:
    """The 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit

    quantile: Array = stdtrit(np.maximum(degrees, 0.05), 0.975)  # infinite below: no degree of freedom is left
    return quantile


def effective_sample_size(sums: Array) -> Array:
    """The number of independent outcomes that are worth the same, from (Σm)² / Σm² to n (Korn and Graubard 1998).

    n* = n / deff · (t₍n−1₎ / t₍C−1₎)². The design effect, deff = 1 + ρ (Σm² / n − 1), is the variance of the share
    divided by that of n independent outcomes. t are quantiles of Student's distribution: a variance between few
    clusters is uncertain. C is the number of clusters, by ``effective_clusters`` if their sizes differ.

    ρ, the correlation within a cluster, is estimated from that variance, and averaged with 1 at weights of k − 1 to 1,
    where k clusters have two or more members and the rarer outcome. Without a hit, or with hits in one cluster only,
    nothing tells ρ, and n* is the number of clusters; a second and third such cluster count more and more.

    Args:
        sums: hits and size of each cluster, ``[..., C, 2]``; clusters of size 0 do not count.

    """
    hits, sizes = sums[..., 0], sums[..., 1]
    n, several = sizes.sum(-1), sizes > 1
    p, clusters = hits.sum(-1) / n, effective_clusters(sizes)
    most = n / clusters  # the design effect if all members of a cluster agree
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = mean_variance(sums) * (n - 1) / (p * (1 - p))
        correlation = np.nan_to_num(np.clip((effect - 1) / (most - 1), 0, 1), nan=1)
    known = np.maximum(np.minimum(((hits > 0) & several).sum(-1), ((hits < sizes) & several).sum(-1)) - 1, 0)
    correlation = (known * correlation + 1) / (known + 1)
    few = (t_quantile(n - 1) / t_quantile(clusters - 1)) ** 2
    effective: Array = np.maximum(n / (1 + (most - 1) * correlation) * few, clusters)
    return effective
