"""Agreement of two judges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sarsteer.stats.clusters import cluster_sums
from sarsteer.stats.estimate import Clusters, Score
from sarsteer.stats.intervals import share_interval


def cohens_kappa(first: Sequence[str | None], second: Sequence[str | None], clusters: Clusters = None) -> Score:
    """Agreement of two judges beyond chance, κ = (p_o − p_e) / (1 − p_e) (Cohen 1960).

    The interval is that of the observed agreement p_o by ``share_interval``, with p_e taken as known, as in Cohen's
    standard error. Items without a verdict (None) from either judge are left out of n. When both judges give the same
    outcome to every item, chance explains all agreement and κ is NaN.

    Raises:
        ValueError: the judges saw different items, or no item has a verdict from both.

    """
    if len(first) != len(second):
        raise ValueError("agreement needs the same items from both judges")
    known = [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a is not None and b is not None]
    if not known:
        raise ValueError("agreement over no items is undefined: no item has a verdict from both judges")
    n = len(known)
    verdicts = np.array([[str(judge[i]) for i in known] for judge in (first, second)])
    agree = np.asarray(verdicts[0] == verdicts[1], float)
    by_chance = sum(float(np.prod((verdicts == kind).mean(1))) for kind in np.unique(verdicts))
    sums = cluster_sums(
        np.stack([agree, np.ones(n)], axis=1), None if clusters is None else [clusters[i] for i in known]
    )
    shares = np.array([agree.mean(), *share_interval(sums)])
    with np.errstate(invalid="ignore", divide="ignore"):
        value, low, high = map(float, np.maximum(-1, (shares - by_chance) / (1 - by_chance)))
    if by_chance == 1:
        value = low = high = float("nan")
    return Score(value, low, high, n, None if len(sums) == n else len(sums))
