"""The bootstrap behind every interval: whole clusters are drawn, never single rows of one.

All voices, perturbations and paraphrases of one item hang together; to resample them one by one would count them as
so many independent observations and make the interval too narrow (Davison and Hinkley 1997, section 3.8).

What a statistic needs of a cluster is a row of sums (hits and items, say), and the sums of a resample are the sum of
its clusters' rows. Many clusters have the same row, so that drawing how often each *distinct* row comes (a multinomial)
gives the very distribution of drawing clusters one by one, at a small part of its cost and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
_AT_ONCE = 4_000_000  # numbers drawn in one go: 32 MB
Array = NDArray[np.float64]


def cluster_sums(columns: Array, clusters: Sequence[Hashable] | None) -> Array:
    """Sum the rows ``[n, K]`` of each cluster: ``[C, K]``, in the order of the clusters' first rows.

    None as ``clusters`` makes each row a cluster of its own.
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


def resampled(strata: Sequence[Array], statistic: Callable[[Array], Array], seed: int) -> Array:
    """``statistic`` of the column sums of ``RESAMPLES`` resamples; those where it is undefined are left out.

    Args:
        strata: tables ``[C, K]`` of clusters; each is resampled by itself, to its own number of clusters.
        statistic: from sums ``[R, K]`` to values ``[R]``; NaN where undefined.
        seed: of the draws.

    """
    rng = np.random.default_rng(seed)
    totals = np.sum([_totals(table, rng) for table in strata if len(table)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(totals)
    defined: Array = values[np.isfinite(values)]
    return defined


def interval(values: Array) -> tuple[float, float]:
    """The central 95 % of ``values`` (the percentile interval, Efron 1979); NaN where there are none."""
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _totals(table: Array, rng: np.random.Generator) -> Array:
    rows, counts = np.unique(table, axis=0, return_counts=True)
    step = max(1, _AT_ONCE // len(rows))
    shares = counts / counts.sum()
    totals: Array = np.empty((RESAMPLES, table.shape[1]))
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        totals[start : start + size] = rng.multinomial(len(table), shares, size=size) @ rows
    return totals
