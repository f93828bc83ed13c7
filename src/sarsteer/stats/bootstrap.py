"""The bootstrap behind most intervals. It draws whole clusters, never single rows of one.

All voices, perturbations and paraphrases of one item depend on each other. Resampling them one by one would count
them as independent observations and make the interval too narrow (Davison and Hinkley 1997, section 3.8).

A statistic needs one row of sums per cluster (such as hits and items), and the sums of a resample are the sum of its
clusters' rows. Many clusters have the same row. Drawing how often each *distinct* row occurs (a multinomial) gives the
same distribution as drawing clusters one by one, with much less time and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sarsteer.stats.estimate import Clusters, Estimate, Score

RESAMPLES = 4000
_AT_ONCE = 4_000_000  # numbers per draw: 32 MB
Array = NDArray[np.float64]
EstimateType = TypeVar("EstimateType", bound=Estimate)


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


def resampled(strata: Sequence[Array], statistic: Callable[[Array], Array], seed: int) -> Array:
    """``statistic`` of the column sums of ``RESAMPLES`` resamples, without undefined values.

    Args:
        strata: tables ``[C, K]`` of clusters; each is resampled separately, to its own number of clusters.
        statistic: maps sums ``[R, K]`` to values ``[R]``; NaN when undefined.
        seed: of the draws.

    """
    rng = np.random.default_rng(seed)
    totals = np.sum([_totals(table, rng) for table in strata if len(table)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(totals)
    defined: Array = values[np.isfinite(values)]
    return defined


def percentile_interval(values: Array) -> tuple[float, float]:
    """The central 95 % of ``values`` (Efron 1979); NaN when there are none."""
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean(values: Sequence[float], clusters: Clusters = None, seed: int = 0) -> Score:
    """The mean of numbers other than shares, with a percentile bootstrap over whole clusters."""
    return bootstrap_mean(Score, np.asarray(values, float), clusters, seed)


def bootstrap_mean(kind: type[EstimateType], values: Array, clusters: Clusters, seed: int) -> EstimateType:
    """The mean of ``values`` ``[n]`` as an estimate of type ``kind``.

    Raises:
        ValueError: there are no values.

    """
    if len(values) == 0:
        raise ValueError("an estimate over no items is undefined")
    sums = cluster_sums(np.stack([values, np.ones(len(values))], axis=1), clusters)
    low, high = percentile_interval(resampled([sums], lambda totals: totals[:, 0] / totals[:, 1], seed))
    return kind(float(values.mean()), low, high, len(values), None if len(sums) == len(values) else len(sums))


def _totals(table: Array, rng: np.random.Generator) -> Array:
    rows, counts = np.unique(table, axis=0, return_counts=True)
    step = max(1, _AT_ONCE // len(rows))
    shares = counts / counts.sum()
    totals: Array = np.empty((RESAMPLES, table.shape[1]))
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        totals[start : start + size] = rng.multinomial(len(table), shares, size=size) @ rows
    return totals
