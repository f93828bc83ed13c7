"""Agreement of two judges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sarsteer.stats.bootstrap import Array, cluster_sums, percentile_interval, resampled
from sarsteer.stats.estimate import Clusters, Score


def cohens_kappa(
    first: Sequence[str | None], second: Sequence[str | None], clusters: Clusters = None, seed: int = 0
) -> Score:
    """Agreement of two judges beyond chance, κ = (p_o − p_e) / (1 − p_e) (Cohen 1960), with a bootstrap interval.

    Items without a verdict (None) from either judge are left out of n. When both judges give the same outcome to every
    item, chance explains all agreement and κ is NaN.

    Raises:
        ValueError: the judges saw different items, or no item has a verdict from both.

    """
    if len(first) != len(second):
        raise ValueError("agreement needs the same items from both judges")
    known = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a is not None and b is not None]
    if not known:
        raise ValueError("agreement over no items is undefined: no item has a verdict from both judges")
    kinds = sorted({str(judge[i]) for judge in (first, second) for i in known})
    columns = np.zeros((len(known), len(kinds) ** 2))
    for row, i in enumerate(known):
        columns[row, kinds.index(str(first[i])) * len(kinds) + kinds.index(str(second[i]))] = 1
    sums = cluster_sums(columns, None if clusters is None else [clusters[i] for i in known])

    def kappa(totals: Array) -> Array:
        tables = totals.reshape(-1, len(kinds), len(kinds))
        n = tables.sum((1, 2))
        observed = np.trace(tables, axis1=1, axis2=2) / n
        by_chance = (tables.sum(2) * tables.sum(1)).sum(1) / n**2
        agreement: Array = (observed - by_chance) / (1 - by_chance)
        return agreement

    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(kappa(columns.sum(0, keepdims=True))[0])
    low, high = percentile_interval(resampled([sums], kappa, seed))
    return Score(value, low, high, len(known), None if len(sums) == len(known) else len(sums))
